"""A blob store in memory."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ion_core.contracts.storage import BlobInfo, check_key, check_told
from ion_core.errors import BlobCorrupt, BlobNotFound, InvalidKey, PermanentError, ProviderError, TransientError
from ion_core.regular import open_regular
from ion_core.words import counted


class MemoryBlobStore:
    """The blob contract over a dict. While ``failing`` is set to an error, every call raises it.

    Keys that are ``withheld`` are there, and cannot be read: as for want of permission.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.failing: ProviderError | None = None
        self.withheld: set[str] = set()

    async def put(self, key: str, source: Path, *, consume: bool = False, told: BlobInfo | None = None) -> BlobInfo:
        self._check(key)
        content = await asyncio.to_thread(_read_regular, source, consume)
        info = _info(content)
        check_told(key, info, told)
        self.blobs[key] = content
        return info

    async def get(self, key: str, target: Path, *, expect: BlobInfo | None = None, link: bool = False) -> None:
        self._check(key)
        if key not in self.blobs:
            raise BlobNotFound(f"blob {key}: is not stored. List the keys that are.")
        if key in self.withheld:
            raise TransientError(f"blob {key}: may not be read. Give it back.")
        content = self.blobs[key]
        if expect is not None and (found := _info(content)) != expect:
            raise BlobCorrupt(
                f"blob {key}: is {counted(found.size, 'byte')} with sha256 {found.sha256}, "
                f"{counted(expect.size, 'byte')} with "
                f"{expect.sha256} were stored. Store it again."
            )
        await asyncio.to_thread(_write_whole, target, content)

    async def list(self, prefix: str) -> AsyncIterator[str]:
        if prefix:
            self._check(prefix)
        for key in sorted(self.blobs):
            if not prefix or key.startswith(f"{prefix}/"):
                try:
                    self._check(key)
                except InvalidKey:
                    continue  # put into the dictionary by others
                yield key

    async def delete(self, key: str) -> None:
        self._check(key)
        self.blobs.pop(key, None)

    async def url(self, key: str) -> str:
        self._check(key)
        return f"memory:///{quote(key)}"

    def _check(self, key: str) -> None:
        check_key(key)
        if self.failing is not None:
            raise self.failing


def _info(content: bytes) -> BlobInfo:
    return BlobInfo(size=len(content), sha256=hashlib.sha256(content).hexdigest())


def _read_regular(source: Path, consume: bool) -> bytes:
    """Content of a regular file; a link is not followed and a pipe not waited for."""
    try:
        with os.fdopen(open_regular(source)[0], "rb") as file:
            content = file.read()
        if consume:
            source.unlink()
    except OSError as error:
        raise PermanentError(f"{source}: cannot be read: {error.strerror}. Give a regular file.") from error
    return content


def _write_whole(target: Path, content: bytes) -> None:
    try:
        with target.open("xb") as file:
            file.write(content)
    except FileExistsError as error:
        raise PermanentError(f"{target}: exists. Give the name of a new file.") from error
    except OSError as error:
        with contextlib.suppress(OSError):
            target.unlink()
        raise PermanentError(f"{target}: cannot be written: {error.strerror}.") from error


@asynccontextmanager
async def open_memory_blobs(settings: Any = None) -> AsyncIterator[MemoryBlobStore]:
    """Everything in it is gone when the context is left."""
    yield MemoryBlobStore()
