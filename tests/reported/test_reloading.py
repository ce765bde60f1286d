"""SIGHUP has `serve` read its configuration again: services take over what they can, and all else goes on as before."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ion_core.app import serve, services
from ion_core.config import Config, load_config
from ion_core.contracts.messaging import RetryPolicy
from ion_core.contracts.provider import ObserverSettings, Provider
from ion_core.contracts.service import ServiceHost
from ion_core.contracts.settings import Secret, Settings, StatePath
from ion_core.dispatcher import Dispatcher
from ion_core.errors import ConfigError, IonError
from ion_core.hookspecs import hookimpl
from ion_core.registry import load_plugins
from tests.acceptance.pipeline import ION, TIMEOUT, environment
from tests.support.worlds import eventually


class GateSettings(Settings):
    token: Secret | None = None
    listen: str = "here"


class Quiet:
    """A service that takes nothing over."""

    def __init__(self, settings: GateSettings) -> None:
        self.settings = settings
        self.told: list[GateSettings] = []
        self.failing = asyncio.Event()

    async def run(self, host: ServiceHost, stop: asyncio.Event, ready: asyncio.Event) -> None:
        ready.set()
        waiting = [asyncio.ensure_future(it.wait()) for it in (stop, self.failing)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for it in waiting:
            it.cancel()
        if self.failing.is_set():
            raise IonError("as the test wants it")


class Gate(Quiet):
    """One that takes its token over; ``refusing`` is raised instead."""

    refusing: BaseException | None = None

    def reload(self, settings: GateSettings) -> Collection[str]:
        if self.refusing is not None:
            raise self.refusing
        self.told.append(settings)
        return [] if settings.listen == self.settings.listen else ["listen"]


class Plugin:
    """``open_ones`` are the services so far, in the order in which they were opened."""

    def __init__(self) -> None:
        self.open_ones: list[Any] = []

    @hookimpl
    def ion_services(self) -> Iterable[Provider[Any]]:
        return [
            Provider(name=name, settings=GateSettings, open=self._opening(kind), contract="1.0")
            for name, kind in (("gate", Gate), ("quiet", Quiet))
        ]

    def _opening(self, kind: type[Quiet]) -> Callable[[GateSettings], Any]:
        @asynccontextmanager
        async def opening(settings: GateSettings) -> AsyncIterator[Quiet]:
            self.open_ones.append(kind(settings))
            yield self.open_ones[-1]

        return opening


class PagerSettings(Settings):
    token: Secret
    path: StatePath = Path("pages")


class Pager(Plugin):
    """It observes as well; ``seen`` is what it was set to at the beginning and the end of serving."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []
        self.paths: set[Path] = set()

    @hookimpl
    def ion_observer_settings(self) -> Iterable[ObserverSettings]:
        return [ObserverSettings(name="pager", settings=PagerSettings, contract="1.6")]

    @hookimpl
    def ion_serve_started(self, settings: PagerSettings) -> None:
        self.seen.append((settings.section.name, settings.token.get_secret_value()))

    @hookimpl
    def ion_serve_stopped(self, settings: PagerSettings) -> None:
        self.paths.add(settings.path)
        self.seen.append((settings.section.name, settings.token.get_secret_value()))


class Served:
    """One that serves in this process, and is told by the signal."""

    def __init__(self, plugin: Plugin, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.plugin, self.path, self._caplog = plugin, path, caplog

    def said(self, level: str) -> list[str]:
        return [it.getMessage() for it in self._caplog.records if it.levelname == level]

    async def reloaded(self, text: str, level: str = "INFO", says: str = "was read again") -> None:
        """With another configuration, until that is said once more."""
        before = sum(says in it for it in self.said(level))
        self.path.write_text(text)
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda: sum(says in it for it in self.said(level)) > before)


@asynccontextmanager
async def served(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, plugin: Plugin | None = None
) -> AsyncIterator[Served]:
    caplog.set_level("INFO", logger="ion_core")
    plugin = plugin or Plugin()
    registry = load_plugins(extra=[plugin], entry_points=False)
    path = tmp_path / "ion.yaml"
    path.write_text(text)

    def again() -> Config:
        return load_config(path, registry=registry, environ={})

    running = asyncio.Event()

    async def watch(dispatcher: Dispatcher) -> None:
        running.set()
        await asyncio.Event().wait()

    serving = asyncio.create_task(serve(again(), environ={}, watch=watch, again=again))
    try:
        async with asyncio.timeout(TIMEOUT):
            await asyncio.wait({serving, asyncio.ensure_future(running.wait())}, return_when=asyncio.FIRST_COMPLETED)
        assert not serving.done()
        yield Served(plugin, path, caplog)
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(TIMEOUT):
            assert await serving == 128 + signal.SIGTERM
    finally:
        serving.cancel()
        await asyncio.wait({serving})


MODULES = "modules:\n  m: {command: ['true'], source: ., subscribes: [a]}\n"


def of(services: str) -> str:
    return f"{MODULES}services:\n  {services}\n"


async def test_a_service_takes_over_what_the_file_says_now(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with served(of("front: {provider: gate, token: old-canary}"), tmp_path, caplog) as it:
        await it.reloaded(of("front: {provider: gate, token: new-canary}"))
        (gate,) = it.plugin.open_ones
        assert [told.token.get_secret_value() for told in gate.told] == ["new-canary"]
        assert [told.section.key for told in gate.told] == ["services.front"]
        assert not [text for text in it.said("WARNING") if "restart" in text]
        await it.reloaded(of("front: {provider: gate, token: newer-canary}"))
        assert len(gate.told) == 2
    assert "canary" not in caplog.text


async def test_what_takes_a_restart_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = "front: {provider: gate}\n  same: {provider: quiet}\n  other: {provider: quiet}\n  gone: {provider: quiet}"
    after = "front: {provider: gate, listen: there}\n  same: {provider: quiet}\n  other: {provider: quiet, listen: x}"
    async with served(of(before), tmp_path, caplog) as it:
        await it.reloaded(
            of(f"{after}\n  new: {{provider: quiet}}").replace("[a]", "[a, b]")
            + "drain_timeout: 3s\nmessaging: {path: other.sqlite}\n",
            level="WARNING",
            says="what differs here takes a restart: drain_timeout, messaging, modules.m, "
            "services.gone, services.new, services.front.listen, services.other",
        )
        await it.reloaded(of(before))
        assert len([text for text in it.said("WARNING") if "restart" in text]) == 1, "it is as it was"


async def test_observers_are_told_with_what_the_file_says_now(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def watched(observers: str) -> str:
        return f"{MODULES}observers: {{{observers}}}\n"

    before = "pager: {token: old-canary}, other: {provider: pager, token: kept-canary}"
    async with served(watched(before), tmp_path, caplog, plugin=(plugin := Pager())) as it:
        await eventually(lambda: len(plugin.seen) == 2)
        for wrong in ("pager: {token: 1, tokn: 2}", "pager: {}", "pagr: {token: x}"):
            await it.reloaded(watched(wrong), level="ERROR", says="nothing has changed")
        await it.reloaded(watched(before.replace("old", "new")))
        assert not [text for text in it.said("WARNING") if "restart" in text]
        await it.reloaded(
            watched("pager: {token: newer-canary}, third: {provider: pager, token: x}") + "state: elsewhere\n",
            level="WARNING",
            says="what differs here takes a restart: state, messaging, storage.blobs, storage.documents, "
            "runtimes.default, observers.other, observers.third",
        )
    assert sorted(plugin.seen[:2]) == [("other", "kept-canary"), ("pager", "old-canary")]
    assert sorted(plugin.seen[2:]) == [("other", "kept-canary"), ("pager", "newer-canary")]
    assert plugin.paths == {tmp_path / ".ion" / "observers" / it / "pages" for it in ("pager", "other")}
    assert "canary" not in caplog.text


async def test_a_file_with_mistakes_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with served(of("front: {provider: gate}"), tmp_path, caplog) as it:
        for broken in (
            "{",
            of("front: {provider: gate, tokem: x}"),
            of("front: {provider: gate, listen: [x]}"),
        ):
            await it.reloaded(broken, level="ERROR", says="nothing has changed")
        it.path.unlink()
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda: len(it.said("ERROR")) == 4)
        assert "no such file" in it.said("ERROR")[3]
        assert [gate.told for gate in it.plugin.open_ones] == [[]]
        await it.reloaded(of("front: {provider: gate}"))
        assert len(it.plugin.open_ones[0].told) == 1


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (ConfigError("the two do not go together"), "as before: .*services.front: the two do not go together"),
        (
            RuntimeError("kaputt"),
            "as before: .*services.front: the plugin Plugin failed: .*kaputt when reloaded",
        ),
    ],
)
async def test_a_service_that_refuses_goes_on_as_before_and_others_take_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, raised: BaseException, says: str
) -> None:
    two = "front: {{provider: gate, token: {0}}}\n  side: {{provider: gate, token: {0}}}"
    async with served(of(two.format("old")), tmp_path, caplog) as it:
        it.plugin.open_ones[0].refusing = raised
        await it.reloaded(of(two.format("new")))
        (error,) = it.said("ERROR")
        assert [len(gate.told) for gate in it.plugin.open_ones] == [0, 1]
    assert re.search(says, error), error


async def test_a_service_that_is_started_again_has_what_it_took_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "RESTARTS", RetryPolicy(initial=timedelta(0), maximum=timedelta(minutes=1)))
    text = "front: {{provider: gate, on_failure: restart, token: {}}}"
    async with served(of(text.format("old")), tmp_path, caplog) as it:
        await it.reloaded(of(text.format("new")))
        it.plugin.open_ones[0].failing.set()
        await eventually(lambda: len(it.plugin.open_ones) == 2)
        assert it.plugin.open_ones[1].settings.token.get_secret_value() == "new"


CONFIG = MODULES + "drain_timeout: 100ms\n"


def test_a_serve_without_a_terminal_goes_on_after_sighup(tmp_path: Path) -> None:
    (tmp_path / "ion.yaml").write_text(CONFIG)
    command = subprocess.Popen(
        [*ION, "serve"], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert command.stderr is not None
    try:
        said = _until(command, "INFO serving")
        command.send_signal(signal.SIGHUP)
        said += _until(command, "the configuration was read again")
        command.terminate()
        said += command.stderr.read()
        assert command.wait(TIMEOUT) == 128 + signal.SIGTERM, said
        assert "SIGHUP received" not in said
    finally:
        command.kill()
        command.communicate()


def test_sighup_while_serve_starts_waits_until_it_can_be_heeded(tmp_path: Path) -> None:
    """A plugin sends it as it is loaded: nothing takes signals over yet."""
    (tmp_path / "ion.yaml").write_text(CONFIG)
    (tmp_path / "hasty.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGHUP)\n")
    about = tmp_path / "hasty-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: hasty\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[ion_core]\nhasty = hasty\n")
    command = subprocess.Popen(
        [*ION, "serve"],
        cwd=tmp_path,
        env=environment() | {"PYTHONPATH": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _until(command, "the configuration was read again")
        command.terminate()
        assert command.wait(TIMEOUT) == 128 + signal.SIGTERM
    finally:
        command.kill()
        command.communicate()


def _until(command: subprocess.Popen[str], text: str) -> str:
    assert command.stderr is not None
    said = ""
    for line in command.stderr:
        said += line
        if text in line:
            return said
    raise AssertionError(f"{text!r} was never said:\n{said}")


def test_whether_there_is_a_terminal_is_known() -> None:
    asked = "from ion_core.signals import has_terminal; print(has_terminal())"
    python = [str(Path(ION[0]).with_name("python")), "-c", asked]
    alone = subprocess.run(
        python, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT, start_new_session=True, check=True
    )
    ours, theirs = os.openpty()
    on_one = subprocess.run(
        ["setsid", "--wait", "--ctty", *python],
        stdin=theirs,
        stdout=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    os.close(theirs)
    os.close(ours)
    assert (alone.stdout, on_one.stdout) == ("False\n", "True\n")
