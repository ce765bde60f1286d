"""What a worker tells the process that keeps it, and is told by it: JSON objects, one a line, over a socket.

Telling never waits, on whatever thread: should nobody listen for long, as when that process is stopped, what comes then
is dropped, and how much it was is told afterwards.
"""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from typing import Any

HELD = 1 << 24
"""Bytes that are held for a listener that does not listen."""
LAST_WITHIN = 5.0
"""Seconds for the last of it to be taken."""


class Reporting:
    """The worker's end. It is told something by lines that ``read`` returns."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._held = bytearray()
        self._dropped = 0
        self._read = bytearray()

    def fileno(self) -> int:
        return self._channel.fileno()

    def tell(self, **said: Any) -> None:
        """Tell it as soon as it is taken."""
        line = json.dumps(said).encode() + b"\n"
        with self._lock:
            if len(self._held) > HELD:
                self._dropped += 1
            else:
                if self._dropped:
                    self._held += json.dumps({"dropped": self._dropped}).encode() + b"\n"
                    self._dropped = 0
                self._held += line
            self._hand_over()

    def read(self) -> list[dict[str, Any]] | None:
        """What it was told since; None once nobody is there any more. To be called when there is something to read."""
        try:
            chunk = self._channel.recv(1 << 16)
        except ConnectionError:
            return None
        if not chunk:
            return None
        *lines, self._read = (self._read + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Have what was told taken, within bounds, and hang up."""
        until = time.monotonic() + LAST_WITHIN
        with self._lock:
            while self._held and (left := until - time.monotonic()) > 0:
                select.select([], [self._channel], [], left)
                self._hand_over()
        self._channel.close()

    def _hand_over(self) -> None:
        try:
            while self._held:
                del self._held[: self._channel.send(self._held, socket.MSG_DONTWAIT)]
        except BlockingIOError:
            return
        except OSError:  # nobody is there: this process is about to end
            self._held.clear()
