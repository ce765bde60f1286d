"""A message on its way to RabbitMQ: sent once while its answer is out, however often it is waited for.

RabbitMQ takes back nothing that was sent. Whoever gives up on an answer and publishes again has published twice: after
an outage, or an alarm that stopped publishers, both arrive. So the next try waits for the answer of the first, as long
as the channel lives that it was sent on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any

KEPT = 1_000
"""Answers that nobody waits for any more, and that may be asked for again: the oldest are forgotten."""


class Sending:
    """One message's way. Its owner waits for one answer at a time."""

    def __init__(self, tasks: set[asyncio.Task[None]]) -> None:
        self._tasks = tasks
        self._task: asyncio.Task[None] | None = None

    @property
    def unanswered(self) -> bool:
        """Whether something was sent whose answer nobody has heard."""
        return self._task is not None

    async def through(self, send: Callable[[], Coroutine[Any, Any, None]], *, within: float) -> None:
        """``send``, unless that has begun already; raises what it raises, TimeoutError where nothing comes in time."""
        if self._task is None:
            self._task = asyncio.create_task(send(), name="publish")
            self._tasks.add(self._task)
            self._task.add_done_callback(self._tasks.discard)
            self._task.add_done_callback(lambda task: task.cancelled() or task.exception())  # looked at, if by nobody
        await self.answer(within=within)

    async def answer(self, *, within: float | None = None) -> None:
        """That of what was sent; waits for so many seconds, or for as long as it takes."""
        task = self._task
        assert task is not None, "nothing was sent"
        if not task.done() and not (await asyncio.wait([task], timeout=within))[0]:
            raise TimeoutError
        self._task = None
        task.result()


class Outgoing:
    """All that is on its way from this process."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._unanswered: dict[Hashable, Sending] = {}

    def way(self) -> Sending:
        """For a message whose owner keeps it until it is answered."""
        return Sending(self._tasks)

    def way_of(self, key: Hashable) -> Sending:
        """For a message of nobody: the one that was left with that key, or a new one."""
        return self._unanswered.pop(key, None) or self.way()

    def left(self, key: Hashable, way: Sending) -> None:
        """Nobody waits for it now. Whoever comes with that key does."""
        if way.unanswered:
            self._unanswered[key] = way
            if len(self._unanswered) > KEPT:
                del self._unanswered[next(iter(self._unanswered))]

    def abandon(self) -> None:
        """No answer will come. What was sent may arrive all the same."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        self.abandon()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
