"""The calls of a module whose handler stands alone beside it, when the module hangs up in the middle."""

from __future__ import annotations

import asyncio

import pytest

from ion_core.errors import OutOfTurn, UsageError
from ion_core.handler.alone_calls import AloneCalls
from ion_core.handler.session import CallFailed


class Steps:
    """What was done; each step waits for ``go``."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.go = asyncio.Event()
        self.begun = asyncio.Event()

    async def prepare(self) -> None:
        await self._step("prepare")

    async def commit(self) -> None:
        await self._step("commit")

    async def _step(self, name: str) -> None:
        self.begun.set()
        await self.go.wait()
        self.done.append(name)


async def hang_up_in(call: asyncio.Task[None], steps: Steps) -> None:
    await steps.begun.wait()
    call.cancel()
    steps.go.set()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_what_was_prepared_is_there_when_the_module_asks_again() -> None:
    steps = Steps()
    calls = AloneCalls(steps.prepare, steps.commit, again=False)
    await hang_up_in(asyncio.create_task(calls.ready()), steps)
    await calls.ready()
    assert steps.done == ["prepare"]
    with pytest.raises(OutOfTurn, match="answered already"):
        await calls.ready()


async def test_a_commit_goes_on_and_is_not_done_again() -> None:
    steps = Steps()
    steps.go.set()
    calls = AloneCalls(steps.prepare, steps.commit, again=False)
    await calls.ready()
    steps.go.clear()
    steps.begun.clear()
    await hang_up_in(asyncio.create_task(calls.done()), steps)
    assert steps.done == ["prepare", "commit"]
    with pytest.raises(OutOfTurn, match="committed already"):
        await calls.done()


async def test_one_call_at_a_time() -> None:
    steps = Steps()
    calls = AloneCalls(steps.prepare, steps.commit, again=False)
    first = asyncio.create_task(calls.ready())
    await steps.begun.wait()
    with pytest.raises(OutOfTurn, match="under way"):
        await calls.ready()
    steps.go.set()
    await first


async def test_what_fails_can_be_tried_again() -> None:
    problems = [UsageError("no such event")]

    async def prepare() -> None:
        if problems:
            raise problems.pop()

    calls = AloneCalls(prepare, prepare, again=False)
    with pytest.raises(CallFailed, match="no such event"):
        await calls.ready()
    await calls.ready()
