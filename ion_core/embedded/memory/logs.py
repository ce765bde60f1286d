"""The output of one container in memory."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Literal

from ion_core.contracts.runtime import LogLine
from ion_core.words import counted

Stream = Literal["stdout", "stderr"]


class MemoryLog:
    """Lines in order of arrival: the first half of ``limit`` bytes, the last half, and a note of what is between."""

    def __init__(self, limit: int) -> None:
        self.closed = False
        self.changed = asyncio.Event()
        self._half = limit // 2
        self._head: list[LogLine] = []
        self._head_room = self._half
        self._tail: deque[LogLine] = deque()
        self._tail_size = 0
        self._dropped = self._dropped_bytes = 0
        self._partial: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}

    def write(self, stream: Stream, data: bytes) -> None:
        *lines, self._partial[stream] = (self._partial[stream] + data).split(b"\n")
        for line in lines:
            self._add(stream, line)

    def close(self) -> None:
        """Nothing more comes: what stands without a newline is a line too. Idempotent."""
        if self.closed:
            return
        for stream, rest in self._partial.items():
            if rest:
                self._add(stream, rest)
        self.closed = True
        self._changed_now()

    def read(self, position: int) -> tuple[LogLine, int] | None:
        """The line at ``position``, from 0, and the position after it; None where nothing has been written yet."""
        if position < len(self._head):
            return self._head[position], position + 1
        first = len(self._head) + self._dropped
        if position < first:
            dropped = f"{counted(self._dropped, 'line')} of {counted(self._dropped_bytes, 'byte')}"
            text = f"[{dropped} dropped here: the log limit was reached]"
            return LogLine(stream="stderr", text=text, at=self._tail[0].at), first
        if position - first < len(self._tail):
            return self._tail[position - first], position + 1
        return None

    async def lines(self, *, follow: bool) -> AsyncIterator[LogLine]:
        """From the start; with ``follow`` until ``close``."""
        position = 0
        while True:
            while (found := self.read(position)) is not None:
                line, position = found
                yield line
            if not follow or self.closed:
                return
            await self.changed.wait()

    def _add(self, stream: Stream, raw: bytes) -> None:
        line = LogLine(stream=stream, text=raw.decode("utf-8", "replace"), at=time.time())
        size = len(line.text.encode()) + 1
        if not self._tail and size <= self._head_room:
            self._head.append(line)
            self._head_room -= size
        else:
            self._tail.append(line)
            self._tail_size += size
            while self._tail_size > self._half and len(self._tail) > 1:
                gone = len(self._tail.popleft().text.encode()) + 1
                self._tail_size -= gone
                self._dropped_bytes += gone
                self._dropped += 1
        self._changed_now()

    def _changed_now(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()
