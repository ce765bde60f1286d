"""Making what a provider keeps unreachable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def a_file_in_place_of(directory: Path) -> Iterator[None]:
    """Somebody has moved the directory away."""
    away = directory.with_name("away")
    directory.rename(away)
    directory.write_bytes(b"in the way")
    yield
    directory.unlink()
    away.rename(directory)
