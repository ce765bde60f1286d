"""Workspaces of one handler: a new one for every job, and while there is work some that are made ahead."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ion_core.handler.workspace import Workspace

log = logging.getLogger(__name__)

_SPARE = ".spare-"
_MOST_SPARES = 16
_MOST_AT_ONCE, _MOST_THREADS = 8, 4
"""Workspaces that a thread removes until it says so, and threads that do: a disk may be slow, and the event loop makes
what is not there in time."""


@dataclass(eq=False)
class _Leaving:
    """One that is to go. ``gone``: whether it went quickly."""

    workspace: Workspace
    gone: asyncio.Future[bool]
    removed: bool = False


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
        self._leaving: list[_Leaving] = []
        self._removing = 0
        """Threads that do so."""
        self._wanted = 0
        """To be made: one for each that was closed, and one for each that came too late."""
        self._kept = False
        self._used = False

    async def open(self, name: str) -> Workspace:
        """A new one of that name. Raises OSError when the disk does not take it."""
        workspace = Workspace(self._base / name)
        if not self._take_spare(workspace):
            Workspace.make(self._base, name)
            self._wanted += self._removing > 0  # the next one is on its way: there are too few
        self._open.add(workspace)
        return workspace

    async def close(self, workspace: Workspace) -> None:
        """Nothing of it is to be seen any more. Idempotent. Raises OSError naming what does not go."""
        self._used = True
        if self._kept and workspace in self._open:
            self._wanted += 1
        self._open.discard(workspace)
        leaving = _Leaving(workspace, asyncio.get_running_loop().create_future())
        self._leaving.append(leaving)
        if self._removing < _MOST_THREADS:
            self._remove_some()
        if not await leaving.gone:
            await asyncio.to_thread(workspace.remove)
        if not self._kept:
            await self._let_go()

    def _remove_some(self) -> None:
        """Some of those that are to go, one after the other on one thread."""
        some, self._leaving = self._leaving[:_MOST_AT_ONCE], self._leaving[_MOST_AT_ONCE:]
        if not some:
            return
        self._removing += 1
        wanted = min(self._wanted, _MOST_AT_ONCE, _MOST_SPARES - len(self._spare))
        self._wanted = min(self._wanted - wanted, _MOST_SPARES)
        spares = [Workspace(self._base / f"{_SPARE}{secrets.token_hex(6)}") for _ in range(wanted)]
        work = asyncio.ensure_future(asyncio.to_thread(_remove_and_make, some, spares))
        work.add_done_callback(partial(self._removed, some))

    def _removed(self, some: Sequence[_Leaving], work: asyncio.Future[list[Workspace]]) -> None:
        self._removing -= 1
        error = None if work.cancelled() else work.exception()
        if error is None and not work.cancelled():
            self._spare += work.result()
        for one in some:
            if one.gone.done():
                continue
            if error is not None:
                one.gone.set_exception(error)
            else:
                one.gone.set_result(one.removed)
        self._remove_some()

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
            os.rename(self._spare.pop().home, workspace.home)
        except FileNotFoundError:  # somebody removed it
            return False
        return True


def _remove_and_make(some: Sequence[_Leaving], spares: Sequence[Workspace]) -> list[Workspace]:
    """The spares that were made. What does not go quickly is seen to by whoever closes it: it may take long."""
    for one in some:
        one.removed = one.workspace.removed()
    made = []
    for spare in spares:
        with suppress(OSError):  # whoever opens the next one makes it, and says what is wrong
            made.append(Workspace.make(spare.home.parent, spare.home.name))
    return made


def _remove(leaving: Sequence[Workspace]) -> None:
    for workspace in leaving:
        workspace.remove()
