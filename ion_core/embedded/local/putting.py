"""Storing files as blobs: moved or copied, hashed while they are flushed together, named, and flushed again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ion_core.contracts.storage import BlobInfo, check_told
from ion_core.embedded.local import files as blob_files
from ion_core.embedded.local.batches import ALONE, Alone, Answers
from ion_core.embedded.local.tree import BlobTree
from ion_core.embedded.local.verified import Verified
from ion_core.embedded.os_errors import translated
from ion_core.errors import PermanentError
from ion_core.regular import open_regular

_FEW = 8
"""Up to here files are flushed one by one, side by side; from here on with all of the file system at once."""
_BIG = 4 << 20
"""Bytes from which a file is not stored while others of its batch wait."""
_NOT_MOVABLE = {errno.EXDEV, errno.EACCES, errno.EPERM}
"""What rename says of another mount, of a directory that may not be written to, and of an immutable one."""


class Put(NamedTuple):
    key: str
    source: Path
    consume: bool
    told: BlobInfo | None = None


class _Item:
    """A file on its way, open as ``fd``: the source itself if it is ``moved``, under a lease, else our copy."""

    __slots__ = ("answer", "fd", "info", "moved", "path", "put", "status")

    def __init__(self, put: Put) -> None:
        self.put = put
        self.path = ""
        self.fd = -1
        self.moved = False
        self.status: os.stat_result | None = None
        self.info: BlobInfo | None = None
        self.answer: BlobInfo | BaseException | Alone | None = None
        """None until it is known."""

    def failed(self, error: OSError) -> None:
        translation = translated(error, f"blob {self.put.key}")
        translation.__cause__ = error
        self.answer = translation

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        if isinstance(self.answer, BaseException) and self.path and not self.moved:
            with suppress(OSError):
                os.unlink(self.path)


class Putting:
    """Serves puts on whatever thread it is called. ``helpers`` flushes and reads ahead meanwhile."""

    def __init__(self, tree: BlobTree, staging: Path, helpers: Executor, verified: Verified) -> None:
        self._tree = tree
        self._staging = staging
        self._device = os.stat(staging).st_dev
        self._helpers = helpers
        self._verified = verified

    def __call__(self, puts: Sequence[Put]) -> Answers[BlobInfo]:
        items = [_Item(put) for put in puts]
        try:
            _each(items, partial(self._stage, alone=len(items) == 1))
            flushes = self._start_flush([item for item in items if item.answer is None])
            try:
                _each(items, self._hash)
            finally:
                for flush, flushed in flushes:
                    _together(flushed, flush.result)
            changed: set[str] = set()
            _each(items, lambda item: changed.update(self._name(item)))
            _together(items, lambda: self._tree.flush(changed))
            _each(items, self._finish)
            return [item.answer for item in items]  # type: ignore[misc]
        finally:
            for item in items:
                item.close()

    def _start_flush(self, items: Sequence[_Item]) -> list[tuple[Future[None], Sequence[_Item]]]:
        """Flushes under way, each with the files it is for."""
        if len(items) <= _FEW:
            return [(self._helpers.submit(os.fsync, item.fd), [item]) for item in items]
        return [(self._helpers.submit(blob_files.flush_many, self._staging, [item.fd for item in items]), items)]

    def _stage(self, item: _Item, *, alone: bool) -> None:
        try:
            source, status = open_regular(item.put.source)
        except PermissionError as error:  # the caller's file, not one of ours
            item.answer = PermanentError(f"blob {item.put.key}: {item.put.source} cannot be read: {error.strerror}.")
            return
        if status.st_size > _BIG and not alone:
            os.close(source)
            item.answer = ALONE
        elif item.put.consume and self._is_movable(status) and blob_files.lease(source) and _sealed(source):
            item.fd, item.path, item.moved, item.status = source, str(item.put.source), True, status
        else:
            try:
                self._copy(item, source)
            finally:
                os.close(source)

    def _is_movable(self, status: os.stat_result) -> bool:
        return status.st_dev == self._device and status.st_nlink == 1 and status.st_uid == os.geteuid()

    def _copy(self, item: _Item, source: int) -> None:
        item.path, item.moved = str(self._staging / os.urandom(8).hex()), False
        item.fd = os.open(item.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.fchmod(item.fd, 0o444)
        blob_files.copy_bytes(source, item.fd)
        item.status = os.fstat(item.fd)

    def _hash(self, item: _Item) -> None:
        assert item.status is not None
        told = item.put.told
        if item.moved and told is not None and told.size == item.status.st_size:  # under a lease: as it was written
            item.info = told
            return
        size, sha256 = blob_files.sha256_of(item.fd, item.status.st_size, self._helpers)
        item.info = BlobInfo(size=size, sha256=sha256)
        try:
            check_told(item.put.key, item.info, told)
        except PermanentError as error:
            item.answer = error

    def _name(self, item: _Item) -> set[str]:
        """Give it its final name; returns the directories changed."""
        try:
            changed = self._tree.place(item.path, item.put.key)
        except OSError as error:
            if error.errno not in _NOT_MOVABLE or not item.moved:
                raise
        else:
            if not item.moved or blob_files.still_leased(item.fd):
                return changed
        # It may not leave where it lies, or somebody waits to write to it: a copy after all.
        source = item.fd
        try:
            os.lseek(source, 0, os.SEEK_SET)
            self._copy(item, source)
            os.fsync(item.fd)
            return self._tree.place(item.path, item.put.key)
        finally:
            os.close(source)

    def _finish(self, item: _Item) -> None:
        assert item.info is not None
        assert item.status is not None
        self._verified.remember(item.status, item.info.sha256)
        item.answer = item.info


def _sealed(file: int) -> bool:
    """Nobody may write to it any more. False where its mode cannot be changed: such a file cannot be moved either."""
    try:
        os.fchmod(file, 0o444)
    except PermissionError:
        return False
    return True


def _each(items: Sequence[_Item], step: Callable[[_Item], None]) -> None:
    """Do ``step`` for all that have no answer yet; its OSError becomes one."""
    for item in items:
        if item.answer is None:
            try:
                step(item)
            except OSError as error:
                item.failed(error)


def _together(items: Sequence[_Item], step: Callable[[], None]) -> None:
    """Do one step for all; its OSError is the answer of everyone that has none yet."""
    try:
        step()
    except OSError as error:
        for item in items:
            if item.answer is None:
                item.failed(error)
