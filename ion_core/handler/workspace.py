"""The workspace: the directory a module sees as ``/ion``.

    <base>/<name>/job.json      what it is for, read by recovery after a crash; the module does not see it
    <base>/<name>/ion/in/data   input files
    <base>/<name>/ion/in/eventmeta.json
    <base>/<name>/ion/out/data  files to keep
    <base>/<name>/ion/out/events, out/insights.json
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
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

        ``out`` is writable for any uid, since a container's user is not ours; ``base`` keeps others of this machine out.
        """
        workspace = cls(base / name)
        workspace.home.mkdir()
        for directory in (workspace.root, workspace.root / "in", workspace.in_data):
            directory.mkdir()
        for directory in (workspace.out, workspace.out / "data", workspace.out / "events"):
            directory.mkdir()
            directory.chmod(_OPEN_TO_ANY_UID)
        insights = workspace.out / "insights.json"
        insights.touch()
        insights.chmod(0o666)
        return workspace

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
        """Remove it, whatever modes the module gave its directories. Fine if gone."""
        shutil.rmtree(self.home, onerror=_make_removable)


def _make_removable(operation: Callable[..., Any], path: str, error: Any) -> None:
    """rmtree's way to ask: open up the directory and try once more; gone is fine."""
    if isinstance(error[1], FileNotFoundError):
        return
    parent = os.path.dirname(path)
    for directory in (parent, path):
        if stat.S_ISDIR(os.lstat(directory).st_mode):
            os.chmod(directory, 0o700)
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def workspaces(base: Path) -> Iterator[Workspace]:
    """Those that lie under ``base``."""
    if base.is_dir():
        yield from (Workspace(home) for home in sorted(base.iterdir()) if home.is_dir())
