"""Blocking work on threads, without losing sight of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from ion_core.embedded.os_errors import translating

T = TypeVar("T")


class Threads:
    """``where`` begins what becomes of an OSError."""

    def __init__(self, pool: ThreadPoolExecutor, where: str) -> None:
        self._pool = pool
        self._where = where

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """``work`` on a thread, waited for even when we are cancelled: nothing happens behind the caller's back."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, work, *args)
        with translating(self._where):
            try:
                return await asyncio.shield(future)
            except asyncio.CancelledError:
                await asyncio.wait({future})
                raise


@asynccontextmanager
async def threads(where: str, name: str) -> AsyncIterator[Threads]:
    """As many as help; on leaving, they have ended."""
    pool = ThreadPoolExecutor(min(8, (os.cpu_count() or 1) * 4), name)
    try:
        yield Threads(pool, where)
    finally:
        await asyncio.to_thread(pool.shutdown)  # not here: signals are heard while one of them hangs
