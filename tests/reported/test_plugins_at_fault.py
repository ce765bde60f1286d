"""A plugin that does what no plugin may is named, with its section and its error; jobs are drained, Ion is no bug."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from ion_core.app import App, serve, services
from ion_core.config import Config, load_config
from ion_core.contracts.messaging import RetryPolicy
from ion_core.contracts.provider import Provider
from ion_core.contracts.service import ServiceHost
from ion_core.contracts.settings import Settings
from ion_core.dispatcher import Dispatcher
from ion_core.errors import ConfigError, IonError, PluginFailed, TransientError
from ion_core.hookspecs import hookimpl
from ion_core.jobs import Verdict
from ion_core.opening import opened
from ion_core.registry import load_plugins
from tests.cli.conftest import ion as ion  # a fixture
from tests.cli.conftest import site as site  # a fixture
from tests.cli.running import Ion
from tests.support.worlds import PATIENCE, eventually

Run = Callable[[ServiceHost, asyncio.Event, asyncio.Event], Any]


class _Nothing(Settings):
    """No settings."""


@dataclass
class Gate:
    """A plugin with one service. ``runs`` is what it does, one after the other each time it is started."""

    runs: list[Run]
    opening: Callable[[Any], Any] | None = None
    opened: int = 0
    hosts: list[ServiceHost] = field(default_factory=list)

    @hookimpl
    def ion_services(self) -> Iterable[Provider[Any]]:
        return [Provider(name="gate", settings=_Nothing, open=self.opening or self._open, contract="1.0")]

    @asynccontextmanager
    async def _open(self, settings: Any) -> AsyncIterator[Gate]:
        self.opened += 1
        yield self

    async def run(self, host: ServiceHost, stop: asyncio.Event, ready: asyncio.Event) -> None:
        self.hosts.append(host)
        await self.runs[min(self.opened, len(self.runs)) - 1](host, stop, ready)


async def serves(host: ServiceHost, stop: asyncio.Event, ready: asyncio.Event) -> None:
    ready.set()
    await stop.wait()


def fails_once_ready(error: BaseException) -> Run:
    async def run(host: ServiceHost, stop: asyncio.Event, ready: asyncio.Event) -> None:
        ready.set()
        raise error

    return run


async def returns_early(host: ServiceHost, stop: asyncio.Event, ready: asyncio.Event) -> None:
    ready.set()


async def cancels_itself(host: ServiceHost, stop: asyncio.Event, ready: asyncio.Event) -> None:
    ready.set()
    raise asyncio.CancelledError


async def cancels_its_task(host: ServiceHost, stop: asyncio.Event, ready: asyncio.Event) -> None:
    """As a scope of cancellation does that is left open: asked for, but not by us."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await stop.wait()


class _WithoutWords(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


MODULES = """
modules:
  slow:
    command: [sh, -c, 'touch began; until test -e failed; do sleep 0.05; done; sleep 0.5']
    source: .
    subscribes: [start]
"""


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """The configuration of one service called ``front``, of the provider ``gate``."""
    monkeypatch.chdir(tmp_path)

    def configured(plugin: object, *, more: str = "", modules: str = "") -> Config:
        Path("ion.yaml").write_text(f"services:\n  front: {{provider: gate{more}}}\n{dedent(modules)}")
        registry = load_plugins(extra=[plugin], entry_points=False)
        return load_config("ion.yaml", registry=registry, environ={})

    return configured


async def published(config: Config) -> None:
    async with App.open(config) as app:
        await (await app.intake()).publish("start", name="test")


async def serving(config: Config, **more: Any) -> int:
    async with asyncio.timeout(30):
        return await serve(config, environ={}, **more)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (fails_once_ready(RuntimeError("kaputt")), "raised RuntimeError: kaputt when run"),
        (fails_once_ready(SystemExit(1)), "raised SystemExit: 1 when run"),
        (cancels_itself, "cancelled itself when run"),
        (cancels_its_task, "cancelled itself when run"),
        (
            fails_once_ready(BaseExceptionGroup("both", [SystemExit(1), ValueError()])),
            "raised BaseExceptionGroup: both (2 sub-exceptions) when run",
        ),
        (
            fails_once_ready(_WithoutWords()),
            "raised _WithoutWords: an error whose text cannot be had (RuntimeError) when run",
        ),
        (returns_early, "returned from run before it was to stop"),
    ],
    ids=["raises", "exits", "cancels itself", "cancels its task", "a group", "without words", "returns early"],
)
async def test_a_service_that_fails_is_named_after_what_runs_is_drained(
    run: Run, said: str, configured: Callable[..., Config], tmp_path: Path
) -> None:
    """The reported case: it killed running jobs, and was called a bug of Ion's."""

    async def once_a_job_runs(host: ServiceHost, stop: asyncio.Event, ready: asyncio.Event) -> None:
        ready.set()
        await eventually((tmp_path / "began").exists)
        (tmp_path / "failed").touch()
        await run(host, stop, asyncio.Event())

    config = configured(Gate([once_a_job_runs]), modules=MODULES)
    await published(config)
    seen: list[Dispatcher] = []

    async def watch(dispatcher: Dispatcher) -> None:
        seen.append(dispatcher)
        await asyncio.Event().wait()

    with pytest.raises(PluginFailed) as caught:
        await serving(config, watch=watch)
    assert str(caught.value).startswith(
        f'ion.yaml:2:21: services.front: the plugin Gate failed: its "gate" {said}. Please report it'
    )
    assert seen[0].counts()[Verdict.COMMITTED] == 1


async def test_a_service_that_cannot_start_ends_serve_with_its_error_whatever_its_policy(
    configured: Callable[..., Config],
) -> None:
    async def cannot(host: ServiceHost, stop: asyncio.Event, ready: asyncio.Event) -> None:
        raise TransientError("127.0.0.1:80: is taken")

    gate = Gate([cannot])
    with pytest.raises(TransientError) as caught:
        await serving(configured(gate, more=", on_failure: restart"))
    assert str(caught.value) == "ion.yaml:2:21: services.front: 127.0.0.1:80: is taken"
    assert gate.opened == 1


async def test_a_service_that_fails_is_started_again_if_so_configured(
    configured: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(services, "RESTARTS", RetryPolicy(initial=timedelta(0), maximum=timedelta(minutes=1)))
    gate = Gate([fails_once_ready(RuntimeError("kaputt")), returns_early, fails_once_ready(IonError("away")), serves])
    healthy: list[bool] = []

    async def until_it_serves(dispatcher: Dispatcher) -> None:
        await eventually(lambda: gate.opened == 4 and not dispatcher.health.problems())
        healthy.append(True)
        stopped.set()
        await asyncio.Event().wait()

    stopped = asyncio.Event()
    config = configured(gate, more=", on_failure: restart", modules=MODULES)
    running = asyncio.create_task(serving(config, watch=until_it_serves))
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait({running, asyncio.ensure_future(stopped.wait())}, return_when=asyncio.FIRST_COMPLETED)
    running.cancel()
    await asyncio.wait({running})
    assert healthy == [True]
    told = [record for record in caplog.records if record.getMessage() == "a service failed and is started again"]
    assert [record.__dict__["service"] for record in told] == ["front"] * 3
    assert all(record.levelno == logging.WARNING and record.exc_info for record in told)


def test_a_service_stays_down_longer_each_time_but_never_for_ever() -> None:
    delays = [services.RESTARTS.delay(n, 0).total_seconds() for n in range(1, 12)]
    assert delays[:3] == [1, 2, 4]
    assert max(delays) == 60


async def test_a_service_that_does_not_end_when_told_to_is_named_and_left(
    configured: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stays(host: ServiceHost, stop: asyncio.Event, ready: asyncio.Event) -> None:
        ready.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(services, "END_WITHIN", 0.05)
    with pytest.raises(PluginFailed, match=r"services\.front: the plugin Gate failed: its \"gate\" did not end within"):
        await serving(configured(Gate([stays])), until_idle=True)


@asynccontextmanager
async def _raises(settings: Any) -> AsyncIterator[object]:
    raise RuntimeError("kaputt")
    yield


@asynccontextmanager
async def _exits(settings: Any) -> AsyncIterator[object]:
    sys.exit("no luck")
    yield


@asynccontextmanager
async def _times_out(settings: Any) -> AsyncIterator[object]:
    raise TimeoutError
    yield


@asynccontextmanager
async def _yields_none(settings: Any) -> AsyncIterator[object]:
    yield None


@asynccontextmanager
async def _cannot_close(settings: Any) -> AsyncIterator[object]:
    yield object()
    raise RuntimeError("kaputt")


def _is_no_context(settings: Any) -> None:
    return None


async def _is_a_coroutine(settings: Any) -> object:
    return object()


@pytest.mark.parametrize(
    ("opening", "said"),
    [
        (_raises, "raised RuntimeError: kaputt when opened"),
        (_exits, "raised SystemExit: no luck when opened"),
        (_times_out, "raised TimeoutError when opened"),
        (_yields_none, "opened as None, which is nothing"),
        (_cannot_close, "raised RuntimeError: kaputt when closed"),
        (_is_no_context, "opened as NoneType, which is no asynchronous context manager"),
        (_is_a_coroutine, "opened as coroutine, which is no asynchronous context manager"),
    ],
    ids=lambda value: "" if isinstance(value, str) else value.__name__.strip("_"),
)
async def test_a_provider_that_opens_as_none_may_is_named(
    opening: Callable[[Any], Any], said: str, configured: Callable[..., Config]
) -> None:
    chosen = configured(Gate([], opening)).services["front"]
    with pytest.raises(PluginFailed) as caught:
        async with opened(chosen):
            pass
    assert str(caught.value).startswith(
        f'ion.yaml:2:21: services.front: the plugin Gate failed: its "gate" {said}. Please report it'
    )


async def test_a_provider_that_cannot_be_closed_hides_no_error_from_within(
    configured: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    @asynccontextmanager
    async def cannot_close(settings: Any) -> AsyncIterator[object]:
        try:
            yield object()
        finally:
            raise RuntimeError("kaputt")

    with pytest.raises(IonError, match=r"^from within$"):
        async with opened(configured(Gate([], cannot_close)).services["front"]):
            raise IonError("from within")
    (record,) = [it for it in caplog.records if it.getMessage() == "a provider failed when closed"]
    assert (record.__dict__["section"], record.__dict__["plugin"]) == ("services.front", "Gate")


async def test_what_a_provider_refuses_names_its_section(configured: Callable[..., Config]) -> None:
    @asynccontextmanager
    async def refuses(settings: Any) -> AsyncIterator[object]:
        raise ConfigError("the moon is not full")
        yield

    with pytest.raises(ConfigError) as caught:
        async with opened(configured(Gate([], refuses)).services["front"]):
            pass
    assert caught.value.problems == ("ion.yaml:2:21: services.front: the moon is not full",)


@pytest.mark.parametrize("policy", ["stop", "restart"])
def test_the_policy_of_a_service_is_read_beside_its_provider(policy: str, configured: Callable[..., Config]) -> None:
    assert configured(Gate([]), more=f", on_failure: {policy}").services["front"].on_failure == policy
    assert configured(Gate([])).services["front"].on_failure == "stop"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("on_failure: retry", '2:39: services.front.on_failure: must be stop or restart (got "retry")'),
        ("on_failur: stop", '2:27: services.front.on_failur: unknown key. Did you mean "on_failure"?'),
    ],
)
def test_a_policy_that_there_is_not_is_refused(more: str, said: str, configured: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(Gate([]), more=f", {more}")
    assert caught.value.problems == (f"ion.yaml:{said}",)


def test_a_service_may_not_have_a_setting_of_that_name() -> None:
    class Own(Settings):
        on_failure: str = ""

    class Plugin:
        @hookimpl
        def ion_services(self) -> Iterable[Provider[Any]]:
            return [Provider(name="gate", settings=Own, open=_raises, contract="1.0")]

    (broken,) = load_plugins(extra=[Plugin()], entry_points=False).broken
    assert 'settings Own must not have the key "on_failure", which says what becomes of one that fails' in broken.cause


FAULTY = """\
from contextlib import asynccontextmanager

from ion_core.contracts.provider import Provider
from ion_core.contracts.settings import Settings
from ion_core.embedded.memory.broker import open_memory_broker
from ion_core.embedded.memory.documents import MemoryDocumentStore
from ion_core.hookspecs import hookimpl


class FaultySettings(Settings):
    def max_hold(self):
        return {}["hold"]


class Faulty(MemoryDocumentStore):
    async def find(self, *arguments, **more):
        yield {}["found"]


@asynccontextmanager
async def open_faulty(settings):
    yield Faulty()


@hookimpl
def ion_document_stores():
    return [Provider(name="faulty", settings=Settings, open=open_faulty, contract="1.0")]


@hookimpl
def ion_message_brokers():
    return [Provider(name="faulty", settings=FaultySettings, open=open_memory_broker, contract="1.0")]
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("trace", "list"), "ion-core: the plugin ion-greeting 1.5 failed: it raised KeyError: 'found'. Please"),
        (
            ("serve", "--until-idle"),
            "ion-core: the plugin ion-greeting 1.5 failed: it raised KeyError: 'found'. Please",
        ),
    ],
    ids=["a command", "serve"],
)
def test_a_provider_that_raises_when_it_is_used_is_named(
    arguments: tuple[str, ...], said: str, ion: Ion, site: Path
) -> None:
    (site / "ion_greeting.py").write_text(FAULTY)
    text = (ion.home / "ion.yaml").read_text()
    chosen = "messaging: {provider: faulty}\nstorage: {documents: {provider: faulty}}\n"
    (ion.home / "ion.yaml").write_text(f"{chosen}{text}")
    result = ion.process(*arguments, environ={"PYTHONPATH": str(site)})
    assert result.code == 70
    assert said in result.err
    assert "a bug" not in result.err


@pytest.mark.parametrize("asked", ["max_hold", "findings"])
def test_settings_that_raise_when_check_asks_them_are_named(asked: str, ion: Ion, site: Path) -> None:
    (site / "ion_greeting.py").write_text(FAULTY.replace("max_hold", asked))
    text = (ion.home / "ion.yaml").read_text()
    (ion.home / "ion.yaml").write_text(f"messaging: {{provider: faulty}}\n{text}")
    result = ion.process("check", environ={"PYTHONPATH": str(site)})
    assert result.code == 70
    said = f'its "faulty" raised KeyError when its settings were asked for {asked}'
    assert f"messaging: the plugin ion-greeting 1.5 failed: {said}" in result.err
