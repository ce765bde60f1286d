"""A workspace where its user wants it: ``root`` itself is what the module sees, with nothing of ours around it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ion_core.errors import OutOfTurn, StorageFull, UsageError, storage_error
from ion_core.handler.workspace import Workspace, lay_out

log = logging.getLogger(__name__)

_PARTS = {
    "in": {"data", "eventmeta.json", "gathered.json", "traceparent"},
    "out": {"data", "events", "insights.json"},
}
_ASIDE = ".ion-old-"


class GivenWorkspace:
    """Paths of one. Whatever else lies in ``root`` is its user's, and is left alone."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def in_data(self) -> Path:
        return self.root / "in" / "data"

    @property
    def eventmeta(self) -> Path:
        return self.root / "in" / "eventmeta.json"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def clear(self) -> None:
        """Clean directories and an empty ``out/insights.json``, whatever a module made of those before.

        Raises UsageError, nothing changed, where ``in`` or ``out`` is something else's or ``root`` cannot be written.
        """
        try:
            if not self.root.is_dir():
                self.root.mkdir(parents=True)
                self.root.chmod(0o755)  # a container's user is not ours
            self._refuse_what_is_not_ours()
            self._clear()
        except OSError as error:
            if isinstance(meant := storage_error(str(self.root), error), StorageFull):
                raise meant from error
            raise UsageError(
                f"{self.root}: cannot be the base directory: {error.strerror or error} "
                f"({error.filename or self.root}). Name one that you may write, with --basedir."
            ) from error

    def _refuse_what_is_not_ours(self) -> None:
        for part, known in _PARTS.items():
            path = self.root / part
            if path.is_symlink() or not path.is_dir():
                continue  # of a module that replaced it; only the link goes
            names = {entry.name for entry in path.iterdir()}
            if names and not names & known:
                raise UsageError(
                    f"{path}: holds {min(names)[:80]!r} and nothing of a module's; it would be emptied. Name another "
                    "directory with --basedir, or remove it."
                )

    def _clear(self) -> None:
        aside = self.root / f"{_ASIDE}{os.urandom(4).hex()}"
        aside.mkdir()
        for part in _PARTS:
            if os.path.lexists(self.root / part):
                os.rename(self.root / part, aside / part)
        lay_out(self.root)
        for left in self.root.glob(f"{_ASIDE}*"):  # ours, and of those who were interrupted here
            try:
                Workspace(left).remove()
            except OSError as error:
                why = f"{error.filename or left}: {error.strerror or error}"
                log.warning("%s, of an earlier job, cannot be removed (%s): remove it by hand", left, why)

    def check(self) -> None:
        """Raises OutOfTurn when it is no workspace that was prepared."""
        for part in (self.root, self.root / "in", self.root / "out"):
            if not os.path.lexists(part):
                raise OutOfTurn(
                    f"{part}: no such directory, so nothing was prepared there. Run prepare first, with the same "
                    "--basedir."
                )
