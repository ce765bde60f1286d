"""A message on its way to RabbitMQ: sent once while its answer is out, however often it is waited for.

RabbitMQ takes back nothing that was sent. Whoever gives up on an answer and publishes again has published twice: after
an outage, or an alarm that stopped publishers, both arrive. So the next try waits for the answer of the first, as long
as the channel lives that it was sent on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Any

KEPT = 1_000
"""Answers that nobody waits for any more, and that may be asked for again: the oldest are forgotten."""


class Sending:
    """One message's way. Its owner waits for one answer at a time."""

    def __init__(self, answers: set[asyncio.Future[Any]]) -> None:
        self._answers = answers
        self._answer: asyncio.Future[Any] | None = None

    @property
    def unanswered(self) -> bool:
        """Whether something was sent whose answer nobody has heard."""
        return self._answer is not None

    async def through(self, send: Callable[[], asyncio.Future[Any]], *, within: float) -> None:
        """``send``, unless that was done already; raises what the answer raises, TimeoutError where none comes in time.

        ``send`` returns where the answer will be.
        """
        if self._answer is None:
            self._answer = send()
            self._answers.add(self._answer)
            self._answer.add_done_callback(self._heard)
        await self.answer(within=within)

    def _heard(self, answer: asyncio.Future[Any]) -> None:
        self._answers.discard(answer)
        if not answer.cancelled():
            answer.exception()  # looked at, if by nobody

    async def answer(self, *, within: float | None = None) -> None:
        """That of what was sent; waits for so many seconds, or for as long as it takes."""
        answer = self._answer
        assert answer is not None, "nothing was sent"
        if not answer.done() and not (await asyncio.wait([answer], timeout=within))[0]:
            raise TimeoutError
        self._answer = None
        answer.result()


class Outgoing:
    """All that is on its way from this process."""

    def __init__(self) -> None:
        self._answers: set[asyncio.Future[Any]] = set()
        self._unanswered: dict[Hashable, Sending] = {}

    def way(self) -> Sending:
        """For a message whose owner keeps it until it is answered."""
        return Sending(self._answers)

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
        for answer in [*self._answers]:
            answer.cancel()

    async def close(self) -> None:
        self.abandon()
        if self._answers:
            await asyncio.wait(list(self._answers))
