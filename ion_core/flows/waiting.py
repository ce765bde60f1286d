"""Waiting for a flow: others may do the work, so that nothing tells us when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

LOOK_FIRST, LOOK_LAST = 0.05, 2.0
"""Seconds between looks: at first, and doubled up to the second."""


class Stands(Protocol):
    """How a flow stands."""

    @property
    def over(self) -> bool: ...


T = TypeVar("T", bound=Stands)


async def until_over(look: Callable[[], Awaitable[T | None]], *, within: float | None) -> T | None:
    """What ``look`` gives once that is over, or None; else what it gives when ``within`` seconds have passed."""
    loop = asyncio.get_running_loop()
    until = None if within is None else loop.time() + within
    pause = LOOK_FIRST
    while True:
        found = await look()
        left = LOOK_LAST if until is None else until - loop.time()
        if found is None or found.over or left <= 0:
            return found
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 2, LOOK_LAST)
