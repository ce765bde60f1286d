"""Waits that end: clean-up that cancellation does not cut short, and back-off between tries."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def uninterrupted(work: Coroutine[Any, Any, T], *, within: float) -> T:
    """The result of ``work``, carried on for up to ``within`` seconds even when the caller is cancelled meanwhile.

    Raises TimeoutError when it took longer. A cancellation of the caller is passed on once the work has ended.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    deadline = asyncio.get_running_loop().time() + within
    while not task.done():
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)
            if cancelled:
                raise cancelled
            raise TimeoutError(f"not done within {within:g} s")
        try:
            await asyncio.wait({task}, timeout=left)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled and (task.cancelled() or task.exception() is None):
        raise cancelled
    return task.result()


async def together(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """All of it at once; the first error once everything is over. Of one piece of work no task is made."""
    if len(work) == 1:
        await work[0]
        return
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


class Backoff:
    """Seconds to wait after the n-th failure in a row: doubling from ``first`` to ``most``, spread by a fifth."""

    def __init__(self, *, first: float = 0.5, most: float = 30.0) -> None:
        self._first, self._most, self._failures = first, most, 0

    def next(self) -> float:
        seconds = min(self._first * 2.0 ** min(self._failures, 32), self._most)
        self._failures += 1
        return seconds * random.uniform(0.8, 1.2)

    def reset(self) -> None:
        self._failures = 0


async def wait_for_any(*events: asyncio.Event, timeout: float | None = None) -> bool:
    """Until one of the events is set; False if ``timeout`` seconds passed first."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        done, _ = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for wait in waits:
            wait.cancel()
