"""Which files this process has hashed, so that linking one again does not read it again."""

from __future__ import annotations

import os
import threading

_KEPT = 65_536


class Verified:
    """sha256 by device, inode, size and modification time; the oldest are forgotten. Safe for threads.

    The change time is left out: every link made or removed moves it.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int, int], str] = {}
        self._lock = threading.Lock()

    def remember(self, status: os.stat_result, sha256: str) -> None:
        with self._lock:
            self._known[_mark(status)] = sha256
            if len(self._known) > _KEPT:
                del self._known[next(iter(self._known))]

    def sha256(self, status: os.stat_result) -> str | None:
        with self._lock:
            return self._known.get(_mark(status))


def _mark(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
