"""Objects behind any fsspec filesystem: object stores first of all. And those in memory, for tests."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from ion_core.errors import TransientError
from ion_core.words import counted
from ion_fsspec_storage.connections import Filesystems, within
from ion_fsspec_storage.drivers import Driver, driver_of
from ion_fsspec_storage.errors import is_gone, is_taken, translated
from ion_fsspec_storage.retries import Retries

log = logging.getLogger(__name__)
T = TypeVar("T")

_SMALL_CALL = 60.0
_TRANSFER = 3600.0
"""Seconds that a call, or one with a large file, may take of a driver that never gives up."""
_LARGE_AT_ONCE = 2
"""Large files on their way at a time: each has a few parts in memory."""


class RemoteObjects:
    """See ``Objects``."""

    def __init__(self, filesystems: Filesystems, root: str, place: str, driver: Driver) -> None:
        self.place = place
        self._filesystems = filesystems
        self._root = root
        self._driver = driver
        self._retries = Retries(place)
        self._large = threading.BoundedSemaphore(_LARGE_AT_ONCE)

    def opened(self) -> None:
        self._retries.opened()
        if self._driver.retries is not None:
            with self._filesystems.one() as filesystem:
                filesystem.retries = self._driver.retries

    def write(self, name: str, data: bytes) -> None:
        def write(filesystem: Any) -> None:
            pipe = partial(filesystem.pipe_file, **self._driver.write)
            self._write(filesystem, name, lambda path: pipe(path, data))

        self._call(name, write)

    def create(self, name: str, data: bytes) -> bool:
        def create(filesystem: Any) -> bool:
            try:
                filesystem.pipe_file(self._path(name), data, mode="create", **self._driver.write)
            except Exception as error:
                if is_taken(error):
                    return False
                raise
            return True

        return self._call(name, create)

    def upload(self, name: str, source: int, size: int) -> None:
        def upload(filesystem: Any) -> None:
            put = partial(filesystem.put_file, f"/dev/fd/{source}", **self._driver.upload)
            self._write(filesystem, name, put)

        with self._large:
            self._call(name, upload, seconds=_TRANSFER)
            stored = int(self._call(name, lambda filesystem: filesystem.info(self._path(name)))["size"])
        if stored != size:
            raise TransientError(
                f"{self.place}: {name} has {counted(stored, 'byte')}, {size:,} were sent. Store it again."
            )

    def read(self, name: str) -> bytes:
        read = self._driver.read
        data: bytes = self._call(name, lambda filesystem: filesystem.cat_file(self._path(name), **read))
        return data

    def download(self, name: str, target: Path) -> None:
        def download(filesystem: Any) -> None:
            filesystem.get_file(self._path(name), str(target), **self._driver.download)

        self._call(name, download, seconds=_TRANSFER)
        if not target.is_file():  # some make a directory of one
            with contextlib.suppress(OSError):
                target.rmdir()
            raise FileNotFoundError(name)

    def names(self, prefix: str) -> list[str]:
        found = self._call(prefix, lambda filesystem: self._found(filesystem, self._path(prefix)))
        start, below = len(self._root) + 1, self._path(prefix) + "/"
        return [path[start:] for path in found if path.startswith(below)]

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._call(name, lambda filesystem: filesystem.rm_file(self._path(name)))

    def url(self, name: str, *, seconds: int) -> str:
        try:
            with self._filesystems.one() as filesystem:
                return str(filesystem.sign(self._path(name), expiration=seconds))
        except Exception as error:  # no credentials to sign with, or nothing that signs: both leave the plain one
            log.debug("no signed URL: %s", error, extra={"place": self.place})
            return f"{self.place}/{quote(name)}"

    def close(self) -> None:
        self._filesystems.close()

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _found(self, filesystem: Any, path: str) -> list[str]:
        try:
            return list(filesystem.find(path))
        except FileNotFoundError as error:
            if is_gone(error):
                raise
            return []

    def _write(self, filesystem: Any, name: str, write: Callable[[str], Any]) -> None:
        """``write`` to a path, whole or not at all."""
        write(self._path(name))

    def _check_place(self, filesystem: Any, missing: FileNotFoundError) -> None:
        """Raises what it means where an object is missing because the whole place is."""
        if is_gone(missing):
            raise translated(missing, self.place) from missing

    def _call(self, name: str, call: Callable[[Any], T], *, seconds: float = _SMALL_CALL) -> T:
        """See ``Retries.call``. ``seconds`` it may take where the driver itself gives up nothing."""
        return self._retries.call(name, lambda: self._once(call, seconds))

    def _once(self, call: Callable[[Any], T], seconds: float) -> T:
        with self._filesystems.one() as filesystem:
            try:
                if self._driver.bounded:
                    return call(filesystem)
                return within(seconds, lambda: call(filesystem), self.place)
            except FileNotFoundError as error:
                self._check_place(filesystem, error)
                raise


class MemoryObjects(RemoteObjects):
    """Those of fsspec's memory filesystem, which all of a process share and which threads must take in turns."""

    _turn = threading.RLock()

    def __init__(self, filesystems: Filesystems, root: str, place: str) -> None:
        super().__init__(filesystems, root, place, driver_of("memory"))

    def upload(self, name: str, source: int, size: int) -> None:
        with open(f"/dev/fd/{source}", "rb") as file:  # noqa: PTH123 - a descriptor
            self.write(name, file.read())

    def download(self, name: str, target: Path) -> None:
        target.write_bytes(self.read(name))

    def url(self, name: str, *, seconds: int) -> str:
        return f"{self.place}/{quote(name)}"

    def _call(self, name: str, call: Callable[[Any], T], *, seconds: float = _SMALL_CALL) -> T:
        with self._turn:
            return super()._call(name, call, seconds=seconds)
