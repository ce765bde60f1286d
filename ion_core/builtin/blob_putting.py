"""Storing files as blobs: moved or copied, hashed, flushed together, named, and flushed again."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ion_core.builtin import blob_files
from ion_core.builtin.batches import ALONE, Alone, Answers
from ion_core.builtin.blob_tree import BlobTree
from ion_core.builtin.os_errors import translated
from ion_core.builtin.verified import Verified
from ion_core.contracts.storage import BlobInfo

_FEW = 8
"""Up to here files are flushed one by one, side by side; from here on with all of the file system at once."""
_BIG = 4 << 20
"""Bytes from which a file is not stored while others of its batch wait."""


@dataclass(frozen=True, slots=True)
class Put:
    key: str
    source: Path
    consume: bool


@dataclass(slots=True, eq=False)
class _Item:
    """A file on its way: ``path`` is the source itself if it is moved, else our copy; ``answer`` None until it is known."""

    put: Put
    path: str = ""
    moved: bool = False
    status: os.stat_result | None = None
    info: BlobInfo | None = None
    flushed: Future[None] | None = None
    answer: BlobInfo | BaseException | Alone | None = None

    def tried(self, step: Callable[[_Item], None]) -> None:
        """Do ``step`` unless an earlier one failed; its OSError is the answer."""
        if self.answer is None:
            try:
                step(self)
            except OSError as error:
                self.failed(error)

    def failed(self, error: OSError) -> None:
        if not self.moved and self.path:
            with suppress(OSError):
                os.unlink(self.path)
        translation = translated(error, f"blob {self.put.key}")
        translation.__cause__ = error
        self.answer = translation


class Putting:
    """Serves puts on whatever thread it is called. ``flushers`` runs what waits for the disk meanwhile."""

    def __init__(self, tree: BlobTree, staging: Path, flushers: Executor, verified: Verified) -> None:
        self._tree = tree
        self._staging = staging
        self._device = os.stat(staging).st_dev
        self._flushers = flushers
        self._verified = verified

    def __call__(self, puts: Sequence[Put]) -> Answers[BlobInfo]:
        items = [_Item(put) for put in puts]
        if len(items) > _FEW:
            for item in items:
                item.tried(self._stage)
            self._together(items, lambda: self._flush_all(items))
        else:
            alone = len(items) == 1
            for item in items:
                item.tried(self._stage_alone if alone else self._stage_flushing)
            for item in items:
                item.tried(_await_flush)
        changed: set[str] = set()
        for item in items:
            item.tried(lambda item: changed.update(self._name(item)))
        self._together(items, lambda: self._tree.flush(changed, each_below=_FEW))
        return [item.info if item.answer is None else item.answer for item in items]  # type: ignore[misc]

    def _together(self, items: Sequence[_Item], step: Callable[[], None]) -> None:
        """Do one step for all: its OSError is the answer of everyone that has none."""
        try:
            step()
        except OSError as error:
            for item in items:
                if item.answer is None:
                    item.failed(error)

    def _flush_all(self, items: Sequence[_Item]) -> None:
        if not blob_files.flush_file_system(self._staging):
            blob_files.flush_each(item.path for item in items if item.answer is None)

    def _stage_alone(self, item: _Item) -> None:
        self._stage(item, flush=True, alone=True)

    def _stage_flushing(self, item: _Item) -> None:
        self._stage(item, flush=True)

    def _stage(self, item: _Item, *, flush: bool = False, alone: bool = False) -> None:
        source, status = blob_files.open_regular(item.put.source)
        try:
            if status.st_size > _BIG and not alone:
                item.answer = ALONE
            elif item.put.consume and self._may_move(source, status):
                item.path, item.moved = str(item.put.source), True
                os.fchmod(source, 0o444)
                self._hash(item, source, flush=flush)
            else:
                self._copy(item, source, flush=flush)
        finally:
            os.close(source)

    def _may_move(self, fd: int, status: os.stat_result) -> bool:
        return (
            status.st_dev == self._device
            and status.st_nlink == 1
            and status.st_uid == os.geteuid()
            and blob_files.nobody_writes(fd)
        )

    def _copy(self, item: _Item, source: int, *, flush: bool) -> None:
        item.path, item.moved = str(self._staging / secrets.token_hex(8)), False
        copy = os.open(item.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(copy, 0o444)
            blob_files.copy_bytes(source, copy)
            self._hash(item, copy, flush=flush)
        finally:
            os.close(copy)

    def _hash(self, item: _Item, fd: int, *, flush: bool) -> None:
        if flush:
            item.flushed = self._flushers.submit(_flush_and_close, os.dup(fd))
        size, sha256 = blob_files.sha256_of(fd)
        item.status = os.fstat(fd)
        item.info = BlobInfo(size=size, sha256=sha256)

    def _name(self, item: _Item) -> set[str]:
        """Give it its final name; returns the directories changed."""
        try:
            changed = self._tree.place(item.path, item.put.key)
        except OSError as error:
            if error.errno != errno.EXDEV or not item.moved:
                raise
            source, _ = blob_files.open_regular(item.path)  # another mount of the same file system
        else:
            touched = item.moved and self._touched(item)
            if not touched:
                self._remember(item)
                return changed
            source = touched
        try:
            self._copy(item, source, flush=True)
        finally:
            os.close(source)
        _await_flush(item)
        changed = self._tree.place(item.path, item.put.key)
        self._remember(item)
        return changed

    def _touched(self, item: _Item) -> int | None:
        """The blob, open, if somebody wrote to it since it was hashed, or still can: it must become a copy after all."""
        assert item.status is not None
        fd, now = self._tree.open(item.put.key)
        then = item.status
        if now.st_ino != then.st_ino or (
            (now.st_mtime_ns, now.st_size) == (then.st_mtime_ns, then.st_size) and blob_files.nobody_writes(fd)
        ):
            os.close(fd)
            return None
        return fd

    def _remember(self, item: _Item) -> None:
        assert item.info is not None
        assert item.status is not None
        self._verified.remember(item.status, item.info.sha256)


def _await_flush(item: _Item) -> None:
    if item.flushed is not None:
        item.flushed.result()


def _flush_and_close(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
