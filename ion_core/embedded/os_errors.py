"""What an OSError means for a job: no space, worth another try, or not."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ion_core.errors import PermanentError, ProviderError, StorageFull, TransientError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_PASSING = {
    errno.EACCES,  # what may not be read or written has its rights put right
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.EAGAIN,
    errno.EBUSY,
    errno.EINTR,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ESTALE,
    errno.ETIMEDOUT,
}


def translated(error: OSError, where: str) -> ProviderError:
    """The StorageFull, TransientError or PermanentError to raise instead; its message starts with ``where``."""
    what = error.strerror or str(error)
    named = f" ({error.filename})" if error.filename else ""
    if error.errno in _FULL:
        return StorageFull(f"{where}: {what}{named}. Free some space there.")
    if error.errno in _PASSING:
        return TransientError(f"{where}: {what}{named}.")
    return PermanentError(f"{where}: {what}{named}.")


def writable_directory(path: Path) -> None:
    """Make it, unless it is there. Raises OSError too where it is, and we may not write there."""
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, "it may not be written to", str(path))


@contextmanager
def translating(where: str) -> Iterator[None]:
    """Let no OSError out, only what ``translated`` makes of it."""
    try:
        yield
    except OSError as error:
        raise translated(error, where) from error
