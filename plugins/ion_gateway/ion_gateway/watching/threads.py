"""Calls that block, each in a thread that nobody waits for when the process ends: a server may never answer."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(name: str, function: Callable[..., T], *arguments: object) -> T:
    """What the call returns or raises. Cancelling leaves it to itself.

    Not an executor: of those Python waits for every thread at its end, also for one that hangs.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def call() -> None:
        try:
            result = function(*arguments)
        except BaseException as error:
            tell(done.set_exception, error)
        else:
            tell(done.set_result, result)

    def tell(set_it: Callable[..., None], outcome: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed: there is nobody to tell
            loop.call_soon_threadsafe(lambda: None if done.done() else set_it(outcome))

    threading.Thread(target=call, name=name, daemon=True).start()
    return await done
