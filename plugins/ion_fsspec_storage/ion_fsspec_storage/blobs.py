"""Blobs as objects: streamed, hashed on the way in and out, several at once within a bound."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ion_core.contracts.storage import BlobInfo, BlobStore, check_key, check_told
from ion_core.errors import BlobCorrupt, BlobNotFound, InvalidKey, PermanentError, TransientError
from ion_core.words import counted
from ion_fsspec_storage.errors import translated
from ion_fsspec_storage.names import digest, key_of_name, name_of_key
from ion_fsspec_storage.objects import Objects
from ion_fsspec_storage.opening import open_objects

if TYPE_CHECKING:
    from ion_fsspec_storage.settings import FsspecBlobsSettings

log = logging.getLogger(__name__)
T = TypeVar("T")

SMALL = 4 << 20
"""Bytes up to which a file is held in memory, and sent or fetched in one request."""
_BLOCK = 1 << 20


class FsspecBlobs:
    """A BlobStore. The blob of ``key`` is the object ``blobs/<key>``, odd letters escaped.

    A key too long for that has two: ``long/<sha256 of the key>/key``, written first, and ``…/content``.
    """

    def __init__(self, objects: Objects, pool: ThreadPoolExecutor, *, sign_for: int) -> None:
        self._objects = objects
        self._pool = pool
        self._sign_for = sign_for

    async def put(self, key: str, source: Path, *, consume: bool = False, told: BlobInfo | None = None) -> BlobInfo:
        check_key(key)
        return await self._run(lambda: self._put(key, source, told))

    async def get(self, key: str, target: Path, *, expect: BlobInfo | None = None, link: bool = False) -> None:
        check_key(key)
        given_up = threading.Event()
        try:
            await self._run(lambda: self._get(key, target, expect, given_up))
        except asyncio.CancelledError:
            given_up.set()
            raise

    async def list(self, prefix: str) -> AsyncIterator[str]:
        """Sorted here, so all the keys below ``prefix`` are held in memory."""
        if prefix:
            check_key(prefix)
        for key in await self._run(lambda: self._keys(prefix)):
            yield key

    async def delete(self, key: str) -> None:
        check_key(key)
        await self._run(lambda: self._delete(key))

    async def url(self, key: str) -> str:
        check_key(key)
        return await self._run(lambda: self._objects.url(_content_of(key), seconds=self._sign_for))

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _put(self, key: str, source: Path, told: BlobInfo | None) -> BlobInfo:
        with _opened(source) as (file, status):
            try:
                if status.st_size <= SMALL:
                    data = _read_all(file)
                    info = BlobInfo(size=len(data), sha256=hashlib.sha256(data).hexdigest())
                    check_told(key, info, told)
                    self._objects.write(self._named(key), data)
                    return info
                info = self._upload(key, file, status.st_size, told)
            except FileNotFoundError as error:
                raise TransientError(f"blob {key}: cannot be stored at {self._objects.place}: it is gone.") from error
            except OSError as error:
                raise translated(error, f"blob {key}") from error
            if _mark(os.fstat(file)) != _mark(status):
                raise TransientError(f"blob {key}: {source} was changed while it was stored. Store it again.")
            return info

    def _upload(self, key: str, file: int, size: int, told: BlobInfo | None) -> BlobInfo:
        if told is not None:
            if told.size != size:
                check_told(key, _info_of(file), told)
            self._objects.upload(self._named(key), file, size)
            return told
        with _hashing(file) as taken:
            self._objects.upload(self._named(key), file, size)
            return taken()

    def _get(self, key: str, target: Path, expect: BlobInfo | None, given_up: threading.Event) -> None:
        beside = target.with_name(f".{secrets.token_hex(8)}")
        try:
            self._fetch(key, beside, expect)
            if not given_up.is_set():
                beside.replace(target)
        except FileNotFoundError as error:
            raise BlobNotFound(f"blob {key}: is not stored at {self._objects.place}.") from error
        except OSError as error:
            raise translated(error, f"blob {key}: {target}") from error
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)

    def _fetch(self, key: str, target: Path, expect: BlobInfo | None) -> None:
        """What comes otherwise than it was stored is asked for once more: it may have been damaged on its way."""
        if expect is None:
            self._objects.download(_content_of(key), target)
            return
        found = self._fetched(key, target, expect)
        if found != expect:
            log.info("the file came otherwise than it was stored, fetching it again", extra={"blob": key})
            found = self._fetched(key, target, expect)
        if found != expect:
            raise BlobCorrupt(
                f"blob {key}: was stored with {counted(expect.size, 'byte')}, sha256 {expect.sha256}, and now has "
                f"{found.size:,}, sha256 {found.sha256}. Restore it at {self._objects.place}, or run its job again."
            )

    def _fetched(self, key: str, target: Path, expect: BlobInfo) -> BlobInfo:
        """What came; it is in ``target`` if that is what is expected."""
        name = _content_of(key)
        if expect.size > SMALL:
            return self._objects.download(name, target) or _info_at(target)
        data = self._objects.read(name)
        found = BlobInfo(size=len(data), sha256=hashlib.sha256(data).hexdigest())
        if found == expect:
            target.write_bytes(data)
        return found

    def _keys(self, prefix: str) -> Sequence[str]:
        keys = []
        below = name_of_key(prefix) if prefix else ""
        if below is not None:
            for name in self._objects.names(f"blobs/{below}" if below else "blobs"):
                key = key_of_name(name.removeprefix("blobs/"))
                if key is not None:
                    keys.append(key)
        for name in self._objects.names("long"):
            if name.endswith("/content") and (key := self._long_key(name)) is not None:
                keys.append(key)
        return sorted(key for key in keys if not prefix or key.startswith(f"{prefix}/"))

    def _long_key(self, name: str) -> str | None:
        """The key whose content has this name; None of what is deleted at this moment, and of what is not ours."""
        try:
            key = check_key(self._objects.read(name.removesuffix("content") + "key").decode())
        except (FileNotFoundError, UnicodeError, InvalidKey):
            return None
        return key if _content_of(key) == name else None

    def _delete(self, key: str) -> None:
        name = _content_of(key)
        self._objects.delete(name)
        if name.startswith("long/"):
            self._objects.delete(name.removesuffix("content") + "key")

    def _named(self, key: str) -> str:
        """The name of its object. A long key is noted first: a note without content means nothing."""
        name = _content_of(key)
        if name.startswith("long/"):
            self._objects.write(name.removesuffix("content") + "key", key.encode())
        return name


def _content_of(key: str) -> str:
    name = name_of_key(key)
    return f"long/{digest(key)}/content" if name is None else f"blobs/{name}"


@contextmanager
def _opened(source: Path) -> Iterator[tuple[int, os.stat_result]]:
    """The regular file ``source``, never what a link leads to, and without waiting for a pipe."""
    try:
        file = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise PermanentError(f"{source}: cannot be read: {error.strerror}.") from error
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise PermanentError(f"{source}: is not a regular file.")
        yield file, status
    finally:
        os.close(file)


def _read_all(file: int) -> bytes:
    blocks = []
    while block := os.read(file, _BLOCK):
        blocks.append(block)
    return b"".join(blocks)


def _info_of(file: int, given_up: threading.Event | None = None) -> BlobInfo:
    size, sha256 = 0, hashlib.sha256()
    while (block := os.pread(file, _BLOCK, size)) and not (given_up and given_up.is_set()):
        size += len(block)
        sha256.update(block)
    return BlobInfo(size=size, sha256=sha256.hexdigest())


def _info_at(path: Path) -> BlobInfo:
    with path.open("rb") as file:
        return _info_of(file.fileno())


@contextmanager
def _hashing(file: int) -> Iterator[Callable[[], BlobInfo]]:
    """Read by a thread of its own while the body does what takes as long; called, it is waited for."""
    given_up = threading.Event()
    with ThreadPoolExecutor(1, "ion-fsspec-sha256") as pool:
        taken = pool.submit(_info_of, file, given_up)
        try:
            yield taken.result
        finally:
            given_up.set()


def _mark(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


@asynccontextmanager
async def open_fsspec_blobs(settings: FsspecBlobsSettings, *, tried: bool = False) -> AsyncIterator[BlobStore]:
    """The store at ``settings.url``. Raises ConfigError for what cannot work, TransientError when nobody answers.

    With ``tried`` it was open elsewhere with these settings, and nothing is asked of it now.
    """
    objects = await asyncio.to_thread(open_objects, settings, exclusive=False, tried=tried)
    pool = ThreadPoolExecutor(settings.at_once, "ion-fsspec-blobs")
    try:
        yield FsspecBlobs(objects, pool, sign_for=int(settings.sign_for.total_seconds()))
    finally:
        await asyncio.to_thread(pool.shutdown)
        await asyncio.to_thread(objects.close)
