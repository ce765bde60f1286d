"""What the local blobs need of a file system, fast where Linux helps and portable elsewhere. All of it blocks."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

_CHUNK = 2 << 20
_FICLONE = 0x40049409
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_RENAME_SWAP = 2  # macOS: renamex_np

_FAILED = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Errors of copying that another way of copying does not avoid."""


@cache
def _libc() -> ctypes.CDLL:
    import ctypes  # which a process that stores nothing does without

    return ctypes.CDLL(None, use_errno=True)


def _errno() -> int:
    """Of the call into ``_libc`` that failed last in this thread."""
    import ctypes

    return ctypes.get_errno()


def lease(fd: int) -> bool:
    """Take a read lease: True if nobody has the file open for writing; who then wants to waits until ``fd`` is closed.

    False too where the system has no leases or the file is not ours.
    """
    if sys.platform != "linux":
        return False
    try:
        # Whoever opens it meanwhile makes the kernel signal us; SIGIO, the default, would end the process.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        return False
    return True


def still_leased(fd: int) -> bool:
    """Whether nobody has tried to open the file for writing since ``lease``."""
    return sys.platform == "linux" and fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_RDLCK


def sha256_of(fd: int, size: int, reader: Executor) -> tuple[int, str]:
    """Bytes there are from the start of the file to its end, and their sha256. ``size`` is what to expect.

    ``reader`` fetches the next piece of a large file while this one is hashed.
    """
    import hashlib  # which a process that fetches and stores nothing does without

    if size < _CHUNK:
        content = os.pread(fd, size + 1, 0)
        if len(content) == size:
            return size, hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256()
    total = 0
    now, later = bytearray(_CHUNK), bytearray(_CHUNK)
    count = os.preadv(fd, [now], 0)
    while count:
        total += count
        reading = reader.submit(os.preadv, fd, [later], total)
        digest.update(memoryview(now)[:count])
        count = reading.result()
        now, later = later, now
    return total, digest.hexdigest()


def copy_bytes(source: int, target: int) -> None:
    """All of ``source`` into the empty ``target``: sharing blocks where the file system can, holes staying holes."""
    if sys.platform == "linux":
        try:
            fcntl.ioctl(target, _FICLONE, source)
            return
        except OSError as error:
            if error.errno in _FAILED:
                raise
    status = os.fstat(source)
    if status.st_blocks * 512 >= status.st_size:  # without holes; what says nothing of its size is read to its end, too
        _copy_from(source, target, 0, None)
        return
    os.ftruncate(target, status.st_size)
    at = 0
    while (extent := _next_extent(source, at, status.st_size)) is not None:
        start, at = extent
        if (copied := _copy_from(source, target, start, at - start)) < at - start:  # it has been cut short meanwhile
            os.ftruncate(target, start + copied)
            return


def _next_extent(fd: int, at: int, size: int) -> tuple[int, int] | None:
    """Where the next bytes that are no hole begin and end; None if there are none. All, where that cannot be told."""
    if at >= size:
        return None
    try:
        start = os.lseek(fd, at, os.SEEK_DATA)
        return start, os.lseek(fd, start, os.SEEK_HOLE)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        return at, size


def _copy_from(source: int, target: int, at: int, count: int | None) -> int:
    """Copy ``count`` bytes that begin ``at``, or all there are; how many there were."""
    copied = 0
    if sys.platform == "linux":
        try:
            while copied != count:
                most = 1 << 30 if count is None else min(1 << 30, count - copied)
                if not (n := os.copy_file_range(source, target, most, at + copied, at + copied)):
                    break
                copied += n
        except OSError as error:
            if error.errno in _FAILED:
                raise
    # Some file systems say of what they cannot copy so that it is empty.
    while copied != count:
        most = _CHUNK if count is None else min(_CHUNK, count - copied)
        if not (chunk := os.pread(source, most, at + copied)):
            break
        view = memoryview(chunk)
        while view:
            n = os.pwrite(target, view, at + copied)
            copied += n
            view = view[n:]
    return copied


def flush_many(beside: Path | str, fds: Sequence[int]) -> None:
    """Flush these open files, and all else on the file system of ``beside``, where that is one call."""
    if hasattr(_libc(), "syncfs"):
        fd = os.open(beside, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc().syncfs(fd) != 0:
                code = _errno()
                raise OSError(code, os.strerror(code), str(beside))
        finally:
            os.close(fd)
    else:
        for fd in fds:
            os.fsync(fd)


def flush_directories(paths: Iterable[Path | str]) -> None:
    """Flush these, one by one. One that is gone needs no flush."""
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def exchange(one: str, other: str) -> None:
    """Swap what two names mean, in one step. OSError ENOSYS or EINVAL where the file system cannot."""
    if hasattr(_libc(), "renameat2"):
        failed = _libc().renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    elif hasattr(_libc(), "renamex_np"):
        failed = _libc().renamex_np(os.fsencode(one), os.fsencode(other), _RENAME_SWAP)
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), one, None, other)
    if failed:
        code = _errno()
        raise OSError(code, os.strerror(code), one, None, other)
