"""What a container prints, kept in memory up to a limit: the first half and the latest of it.

For runtimes that get the output themselves; it keeps the rules of ``docs/contracts/runtime.md`` about output.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Literal

from ion_core.contracts.runtime import LogLine
from ion_core.words import counted

Stream = Literal["stdout", "stderr"]

_JOIN_BELOW = 4096
_JOIN_WITHIN = 0.1
_MANY_PIECES = 10_000
_FRAGMENT = 1024
"""Where the middle is dropped, what is left of the line before and after goes too, unless it is this long."""


@dataclass(slots=True)
class Piece:
    """Bytes that arrived together, or nearly so; ``start`` counts all that was ever printed before."""

    start: int
    stream: Stream
    at: float
    data: bytearray

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class KeptOutput:
    """Output of one container. Putting it away is cheap; lines are made when somebody reads."""

    def __init__(self, limit: int) -> None:
        self._head_limit = limit // 2
        self._tail_limit = limit - limit // 2
        self._head: list[Piece] = []
        self._tail: deque[Piece] = deque()
        self._tail_size = 0
        self._total = 0
        self._closed = False
        self._changed: asyncio.Future[None] | None = None

    def add(self, stream: Stream, data: bytes, at: float) -> None:
        if (room := self._head_limit - self._total) > 0:
            self._append(self._head, stream, data[:room], at)
            data = data[room:]
        if data:
            self._append(self._tail, stream, data, at)
            self._tail_size += len(data)
            while self._tail_size > self._tail_limit:
                self._drop(self._tail_size - self._tail_limit)
        self._wake()

    def close(self) -> None:
        """No more will come."""
        self._closed = True
        self._wake()

    def last(self, size: int) -> bytes:
        """About the last ``size`` bytes, of both streams."""
        found: list[bytes] = []
        for piece in self._since(max(0, self._total - size)):
            found.append(bytes(piece.data[-size:]))
        return b"".join(found)

    async def lines(self, *, follow: bool) -> AsyncIterator[LogLine]:
        """From the start, in the order in which they were complete; with ``follow`` until ``close``."""
        reader = PieceReader()
        while True:
            closed = self._closed
            for piece in self._since(reader.position):
                for line in reader.read(piece):
                    yield line
            if closed or not follow:
                break
            if reader.position == self._total and not self._closed:
                if self._changed is None:
                    self._changed = asyncio.get_running_loop().create_future()
                await asyncio.shield(self._changed)
        for line in reader.rest():
            yield line

    def _since(self, position: int) -> list[Piece]:
        found: list[Piece] = []
        for pieces in (self._tail, self._head):
            for piece in reversed(pieces):
                if piece.end <= position:
                    return found[::-1]
                found.append(piece)
        return found[::-1]

    def _append(self, pieces: list[Piece] | deque[Piece], stream: Stream, data: bytes, at: float) -> None:
        last = pieces[-1] if pieces else None
        if (
            last is not None
            and last.stream == stream
            and len(last.data) < _JOIN_BELOW
            and (at - last.at < _JOIN_WITHIN or len(pieces) > _MANY_PIECES)
        ):
            last.data += data
        else:
            pieces.append(Piece(self._total, stream, at, bytearray(data)))
        self._total += len(data)

    def _drop(self, size: int) -> None:
        first = self._tail[0]
        size = min(size, len(first.data))
        if size == len(first.data):
            self._tail.popleft()
        else:
            del first.data[:size]
            first.start += size
        self._tail_size -= size

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set_result(None)
            self._changed = None


@dataclass(slots=True)
class PieceReader:
    """Makes lines of pieces: what one stream printed of a line waits for the rest of it. A gap between them is said."""

    position: int = 0
    at: float = 0.0
    partial: dict[Stream, bytearray] = field(default_factory=lambda: {"stdout": bytearray(), "stderr": bytearray()})
    torn: set[Stream] = field(default_factory=set)

    def read(self, piece: Piece) -> Iterator[LogLine]:
        start, at = piece.start, piece.at
        data = bytes(piece.data[max(0, self.position - start) :])
        gap, self.position, self.at = start - self.position, start + len(piece.data), at
        if gap > 0:
            yield from self._skip(gap)
        *lines, rest = data.split(b"\n")
        partial = self.partial[piece.stream]
        for n, line in enumerate(lines):
            if n == 0:
                line = bytes(partial) + line
                partial.clear()
                if piece.stream in self.torn:
                    self.torn.discard(piece.stream)
                    if len(line) < _FRAGMENT:
                        continue
            yield _line(piece.stream, line, at)
        partial += rest

    def rest(self) -> Iterator[LogLine]:
        """Last lines without a newline."""
        for stream, partial in self.partial.items():
            if partial:
                yield _line(stream, bytes(partial), self.at)
                partial.clear()

    def _skip(self, gap: int) -> Iterator[LogLine]:
        for stream, partial in self.partial.items():
            if len(partial) >= _FRAGMENT:
                yield _line(stream, bytes(partial), self.at)
            else:
                gap += len(partial)
            partial.clear()
            self.torn.add(stream)
        yield LogLine(stream="stderr", text=f"[… some {counted(gap, 'byte')} of output are not kept …]", at=self.at)


def _line(stream: Stream, line: bytes, at: float) -> LogLine:
    return LogLine(stream=stream, text=line.decode("utf-8", "replace"), at=at)
