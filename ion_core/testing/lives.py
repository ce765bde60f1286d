"""Processes that die in the middle of what they do, made of tasks: each has its providers behind a gate of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum
from typing import Any, TypeVar, cast

from ion_core.errors import TransientError

T = TypeVar("T")
CHANGES = frozenset({"put", "delete", "create", "clear_pending", "publish"})
"""Methods of blob stores, document stores and brokers that stop at a gate, as ``get`` does."""


class Killed(BaseException):
    """What a process that is no more has of its calls: nothing of its own catches that, and nothing is done."""


class Going(Enum):
    """How a call goes on that stands at a gate: the backend is asked or not, and answers or not."""

    DONE = "done"
    NOT_DONE = "not done"
    ANSWER_LOST = "answer lost"
    KILLED = "killed"


class Gate:
    """Where the calls of one process stop, one at a time, until it is said how they go on.

    ``did`` is told of every change that the backend has made: the name of the call and its arguments.
    """

    def __init__(self, did: Callable[[str, tuple[Any, ...]], None]) -> None:
        self._did = did
        self._one_at_a_time = asyncio.Lock()
        self._going: asyncio.Future[Going] | None = None
        self.killed = False
        self.standing: str | None = None
        """The call that has stopped here."""
        self.moved = asyncio.Event()
        """Set whenever ``standing`` has changed."""

    def go_on(self, how: Going) -> None:
        """The call that stands here goes on; from ``KILLED`` on every other one ends at once."""
        assert self._going is not None
        self.killed = self.killed or how is Going.KILLED
        self.standing, going = None, self._going
        going.set_result(how)

    async def call(self, name: str, make: Callable[..., Awaitable[T]], *args: Any, **known: Any) -> T:
        """What ``make`` returns, once the call may go on. Raises Killed, and TransientError where it is not to be."""
        async with self._one_at_a_time:
            if self.killed:
                raise Killed
            self._going, self.standing = asyncio.get_running_loop().create_future(), name
            self.moved.set()
            how = await self._going
            if how is Going.KILLED:
                raise Killed
            if how is Going.NOT_DONE:
                raise TransientError(f"{name}: is not done, as the test has it.")
            made = await make(*args, **known)
            self._did(name, args)
            if how is Going.ANSWER_LOST:
                raise TransientError(f"{name}: its answer is lost, as the test has it.")
            return made


class _Gated:
    def __init__(self, provider: Any, gate: Gate) -> None:
        self._provider, self._gate = provider, gate

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._provider, name)
        if name not in CHANGES | {"get"}:
            return found

        def stopping(*args: Any, **known: Any) -> Coroutine[Any, Any, Any]:
            return self._gate.call(name, found, *args, **known)

        return stopping


def gated(provider: T, gate: Gate) -> T:
    """The provider as the process behind ``gate`` has it."""
    return cast(T, _Gated(provider, gate))


class Life:
    """One process, which does one piece of work after the other."""

    def __init__(self, did: Callable[[str, tuple[Any, ...]], None]) -> None:
        self.gate = Gate(did)
        self._work: asyncio.Task[None] | None = None

    @property
    def works(self) -> bool:
        return self._work is not None

    async def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this until it stands at the gate, or is over."""
        self._work = asyncio.create_task(work)
        self._work.add_done_callback(lambda _: self.gate.moved.set())
        await self._until_it_stands()

    async def go_on(self, how: Going) -> None:
        """The same with the call that stands there. What comes out of the work is raised; of a killed one nothing."""
        self.gate.go_on(how)
        await self._until_it_stands()

    async def end(self) -> None:
        """It is no more, whatever it is at: a call that stands, or one that does not return."""
        self.gate.killed = True
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
            self._work = None

    async def _until_it_stands(self) -> None:
        work = self._work
        assert work is not None
        while not work.done() and self.gate.standing is None:
            self.gate.moved.clear()
            await self.gate.moved.wait()
        if work.done():
            self._work = None
            try:
                work.result()
            except Killed:
                assert self.gate.killed
