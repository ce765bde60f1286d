"""Warm slots: some are made ahead of their event, so that an event waits for a start only."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from ion_core.dispatcher.bounded import Backoff, uninterrupted, wait_for_any
from ion_core.errors import ProviderError

log = logging.getLogger(__name__)
S = TypeVar("S")

REFILL_AFTER = 0.25
"""Seconds after a slot was taken until the next is made, if its job has not ended before and another is still ready:
making one takes the processor's time that a short job would wait for."""
OLDEST = 600.0
"""Seconds after which a slot is made anew: its image may have changed."""
TAKE_WITHIN = 65.0


class WarmSlots(Generic[S]):
    """Keeps ``count`` slots ready. ``make`` makes one, ``drop`` removes one; neither leaves anything behind."""

    def __init__(
        self,
        count: int,
        make: Callable[[], Coroutine[Any, Any, S]],
        drop: Callable[[S], Awaitable[None]],
        *,
        module: str,
        oldest: float = OLDEST,
    ) -> None:
        self._count = count
        self._make = make
        self._drop = drop
        self._fields = {"moduleName": module}
        self._oldest = oldest
        self._ready: deque[tuple[float, S]] = deque()
        self._making: asyncio.Task[S] | None = None
        self._changed = asyncio.Event()
        self._pause_until = 0.0
        self._backoff = Backoff()
        self.found = self.made = 0
        """Attempts that found one, and those that did not."""

    @property
    def ready(self) -> int:
        """How many wait for an event now."""
        return len(self._ready)

    async def take(self) -> S | None:
        """One that is ready, or the one that is being made; None where there is none, or making it failed."""
        slot = await self._take()
        if slot is None:
            self.made += 1
        else:
            self.found += 1
        return slot

    def refill(self) -> None:
        """A job has ended: make the next one now."""
        self._pause_until = 0.0
        self._changed.set()

    async def distrust(self) -> None:
        """One of them could not be started: make the others anew too."""
        await self._drop_all()
        self._changed.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Keep them ready until ``stop``, or until cancelled; none is left then."""
        if not self._count:
            return
        keeping = asyncio.create_task(self._keep(), name="keep slots warm")
        try:
            await stop.wait()
        finally:
            keeping.cancel()
            await uninterrupted(self._end(keeping), within=TAKE_WITHIN)

    async def _take(self) -> S | None:
        self._pause_until = asyncio.get_running_loop().time() + REFILL_AFTER
        self._changed.set()
        if self._ready:
            return self._ready.popleft()[1]
        making, self._making = self._making, None
        if making is None:
            return None
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            await uninterrupted(self._abandon(making), within=TAKE_WITHIN)
            raise
        except Exception:  # ``run`` tells of it; whoever makes one now sees what is wrong
            return None

    async def _keep(self) -> None:
        while True:
            now = asyncio.get_running_loop().time()
            while self._ready and now - self._ready[0][0] >= self._oldest:
                await self._drop(self._ready.popleft()[1])
            self._changed.clear()
            if len(self._ready) < self._count and (now >= self._pause_until or not self._ready):
                await self._make_one()
            else:
                full = len(self._ready) >= self._count
                until = self._ready[0][0] + self._oldest if full else self._pause_until
                await wait_for_any(self._changed, timeout=max(0.0, until - now))

    async def _make_one(self) -> None:
        making = self._making = asyncio.create_task(self._make(), name="make a slot")
        await asyncio.wait({making})
        ours = self._making is making
        self._making = None
        if making.cancelled():
            return
        error = making.exception()
        if error is None:
            self._backoff.reset()
            if ours:
                self._ready.append((asyncio.get_running_loop().time(), making.result()))
            return
        seconds = self._backoff.next()
        if isinstance(error, ProviderError):
            log.warning("no slot can be made ahead, next try in %.1f s: %s", seconds, error, extra=self._fields)
        else:
            log.error("no slot can be made ahead, by a bug", exc_info=error, extra=self._fields)
        await asyncio.sleep(seconds)

    async def _end(self, keeping: asyncio.Task[None]) -> None:
        await asyncio.wait({keeping})
        making, self._making = self._making, None
        if making is not None:
            await self._abandon(making)
        await self._drop_all()

    async def _abandon(self, making: asyncio.Task[S]) -> None:
        making.cancel()
        await asyncio.wait({making})
        if not making.cancelled() and making.exception() is None:
            await self._drop(making.result())

    async def _drop_all(self) -> None:
        dropped = [slot for _, slot in self._ready]
        self._ready.clear()
        await asyncio.gather(*(self._drop(slot) for slot in dropped))
