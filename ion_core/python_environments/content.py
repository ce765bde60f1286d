"""What an environment is made from: the requirements, the files that they name, and the Python below it."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ion_core.python_environments.search import BASE_PYTHON

_FORMAT = "1"
_INCLUDE = re.compile(r"(?:-r|-c|--requirement|--constraint)(?:\s*=\s*|\s+|(?<=-[rc]))(?P<path>\S.*)")
_COMMENT = re.compile(r"(^|\s+)#.*$")


@dataclass(frozen=True)
class Wanted:
    """What a module asks for: ``key`` is the same for the same content; ``installs`` whether there is anything."""

    requirements: Path | None
    key: str
    installs: bool


def wanted(requirements: Path | None) -> Wanted:
    """Reads the requirements, with the files that they include or install. Raises OSError where one cannot be read.

    What lies elsewhere, such as at an index, is not looked at: a version that is not pinned is that of the day on which
    the environment was made.
    """
    digest = hashlib.sha256(f"{_FORMAT}\0{sys.version_info[:2]}\0{BASE_PYTHON}\0".encode())
    installs = False
    if requirements is not None:
        base = requirements.absolute().parent
        seen: set[Path] = set()
        for name, content in _read(requirements, base, seen):
            digest.update(f"{name}\0{len(content)}\0".encode("utf-8", "surrogateescape"))
            digest.update(content)
        installs = any(_lines(path) for path in seen)
    return Wanted(requirements, digest.hexdigest()[:32], installs)


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8-sig", errors="replace").replace("\\\n", " ")
    return [found for line in text.splitlines() if (found := _COMMENT.sub("", line).strip())]


def _read(path: Path, base: Path, seen: set[Path]) -> Iterator[tuple[str, bytes]]:
    """Every file that counts, by its name from ``base``, where relative paths of packages start."""
    if path in seen:
        return
    seen.add(path)
    yield os.path.relpath(path, base), "\n".join(_lines(path)).encode()
    for line in _lines(path):
        if include := _INCLUDE.fullmatch(line):
            if "://" not in include["path"]:
                yield from _read(path.parent / include["path"].strip("\"'"), base, seen)
        elif (local := _local(line, base)) is not None:
            yield str(local), _state_of(local)


def _local(line: str, base: Path) -> Path | None:
    """The file or directory that a line installs, if it is one of this machine."""
    named = re.sub(r"^(-e|--editable)[=\s]\s*", "", line)
    named = named.partition(" @ ")[2] or named
    named = re.split(r"\s+--|\s*;\s", named)[0].strip()
    if named.startswith("file:"):
        named = unquote(urlsplit(named).path)
    path = base / re.sub(r"\[[^\]]*\]$", "", named)
    looks_local = named.startswith((".", "/")) or os.sep in named or named.endswith((".whl", ".zip", ".gz"))
    return path if looks_local and "://" not in named and path.exists() else None


def _state_of(path: Path) -> bytes:
    """A file by its content; a directory, which may be large, by how its files look."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    digest = hashlib.sha256()
    for root, directories, files in os.walk(path):
        directories[:] = sorted(name for name in directories if name not in ("__pycache__", ".git", "build"))
        directories[:] = [name for name in directories if not name.endswith(".egg-info")]
        for name in sorted(files):
            found = Path(root, name).lstat()
            place = os.path.relpath(Path(root, name), path)
            digest.update(f"{place}\0{found.st_size} {found.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return digest.digest()
