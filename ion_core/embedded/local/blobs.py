"""Blobs as files of one directory: moved and linked rather than copied where that is safe."""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from ion_core.contracts.provider import Section
from ion_core.contracts.storage import BlobInfo, BlobStore, check_key
from ion_core.embedded.local.batches import Batches
from ion_core.embedded.local.getting import Get, Getting
from ion_core.embedded.local.putting import Put, Putting
from ion_core.embedded.local.tree import BlobTree
from ion_core.embedded.local.verified import Verified
from ion_core.embedded.os_errors import translating
from ion_core.errors import ConfigError

_PAGE = 1000


class LocalBlobs:
    """A BlobStore in a directory, for any number of processes of one machine. See ``BlobTree`` for the layout.

    ``put`` with ``consume`` moves a file of the same file system that has one name and that nobody has open for
    writing; any other is copied. It is flushed before it gets its name, and the directory after; concurrent puts
    share these flushes. What is told of a file that is moved is believed if its size is right; a copy is hashed.

    ``get`` with ``link`` makes a hard link where possible. A copy's sha256 is taken of the bytes written. A link's is
    taken too, unless this process wrote or checked that very file before and its inode, size and modification time
    are what they were: damage done behind the file system's back is then noticed by the next process only.
    """

    def __init__(self, root: Path, staging: Path, pool: ThreadPoolExecutor, helpers: ThreadPoolExecutor) -> None:
        self._tree = BlobTree(root, staging)
        self._pool = pool
        verified = Verified()
        size = min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8)  # each of a batch is open until it is done
        self._puts: Batches[Put, BlobInfo] = Batches(Putting(self._tree, staging, helpers, verified), pool, size=size)
        self._gets: Batches[Get, None] = Batches(Getting(self._tree, helpers, verified), pool)

    async def put(self, key: str, source: Path, *, consume: bool = False, told: BlobInfo | None = None) -> BlobInfo:
        return await self._puts.ask(Put(check_key(key), source, consume, told))

    async def get(self, key: str, target: Path, *, expect: BlobInfo | None = None, link: bool = False) -> None:
        await self._gets.ask(Get(check_key(key), target, expect, link))

    async def list(self, prefix: str) -> AsyncIterator[str]:
        keys = self._tree.keys(check_key(prefix) if prefix else "")
        loop = asyncio.get_running_loop()
        while page := await loop.run_in_executor(self._pool, _page, keys, f"blobs below {prefix!r}"):
            for key in page:
                yield key

    async def delete(self, key: str) -> None:
        check_key(key)
        await asyncio.get_running_loop().run_in_executor(self._pool, self._delete, key)

    async def url(self, key: str) -> str:
        return "file://" + quote(self._tree.path(check_key(key)))

    async def drained(self) -> None:
        """Returns once no put or get is under way."""
        await self._puts.drained()
        await self._gets.drained()

    def _delete(self, key: str) -> None:
        with translating(f"blob {key}"):
            self._tree.delete(key)


def _page(keys: Iterator[str], where: str) -> list[str]:
    with translating(where):
        return list(islice(keys, _PAGE))


class BlobsSettings(Protocol):
    """What the store is opened with."""

    @property
    def path(self) -> Path: ...

    @property
    def section(self) -> Section: ...


@asynccontextmanager
async def open_local_blobs(settings: BlobsSettings) -> AsyncIterator[BlobStore]:
    """Open the store at ``settings.path``, made when missing. Raises ConfigError when that cannot be."""
    path = settings.path.absolute()
    root = path / "files"
    try:
        staging, lock = await asyncio.to_thread(_make, root, path / "staging")
    except OSError as error:
        raise ConfigError(
            f"{settings.section.where('path')}: cannot keep blobs in {path}: {error.strerror or error}. "
            "Name a directory that can be written."
        ) from error
    most = min(8, (os.cpu_count() or 1) * 4)
    pool = ThreadPoolExecutor(most, "ion-blobs")
    helpers = ThreadPoolExecutor(most, "ion-blobs-helper")
    try:
        store = LocalBlobs(root, staging, pool, helpers)
        try:
            yield store
        finally:
            await store.drained()
    finally:
        for threads in (pool, helpers):  # not here: signals are heard while one of them hangs
            await asyncio.to_thread(threads.shutdown)
        _remove(staging)
        os.close(lock)


def _make(root: Path, staging: Path) -> tuple[Path, int]:
    root.mkdir(parents=True, exist_ok=True)
    return _claim_staging(staging)


def _claim_staging(parent: Path) -> tuple[Path, int]:
    """A directory of our own for unfinished files, locked while we live; those of dead processes are removed."""
    parent.mkdir(exist_ok=True)
    for left in parent.iterdir():
        lock = _locked(left)
        if lock is not None:
            _remove(left)
            os.close(lock)
    while True:
        ours = parent / os.urandom(8).hex()
        ours.mkdir()
        lock = _locked(ours)
        if lock is not None and ours.is_dir():
            return ours, lock
        if lock is not None:  # another process opening the store took it for a dead one's
            os.close(lock)


def _remove(staging: Path) -> None:
    """As far as it can be: what is left of it is the next process's to remove."""
    try:
        staging.rmdir()
    except OSError:
        import shutil  # of use to those alone who leave something there

        shutil.rmtree(staging, ignore_errors=True)


def _locked(directory: Path) -> int | None:
    try:
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock
