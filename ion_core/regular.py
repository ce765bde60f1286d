"""Regular files, opened without waiting and without following: what else has their name is an error, at once.

A workspace is a module's to fill, and what lies in the state directory may have been put there by anybody who could.
Opening a FIFO as a file waits for its other end, for ever; opening a link opens what it points to.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_WORDS = {
    errno.EINVAL: "is not a regular file",
    errno.ENXIO: "is not a regular file",  # opened for writing: a FIFO that nobody reads, or a socket
    errno.EISDIR: "is a directory",
    errno.ELOOP: "is a symbolic link",
}
NOT_REGULAR = frozenset(_WORDS)
"""Codes of the errors that say so."""


def open_regular(
    path: Path | str, flags: int = os.O_RDONLY, mode: int = 0o600, *, follow: bool = False
) -> tuple[int, os.stat_result]:
    """An open descriptor and its status. A FIFO, a device, a directory or (unless ``follow``) a link is OSError.

    ``flags`` and ``mode`` are those of ``os.open``.
    """
    flags |= os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags, mode)
    except OSError as error:
        if error.errno in _WORDS:
            raise OSError(error.errno, _WORDS[error.errno], str(path)) from error
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        code = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
        raise OSError(code, _WORDS[code], str(path))
    return descriptor, status


def read_regular(path: Path | str, limit: int, *, follow: bool = False) -> bytes:
    """At most ``limit`` bytes of a regular file. Raises OSError as ``open_regular``."""
    descriptor, _ = open_regular(path, follow=follow)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit)


def write_new(path: Path | str, content: bytes, mode: int = 0o600) -> None:
    """A new file with this content. FileExistsError if anything has that name, be it a link that leads nowhere."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
