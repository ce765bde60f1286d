"""Fetching blobs into files, by link, shared blocks or copy."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ion_core.contracts.storage import BlobInfo
from ion_core.embedded.local import files as blob_files
from ion_core.embedded.local.batches import ALONE, Alone, Answers
from ion_core.embedded.local.tree import BlobTree
from ion_core.embedded.local.verified import Verified
from ion_core.embedded.os_errors import translated
from ion_core.errors import BlobCorrupt, BlobNotFound
from ion_core.regular import open_regular
from ion_core.words import counted

_BIG = 4 << 20
"""Bytes from which a copy is not made while others of its batch wait."""


class Get(NamedTuple):
    key: str
    target: Path
    expect: BlobInfo | None
    link: bool


class Getting:
    """Serves gets on whatever thread it is called. ``helpers`` reads ahead meanwhile."""

    def __init__(self, tree: BlobTree, helpers: Executor, verified: Verified) -> None:
        self._tree = tree
        self._helpers = helpers
        self._verified = verified

    def __call__(self, gets: Sequence[Get]) -> Answers[None]:
        return [self._serve(get, alone=len(gets) == 1) for get in gets]

    def _serve(self, get: Get, *, alone: bool) -> BaseException | Alone | None:
        try:
            if not (get.link and self._link(get)):
                return self._copy(get, alone=alone)
        except OSError as error:
            return translated(error, f"blob {get.key}")
        except (BlobCorrupt, BlobNotFound) as error:
            return error
        return None

    def _link(self, get: Get) -> bool:
        """Whether it could be linked. What stands in the way is left for the copy to find, or to do without."""
        try:
            os.link(self._tree.path(get.key), get.target, follow_symlinks=False)
        except OSError:
            return False
        try:
            status = os.lstat(get.target)
            if not stat.S_ISREG(status.st_mode):
                raise BlobNotFound(f"blob {get.key}: what lies in its place is not a regular file.")
            if get.expect is not None:
                self._check_link(get, get.expect, status)
        except BaseException:
            os.unlink(get.target)
            raise
        return True

    def _check_link(self, get: Get, expect: BlobInfo, status: os.stat_result) -> None:
        if status.st_size == expect.size and self._verified.sha256(status) == expect.sha256:
            return
        _check(get.key, status.st_size, expect.sha256, expect)
        fd, _ = open_regular(get.target)
        try:
            _check(get.key, *blob_files.sha256_of(fd, status.st_size, self._helpers), expect)
        finally:
            os.close(fd)
        self._verified.remember(status, expect.sha256)

    def _copy(self, get: Get, *, alone: bool) -> Alone | None:
        try:
            source, status = self._tree.open(get.key)
        except FileNotFoundError as error:
            raise BlobNotFound(f"blob {get.key}: is not stored in {self._tree.root}.") from error
        temporary = get.target.with_name(f".ion-{os.urandom(8).hex()}")
        try:
            if get.expect is not None:
                _check(get.key, status.st_size, get.expect.sha256, get.expect)
            if status.st_size > _BIG and not alone:
                return ALONE
            target = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                blob_files.copy_bytes(source, target)
                if get.expect is not None:
                    _check(get.key, *blob_files.sha256_of(target, status.st_size, self._helpers), get.expect)
                elif os.fstat(target).st_size != status.st_size:
                    raise BlobCorrupt(
                        f"blob {get.key}: is {counted(status.st_size, 'byte')} long, but not all could be read."
                    )
            finally:
                os.close(target)
            os.rename(temporary, get.target)
            return None
        except BaseException:
            with suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(temporary)
            raise
        finally:
            os.close(source)


def _check(key: str, size: int, sha256: str, expect: BlobInfo) -> None:
    if size != expect.size:
        raise BlobCorrupt(f"blob {key}: is {counted(size, 'byte')} long, {expect.size:,} were stored.")
    if sha256 != expect.sha256:
        raise BlobCorrupt(f"blob {key}: its sha256 is {sha256}, {expect.sha256} was stored.")
