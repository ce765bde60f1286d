"""Handler: the steps around a module as the dispatcher calls them, and the workspaces they are done in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ion_core import crash
from ion_core.dataplane import DataPlane
from ion_core.errors import OutputRefused, PermanentError, storage_error
from ion_core.handler.aside import Aside
from ion_core.handler.committer import Commits, Committed, Committer, attempt_prefix
from ion_core.handler.failed import FailedWorkspaces
from ion_core.handler.live import ITS_DOING, clear, restore, snapshot
from ion_core.handler.preparer import Preparer
from ion_core.handler.spares import Workspaces
from ion_core.handler.workspace import Workspace, workspaces
from ion_core.jobs import Attempt
from ion_core.modules import Module
from ion_core.stores import try_each

log = logging.getLogger(__name__)

_STAYS = "files of an attempt that never committed stay until `ion-core gc`: %s"


class Handler:
    """Preparer, committer and the workspaces between them, which lie under ``base``: ours alone while we run.

    ``committer`` may be another one than that of the data plane.
    """

    def __init__(self, dataplane: DataPlane, base: Path, *, committer: Commits | None = None) -> None:
        self._dataplane = dataplane
        self._base = base
        self._workspaces = Workspaces(base)
        self._aside = Aside(base.parent)
        self.failed = FailedWorkspaces(base.parent / "failed")
        self._preparer = Preparer(dataplane)
        self._committer: Commits = committer or Committer(dataplane)

    async def open_workspace(self, name: str) -> Workspace:
        """A clean workspace of that name. Raises StorageFull or TransientError when the disk does not take it."""
        with _disk(self._base):
            return await self._workspaces.open(name)

    async def close_workspace(self, workspace: Workspace) -> None:
        """All that is in it is gone then. Idempotent. What does not go is set aside, and a warning names it."""
        try:
            await self._workspaces.close(workspace)
        except OSError as error:
            await asyncio.to_thread(self._aside.put, workspace, error)
        crash.reached("S12")

    async def keep_workspaces(self) -> None:
        """Until cancelled: keep emptied workspaces for a while, for those to come. None is kept after that."""
        await self._workspaces.keep()

    async def prepare(self, attempt: Attempt, workspace: Workspace, *, link: bool, traceparent: str = "") -> list[str]:
        """Fill ``in/`` for this attempt; returns log lines. Arguments and errors as of Preparer.prepare."""
        note = {"job": attempt.job.id, "token": attempt.token, "files": attempt_prefix(attempt)}
        with _disk(workspace.home):
            workspace.note_job(note)
            return await self._preparer.prepare(attempt.job.event, workspace, link=link, traceparent=traceparent)

    async def put_back(self, attempt: Attempt, workspace: Workspace, *, link: bool, traceparent: str = "") -> list[str]:
        """Have in ``workspace`` again what ``prepare`` put there, while its module waits; returns log lines.

        What it left in ``out/`` stays. ``link`` and ``traceparent`` as for ``prepare``: with ``link`` it cannot have
        changed ``in/``. Raises OutputRefused where it made something else of the directories, and as Preparer.prepare.
        """
        with _disk(workspace.home):
            try:
                await asyncio.to_thread(restore, workspace)
                if link:
                    return []
                return await self._preparer.put_back(attempt.job.event, workspace, traceparent=traceparent)
            except OSError as error:
                if error.errno not in ITS_DOING:
                    raise
                raise OutputRefused(f"{error.filename}: cannot be filled: {error.strerror}") from error

    async def commit(
        self, attempt: Attempt, module: Module, workspace: Workspace, *, image: str | None, started_at: str
    ) -> Committed:
        """Keep what the module left, whole or not at all. Raises as Committer.commit."""
        with _disk(workspace.home):
            return await self._committer.commit(attempt, module, workspace, image=image, started_at=started_at)

    async def commit_running(
        self, attempt: Attempt, module: Module, workspace: Workspace, *, image: str | None, started_at: str
    ) -> Committed:
        """The same while the module runs: of a copy that it does not see. Raises as Committer.commit."""
        copy = await self.open_workspace(f"{workspace.home.name}-as-it-was")
        try:
            with _disk(workspace.home):
                await asyncio.to_thread(snapshot, workspace, copy, module)
                return await self._committer.commit(attempt, module, copy, image=image, started_at=started_at)
        finally:
            await asyncio.shield(self.close_workspace(copy))

    async def clear(self, workspace: Workspace) -> bool:
        """Make it clean for the next event, while its module waits. False if only a new one would do."""
        return await asyncio.to_thread(clear, workspace)

    async def sweep(self, also: Sequence[Path] = ()) -> int:
        """Remove the workspaces of an earlier life, and files their attempts uploaded without committing.

        ``also`` are directories like ``base`` that nobody uses any more. Returns how many workspaces there were. Call
        it when no other process uses ``base``.
        """
        await asyncio.to_thread(self._aside.try_again)
        bases = [self._base, *also]
        left = await asyncio.to_thread(lambda: [it for base in bases for it in workspaces(base)])
        for workspace in left:
            note = workspace.read_note()
            if note is not None and note.keys() >= {"job", "token", "files"}:
                await self._drop_uncommitted(str(note["job"]), str(note["token"]), str(note["files"]))
            await self.close_workspace(workspace)
        return len(left)

    async def _drop_uncommitted(self, job_id: str, token: str, prefix: str) -> None:
        found = await self._dataplane.committed(job_id)
        if found is not None and found[0].token == token:
            return
        try:
            keys = [key async for key in self._dataplane.blobs.list(prefix)]
        except PermanentError as error:
            log.warning("files of an attempt that never committed stay until `ion-core gc`: %s", error)
            return
        if failed := await try_each(self._dataplane.blobs.delete, keys):
            said = {"job": job_id, "files": len(failed)}
            log.warning(
                "files of an attempt that never committed stay until `ion-core gc`: %s", failed[0][1], extra=said
            )
        if count := len(keys) - len(failed):
            log.info("removed files of an attempt that never committed", extra={"job": job_id, "files": count})


@contextmanager
def _disk(where: Path) -> Iterator[None]:
    """Errors of our own disk as the errors they mean."""
    try:
        yield
    except OSError as error:
        raise storage_error(str(error.filename or where), error) from error
