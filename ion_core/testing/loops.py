"""Whether an event loop is held up: looked at by a thread, whose own turns are the clock.

Where the machine as a whole is slow the thread is as well, so that only what keeps the loop from turning is seen.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

EVERY = 0.01
"""Seconds between two turns of the thread, and of the loop that it looks at."""


class Turns:
    """``missed`` is the largest number of turns of the thread within which the loop made none."""

    def __init__(self) -> None:
        self.missed = 0
        self._turned = False
        self._over = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._turn()
        self._thread = threading.Thread(target=self._look, name="looks at the event loop", daemon=True)
        self._thread.start()

    def _turn(self) -> None:
        self._turned = True
        self._next = self._loop.call_later(EVERY, self._turn)

    def _look(self) -> None:
        missed = 0
        while not self._over.wait(EVERY):
            missed = 0 if self._turned else missed + 1
            self._turned = False
            self.missed = max(self.missed, missed)

    def end(self) -> None:
        self._over.set()
        self._thread.join()
        self._next.cancel()


@contextmanager
def watched_loop() -> Iterator[Turns]:
    """Within it the running event loop is looked at."""
    turns = Turns()
    try:
        yield turns
    finally:
        turns.end()
