"""Reads small regular files, and nothing that would have us wait or grow."""

from __future__ import annotations

import os
from pathlib import Path

from ion_core import regular


def read_regular(path: Path | str, limit: int) -> bytes:
    """At most ``limit`` bytes of a regular file; a link is followed. Raises OSError, also for none, and ValueError."""
    if "\0" in os.fspath(path):
        raise ValueError("has a NUL character")  # the interpreter's own words change from version to version
    return regular.read_regular(path, limit, follow=True)


def reason(error: OSError | ValueError) -> str:
    """Why reading failed, in words."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
