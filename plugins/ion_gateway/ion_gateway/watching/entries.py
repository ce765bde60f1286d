"""A file as a listing shows it, and the event that it is."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ion_core.contracts.provider import Finding
from ion_core.errors import StorageFull, TransientError

ID_LENGTH = 32
FULL = {errno.ENOSPC, errno.EDQUOT}


class Gone(Exception):
    """The file is not what it was when it was listed: it changed, or is not there any more."""


class Unreadable(Exception):
    """This file cannot be read, which says nothing of others. The text says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file.

    ``path``     below the folder, its parts separated by ``/``; bytes that are no UTF-8 as Python has them in names.
    ``version``  another one when the content is: on any host, at any time.
    ``changed``  seconds since 1970, by the clock of who keeps the file; for comparison with other files there.
    """

    path: str
    version: str
    changed: float
    size: int

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass
class Listing:
    """What was found.

    ``problems``  what could not be looked at, by path, and why.
    ``whole``     whether what is missing here is missing there.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    whole: bool = False

    def add(self, entry: Entry) -> None:
        self.entries[entry.path] = entry


class Source(Protocol):
    """A folder somewhere. All of it blocks, and is called in threads, several at a time.

    ``place``  where it is, in words without secrets.
    ``local``  whether the kernel may tell of changes, and to look at a file costs next to nothing.
    """

    place: str
    local: bool

    def findings(self) -> Sequence[Finding]:
        """What is wrong with it as seen from this machine. Asks no server."""

    def check(self) -> None:
        """Raises ConfigError for what only a change of the configuration can mend. Not where nobody answers."""

    def identity(self) -> tuple[int, int] | None:
        """Of a local directory: another one under its name has another. None while there is none."""

    def list(self) -> Listing:
        """All that matches, and the marks beside. Raises TransientError where the folder itself cannot be listed."""

    def look(self, paths: Sequence[str]) -> Listing:
        """The same of these paths alone; of a directory among them, all that is below. Raises as ``list``."""

    def fetch(self, entry: Entry, target: Path) -> None:
        """Its content in the file ``target``, which is new. Raises Gone, Unreadable, TransientError."""

    def delete(self, entry: Entry, mark: str | None) -> None:
        """Remove the file, and first the ``mark``. Idempotent. Raises Gone where it is another, TransientError."""

    def move(self, entry: Entry, mark: str | None, otherwise: str) -> None:
        """The same, but into ``to``. ``otherwise`` is its path there where its own is that of another file."""

    def give_up(self) -> None:
        """Calls under way are left to themselves, and hold up none that come."""

    def close(self) -> None:
        """Let go of what is open. Idempotent; raises nothing."""


def unwritten(error: OSError, target: Path) -> TransientError:
    """Of our own copy, which cannot be made: the folder is as good as before."""
    if error.errno in FULL:
        return StorageFull(f"{target.parent}: no space left. Free some; work goes on by itself then.")
    return TransientError(f"{target.parent}: a copy cannot be written there: {error.strerror or error}")


def as_bytes(path: str) -> bytes:
    """The same on every host, whatever its locale; also of names that no Unicode is."""
    return path.encode("utf-8", "surrogatepass")


def as_path(found: bytes) -> str:
    return found.decode("utf-8", "surrogatepass")


def event_id(service: str, folder: str, entry: Entry) -> str:
    """The same in every process. Plain, however hostile the path is."""
    parts = (service, folder, as_bytes(entry.path).hex(), entry.version)
    return f"{service}.{folder}.{hashlib.sha256('/'.join(parts).encode()).hexdigest()[:ID_LENGTH]}"


def beside(path: str, event: str) -> str:
    """``a/photo.1f2e3d4c.jpg`` for ``a/photo.jpg``: another path, and always the same for this event."""
    directory, slash, name = path.rpartition("/")
    stem, dot, ending = name.rpartition(".")
    if not stem:
        stem, dot, ending = name, "", ""
    return f"{directory}{slash}{stem}.{event.rpartition('.')[2][:8]}{dot}{ending}"


def unmarked(listing: Listing, mark: str | None) -> Mapping[str, Entry]:
    """Of the files those that are complete by their mark: ``photo.jpg`` by ``photo.jpg.done``, if that is not older.

    Marks are no files of their own. Without ``mark`` all files.
    """
    if mark is None:
        return listing.entries
    found = {}
    for path, entry in listing.entries.items():
        beside_it = listing.entries.get(path + mark)
        if not path.endswith(mark) and beside_it is not None and beside_it.changed >= entry.changed:
            found[path] = entry
    return found
