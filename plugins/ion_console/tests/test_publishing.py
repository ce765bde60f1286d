"""Events that are published by HTTP, before a host that notes what it is given: what is taken, what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from ion_core.contracts.looking import FlowSummary, FlowView
from ion_core.contracts.service import FlowOutcome
from ion_core.contracts.storage import BlobInfo
from ion_core.errors import (
    IdTaken,
    InvalidEvent,
    IonError,
    MessageRefused,
    PermanentError,
    StorageFull,
    TransientError,
    Unroutable,
)
from ion_core.events import Event
from ion_core.listening import arriving, bodies
from ion_core.testing.host import Host
from plugins.ion_console.tests.consoles import LOOK, MEND, TOKENS, Running, bearer, running

EVENTS = "/api/events"
HEADERS = bearer(MEND)


class Noting(Host):
    """``taken`` has each event, what it was told of its files, and their bytes and modes."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, taken=("photo.received",))
        self.events: list[Event] = []
        self.told: list[Mapping[str, BlobInfo]] = []
        self.contents: list[dict[str, bytes]] = []
        self.executable: list[list[str]] = []
        self.over: asyncio.Event | None = None
        self.waited: list[timedelta] = []
        self.holding: asyncio.Event | None = None
        self.held = asyncio.Event()

    async def publish(
        self,
        event_type: str,
        *,
        data: Sequence[tuple[str, str]] = (),
        files: Mapping[str, Path] | None = None,
        told: Mapping[str, BlobInfo] | None = None,
        **given: Any,
    ) -> Event:
        self.contents.append({name: path.read_bytes() for name, path in (files or {}).items()})
        self.executable.append([name for name, path in (files or {}).items() if path.stat().st_mode & 0o100])
        if self.holding is not None:
            self.held.set()
            await self.holding.wait()
        event = await super().publish(event_type, data=data, files=files, told=told, **given)
        self.events.append(event)
        self.told.append(told or {})
        return event

    async def outcome(self, correlation_id: str, *, within: timedelta = timedelta(0)) -> FlowOutcome | None:
        self.waited.append(within)
        if self.over is not None:
            await self.over.wait()
        return None

    async def flow(self, correlation_id: str) -> FlowView | None:
        if correlation_id != "a":
            return None
        summary = FlowSummary(
            correlation_id="a", outcome="running", over=False, events=1, jobs={"pending": 1}, event_id="a", type="x"
        )
        if self.over is not None and self.over.is_set():
            summary = replace(summary, outcome="done", over=True)
        return FlowView(summary=summary, events=(), jobs=())


@pytest_asyncio.fixture
async def it(tmp_path: Path) -> AsyncIterator[Running]:
    given = {**TOKENS, "max_streams": 1, "max_json": "2KiB", "max_body": "100KiB", "max_files": 3, "max_pairs": 3}
    async with running(tmp_path, Noting(tmp_path), **given) as found:
        yield found


async def post(it: Running, body: Any = None, **how: Any) -> tuple[int, Any, Any]:
    how.setdefault("headers", HEADERS)
    return await it.ask(EVENTS, "POST", **({"json": body} if body is not None else {}), **how)


def form(event: Any, *files: tuple[str, bytes], said: Any = None) -> aiohttp.FormData:
    found = aiohttp.FormData(default_to_multipart=True, quote_fields=False)
    found.add_field("event", event if isinstance(event, str) else json.dumps(event))
    for name, content in files:
        found.add_field("file", content, filename=name)
    if said is not None:
        found.add_field("files", json.dumps(said))
    return found


async def until(condition: Callable[[], bool]) -> None:
    """Once it holds, for what tells nobody when it changes."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def left(it: Running) -> None:
    """Once nothing is left in the work directory, nor under way."""
    await until(lambda: not [*it.host.work.iterdir()] and not it.console._under_way)


async def test_json_is_an_event_with_pairs(it: Running) -> None:
    event = {"type": "photo.received", "id": "mine", "name": "me", "data": [{"key": "a", "value": "ü"}] * 2}
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    status, said, _ = await post(it, event, headers=HEADERS | trace)
    assert (status, said) == (200, {"eventId": "mine", "correlationId": "mine", "type": "photo.received"})
    (found,) = it.host.events
    assert (found.context.name, found.data, found.traceparent) == ("me", (("a", "ü"),) * 2, trace["traceparent"])
    assert (await post(it, {"type": "photo.received", "data": {"b": "1", "a": "2"}}))[0] == 200
    assert it.host.events[1].data == (("b", "1"), ("a", "2"))
    assert it.host.events[1].context.name == "kit", "the service's, unless another is given"


async def test_a_form_is_an_event_with_files_that_are_hashed_as_they_come(it: Running) -> None:
    content = bytes(range(256)) * 100
    digest = hashlib.sha256(content).hexdigest()
    said = {"run.sh": {"executable": True, "sha256": digest}, "frames/ä.bin": {"sha256": hashlib.sha256().hexdigest()}}
    files = (("run.sh", content), ("frames/ä.bin", b""))
    status, answer, _ = await post(it, data=form({"type": "photo.received", "data": {"a": "1"}}, *files, said=said))
    assert status == 200, answer
    assert it.host.events[0].data == (("a", "1"),)
    assert [*it.host.contents[0].items()] == [*files]
    assert it.host.told[0]["run.sh"] == BlobInfo(size=len(content), sha256=digest)
    assert it.host.executable == [["run.sh"]]
    await left(it)


async def test_who_may_look_publishes_nothing(it: Running) -> None:
    assert (await post(it, {"type": "photo.received"}, headers=bearer(LOOK)))[0] == 403
    assert (await post(it, {"type": "photo.received"}, headers={}))[0] == 401
    assert it.host.events == []


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ([], "event: must be an object"),
        ({}, "event.type: is missing"),
        ({"type": 1}, "event.type: must be text"),
        ({"type": "t", "id": 1}, "event.id: must be text"),
        ({"type": "t", "colour": "red"}, "event.colour: is not known here"),
        ({"type": "t", "data": "x"}, "event.data: must be an array"),
        ({"type": "t", "data": {"a": 1}}, "event.data.a: must be text"),
        ({"type": "t", "data": [{"key": "a"}]}, "event.data[0].value: must be a string"),
        ({"type": "t", "data": {"a": "", "b": "", "c": "", "d": ""}}, "event.data: has 4 pairs, 3 are allowed"),
    ],
)
@pytest.mark.parametrize("as_form", [False, True])
async def test_what_is_no_event_is_named(it: Running, event: Any, says: str, as_form: bool) -> None:
    status, said, _ = await (post(it, data=form(event, ("f", b"x"))) if as_form else post(it, event))
    assert (status, said["error"]) == (422, "InvalidEvent")
    assert says in said["problems"][0]
    assert it.host.events == []
    await left(it)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (form({"type": "t"}, said={"g": {}}), "files.g: there is no such file"),
        (form({"type": "t"}, ("f", b"x"), said={"f": {"sha256": "0" * 64}}), "files.f.sha256: is 2d711642b726b044"),
        (form({"type": "t"}, ("f", b"x"), said={"f": {"mode": 1}}), "files.f.mode: is not known here"),
        (form({"type": "t"}, ("f", b"x"), said={"f": {"executable": "yes"}}), "files.f.executable: must be true or"),
        (form({"type": "t"}, ("f", b"x"), said=["f"]), "files: must be an object of objects"),
        (form({"type": "t"}, ("f", b"x"), ("f", b"y")), "part 3 ('file'): the file name 'f' is there twice"),
        (form({"type": "t"}, ("../f", b"x")), "part 2 ('file'): file name: "),
        (form({"type": "t"}, *((str(n), b"") for n in range(4))), "part 5 ('file'): is one file more than 3"),
        (form("{"), "event"),
        (form("x" * 3000), "part 1 ('event'): has more than 2,048 bytes"),
    ],
)
async def test_a_form_that_is_none_of_ours_is_refused(it: Running, given: aiohttp.FormData, says: str) -> None:
    status, said, _ = await post(it, data=given)
    assert status == 422
    assert said["problems"][0].startswith(says), said
    assert it.host.events == []
    await left(it)


async def test_fields_are_those_that_are_known_and_once(it: Running) -> None:
    twice = form({"type": "t"})
    twice.add_field("event", "{}")
    other = form({"type": "t"})
    other.add_field("album", "summer")
    none = aiohttp.FormData(default_to_multipart=True, quote_fields=False)
    none.add_field("file", b"x", filename="f")
    for given, says in ((twice, "event: must be"), (other, "album: is no field here"), (none, "event: must be there")):
        status, said, _ = await post(it, data=given)
        assert status == 422
        assert said["problems"][0].startswith(says)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Type": "text/plain"}, b"x", 415),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, b"{}", 415),
        ({"Content-Type": "application/json"}, b" " * 2049, 413),
        ({"Content-Type": "multipart/form-data"}, b"x", 400),
        ({"Content-Type": "multipart/form-data; boundary=X"}, b"no form", 400),
        ({"Content-Type": "multipart/form-data; boundary=X"}, b"x" * 102_401, 413),
        ({"Content-Type": "application/json", "Expect": "miracles"}, b"{}", 417),
    ],
)
async def test_what_is_neither_or_too_large_is_refused(
    it: Running, headers: dict[str, str], body: bytes, status: int
) -> None:
    assert (await post(it, data=body, headers=HEADERS | headers))[0] == status
    await left(it)


@pytest.mark.parametrize(
    ("error", "status", "name"),
    [
        (InvalidEvent("type: is not one"), 422, "InvalidEvent"),
        (IdTaken("it is taken", ["its type is another"]), 409, "IdTaken"),
        (Unroutable("/srv/queue"), 404, "Unroutable"),
        (MessageRefused("/srv/ion: too large"), 413, "MessageRefused"),
        (StorageFull("/srv/ion: full"), 503, "StorageFull"),
        (TransientError("/srv/ion: away"), 503, None),
        (PermanentError("/srv/ion: broken"), 500, None),
    ],
)
async def test_what_the_core_says_is_told_without_where(
    it: Running, error: IonError, status: int, name: str | None
) -> None:
    it.host.refusing = error
    found, said, headers = await post(it, data=form({"type": "photo.recieved"}, ("f", b"x")))
    assert (found, said.get("error")) == (status, name)
    assert "srv" not in json.dumps(said)
    assert ("Retry-After" in headers) == (status == 503)
    if name == "Unroutable":
        assert said["detail"].endswith("Did you mean 'photo.received'?")
    if name == "IdTaken":
        assert said["problems"] == ["its type is another"]
    await left(it)


async def test_a_full_disk_is_said_and_nothing_left(it: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(arriving, "_write_whole", full)
    status, said, headers = await post(it, data=form({"type": "photo.received"}, ("f", b"x")))
    assert (status, said["error"]) == (503, "StorageFull")
    assert headers["Retry-After"]
    await left(it)


async def cut(it: Running) -> asyncio.StreamWriter:
    """A connection on which half of a file has come."""
    address, _, port = it.console.url.partition("://")[2].rpartition(":")
    _, writer = await asyncio.open_connection(address, int(port))
    writer.write(
        f"POST {EVENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {MEND}\r\nContent-Length: 90000\r\n"
        "Content-Type: multipart/form-data; boundary=XX\r\n\r\n--XX\r\nContent-Disposition: form-data; "
        'name="f"; filename="big"\r\n\r\n'.encode()
        + b"x" * 50_000
    )
    await until(lambda: sum(path.stat().st_size for path in it.host.work.rglob("1")) > 40_000)
    return writer


async def test_a_body_that_is_cut_leaves_nothing(it: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arriving, "WRITTEN_AT_ONCE", 1024)
    (await cut(it)).close()
    await left(it)
    assert it.host.events == []


async def test_a_body_that_comes_too_slowly_is_given_up(it: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "SILENT_FOR", 0.05)

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    assert (await post(it, data=never(), headers=HEADERS | {"Content-Type": "application/json"}))[0] == 408


async def test_what_does_not_finish_is_cut_off_at_the_end_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, loop = arriving.shutil.rmtree, asyncio.get_running_loop()
    going = threading.Event()

    def remove_late(*given: Any, **how: Any) -> None:
        loop.call_soon_threadsafe(loop.call_later, 0.1, going.set)  # whoever does not wait is done by then
        going.wait()
        remove(*given, **how)

    monkeypatch.setattr("ion_console.console.FINISH_WITHIN", 0.5)
    monkeypatch.setattr(arriving.shutil, "rmtree", remove_late)
    async with running(tmp_path, Noting(tmp_path)) as it:
        it.host.holding = asyncio.Event()
        posting = asyncio.create_task(post(it, data=form({"type": "photo.received"}, ("f", b"x")), headers={}))
        await it.host.held.wait()
        it.stop.set()
        with pytest.raises(aiohttp.ClientError):
            await posting
    assert [*it.host.work.iterdir()] == []


async def test_events_on_their_way_in_leave_room_for_who_looks(tmp_path: Path) -> None:
    async with running(tmp_path, Noting(tmp_path), max_requests=2) as it:
        it.host.holding = asyncio.Event()
        posting = asyncio.create_task(post(it, {"type": "photo.received"}, headers={}))
        await it.host.held.wait()
        status, _, headers = await post(it, {"type": "photo.received"}, headers={})
        assert (status, headers["Retry-After"]) == (503, "5")
        assert (await it.ask("/readyz"))[0] == 200
        it.host.holding.set()
        assert (await posting)[0] == 200
        assert (await post(it, {"type": "photo.received"}, headers={}))[0] == 200


async def test_who_waits_is_told_once_it_is_over(it: Running) -> None:
    path = "/api/flows/a/outcome"
    assert (await it.ask(path, headers=HEADERS))[1]["outcome"] == "running"
    it.host.over = asyncio.Event()
    waiting = asyncio.create_task(it.ask(f"{path}?within=50", headers=HEADERS))
    await until(lambda: it.host.waited == [timedelta(seconds=50)])
    status, _, headers = await it.ask(f"{path}?within=50", headers=HEADERS)
    assert (status, "Retry-After" in headers) == (429, True), "who waits takes the place of a stream"
    assert (await it.ask(path, headers=HEADERS))[0] == 200
    it.host.over.set()
    assert (await waiting)[1]["over"] is True
    assert (await it.ask("/api/flows/b/outcome", headers=HEADERS))[1]["error"] == "DocumentNotFound"
    for within in ("61", "-1", "x", "1.5"):
        assert (await it.ask(f"{path}?within={within}", headers=HEADERS))[0] == 422


async def test_who_waits_does_not_hold_up_the_end(it: Running) -> None:
    it.host.over = asyncio.Event()
    waiting = asyncio.create_task(it.ask("/api/flows/a/outcome?within=50", headers=HEADERS))
    await until(lambda: bool(it.host.waited))
    it.stop.set()
    assert (await waiting)[1]["outcome"] == "running"
