"""What a step prints, in files: the first half of what may be kept, and the latest of it. Written by one supervisor.

``<step>.first`` fills up once; then ``<step>.latest`` does, over and over, and the one before it is ``<step>.earlier``.
Each holds pieces: a head with stream, size, time and how much was printed before, and the bytes. So what could not be
written, or was dropped, shows as a gap.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress

_HEAD = struct.Struct("<BIdQ")
STREAMS = ("stdout", "stderr")
FILES = ("latest", "earlier", "first")
"""In the order in which to read them while somebody writes: what moves meanwhile is seen twice, not missed."""


class Printed:
    """Keeps at most about ``limit`` bytes of what is added; what does not fit on the disk is counted, and dropped."""

    def __init__(self, path: str, limit: int) -> None:
        """``path`` is that of the files without their ends. The first of them is there from now on."""
        self._path = path
        self._room = limit // 2
        self._most = limit - limit // 2
        self._total = 0
        self._end = b""
        self._fd: int | None = None
        with suppress(OSError):
            self._fd = self._open("first")

    def add(self, stream: str, data: bytes, at: float) -> None:
        self._end = (self._end + data)[-4096:]
        if self._room > 0 and len(data) > self._room:
            data, rest = data[: self._room], data[self._room :]
            self._put(stream, data, at)
            data = rest
        while data:
            if self._room <= 0:
                self._turn()
            piece, data = data[: self._room or len(data)], data[self._room or len(data) :]
            self._put(stream, piece, at)

    def last(self) -> bytes:
        """The last bytes of it, of both streams."""
        return self._end

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _put(self, stream: str, data: bytes, at: float) -> None:
        whole = _HEAD.pack(STREAMS.index(stream), len(data), at, self._total) + data
        self._total += len(data)
        self._room -= len(data)
        if self._fd is None:
            return
        begun = os.lseek(self._fd, 0, os.SEEK_CUR)
        try:
            if os.write(self._fd, whole) == len(whole):
                return
        except OSError:
            pass  # no room: there is a gap then
        with suppress(OSError):
            os.ftruncate(self._fd, begun)
            os.lseek(self._fd, begun, os.SEEK_SET)

    def _turn(self) -> None:
        self.close()
        self._room = max(1, self._most)
        with suppress(OSError):
            if os.path.exists(f"{self._path}.latest"):
                os.rename(f"{self._path}.latest", f"{self._path}.earlier")
            self._fd = self._open("latest")

    def _open(self, end: str) -> int:
        return os.open(
            f"{self._path}.{end}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )


def pieces(content: bytes) -> list[tuple[int, str, float, bytes]]:
    """Of one file: how much was printed before, stream, time and bytes. What is not whole at its end is left out."""
    found: list[tuple[int, str, float, bytes]] = []
    position = 0
    while position + _HEAD.size <= len(content):
        stream, size, at, before = _HEAD.unpack_from(content, position)
        position += _HEAD.size
        if stream >= len(STREAMS) or position + size > len(content):
            break
        found.append((before, STREAMS[stream], at, content[position : position + size]))
        position += size
    return found
