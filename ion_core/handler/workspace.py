"""The workspace: the directory a module sees as ``/ion``.

<base>/<name>/job.json      what it is for, read by recovery after a crash; the module does not see it
<base>/<name>/ion/in/data   input files
<base>/<name>/ion/in/eventmeta.json
<base>/<name>/ion/out/data  files to keep
<base>/<name>/ion/out/events, out/insights.json
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

FEW = 8
"""Files in a directory up to which looking at them takes no longer than having a thread do it."""
_SMALL = 1 << 20
"""Bytes of a file up to which removing it takes no longer than that."""

_OURS = 0o755
_OPEN_TO_ANY_UID = 0o777
FIXED = {
    "ion": _OURS,
    "ion/in": _OURS,
    "ion/in/data": _OURS,
    "ion/out": _OPEN_TO_ANY_UID,
    "ion/out/data": _OPEN_TO_ANY_UID,
    "ion/out/events": _OPEN_TO_ANY_UID,
}
"""What there is from the start, outer ones first, and its modes."""

INSIGHTS = "ion/out/insights.json"


class World(Protocol):
    """What a module sees as ``/ion``, wherever it lies: paths."""

    @property
    def root(self) -> Path: ...

    @property
    def in_data(self) -> Path: ...

    @property
    def eventmeta(self) -> Path: ...

    @property
    def out(self) -> Path: ...


def lay_out(root: Path) -> None:
    """Make clean directories and an empty ``out/insights.json`` in the directory ``root``, which has none of them.

    ``out`` is writable for any uid, since a container's user is not ours. Raises OSError.
    """
    for name, mode in FIXED.items():
        if below := name.removeprefix("ion"):
            os.mkdir(f"{root}{below}")
            os.chmod(f"{root}{below}", mode)
    insights = root / "out" / "insights.json"
    insights.touch()
    insights.chmod(0o666)


_NOTE = 512
"""Bytes of a note, with the blanks after it, unless it is longer."""
_LONGEST_NOTE = 1 << 16
_LONG_AGO = 100_000_000
"""Nanoseconds."""


class TooMuch(Exception):
    """There is more in a directory than was to be done at once; nothing is wrong with that."""


@dataclass(frozen=True)
class Workspace:
    """Paths of one workspace. ``root`` is what the module sees; ``home`` is ours around it.

    ``untouched`` has for each directory how its status was when it was found clean.
    """

    home: Path
    untouched: dict[str, tuple[int, int]] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def root(self) -> Path:
        return self.home / "ion"

    @cached_property
    def in_data(self) -> Path:
        return self.root / "in" / "data"

    @cached_property
    def eventmeta(self) -> Path:
        return self.root / "in" / "eventmeta.json"

    @cached_property
    def out(self) -> Path:
        return self.root / "out"

    @classmethod
    def make(cls, base: Path, name: str) -> Workspace:
        """A fresh one: clean directories and an empty ``out/insights.json``.

        ``out`` is writable for any uid, since a container's user is not ours; ``base`` keeps others of the machine out.
        """
        workspace = cls(base / name)
        workspace.home.mkdir()
        try:
            workspace._lay_out()
        except OSError:
            workspace.remove()
            raise
        return workspace

    def _lay_out(self) -> None:
        self.root.mkdir()
        self.root.chmod(_OURS)
        lay_out(self.root)

    def note_job(self, note: dict[str, Any]) -> None:
        """Say what this workspace is used for, so that a crash leaves nothing that cannot be swept.

        Written over what is there: to truncate a file and to fill it again costs a file system several times that.
        """
        self._write_note(json.dumps(note).encode(), os.O_CREAT)

    def _write_note(self, text: bytes, how: int) -> None:
        path = f"{self.home}/job.json"
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | how, 0o600)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LONGEST_NOTE:
                raise OSError(errno.EINVAL, "Is not a note of ours", path)
            os.write(descriptor, text.ljust(max(_NOTE, status.st_size)))
        finally:
            os.close(descriptor)

    def read_note(self) -> dict[str, Any] | None:
        """What ``note_job`` wrote; None if it never got that far or is torn."""
        try:
            note = json.loads((self.home / "job.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return note if isinstance(note, dict) else None

    def empty(self, *, most: int | None = None) -> bool:
        """Make it as it was at first by removing files. False if that is not enough: then it is fit for removal only.

        That is so when the module added, replaced or removed a directory, or gave one attributes. Raises TooMuch when
        a directory holds more than ``most`` files, or a large one; call it again then, where it may take its time.
        """
        home = str(self.home)
        try:
            for name, mode in FIXED.items():
                directory = f"{home}/{name}"
                status = os.lstat(directory)
                seen = (status.st_ino, status.st_ctime_ns)
                if self.untouched.get(name) == seen:
                    continue
                if not _emptied(directory, status, name, mode, most):
                    return False
                if _shows_changes(status):
                    self.untouched[name] = seen
            insights = f"{home}/{INSIGHTS}"
            status = os.lstat(insights)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or status.st_uid != os.geteuid():
                return False
            if stat.S_IMODE(status.st_mode) != 0o666:
                os.chmod(insights, 0o666)
            if status.st_size:
                os.truncate(insights, 0)
            with suppress(FileNotFoundError):
                self._write_note(b"", 0)
        except OSError:
            return False
        return True

    def remove(self) -> None:
        """Remove it, whatever the module made of it: closed directories, or more levels than a path can name.

        Fine if gone. Directories that hold others are emptied by moving those up, so that no path grows long.
        """
        if not self.home.is_dir():
            return
        aside = (f"{self.home}-{secrets.token_hex(4)}-{n}" for n in itertools.count())
        left = [str(self.home)]
        while left:
            directory = left.pop()
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        os.chmod(entry.path, 0o700)  # else it could be neither moved nor read
                        left.append(next(aside))
                        os.rename(entry.path, left[-1])
                    else:
                        os.unlink(entry.path)
            os.rmdir(directory)


def _shows_changes(status: os.stat_result) -> bool:
    """Whether any change to this directory from now on gives it another time of change, which nobody can set.

    Adding and removing names, modes, owners and attributes are such changes. That time advances in steps, of up to ten
    milliseconds on Linux; a file system that counts whole seconds is not trusted.
    """
    return status.st_ctime_ns % 1_000_000_000 != 0 and time.time_ns() - status.st_ctime_ns > _LONG_AGO


def _emptied(directory: str, status: os.stat_result, name: str, mode: int, most: int | None) -> bool:
    """Whether it is the directory that was made, holding what was made in it and no more, once its files are gone."""
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or _has_attributes(directory):
        return False
    if stat.S_IMODE(status.st_mode) != mode:
        os.chmod(directory, mode)
    with os.scandir(directory) as entries:
        for number, entry in enumerate(entries):
            inner = f"{name}/{entry.name}"
            if inner in FIXED or inner == INSIGHTS:
                continue
            if entry.is_dir(follow_symlinks=False):
                return False
            if most is not None and (number >= most or entry.stat(follow_symlinks=False).st_size > _SMALL):
                raise TooMuch
            os.unlink(entry.path)
    return True


def _has_attributes(directory: str) -> bool:
    """Access lists and the like, which modes do not show."""
    if not hasattr(os, "listxattr"):
        return False
    try:
        return bool(os.listxattr(directory, follow_symlinks=False))
    except OSError:  # the file system has none
        return False


def workspaces(base: Path) -> Iterator[Workspace]:
    """Those that lie under ``base``."""
    if base.is_dir():
        yield from (Workspace(home) for home in sorted(base.iterdir()) if home.is_dir())
