"""Objects behind any fsspec filesystem: object stores first of all. And those in memory, for tests."""

from __future__ import annotations

import contextlib
import logging
import random
import secrets
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from ion_core.errors import PermanentError, TransientError
from ion_fsspec_storage.drivers import Driver, close_filesystem
from ion_fsspec_storage.errors import is_gone, is_taken, is_worth_another, translated

log = logging.getLogger(__name__)
T = TypeVar("T")

ATTEMPTS = 4
WITHIN = 60.0
"""Seconds after which a call that failed is not tried once more."""
TRIED_WITHIN = 5.0
"""The same while it is opened: somebody waits for the answer."""
_LARGE_AT_ONCE = 2
"""Large files on their way at a time: each has a few parts in memory."""


class RemoteObjects:
    """See ``Objects``. Every call is tried a few times, further and further apart, within a bound.

    Where writing is not whole by nature it goes to a name beside, which is then moved.
    """

    def __init__(self, filesystem: Any, root: str, place: str, driver: Driver, *, delay: float = 0.2) -> None:
        self.place = place
        self._filesystem = filesystem
        self._root = root
        self._driver = driver
        self._delay = delay
        self._within = TRIED_WITHIN
        self._large = threading.BoundedSemaphore(_LARGE_AT_ONCE)

    def opened(self) -> None:
        self._within = WITHIN
        if self._driver.retries is not None:
            self._filesystem.retries = self._driver.retries

    def write(self, name: str, data: bytes) -> None:
        pipe = partial(self._filesystem.pipe_file, **self._driver.write)
        self._call(name, lambda: self._whole(name, lambda path: pipe(path, data)))

    def create(self, name: str, data: bytes) -> bool:
        pipe = partial(self._filesystem.pipe_file, mode="create", **self._driver.write)
        return self._call(name, lambda: self._unless_taken(lambda: pipe(self._path(name), data)))

    def upload(self, name: str, source: int, size: int) -> None:
        put = partial(self._filesystem.put_file, f"/dev/fd/{source}", **self._driver.upload)
        with self._large:
            self._call(name, lambda: self._whole(name, put))
            stored = int(self._call(name, lambda: self._filesystem.info(self._path(name)))["size"])
        if stored != size:
            raise TransientError(f"{self.place}: {name} has {stored:,} bytes, {size:,} were sent. Store it again.")

    def read(self, name: str) -> bytes:
        data: bytes = self._call(name, lambda: self._filesystem.cat_file(self._path(name), **self._driver.read))
        return data

    def download(self, name: str, target: Path) -> None:
        get = partial(self._filesystem.get_file, **self._driver.download)
        self._call(name, lambda: get(self._path(name), str(target)))
        if not target.is_file():  # some make a directory of one
            with contextlib.suppress(OSError):
                target.rmdir()
            raise FileNotFoundError(name)

    def names(self, prefix: str) -> list[str]:
        found = self._call(prefix, lambda: self._found(self._path(prefix)))
        start, below = len(self._root) + 1, self._path(prefix) + "/"
        return [path[start:] for path in found if path.startswith(below)]

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._call(name, lambda: self._filesystem.rm_file(self._path(name)))

    def url(self, name: str, *, seconds: int) -> str:
        try:
            return str(self._filesystem.sign(self._path(name), expiration=seconds))
        except Exception as error:  # no credentials to sign with, or nothing that signs: both leave the plain one
            log.debug("no signed URL: %s", error, extra={"place": self.place})
            return f"{self.place}/{quote(name)}"

    def close(self) -> None:
        with contextlib.suppress(Exception):  # connections that are beyond closing are closed
            close_filesystem(self._filesystem)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _found(self, path: str) -> list[str]:
        try:
            return list(self._filesystem.find(path))
        except FileNotFoundError as error:
            if is_gone(error):
                raise
            return []

    def _whole(self, name: str, write: Callable[[str], Any]) -> None:
        path = self._path(name)
        if self._driver.objects:
            write(path)
            return
        beside = self._path(f"unfinished/{secrets.token_hex(8)}")
        try:
            for parent in (beside, path):
                self._filesystem.makedirs(parent.rpartition("/")[0], exist_ok=True)
            write(beside)
            try:
                self._filesystem.mv(beside, path)
            except FileExistsError:  # some cannot move onto what is there
                self._filesystem.rm_file(path)
                self._filesystem.mv(beside, path)
        except BaseException:
            with contextlib.suppress(Exception):
                self._filesystem.rm_file(beside)
            raise

    def _unless_taken(self, create: Callable[[], Any]) -> bool:
        try:
            create()
        except Exception as error:
            if is_taken(error):
                return False
            raise
        return True

    def _call(self, name: str, call: Callable[[], T]) -> T:
        """Its result. Raises FileNotFoundError and, of anything else, what it means."""
        begun = time.monotonic()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return call()
            except (PermanentError, TransientError):
                raise
            except (NotADirectoryError, IsADirectoryError) as error:
                raise FileNotFoundError(name) from error
            except FileNotFoundError as error:
                if not is_gone(error):
                    raise
                raise translated(error, f"{self.place}: {name}") from error
            except Exception as error:
                meant = translated(error, f"{self.place}: {name}")
                late = attempt == ATTEMPTS or time.monotonic() - begun > self._within
                if late or not is_worth_another(error, meant):
                    raise meant from error
            log.info("the backend did not do it, trying again: %s", meant, extra={"attempt": attempt})
            time.sleep(self._delay * 4 ** (attempt - 1) * random.uniform(0.5, 1.5))
        raise AssertionError("unreachable")


class MemoryObjects(RemoteObjects):
    """Those of fsspec's memory filesystem, which all of a process share and which threads must take in turns."""

    _turn = threading.RLock()

    def __init__(self, filesystem: Any, root: str, place: str) -> None:
        super().__init__(filesystem, root, place, Driver(objects=True))

    def upload(self, name: str, source: int, size: int) -> None:
        with open(f"/dev/fd/{source}", "rb") as file:  # noqa: PTH123 - a descriptor
            self.write(name, file.read())

    def download(self, name: str, target: Path) -> None:
        target.write_bytes(self.read(name))

    def url(self, name: str, *, seconds: int) -> str:
        return f"{self.place}/{quote(name)}"

    def _call(self, name: str, call: Callable[[], T]) -> T:
        with self._turn:
            return super()._call(name, call)
