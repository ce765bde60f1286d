"""Requests that wait for something: until it is there, or the service is to end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def unless_set(stop: asyncio.Event, waiting: Coroutine[Any, Any, T]) -> T | None:
    """What it gives; None where ``stop`` is set before. Raises what it raises."""
    asking, ending = asyncio.create_task(waiting), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({asking, ending}, return_when=asyncio.FIRST_COMPLETED)
        return asking.result() if asking.done() else None
    finally:
        for task in (asking, ending):
            task.cancel()
        await asyncio.wait({asking, ending})
