"""Reads small regular files, and nothing that would have us wait or grow."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_regular(path: Path | str, limit: int) -> bytes:
    """At most ``limit`` bytes of a regular file. Raises OSError, also for what is none, and ValueError."""
    # Without O_NONBLOCK opening a FIFO would wait for somebody to write to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "is a directory")
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "is not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(limit)
    finally:
        os.close(descriptor)


def reason(error: OSError | ValueError) -> str:
    """Why reading failed, in words."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
