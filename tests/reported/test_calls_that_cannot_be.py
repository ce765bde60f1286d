"""A module that cannot call its handler: that is said at once, where it is known, and not by a timeout."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from ion_core.contracts.messaging import RetryPolicy
from ion_core.embedded.process.runtime import open_process_runtime
from ion_core.embedded.programs import bubblewrap
from ion_core.embedded.settings import ProcessSettings
from ion_core.errors import PermanentError, TransientError
from ion_core.jobs import Verdict
from tests.support.worlds import Scene, World, messages


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_listen_that_fails_is_the_reason_of_the_attempt(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def listen(*_: object) -> None:
        raise PermanentError("container a: its network cannot be entered: Operation not permitted")

    monkeypatch.setattr(world.runtime, "listen", listen)
    waiting = Scene()  # as for a handler that it cannot reach
    world.add(waiting, timeout=timedelta(hours=1), retry=RetryPolicy(retries=0))
    await world.publish()
    await world.run()
    [letter] = await world.dead()
    assert "a module cannot call its handler: container a: its network cannot be entered" in letter.reason
    assert waiting.running == 0
    assert waiting.cancelled == waiting.arrived, "it was ended, if it came to begin at all"
    assert world.left_behind() == []


async def test_a_runtime_that_does_not_answer_when_it_is_to_listen_costs_no_attempt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def listen(*_: object) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise TransientError("the service is away")
        scene.go.set()

    monkeypatch.setattr(world.runtime, "listen", listen)
    monkeypatch.setattr("ion_core.dispatcher.bounded.Backoff.next", lambda self: 0.0)
    scene = Scene()
    world.add(scene, retry=RetryPolicy(retries=0))
    await world.publish()
    await world.run()
    assert world.observed.verdicts == [Verdict.RELEASED, Verdict.COMMITTED]


async def test_where_nobody_can_listen_inside_bubblewrap_no_module_is_promised_a_handler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int, port: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(bubblewrap, "listen_inside", refuse)
    monkeypatch.setattr(bubblewrap, "_LISTEN_WITHIN", 0.0)
    settings = ProcessSettings(isolation="bubblewrap", path=tmp_path / "run")
    async with open_process_runtime(settings) as runtime:
        assert not runtime.capabilities.handler_api
        assert "cannot call their handler here: Operation not permitted" in runtime.capabilities.notice


async def test_where_it_can_be_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with open_process_runtime(ProcessSettings(isolation="bubblewrap", path=tmp_path / "run")) as runtime:
        assert runtime.capabilities.handler_api, "as an ordinary user too"
    assert messages(caplog) == []
