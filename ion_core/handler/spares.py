"""Workspaces of one handler: a new one for every job, and while there is work some that are made ahead."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ion_core.handler.workspace import Workspace

log = logging.getLogger(__name__)

_SPARE = ".spare-"
_MOST_SPARES = 16


class Workspaces:
    """Opens and closes workspaces under ``base``.

    One that was used is removed, never used again: a process that got away from its job may still hold a directory or
    a file of it. Making one is most of what a short job costs a file system before its module starts. So, as long as
    ``keep`` runs, one is made for each that is closed, when nobody waits for it.
    """

    def __init__(self, base: Path) -> None:
        self._base = base
        self._open: set[Workspace] = set()
        self._spare: list[Workspace] = []
        self._making = 0
        self._kept = False
        self._used = False

    async def open(self, name: str) -> Workspace:
        """A new one of that name. Raises OSError when the disk does not take it."""
        workspace = Workspace(self._base / name)
        if not self._take_spare(workspace):
            Workspace.make(self._base, name)
        self._open.add(workspace)
        return workspace

    async def close(self, workspace: Workspace) -> None:
        """Nothing of it is to be seen any more. Idempotent. Raises OSError naming what does not go."""
        self._used = True
        was_open = workspace in self._open
        self._open.discard(workspace)
        if not (was_open and self._kept and len(self._spare) + self._making < _MOST_SPARES):
            await asyncio.to_thread(workspace.remove)
            return
        spare = Workspace(self._base / f"{_SPARE}{secrets.token_hex(6)}")
        self._making += 1
        try:
            if await asyncio.to_thread(_remove_and_make, workspace, spare):
                self._spare.append(spare)
        finally:
            self._making -= 1
        if not self._kept:
            await self._let_go()

    async def keep(self, *, unused: float = 10.0) -> None:
        """Until cancelled: make workspaces ahead, and let go of those that have had no use for so many seconds."""
        self._kept = True
        try:
            while True:
                self._used = False
                await asyncio.sleep(unused)
                if not self._used and not self._open:
                    await self._let_go()
        finally:
            self._kept = False
            await self._let_go()

    async def _let_go(self) -> None:
        leaving, self._spare = self._spare, []
        if not leaving:
            return
        try:
            await asyncio.to_thread(_remove, leaving)
        except OSError as error:
            log.warning("an unused workspace is left behind until the next start: %s", error)

    def _take_spare(self, workspace: Workspace) -> bool:
        if not self._spare:
            return False
        try:
            self._spare.pop().home.rename(workspace.home)
        except FileNotFoundError:  # somebody removed it
            return False
        return True


def _remove_and_make(leaving: Workspace, spare: Workspace) -> bool:
    """Whether ``spare`` was made; ``leaving`` is gone in any case."""
    leaving.remove()
    with suppress(OSError):  # whoever opens the next one makes it, and says what is wrong
        Workspace.make(spare.home.parent, spare.home.name)
        return True
    return False


def _remove(leaving: Sequence[Workspace]) -> None:
    for workspace in leaving:
        workspace.remove()
