"""What runs at this moment, and what it prints: for people who watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from ion_core.jobs import Attempt

LAST_LINES_WITHIN = 1.0
"""Seconds for what a container printed last to arrive, once its attempt has ended."""


class Followed(Protocol):
    """What a module runs in, as far as somebody follows it."""

    def follow(self) -> AsyncIterator[str]:
        """What it prints from this attempt on, as it comes, until it has ended.

        Raises ConnectionAbortedError where who runs it dies before.
        """


@dataclass(frozen=True, kw_only=True)
class LiveLine:
    """One line of an attempt that runs."""

    module: str
    attempt: int
    text: str


@dataclass(frozen=True, kw_only=True)
class RunsNow:
    """An attempt whose module runs, and since when."""

    module: str
    attempt: int
    since: datetime


@dataclass(eq=False)
class _Running:
    attempt: Attempt
    where: Followed
    since: datetime
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class RunningAttempts:
    """Who runs, by event. ``told``, where it is set, is called as an attempt begins to run (True), and has (False)."""

    def __init__(self) -> None:
        self.told: Callable[[Attempt, bool], None] | None = None
        self._running: set[_Running] = set()
        self._begun: asyncio.Future[None] | None = None

    @contextmanager
    def running(self, attempt: Attempt, where: Followed) -> Iterator[None]:
        """While the body runs, ``attempt`` can be followed."""
        running = _Running(attempt, where, datetime.now(UTC))
        self._running.add(running)
        begun, self._begun = self._begun, None
        if begun is not None and not begun.done():
            begun.set_result(None)
        if self.told is not None:
            self.told(attempt, True)
        try:
            yield
        finally:
            self._running.discard(running)
            running.ended.set()
            if self.told is not None:
                self.told(attempt, False)

    def of(self, event_id: str) -> Sequence[RunsNow]:
        """Those for this event, the longest first."""
        found = [
            RunsNow(module=one.attempt.job.module, attempt=one.attempt.number, since=one.since)
            for one in self._running
            if one.attempt.job.event.context.event_id == event_id
        ]
        return sorted(found, key=lambda it: it.since)

    def now(self) -> Sequence[tuple[Attempt, datetime]]:
        """Those that run, and since when; the longest first."""
        return [(it.attempt, it.since) for it in sorted(self._running, key=lambda it: it.since)]

    async def follow(self, event_id: str, *, wait: bool) -> AsyncGenerator[LiveLine, None]:
        """What the attempts for this event print, from their start, until none of them runs any more.

        With ``wait``, if none runs now, the first to come is waited for. Raises ConnectionAbortedError in the end where
        one could not be followed to its own.
        """
        followed: set[_Running] = set()
        while True:
            of_it = {one for one in self._running if one.attempt.job.event.context.event_id == event_id}
            if of_it - followed:
                async for line in _lines(of_it - followed):
                    yield line
                followed |= of_it
            elif followed or not wait:
                return
            else:
                if self._begun is None:
                    self._begun = asyncio.get_running_loop().create_future()
                await asyncio.shield(self._begun)


async def _lines(running: set[_Running]) -> AsyncIterator[LiveLine]:
    """Of all of them, as they come."""
    lines: asyncio.Queue[LiveLine | None] = asyncio.Queue(maxsize=100)

    async def pump(one: _Running) -> None:
        async for text in one.where.follow():
            await lines.put(LiveLine(module=one.attempt.job.module, attempt=one.attempt.number, text=text))

    async def until_its_end(one: _Running) -> None:
        pumping, ending = asyncio.create_task(pump(one)), asyncio.create_task(one.ended.wait())
        try:
            await asyncio.wait({pumping, ending}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({pumping}, timeout=LAST_LINES_WITHIN)
            if pumping.done() and isinstance(error := pumping.exception(), ConnectionAbortedError):
                raise error
        finally:
            for task in (pumping, ending):
                task.cancel()
            await asyncio.wait({pumping, ending})

    async def all_of_them() -> None:
        ends = await asyncio.gather(*(until_its_end(one) for one in running), return_exceptions=True)
        await lines.put(None)
        for error in filter(None, ends):
            raise error

    reading = asyncio.create_task(all_of_them())
    try:
        while (line := await lines.get()) is not None:
            yield line
        await reading
    finally:
        reading.cancel()
        await asyncio.wait({reading})
