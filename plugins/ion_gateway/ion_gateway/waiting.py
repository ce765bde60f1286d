"""How much waits for those who take a type, without asking the broker at every request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ion_core.contracts.service import ServiceHost

COUNTED_FOR = 1.0
"""Seconds for which a count is good, from when it is there."""


class Waiting:
    """Counts each type at most once in ``COUNTED_FOR``, and one at a time: who comes meanwhile waits for that."""

    def __init__(self, host: ServiceHost) -> None:
        self._host = host
        self._counts: dict[str, tuple[float, int | None]] = {}
        self._counting: dict[str, asyncio.Lock] = {}

    async def count(self, event_type: str) -> int | None:
        """None where the broker does not tell, or nobody takes it."""
        if event_type not in self._host.event_types():
            return None
        async with self._counting.setdefault(event_type, asyncio.Lock()):
            now = asyncio.get_running_loop().time
            counted_at, count = self._counts.get(event_type, (float("-inf"), None))
            if now() - counted_at > COUNTED_FOR:
                count = await self._host.pending(event_type)
                self._counts[event_type] = now(), count
            return count
