"""What a module and its handler say to each other while the module runs: ``/ready`` and ``/done``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from ion_core.errors import OutOfTurn


class NoMoreEvents(Exception):
    """Nothing will be prepared any more: the module may end."""


class CallFailed(Exception):
    """What was asked for was tried and failed."""


class Calls(Protocol):
    """What a module may ask of its handler. Both raise OutOfTurn, NoMoreEvents or CallFailed with a sentence."""

    async def ready(self) -> None:
        """Returns once the workspace is filled. Cancelled when the module hangs up."""

    async def done(self) -> None:
        """Returns once what is in the workspace is committed. Cancelling it stops no commit."""


class _State(Enum):
    IDLE = "no event is prepared: call /ready first"
    PREPARED = "the workspace is filled, and /ready was not called: call it first"
    FILLING = "/ready is not answered yet: wait for it"
    WORKING = "/ready was answered already, for this event"
    COMMITTING = "a commit is under way"
    COMMITTED = "this event is committed already"
    CLOSED = "this job is over"


class Session:
    """The calls of one slot, from its first event to its last. The methods below ``done`` are the dispatcher's.

    ``told`` is called as soon as anything is otherwise.
    """

    def __init__(self, told: Callable[[], None] = lambda: None) -> None:
        self._told = told
        self._state = _State.IDLE
        self._changed: asyncio.Future[None] | None = None
        self._waiting = 0
        self._asking = 0
        self._filled: asyncio.Future[None] | None = None
        self._answer: asyncio.Future[None] | None = None

    async def ready(self) -> None:
        waited = self._state is _State.IDLE
        if waited:
            await self._until_prepared()
        if self._state is _State.FILLING or (self._state is _State.PREPARED and not waited):
            await self._until_filled()
        elif self._state is _State.PREPARED or (waited and self._state is _State.WORKING):
            self._become(_State.WORKING)  # what was prepared while it waited is as it was prepared
        else:
            raise self._refusal()

    async def _until_prepared(self) -> None:
        self._waiting += 1
        self._tell()
        try:
            while self._state is _State.IDLE:
                await asyncio.shield(self.change())
        finally:
            self._waiting -= 1

    async def _until_filled(self) -> None:
        if self._filled is None or self._filled.done():
            self._filled = asyncio.get_running_loop().create_future()
            self._become(_State.FILLING)
        self._asking += 1
        try:
            await asyncio.shield(self._filled)
        finally:
            self._asking -= 1

    async def done(self) -> None:
        if self._state is not _State.WORKING:
            raise self._refusal()
        self._answer = asyncio.get_running_loop().create_future()
        self._become(_State.COMMITTING)
        await asyncio.shield(self._answer)

    def _refusal(self) -> Exception:
        return (NoMoreEvents if self._state is _State.CLOSED else OutOfTurn)(self._state.value)

    @property
    def committing(self) -> bool:
        """Whether the module called ``/done`` and waits for its answer."""
        return self._state is _State.COMMITTING

    @property
    def filling(self) -> bool:
        """Whether the module called ``/ready`` and waits until its workspace is as it was prepared."""
        return self._state is _State.FILLING

    @property
    def waiting(self) -> bool:
        """Whether the module waits in ``/ready`` for an event."""
        return self._waiting > 0

    @property
    def taken(self) -> bool:
        """Whether the module was told of the event that was prepared last."""
        return self._state not in (_State.PREPARED, _State.FILLING)

    def change(self) -> asyncio.Future[None]:
        """Done as soon as anything is otherwise than now. Not to be cancelled."""
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        return self._changed

    def prepared(self) -> None:
        """The workspace is filled with an event."""
        self._become(_State.PREPARED)

    def answer_filled(self, why_not: str = "") -> None:
        """``/ready`` succeeded, or it failed for the reason that is given: then the module may call it again."""
        told = self._asking > 0 and not why_not  # else it hung up meanwhile
        self._become(_State.WORKING if told else _State.PREPARED)
        _end(self._filled, why_not)

    def answer_committed(self, *, more: bool) -> None:
        """``/done`` succeeded; with ``more`` the module may call ``/ready`` again, for the next event."""
        self._become(_State.IDLE if more else _State.COMMITTED)
        _end(self._answer)

    def answer_failed(self, why: str) -> None:
        """``/done`` failed; the module may leave something else and call it again."""
        self._become(_State.WORKING)
        _end(self._answer, why)

    def close(self) -> None:
        """The slot's end: whoever waits is told so. Idempotent."""
        self._become(_State.CLOSED)
        for answer in (self._filled, self._answer):
            _end(answer, _State.CLOSED.value)

    def _become(self, state: _State) -> None:
        self._state = state
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None and not changed.done():
            changed.set_result(None)
        self._told()


def _end(answer: asyncio.Future[None] | None, why_not: str = "") -> None:
    """Answer a call; nothing where none waits for that."""
    if answer is None or answer.done():
        return
    if why_not:
        answer.set_exception(CallFailed(why_not))
        answer.exception()  # seen: perhaps the module hung up
    else:
        answer.set_result(None)
