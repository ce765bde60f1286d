"""What cannot be removed of a workspace is set aside: it is in nobody's way there, and people can see to it."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

from ion_core.handler.workspace import Workspace, workspaces
from ion_core.words import counted

log = logging.getLogger(__name__)


class Aside:
    """In ``aside/`` beside the workspaces' own directory, in ``state``. All of it blocks, and raises nothing."""

    def __init__(self, state: Path) -> None:
        self._base = state / "aside"

    def remove(self, workspace: Workspace) -> None:
        """Remove it. What does not go is moved here, and a warning says what that is and why. Fine if gone."""
        try:
            workspace.remove()
        except OSError as error:
            self.put(workspace, error)

    def put(self, workspace: Workspace, error: OSError) -> None:
        """Move here what ``error`` kept from being removed; where not even that can be, it stays where it is."""
        place = self._base / f"{workspace.home.name}-{secrets.token_hex(4)}"
        what = f"{error.filename or workspace.home} cannot be removed: {error.strerror or error}"
        try:
            self._base.mkdir(mode=0o700, exist_ok=True)
            workspace.home.rename(place)
        except OSError as moving:
            log.warning("%s. It is left where it is (%s): remove it by hand", what, moving.strerror or moving)
        else:
            log.warning("%s. What is left of it is set aside in %s: remove it by hand", what, place)

    def try_again(self) -> None:
        """Remove what was set aside, as far as it goes by now; one warning counts what does not."""
        stays = []
        for left in workspaces(self._base):
            try:
                left.remove()
            except OSError as error:
                stays.append(f"{error.filename or left.home}: {error.strerror or error}")
        if stays:
            what = f"{counted(len(stays), 'directory')}" if len(stays) > 1 else "a directory"
            log.warning("%s in %s still cannot be removed (%s): remove by hand", what, self._base, stays[0])
