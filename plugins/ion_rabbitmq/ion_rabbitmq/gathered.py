"""Frames are written together: all of one turn of the event loop are one call of the kernel, and one packet.

aiormq writes each frame by itself. Each costs a call of the kernel here, and wakes RabbitMQ; where many publish at once
that is more than all else that a publish takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

MOST_BYTES = 64 * 1024
"""That wait for the end of the turn: more are written at once, so that `drain` sees how much has not been sent."""


class Writer(asyncio.StreamWriter):
    """As asyncio's; what is written is handed to the kernel at the end of the turn, or with ``MOST_BYTES``."""

    def __init__(self, *how: Any) -> None:
        super().__init__(*how)
        self._gathered: list[bytes] = []
        self._bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._hand_over)
        self._gathered.append(bytes(data))
        self._bytes += len(data)
        if self._bytes >= MOST_BYTES:
            self._hand_over()

    def writelines(self, data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(data))

    def write_eof(self) -> None:
        self._hand_over()
        super().write_eof()

    def close(self) -> None:
        self._hand_over()
        super().close()

    def _hand_over(self) -> None:
        if self._gathered:
            some, self._gathered, self._bytes = self._gathered, [], 0
            super().write(b"".join(some))
