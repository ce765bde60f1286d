"""Waiting for the end of a process, whoever's child it is."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress

from ion_core.embedded.programs import table


def ended(pid: int) -> asyncio.Future[None]:
    """Done once ``pid`` has ended, whoever's child it is. A child of ours is still to be waited for then."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        future.set_result(None)
        return future
    except (AttributeError, OSError):
        _watch_by_thread(pid, future)
        return future

    def done() -> None:
        if not future.done():
            future.set_result(None)

    def close(_: asyncio.Future[None]) -> None:
        loop.remove_reader(fd)
        os.close(fd)

    loop.add_reader(fd, done)
    future.add_done_callback(close)
    return future


def _watch_by_thread(pid: int, future: asyncio.Future[None]) -> None:
    """For systems without pidfds."""
    stop = threading.Event()
    loop = asyncio.get_running_loop()

    def done() -> None:
        if not future.done():
            future.set_result(None)

    def watch() -> None:
        while table.identify(pid) is not None and not stop.wait(0.02):
            pass
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(done)

    future.add_done_callback(lambda _: stop.set())
    threading.Thread(target=watch, name=f"ion-watch-{pid}", daemon=True).start()
