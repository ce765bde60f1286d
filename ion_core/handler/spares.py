"""Workspaces of one handler, used again while there is work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from ion_core.handler.workspace import Workspace

T = TypeVar("T")


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
        workspace = Workspace(self._base / name)
        self._open.add(workspace)
        opening = _on_thread(_rename_or_make, self._spare.pop() if self._spare else None, workspace)
        try:
            await asyncio.shield(opening)
        except BaseException:
            await asyncio.wait({opening})
            if opening.exception() is None:  # we were cancelled, and nobody else knows of it
                await self.close(workspace)
            self._open.discard(workspace)
            raise
        return workspace

    async def close(self, workspace: Workspace) -> None:
        """Nothing of it is to be seen any more. Idempotent. Raises OSError naming what does not go."""
        if workspace in self._spare:
            return
        if workspace in self._open:
            self._open.discard(workspace)
            if len(self._spare) < len(self._open) and await _on_thread(workspace.empty) and self._open:
                self._spare.append(workspace)
                return
        leaving = [workspace]
        if not self._open:
            leaving += self._spare
            self._spare.clear()
        await _on_thread(_remove, leaving)


def _on_thread(work: Callable[..., T], *args: Any) -> asyncio.Future[T]:
    return asyncio.get_running_loop().run_in_executor(None, work, *args)


def _rename_or_make(spare: Workspace | None, workspace: Workspace) -> None:
    if spare is not None:
        with suppress(FileNotFoundError):
            spare.home.rename(workspace.home)
            return
    Workspace.make(workspace.home.parent, workspace.home.name)


def _remove(leaving: Sequence[Workspace]) -> None:
    for workspace in leaving:
        workspace.remove()
