"""The workspace: the directory a module sees as ``/ion``.

<base>/<name>/job.json      what it is for, read by recovery after a crash; the module does not see it
<base>/<name>/ion/in/data   input files
<base>/<name>/ion/in/eventmeta.json, in/traceparent
<base>/<name>/ion/out/data  files to keep
<base>/<name>/ion/out/events, out/insights.json
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ion_core.regular import open_regular, read_regular
from ion_core.removal import remove_directory

FEW = 8
"""Files in a directory up to which looking at them takes no longer than having a thread do it."""

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


def lay_out(root: Path | str) -> None:
    """Make clean directories and an empty ``out/insights.json`` in the directory ``root``, which has none of them.

    ``out`` is writable for any uid, since a container's user is not ours. Raises OSError.
    """
    for name, mode in FIXED.items():
        if below := name.removeprefix("ion"):
            os.mkdir(f"{root}{below}")
            os.chmod(f"{root}{below}", mode)
    insights = os.open(f"{root}/out/insights.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        os.fchmod(insights, 0o666)
    finally:
        os.close(insights)


_NOTE = 512
"""Bytes of a note, with the blanks after it, unless it is longer."""
_LONGEST_NOTE = 1 << 16
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class TooMuch(Exception):
    """There is more in a directory than was to be done at once; nothing is wrong with that."""


@dataclass(frozen=True)
class Workspace:
    """Paths of one workspace. ``root`` is what the module sees; ``home`` is ours around it."""

    home: Path

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
        os.mkdir(workspace.home)
        try:
            workspace._lay_out()
        except OSError:
            workspace.remove()
            raise
        return workspace

    def _lay_out(self) -> None:
        root = f"{self.home}/ion"
        os.mkdir(root)
        os.chmod(root, _OURS)
        lay_out(root)

    def note_job(self, note: dict[str, Any]) -> None:
        """Say what this workspace is used for, so that a crash leaves nothing that cannot be swept.

        Written over what is there: to truncate a file and to fill it again costs a file system several times that.
        """
        text, path = json.dumps(note).encode(), f"{self.home}/job.json"
        descriptor, status = open_regular(path, os.O_WRONLY | os.O_CREAT)
        try:
            if status.st_size > _LONGEST_NOTE:
                raise OSError(errno.EINVAL, "Is not a note of ours", path)
            os.write(descriptor, text.ljust(max(_NOTE, status.st_size)))
        finally:
            os.close(descriptor)

    def read_note(self) -> dict[str, Any] | None:
        """What ``note_job`` wrote; None if it never got that far or is torn."""
        try:
            note = json.loads(read_regular(self.home / "job.json", _LONGEST_NOTE))
        except (OSError, ValueError):
            return None
        return note if isinstance(note, dict) else None

    def remove(self) -> None:
        """Remove it, whatever the module made of it: closed directories, or more levels than a path can name.

        Fine if gone. Directories that hold others are emptied by moving those up, so that no path grows long. Raises
        the first OSError once all that can be removed is; what is left then is in ``home``. Blocks.
        """
        if self.removed():
            return
        if self.home.is_symlink():
            self.home.unlink()
        elif self.home.is_dir():
            remove_directory(str(self.home))

    def removed(self) -> bool:
        """Whether it is gone: as it was made, with a few files more. What else there is takes ``remove``. Blocks."""
        try:
            return _removed(str(self.home), _LAID_OUT, [_FEW_REMOVED])
        except OSError:  # it takes more, or is told there
            return False


@dataclass(frozen=True)
class _Directory:
    """``file`` is one that it has as a rule, if any; ``inner`` are its directories."""

    file: str = ""
    inner: Mapping[str, _Directory] = field(default_factory=dict)


_IN = _Directory(inner={"data": _Directory()})
_OUT = _Directory(file="insights.json", inner={"data": _Directory(), "events": _Directory()})
_LAID_OUT = _Directory(file="job.json", inner={"ion": _Directory(inner={"in": _IN, "out": _OUT})})
_FEW_REMOVED = 64
"""Files beside those, up to which removing them takes no longer than other workspaces may wait for."""


def _removed(name: str, what: _Directory, room: list[int], parent: int | None = None) -> bool:
    """Whether the directory is gone, which held ``what`` has inside and no other directory. Follows no link.

    What is there as a rule goes by its name: to list a directory takes longer than to remove it. ``room`` is how many
    files more may go. Raises OSError.
    """
    if not what.inner and _rmdir(name, parent):
        return True
    directory = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        if what.file:
            with suppress(FileNotFoundError):
                os.unlink(what.file, dir_fd=directory)
        if not all(_removed(below, inner, room, directory) for below, inner in what.inner.items()):
            return False
        if what.inner and _rmdir(name, parent):
            return True
        with os.scandir(directory) as entries:
            for entry in entries:
                room[0] -= 1
                if room[0] < 0 or entry.is_dir(follow_symlinks=False):
                    return False
                os.unlink(entry.name, dir_fd=directory)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=parent)
    return True


def _rmdir(name: str, parent: int | None) -> bool:
    """Whether it was an empty directory, and is none any more."""
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError:
        return False
    return True


def workspaces(base: Path) -> Iterator[Workspace]:
    """Those that lie under ``base``."""
    if base.is_dir():
        homes = sorted(home for home in base.iterdir() if home.is_dir() and not home.is_symlink())
        yield from (Workspace(home) for home in homes)
