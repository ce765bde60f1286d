"""The workspace: the directory a module sees as ``/ion``.

<base>/<name>/job.json      what it is for, read by recovery after a crash; the module does not see it
<base>/<name>/ion/in/data   input files
<base>/<name>/ion/in/eventmeta.json
<base>/<name>/ion/out/data  files to keep
<base>/<name>/ion/out/events, out/insights.json
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_OPEN_TO_ANY_UID = 0o777


@dataclass(frozen=True)
class Workspace:
    """Paths of one workspace. ``root`` is what the module sees; ``home`` is ours around it."""

    home: Path

    @property
    def root(self) -> Path:
        return self.home / "ion"

    @property
    def in_data(self) -> Path:
        return self.root / "in" / "data"

    @property
    def eventmeta(self) -> Path:
        return self.root / "in" / "eventmeta.json"

    @property
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
        for directory in (self.root, self.root / "in", self.in_data):
            directory.mkdir()
        for directory in (self.out, self.out / "data", self.out / "events"):
            directory.mkdir()
            directory.chmod(_OPEN_TO_ANY_UID)
        insights = self.out / "insights.json"
        insights.touch()
        insights.chmod(0o666)

    def note_job(self, note: dict[str, Any]) -> None:
        """Say what this workspace is used for, so that a crash leaves nothing that cannot be swept."""
        (self.home / "job.json").write_text(json.dumps(note), encoding="utf-8")

    def read_note(self) -> dict[str, Any] | None:
        """What ``note_job`` wrote; None if it never got that far or is torn."""
        try:
            note = json.loads((self.home / "job.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return note if isinstance(note, dict) else None

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


def workspaces(base: Path) -> Iterator[Workspace]:
    """Those that lie under ``base``."""
    if base.is_dir():
        yield from (Workspace(home) for home in sorted(base.iterdir()) if home.is_dir())
