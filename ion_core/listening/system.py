"""What large bodies ask of the system beside files and sockets. Other systems than Linux with glibc do without."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = 16 << 20
_LARGE = 4 << 20
_WRITE = 2

_libc = ctypes.CDLL(None)


def keep_freed_memory() -> None:
    """Up to 16 MiB at the end of the heap, in this process as a whole.

    By itself glibc gives a few pieces of a body back to the system as soon as they are freed, and each that comes
    next costs a page fault for every 4 KiB: up to 150,000 of them for 1 GiB, a seventh of all its processor time.
    """
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_MMAP_THRESHOLD, _LARGE)
        _libc.mallopt(_TRIM_THRESHOLD, _KEPT)


def begin_flush(fd: int, at: int, size: int) -> None:
    """Have the disk begin with these bytes of a file, so that whoever flushes it at its end finds little left to do.

    It blocks no longer than the disk's queue is full, and promises nothing: an error is told by that flush.
    """
    if hasattr(_libc, "sync_file_range"):
        _libc.sync_file_range(fd, ctypes.c_int64(at), ctypes.c_int64(size), _WRITE)
