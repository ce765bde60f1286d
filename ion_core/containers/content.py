"""Directories that images are built from: what is in one, and whether that has changed."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FILES = ("Containerfile", "Dockerfile")


@dataclass(frozen=True)
class Recipe:
    """What an image is built from, and the name it gets; without one, its module's and that of its content."""

    directory: Path
    image: str | None = None
    module: str | None = None

    def name(self, content: str) -> str:
        return self.image or f"localhost/ion/{self.module or 'module'}:{content[:16]}"


def _entries(directory: Path) -> Iterator[tuple[str, os.stat_result]]:
    """What is below it, in a fixed order, by its name from there; links are not followed."""
    for root, directories, files in os.walk(directory, onerror=_raise):
        directories.sort()
        for name in sorted((*directories, *files)):
            path = Path(root, name)
            yield str(path.relative_to(directory)), path.lstat()


def _raise(error: OSError) -> None:
    raise error


def looks(directory: Path) -> str:
    digest = hashlib.sha256()
    for name, found in _entries(directory):
        digest.update(f"{name}\0{found.st_mode} {found.st_size} {found.st_mtime_ns} {found.st_ino}\0".encode())
    return digest.hexdigest()


def content(directory: Path) -> str:
    """The same for the same names, modes and contents, wherever and whenever they were written."""
    digest = hashlib.sha256()
    for name, found in _entries(directory):
        path = directory / name
        digest.update(f"{name}\0{found.st_mode:o}\0".encode("utf-8", "surrogateescape"))
        if stat.S_ISLNK(found.st_mode):
            digest.update(os.fsencode(path.readlink()))
        elif stat.S_ISREG(found.st_mode):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
