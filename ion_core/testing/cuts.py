"""Calls that are cancelled on their way: after turns of the event loop, and after parts of the time that they take.

Turns find what happens before a call leaves this process, however fast the backend is; parts of the time find what
happens while a backend is asked, however far away it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass

from ion_core.testing.kit import Conformance


@dataclass(frozen=True, kw_only=True)
class Cut:
    """When a call is cancelled: after so many ``turns`` of the event loop, or after that ``part`` of its time."""

    turns: int = 0
    part: float = 0.0

    def __str__(self) -> str:
        return f"after {self.part:.0%} of its time" if self.part else f"after {self.turns} turns"


CUTS = [Cut(turns=turns) for turns in (0, 1, 2, 3, 5, 8)]
CUTS += [Cut(part=part) for part in (0.9, 0.75, 0.6, 0.5, 0.4, 0.25, 0.1)]


class Cutting:
    """Calls of one kind, and how long one takes: as long as the fastest of those that were not cut short."""

    def __init__(self, kit: Conformance, what: str) -> None:
        self._kit, self._what = kit, what
        self._whole = float("inf")

    async def whole(self, call: Awaitable[object]) -> None:
        """Let ``call`` end, and know how long one takes; to be called once at least, before any is cut short."""
        begun = asyncio.get_running_loop().time()
        await self._kit.within(call, self._what)
        self._took(begun)

    async def short(self, call: Awaitable[object], cut: Cut) -> None:
        """Begin ``call``, cancel it where ``cut`` says, and return once it has ended, however it did."""
        begun = asyncio.get_running_loop().time()
        calling = asyncio.ensure_future(call)
        for _ in range(cut.turns):
            await asyncio.sleep(0)
        if cut.part:
            await asyncio.wait({calling}, timeout=self._whole * cut.part)
        if calling.done():
            self._took(begun)
        calling.cancel()
        await self._kit.within(asyncio.wait({calling}), f"the end of {self._what}, cancelled {cut}")

    def _took(self, begun: float) -> None:
        self._whole = min(self._whole, asyncio.get_running_loop().time() - begun)
