"""What changed, in short, for pages: which flows, and whether queues and dead letters did, told seldom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import aclosing, asynccontextmanager

from ion_console.streams import REFRESH, Told
from ion_core.contracts.looking import Change
from ion_core.contracts.service import ServiceHost
from ion_core.jobs import Verdict

MOST_FLOWS = 100
"""Flows that are named at a time; of more it is said to look anew at all there is."""


class Digests:
    """Of the process that ``host`` is of."""

    def __init__(self, host: ServiceHost) -> None:
        self._host = host
        self._taken = frozenset(it.type for it in host.pipeline().links if it.target)
        self._open: set[_Digest] = set()

    def mended(self) -> None:
        """Dead letters were put back or deleted by whoever asked the console to."""
        for digest in self._open:
            digest.mended()

    @asynccontextmanager
    async def one(self, every: float) -> AsyncIterator[AsyncGenerator[Told, None]]:
        """What changed, told at once after quiet, and then no sooner than ``every`` seconds after the last."""
        digest = _Digest(self._taken)
        async with self._host.changes() as changes:
            reading = asyncio.create_task(digest.read(changes), name="digest")
            self._open.add(digest)
            try:
                async with aclosing(digest.told(every, reading)) as told:
                    yield told
            finally:
                self._open.discard(digest)
                reading.cancel()
                await asyncio.wait({reading})


class _Digest:
    """What has changed since it was told last. ``taken`` are the types that go into queues."""

    def __init__(self, taken: Collection[str]) -> None:
        self._taken = taken
        self._flows: dict[str, None] = {}
        self._queues = self._letters = self._anew = False
        self._some, self._room = asyncio.Event(), asyncio.Event()
        self._room.set()

    async def read(self, changes: AsyncIterator[Change]) -> None:
        """Note what happens; once all there is must be looked at anew, read no further until that is told."""
        try:
            async for change in changes:
                self._add(change)
                await self._room.wait()
        finally:
            self._some.set()

    async def told(self, every: float, reading: asyncio.Task[None]) -> AsyncGenerator[Told, None]:
        """Until there is no more to be read; then what ``reading`` raises."""
        while True:
            await self._some.wait()
            if (told := self._take()) is None:
                break
            yield told
            await asyncio.sleep(every)
            if reading.done():
                self._some.set()
        await reading

    def mended(self) -> None:
        self._queues = self._letters = True
        self._some.set()

    def _add(self, change: Change) -> None:
        if change.kind == "missed" or (len(self._flows) == MOST_FLOWS and change.correlation_id not in self._flows):
            self._anew = True
            self._room.clear()
        else:
            self._flows[change.correlation_id] = None
            self._queues |= change.kind != "published" or change.type in self._taken
            self._letters |= change.outcome == Verdict.DEAD_LETTERED.value
        self._some.set()

    def _take(self) -> Told | None:
        """None where nothing has changed."""
        flows, queues, letters, anew = [*self._flows], self._queues, self._letters, self._anew
        self._flows.clear()
        self._queues = self._letters = self._anew = False
        self._some.clear()
        self._room.set()
        if anew:
            return Told(REFRESH, {})
        if not (flows or queues):
            return None
        return Told("changed", {"flows": flows, "queues": queues, "deadLetters": letters})
