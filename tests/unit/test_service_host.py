"""What a service may ask of its host, against embedded providers: publishing, flows, what waits, a place for files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ion_core.app import App, host, serve
from ion_core.app.changes import Changes
from ion_core.app.process import Process
from ion_core.config import Config, load_config
from ion_core.contracts.looking import OutboxView, PlannedView
from ion_core.contracts.provider import Provider
from ion_core.contracts.service import FlowOutcome, ServiceHost
from ion_core.contracts.settings import Settings
from ion_core.contracts.storage import BlobInfo
from ion_core.dispatcher.health import Health
from ion_core.dispatcher.running import RunningAttempts
from ion_core.errors import (
    ConfigError,
    IdTaken,
    InvalidEvent,
    IonError,
    MessageRefused,
    PermanentError,
    PluginFailed,
    StateError,
    StorageFull,
    TransientError,
    Unroutable,
)
from ion_core.hookspecs import hookimpl
from ion_core.registry import Observers, load_plugins

MODULES = """
modules:
  first:
    command: [sh, emit.sh]
    source: .
    subscribes: [photo.received]
    publishes: [photo.seen]
  second: {command: ["true"], source: ., subscribes: [photo.seen, photo.received]}
  bad: {command: ["false"], source: ., subscribes: [photo.broken], retries: 0}
"""


EMIT = """
printf '[{"key": "eventType", "value": "photo.seen"}]' > "$HANDLER_BASE_DIR/out/events/0.json"
"""


class _Nothing(Settings):
    """No settings."""


@dataclass
class Gate:
    """A plugin with one service, which does what ``does`` says with its host."""

    does: Callable[[ServiceHost], Any]
    opened: int = 0
    seen: list[Any] = field(default_factory=list)

    @hookimpl
    def ion_services(self) -> Iterable[Provider[Any]]:
        return [Provider(name="gate", settings=_Nothing, open=self._open, contract="1.1")]

    @asynccontextmanager
    async def _open(self, settings: Any) -> AsyncIterator[Gate]:
        self.opened += 1
        yield self

    async def run(self, host: ServiceHost, stop: asyncio.Event, ready: asyncio.Event) -> None:
        ready.set()
        self.seen.append(await self.does(host))
        await stop.wait()


def configured(
    tmp_path: Path,
    does: Callable[[ServiceHost], Any],
    more: str = "",
    *,
    modules: str = "",
    environ: Mapping[str, str] | None = None,
) -> tuple[Config, Gate]:
    (tmp_path / "ion.yaml").write_text(f"services:\n  front: {{provider: gate{more}}}\n{MODULES}{modules}")
    (tmp_path / "emit.sh").write_text(EMIT)
    gate = Gate(does)
    registry = load_plugins(extra=[gate], entry_points=False)
    return load_config(str(tmp_path / "ion.yaml"), registry=registry, environ=environ or {}), gate


async def nothing(host: ServiceHost) -> None:
    return None


@pytest_asyncio.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    config, _ = configured(tmp_path, nothing)
    async with App.open(config) as app:
        yield app


def idle() -> Process:
    """A process that runs nothing, and is not ready."""
    process = Process(
        attempts=RunningAttempts(),
        health=Health(lambda: None),
        changes=Changes(Observers({}), hide=str),
        slots=lambda: [],
        outbox=lambda: OutboxView(owed=0, published=0, looked_at=None),
    )
    process.health.red("storage", "no room. Make some.")
    return process


async def host_of(app: App, process: Process | None = None) -> host.Host:
    made = host.Host("front", app, await app.intake(), await app.dataplane(), process or idle())
    await made.empty_work()
    return made


async def served(tmp_path: Path, does: Callable[[ServiceHost], Any], **more: Any) -> Any:
    """What ``does`` returned, of a service that ran beside a real dispatcher."""
    config, gate = configured(tmp_path, does, **more)
    async with asyncio.timeout(60):
        serving = asyncio.create_task(serve(config, environ={}))
        while not gate.seen and not serving.done():  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(0.02)
        serving.cancel()
        await asyncio.wait({serving})
    if not gate.seen:
        serving.result()
    return gate.seen[0]


async def test_what_became_of_a_flow_is_told_once_it_is_over(tmp_path: Path) -> None:
    async def publishes(host: ServiceHost) -> FlowOutcome | None:
        event = await host.publish("photo.received")
        return await host.outcome(event.context.correlation_id, within=timedelta(seconds=50))

    found: FlowOutcome = await served(tmp_path, publishes)
    assert (found.outcome, found.over, found.events) == ("done", True, 2)
    assert (dict(found.jobs), list(found.failing)) == ({"committed": 3}, [])


async def test_a_flow_with_a_dead_letter_is_over_and_names_whose_it_is(tmp_path: Path) -> None:
    async def publishes(host: ServiceHost) -> FlowOutcome | None:
        event = await host.publish("photo.broken")
        return await host.outcome(event.context.correlation_id, within=timedelta(seconds=50))

    found: FlowOutcome = await served(tmp_path, publishes)
    assert (found.outcome, found.over, found.failing) == ("dead", True, ["bad"])
    assert dict(found.jobs) == {"dead-lettered": 1}


async def test_a_flow_that_is_waited_for_in_vain_is_told_as_it_stands(app: App) -> None:
    host = await host_of(app)
    event = await host.publish("photo.received")
    for within in (timedelta(0), timedelta(seconds=0.1)):
        found = await host.outcome(event.context.correlation_id, within=within)
        assert found is not None
        assert (found.outcome, found.over, dict(found.jobs)) == ("running", False, {"pending": 2})
    assert await host.outcome("of nobody", within=timedelta(minutes=5)) is None


async def test_what_waits_is_counted_for_those_who_take_the_type(app: App) -> None:
    host = await host_of(app)
    for _ in range(3):
        await host.publish("photo.received")
    await host.publish("photo.broken")
    counts = {it: await host.pending(it) for it in ("photo.received", "photo.seen", "photo.broken", "photo.of.nobody")}
    assert counts == {"photo.received": 6, "photo.seen": 3, "photo.broken": 1, "photo.of.nobody": 0}


async def test_what_a_broker_does_not_tell_is_not_known(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    host = await host_of(app)
    for error in (TransientError("away"), TimeoutError(), ConfigError("may not look")):
        monkeypatch.setattr(await app.broker(), "stats", _raising(error))
        assert await host.pending("photo.received") is None
    monkeypatch.setattr(await app.broker(), "stats", _hanging)
    monkeypatch.setattr("ion_core.app.host.COUNTED_WITHIN", 0.01)
    assert await host.pending("photo.received") is None


async def test_the_types_that_are_taken_and_why_it_is_not_ready_are_told(app: App) -> None:
    host = await host_of(app)
    assert host.event_types() == ["photo.broken", "photo.received", "photo.seen"]
    assert host.problems() == ["storage: no room. Make some."]


def _raising(error: BaseException) -> Callable[..., Any]:
    async def raising(*_: Any, **__: Any) -> Any:
        raise error

    return raising


async def _hanging(*_: Any, **__: Any) -> Any:
    await asyncio.Event().wait()


PARTS = {"broker": "publish", "documents": "create", "blobs": "put"}


@pytest.mark.parametrize("part", PARTS)
async def test_publishing_ends_within_its_bound_and_says_what_is_unknown(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    host = await host_of(app)
    monkeypatch.setattr("ion_core.app.host.PUBLISH_WITHIN", 0.05)
    monkeypatch.setattr(await getattr(app, part)(), PARTS[part], _hanging)
    file = tmp_path / "photo"
    file.write_bytes(b"x")
    with pytest.raises(TransientError, match=r"'e1': was not published within 0 s. Whether .* unknown. .* that id"):
        await host.publish("photo.received", files={"photo": file}, event_id="e1")
    monkeypatch.undo()
    again = await host.publish("photo.received", files={"photo": file}, event_id="e1")
    assert again.context.event_id == "e1"


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("raised", "comes_as"),
    [
        (TransientError("away"), TransientError),
        (StorageFull("full"), StorageFull),
        (MessageRefused("too large"), MessageRefused),
        (PermanentError("never"), PermanentError),
        (StateError("damaged"), StateError),
        (OSError(28, "No space left"), PluginFailed),
        (TimeoutError(), PluginFailed),
        (KeyError("oops"), PluginFailed),
    ],
    ids=lambda it: type(it).__name__ if isinstance(it, BaseException) else it.__name__,
)
async def test_what_a_provider_raises_comes_as_one_of_the_errors_that_are_named(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, raised: Exception, comes_as: type[IonError]
) -> None:
    host = await host_of(app)
    monkeypatch.setattr(await getattr(app, part)(), PARTS[part], _raising(raised))
    file = tmp_path / "photo"
    file.write_bytes(b"x")
    with pytest.raises(IonError) as caught:
        await host.publish("photo.received", files={"photo": file}, event_id="e1")
    assert type(caught.value) is comes_as


async def test_what_is_wrong_with_an_event_comes_as_such(app: App, tmp_path: Path) -> None:
    host = await host_of(app)
    with pytest.raises(Unroutable, match=r"Did you mean 'photo\.received'"):
        await host.publish("photo.recieved")
    with pytest.raises(InvalidEvent) as caught:
        await host.publish("Photo", files={"../up": tmp_path, "gone": tmp_path / "gone"})
    assert len(caught.value.problems) == 4
    await host.publish("photo.received", data=[("a", "1")], event_id="e1")
    with pytest.raises(IdTaken, match=r"is that of another event: .* another value") as taken:
        await host.publish("photo.received", data=[("a", "2")], event_id="e1")
    assert taken.value.differs == ("data 'a' has another value",)


async def test_an_event_has_the_name_and_parent_that_others_rely_on_or_those_of_the_service(app: App) -> None:
    host = await host_of(app)
    event = await host.publish("photo.received")
    assert (event.context.name, event.context.parent_event_id) == ("front", "")
    given = {"event_id": "e1", "correlation_id": "e1", "name": "frontapi", "parent_event_id": "frontapi"}
    event = await host.publish("photo.received", **given)
    document = await (await app.documents()).get("eventMeta", "e1")
    assert document is not None
    assert document.body["context"] == event.context.to_json()
    assert (event.context.name, event.context.parent_event_id) == ("frontapi", "frontapi")
    found = await host.outcome("e1")
    assert found is not None
    assert found.events == 1, "a parent that no event is hides nothing"
    assert await host.publish("photo.received", **given) == event
    with pytest.raises(IdTaken, match="its parent event id is another"):
        await host.publish("photo.received", **{**given, "parent_event_id": "other"})
    for wrong in ({"name": ""}, {"parent_event_id": "x" * 1025}):
        with pytest.raises(InvalidEvent):
            await host.publish("photo.received", **wrong)


@pytest.mark.parametrize("consume", [False, True])
async def test_files_may_go_once_publish_has_returned_and_are_moved_where_they_are_given_away(
    app: App, consume: bool
) -> None:
    host = await host_of(app)
    file = host.work / "upload"
    file.write_bytes(b"a photo")
    event = await host.publish("photo.received", files={"photo.jpg": file}, consume=consume)
    assert file.exists() is not consume
    file.unlink(missing_ok=True)
    _, files = await (await app.dataplane()).stored_files(event)
    target = host.work / "back"
    await (await app.blobs()).get(files[0].key, target, expect=BlobInfo(size=7, sha256=files[0].sha256))
    assert target.read_bytes() == b"a photo"


async def test_what_is_told_of_a_file_reaches_the_store(app: App) -> None:
    host = await host_of(app)
    file = host.work / "upload"
    file.write_bytes(b"a photo")
    for wrong in (6, 8):
        told = {"photo.jpg": BlobInfo(size=wrong, sha256="0" * 64)}
        with pytest.raises(PermanentError, match=r"photo\.jpg: its file has 7 bytes"):
            await host.publish("photo.received", files={"photo.jpg": file}, told=told)


async def test_the_work_directory_is_empty_at_each_start_and_nobody_elses(tmp_path: Path) -> None:
    left = tmp_path / ".ion" / "services" / "front" / "work"
    (left / "deep").mkdir(parents=True)
    (left / "deep" / "upload").write_bytes(b"of a process that was killed")
    (left.parent / "kept.json").write_text("{}")

    async def looks(host: ServiceHost) -> tuple[Path, list[Path], int]:
        return host.work, list(host.work.iterdir()), host.work.stat().st_mode & 0o777

    assert await served(tmp_path, looks) == (left, [], 0o700)
    assert (left.parent / "kept.json").exists()


@pytest.mark.parametrize("what", ["a file", "a link"])
async def test_what_stands_in_the_place_of_the_work_directory_goes_and_nothing_behind_it(
    app: App, tmp_path: Path, what: str
) -> None:
    place, elsewhere = app.state.path / "services" / "front" / "work", tmp_path / "elsewhere"
    place.parent.mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    if what == "a link":
        place.symlink_to(elsewhere)
    else:
        place.touch()
    host = await host_of(app)
    assert host.work.is_dir()
    assert not host.work.is_symlink()
    assert [*elsewhere.iterdir()] == [elsewhere / "precious"]


async def test_a_work_directory_that_cannot_be_made_is_named_with_what_would_do(app: App) -> None:
    (app.state.path / "services").write_text("in the way")
    with pytest.raises(StateError, match=r"services.*: cannot be removed or made anew: .* by hand"):
        await host_of(app)
    assert (app.state.path / "services").read_text() == "in the way"


async def test_a_flow_belongs_to_the_trace_that_a_service_was_told(app: App) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    host = await host_of(app)
    assert (await host.publish("photo.received", event_id="e1", traceparent=trace)).traceparent == trace
    assert (await host.publish("photo.received", event_id="e1")).traceparent == trace
    assert (await host.publish("photo.received", traceparent="none")).traceparent == ""


class _ByTheClock(_Nothing):
    """Says what it publishes by the clock."""

    def planned(self, after: datetime, count: int) -> list[PlannedView]:
        times = [after + timedelta(hours=n + 1) for n in range(count)]
        return [PlannedView(service="front", name="nightly", type="photo.received", times=times)]


class _ByNoClock(_Nothing):
    def planned(self, after: datetime, count: int) -> list[PlannedView]:
        raise RuntimeError("no clock")


async def test_what_settings_say_is_planned_is_shown(tmp_path: Path) -> None:
    config, _ = configured(tmp_path, nothing)
    chosen = replace(config.services["front"], settings=_ByTheClock())
    before = datetime.now(UTC)
    async with App.open(replace(config, services={"front": chosen})) as app:
        [view] = (await host_of(app)).planned(2)
    assert (view.service, view.name, view.type) == ("front", "nightly", "photo.received")
    assert [round((it - before).total_seconds() / 3600) for it in view.times] == [1, 2]


async def test_settings_that_cannot_say_what_is_planned_are_their_plugins_fault(tmp_path: Path) -> None:
    config, _ = configured(tmp_path, nothing)
    chosen = replace(config.services["front"], settings=_ByNoClock())
    with pytest.raises(PluginFailed, match="raised RuntimeError when its settings were asked what is planned"):
        chosen.planned(datetime.now(UTC), 1)
