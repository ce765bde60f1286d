"""Workspaces of one handler, used again while there is work."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ion_core.handler.workspace import Workspace


class Workspaces:
    """Opens and closes workspaces under ``base``.

    Making and removing directories is most of what a short job costs a file system. So one that is closed while others
    are open is emptied and kept for the next, if nothing but files has to go for that; when the last one is closed,
    none is kept.
    """

    def __init__(self, base: Path) -> None:
        self._base = base
        self._open: set[Workspace] = set()
        self._spare: list[Workspace] = []

    async def open(self, name: str) -> Workspace:
        """A clean one of that name. Raises OSError when the disk does not take it."""
        opening = asyncio.ensure_future(self._opened(name))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            await self.close(await opening)  # nobody else knows of it
            raise

    async def close(self, workspace: Workspace) -> None:
        """Nothing of it is to be seen any more. Idempotent. Raises OSError naming what does not go."""
        if workspace in self._spare:
            return
        if workspace in self._open:
            self._open.discard(workspace)
            if len(self._spare) < len(self._open) and await asyncio.to_thread(workspace.empty) and self._open:
                self._spare.append(workspace)
                return
        leaving = [workspace]
        if not self._open:
            leaving += self._spare
            self._spare.clear()
        await asyncio.to_thread(_remove, leaving)

    async def _opened(self, name: str) -> Workspace:
        workspace = Workspace(self._base / name)
        self._open.add(workspace)
        spare = self._spare.pop() if self._spare else None
        try:
            return await asyncio.to_thread(_renamed_or_made, spare, self._base, name)
        except BaseException:
            self._open.discard(workspace)
            raise


def _renamed_or_made(spare: Workspace | None, base: Path, name: str) -> Workspace:
    if spare is not None:
        with suppress(FileNotFoundError):
            return spare.renamed(name)
    return Workspace.make(base, name)


def _remove(leaving: Sequence[Workspace]) -> None:
    for workspace in leaving:
        workspace.remove()
