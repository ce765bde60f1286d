"""Files as they come in: written and hashed in a directory of one request, which goes with it."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import shutil
from collections import deque
from io import FileIO
from pathlib import Path

from ion_core.contracts.storage import BlobInfo
from ion_core.listening.refusals import no_room
from ion_core.listening.system import begin_flush

WRITTEN_AT_ONCE, PIECES_AT_ONCE = 1024 * 1024, 256
"""Bytes of a file that are held before they are written, or pieces of it, if it comes in small ones."""
MOST_HELD, MOST_PIECES_HELD = 4 * WRITTEN_AT_ONCE, 4 * PIECES_AT_ONCE
"""What is held at most, while some of it is written."""
FLUSHED_AT_ONCE = 8 * WRITTEN_AT_ONCE
"""Bytes of a file that are written before the disk is to begin with them, so that the store's flush is short."""


class Arrivals:
    """Files of one request, in a directory below ``work`` that is made for the first of them.

    It is gone with all that is in it when the context is left.
    """

    def __init__(self, work: Path) -> None:
        self._work = work
        self._directory: Path | None = None

    async def __aenter__(self) -> Arrivals:
        return self

    async def __aexit__(self, *failure: object) -> None:
        if self._directory is None:
            return
        removing = asyncio.create_task(asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True))
        try:
            await asyncio.shield(removing)
        except asyncio.CancelledError:  # once more than what is left with it: it is gone all the same
            await asyncio.wait({removing})
            raise

    def path(self, name: str) -> Path:
        """Where a file of that name, a plain one, is to be. Blocks; raises OSError."""
        if self._directory is None:
            self._directory = self._work / secrets.token_hex(8)
            self._directory.mkdir(mode=0o700)
        return self._directory / name


async def keep(content: bytes, arrivals: Arrivals, name: str = "body") -> Path:
    """``content`` as a file. Raises Refused (503) where there is no room."""

    def write() -> Path:
        path = arrivals.path(name)
        path.write_bytes(content)
        return path

    try:
        return await asyncio.to_thread(write)
    except OSError as error:
        raise no_room(error) from error


class Arriving:
    """Written and hashed in a thread, while more of it comes: that is taken in the same go."""

    def __init__(self, name: str, into: Arrivals) -> None:
        self._name, self._into = name, into
        self._path = Path()
        self._kept: deque[bytes | bytearray] = deque()
        self._came, self._there, self._flushing = 0, 0, 0
        self._sha256 = hashlib.sha256()
        self._file: FileIO | None = None
        self._writing: asyncio.Task[None] | None = None

    async def add(self, chunk: bytes | bytearray) -> None:
        """Some more of its content. Raises OSError."""
        self._kept.append(chunk)
        self._came += len(chunk)
        if self._writing is not None and (self._writing.done() or self._holds(MOST_HELD, MOST_PIECES_HELD)):
            await self._written()
        if self._writing is None and self._holds(WRITTEN_AT_ONCE, PIECES_AT_ONCE):
            self._writing = asyncio.create_task(self._write())

    async def end(self) -> tuple[Path, BlobInfo]:
        """Where it lies, and what it holds. Raises OSError."""
        await self._written()
        self._writing = asyncio.create_task(self._write())
        await self._written()
        await self.close()
        return self._path, BlobInfo(size=self._there, sha256=self._sha256.hexdigest())

    async def close(self) -> None:
        """In the middle, where the rest does not come. Idempotent."""
        if self._writing is not None:  # else it would make the file again that is removed meanwhile
            self._kept.clear()
            await asyncio.wait({self._writing})
            self._writing.exception()  # what was wrong with the request says more
        if self._file is not None:
            self._file.close()

    def _holds(self, size: int, pieces: int) -> bool:
        return len(self._kept) >= pieces or (bool(self._kept) and self._came - self._there >= size)

    async def _write(self) -> None:
        await asyncio.to_thread(self._write_now)
        while self._holds(WRITTEN_AT_ONCE, PIECES_AT_ONCE):  # came after the thread had seen that there was no more
            await asyncio.to_thread(self._write_now)

    async def _written(self) -> None:
        """Raises OSError where that failed."""
        if self._writing is not None:
            await asyncio.shield(self._writing)
            self._writing = None

    def _write_now(self) -> None:
        """All that is kept, until there is nothing."""
        if self._file is None:
            self._path = self._into.path(self._name)
            self._file = self._path.open("xb", buffering=0)
        while True:
            try:
                piece = self._kept.popleft()
            except IndexError:
                return
            _write_whole(self._file, piece)
            self._sha256.update(piece)  # at once, while it is in the caches
            self._there += len(piece)
            if self._there - self._flushing >= FLUSHED_AT_ONCE:
                begin_flush(self._file.fileno(), self._flushing, self._there - self._flushing)
                self._flushing = self._there


def _write_whole(file: FileIO, piece: bytes | bytearray) -> None:
    """Raises OSError. Before a disk is full a part of it may be written."""
    rest = memoryview(piece)
    while rest:
        rest = rest[file.write(rest) :]
