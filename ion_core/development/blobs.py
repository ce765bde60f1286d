"""Blobs of one place of the layout, as files that developers look at and change."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from ion_core.contracts.storage import BlobInfo, check_key, check_told
from ion_core.development.layout import NEW, Place
from ion_core.errors import BlobNotFound, PermanentError, storage_error
from ion_core.regular import open_regular

_CHUNK = 1 << 20
_ZEROS = bytes(_CHUNK)


class PlaceBlobs:
    """A BlobStore whose key ``_blobs/<name>`` is the file ``_blobs/<name>`` of its place.

    What is stored is a copy: a module's workspace stays as it is, to be looked at. What is there is given as it is
    now, so ``expect`` is not held against it: a developer may have put another file in its stead.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    async def put(self, key: str, source: Path, *, consume: bool = False, told: BlobInfo | None = None) -> BlobInfo:
        return await asyncio.to_thread(self._put, key, self._path(key), source, told)

    async def get(self, key: str, target: Path, *, expect: BlobInfo | None = None, link: bool = False) -> None:
        await asyncio.to_thread(self._get, self._path(key), target)

    async def list(self, prefix: str) -> AsyncIterator[str]:
        for key in await asyncio.to_thread(self._keys, self._path(prefix) if prefix else self._place.blobs):
            yield key

    async def delete(self, key: str) -> None:
        await asyncio.to_thread(self._path(key).unlink, missing_ok=True)

    async def url(self, key: str) -> str:
        return "file://" + quote(str(self._path(key).absolute()))

    def _path(self, key: str) -> Path:
        return self._place.path / check_key(key)

    def _keys(self, top: Path) -> Sequence[str]:
        return sorted(str(path.relative_to(self._place.path)) for path in top.rglob("*") if path.is_file())

    def _put(self, key: str, path: Path, source: Path, told: BlobInfo | None) -> BlobInfo:
        temporary = self._place.path / f"{NEW}{secrets.token_hex(4)}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            info = _copy(source, temporary)
            check_told(key, info, told)
            temporary.replace(path)
        except FileNotFoundError as error:
            raise PermanentError(f"{source}: no such file") from error
        except OSError as error:
            raise storage_error(str(error.filename or path), error) from error
        finally:
            temporary.unlink(missing_ok=True)
        return info

    def _get(self, path: Path, target: Path) -> None:
        try:
            _copy(path, target)
        except FileNotFoundError as error:
            raise BlobNotFound(f"{path}: no such file, though an event names it. Put it back.") from error
        except OSError as error:
            with suppress(FileNotFoundError):
                target.unlink()
            raise storage_error(str(error.filename or path), error) from error


def _copy(source: Path, target: Path) -> BlobInfo:
    """A new file ``target`` with the content of the regular file ``source``; nothing is followed, nothing blocks."""
    digest, size = hashlib.sha256(), 0
    descriptor, status = open_regular(source)
    with os.fdopen(descriptor, "rb") as reading, target.open("xb") as writing:
        if status.st_mode & stat.S_IXUSR:
            os.fchmod(writing.fileno(), 0o755)
        while chunk := reading.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            if chunk == _ZEROS:  # a hole stays one
                writing.seek(len(chunk), os.SEEK_CUR)
            else:
                writing.write(chunk)
        writing.truncate()
    return BlobInfo(size=size, sha256=digest.hexdigest())
