"""Workspaces of one handler, used again while there is work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ion_core.handler.workspace import FEW, TooMuch, Workspace

log = logging.getLogger(__name__)

_SPARE = ".spare-"
_MOST_SPARES = 16


class Workspaces:
    """Opens and closes workspaces under ``base``.

    Making and removing directories is most of what a short job costs a file system. So one that is closed is emptied
    and kept for the next, if nothing but files has to go for that: while others are open, and as long as ``keep``
    runs. Otherwise none is kept.
    """

    def __init__(self, base: Path) -> None:
        self._base = base
        self._open: set[Workspace] = set()
        self._spare: list[Workspace] = []
        self._kept = False
        self._used = False

    async def open(self, name: str) -> Workspace:
        """A clean one of that name. Raises OSError when the disk does not take it."""
        spare = self._spare.pop() if self._spare else None
        workspace = Workspace(self._base / name, {} if spare is None else spare.untouched)
        _rename_or_make(spare, workspace)
        self._open.add(workspace)
        return workspace

    async def close(self, workspace: Workspace) -> None:
        """Nothing of it is to be seen any more. Idempotent. Raises OSError naming what does not go."""
        self._used = True
        was_open = workspace in self._open
        self._open.discard(workspace)
        if not (was_open and self._has_use() and await self._put_aside(workspace)):
            await asyncio.to_thread(workspace.remove)
        if not self._open and not self._kept:
            await self._remove_spares()

    async def keep(self, *, unused: float = 10.0) -> None:
        """Until cancelled: keep spares also while nothing is open, until they have had no use for so many seconds."""
        self._kept = True
        try:
            while True:
                self._used = False
                await asyncio.sleep(unused)
                if not self._used and not self._open:
                    await self._let_go()
        finally:
            self._kept = False
            if not self._open:
                await self._let_go()

    async def _let_go(self) -> None:
        try:
            await self._remove_spares()
        except OSError as error:
            log.warning("an unused workspace is left behind until the next start: %s", error)

    def _has_use(self) -> bool:
        return len(self._spare) < (_MOST_SPARES if self._kept else len(self._open))

    async def _put_aside(self, workspace: Workspace) -> bool:
        spare = Workspace(self._base / f"{_SPARE}{workspace.home.name}", workspace.untouched)
        try:
            put = _empty_and_rename(workspace, spare, most=FEW)
        except TooMuch:
            put = await asyncio.to_thread(_empty_and_rename, workspace, spare)
        if put:
            self._spare.append(spare)
        return put

    async def _remove_spares(self) -> None:
        leaving, self._spare = self._spare, []
        if leaving:
            await asyncio.to_thread(_remove, leaving)


def _empty_and_rename(workspace: Workspace, spare: Workspace, most: int | None = None) -> bool:
    try:
        if workspace.empty(most=most):
            workspace.home.rename(spare.home)
            return True
    except OSError:
        pass  # then it has to be removed, which says what is wrong
    return False


def _rename_or_make(spare: Workspace | None, workspace: Workspace) -> None:
    if spare is not None:
        with suppress(FileNotFoundError):
            spare.home.rename(workspace.home)
            return
    Workspace.make(workspace.home.parent, workspace.home.name)


def _remove(leaving: Sequence[Workspace]) -> None:
    for workspace in leaving:
        workspace.remove()
