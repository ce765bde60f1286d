"""Slots whose module has committed an event and waits for the next: what ``reuse: true`` is about."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ion_core.dispatcher.bounded import uninterrupted
from ion_core.dispatcher.slot import Slot
from ion_core.handler import Handler

DROP_WITHIN = 90.0
MOST_PRINTED = 1 << 18
"""Characters; a container's log has a limit, and one that is near it would lose lines of later events."""


class IdleSlots:
    """Kept until ``stop``, or until they are too old. ``drop`` removes one and leaves nothing behind."""

    def __init__(self, handler: Handler, drop: Callable[[Slot], Awaitable[None]], *, oldest: float) -> None:
        self._handler = handler
        self._drop = drop
        self._oldest = oldest
        self._slots: list[Slot] = []
        self._closed = False
        self.reused = 0
        """Attempts that were given one."""

    def __len__(self) -> int:
        return len(self._slots)

    def put(self, slot: Slot) -> bool:
        """Keep it for the next event. False if it is to be dropped instead."""
        age = asyncio.get_running_loop().time() - slot.made_at
        if self._closed or age >= self._oldest or slot.printed > MOST_PRINTED:
            return False
        slot.is_kept = False
        self._slots.append(slot)
        return True

    async def take(self) -> Slot | None:
        """One whose module waits for an event, in a workspace made clean for it; None where there is none."""
        while self._slots:
            slot = self._slots.pop()
            try:
                fit = await slot.until_waiting() and await self._handler.clear(slot.workspace)
            except BaseException:
                await uninterrupted(self._drop_all([slot]), within=DROP_WITHIN)
                raise
            if fit:
                self.reused += 1
                return slot
            await self._drop(slot)
        return None

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``, or until cancelled; none is left then."""
        try:
            await stop.wait()
        finally:
            self._closed = True
            dropped, self._slots = self._slots, []
            if dropped:
                await uninterrupted(self._drop_all(dropped), within=DROP_WITHIN)

    async def _drop_all(self, slots: list[Slot]) -> None:
        await asyncio.gather(*(self._drop(slot) for slot in slots))
