"""Committer: turns what a module left into one commit, or into nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from ion_core import crash
from ion_core.commits import Commit, child_event
from ion_core.contracts.storage import BlobStore, check_key
from ion_core.events import COMMIT, StoredFile
from ion_core.handler.output import Output, read_output
from ion_core.handler.workspace import FEW, TooMuch, World
from ion_core.jobs import Attempt
from ion_core.stores import for_each, job_prefix
from ion_core.words import counted

if TYPE_CHECKING:
    from ion_core.modules import Module


@dataclass(frozen=True, kw_only=True)
class Committed:
    """``commit`` is the job's commit; ``ours`` is False when another attempt had been quicker."""

    commit: Commit
    ours: bool
    lines: list[str]


class Commits(Protocol):
    """What a handler needs of a committer."""

    async def commit(
        self, attempt: Attempt, module: Module, workspace: World, *, image: str | None, started_at: str
    ) -> Committed: ...


def attempt_prefix(attempt: Attempt) -> str:
    """Where this attempt's files go: no other attempt anywhere writes there."""
    return job_prefix(attempt.job.event, attempt.job.module, f"{attempt.number}-{attempt.token}")


class Outputs(Protocol):
    """Of a data plane, what committing needs."""

    @property
    def blobs(self) -> BlobStore: ...

    async def committed(self, job_id: str) -> tuple[Commit, bool] | None:
        """The job's commit and whether it is still to be published; None if it has not committed."""

    async def commit(self, commit: Commit) -> bool:
        """The fence: True if this attempt's record is the job's commit, False if another attempt's is."""

    async def discard(self, keys: Sequence[str]) -> None:
        """Delete files of an attempt that did not win."""


class Committer:
    """Needs nothing but a data plane, an attempt and a workspace that nobody writes to any more.

    ``prefix`` says under which key an attempt's files go. With ``consume`` files in ``out/data`` are given away to the
    store; without, the workspace is left as it was.
    """

    def __init__(
        self, dataplane: Outputs, *, prefix: Callable[[Attempt], str] = attempt_prefix, consume: bool = True
    ) -> None:
        self._dataplane = dataplane
        self._prefix = prefix
        self._consume = consume

    async def commit(
        self, attempt: Attempt, module: Module, workspace: World, *, image: str | None, started_at: str
    ) -> Committed:
        """Check, upload, then create the commit record: from that moment on it all counts, before it nothing does.

        Raises OutputRefused naming every entry that breaks the
        module contract, and what the stores raise; what was uploaded before an upload failed is deleted again.
        """
        try:
            output = read_output(workspace, module, most=FEW)
        except TooMuch:
            output = await asyncio.to_thread(read_output, workspace, module)
        prefix = self._prefix(attempt)
        keys = {name: check_key(f"{prefix}/{name}") for name in output.files}
        try:
            stored = await self._upload(keys, workspace, output)
        except BaseException:
            await asyncio.shield(self._dataplane.discard(list(keys.values())))
            raise
        commit = make_record(
            attempt, output, stored, image=image, started_at=started_at, evaluates=bool(module.leads_to)
        )
        # An error from here on may hide a record that was created all the same: its files must stay.
        ours = await self._dataplane.commit(commit)
        crash.reached("S9")
        lines = [
            f"{counted(len(stored), 'file')}, {counted(sum(file.size for file in stored), 'byte')}, "
            f"{counted(len(output.events), 'event')}, "
            f"{counted(len(output.insights), 'insight')}",
            *output.remarks,
        ]
        if not ours:
            await self._dataplane.discard(list(keys.values()))
            winner = await self._dataplane.committed(attempt.job.id)
            if winner is not None:
                commit = winner[0]
            lines.append(f"attempt {commit.attempt} had committed already: this one changes nothing")
        return Committed(commit=commit, ours=ours, lines=lines)

    async def _upload(self, keys: Mapping[str, str], workspace: World, output: Output) -> tuple[StoredFile, ...]:
        async def upload(name: str) -> StoredFile:
            source = workspace.out / "data" / name
            info = await self._dataplane.blobs.put(keys[name], source, consume=self._consume)
            crash.reached("S8")
            return StoredFile(
                name=name,
                key=keys[name],
                size=info.size,
                sha256=info.sha256,
                executable=name in output.executable,
            )

        stored = await for_each(upload, list(keys))
        crash.reached("S8")
        return tuple(stored)


def make_record(
    attempt: Attempt,
    output: Output,
    stored: tuple[StoredFile, ...],
    *,
    image: str | None,
    started_at: str,
    evaluates: bool = False,
) -> Commit:
    """The commit record of this attempt. ``evaluates``: a gatherer may wait for it."""
    cause = attempt.job.event.context
    return Commit(
        job_id=attempt.job.id,
        context=replace(cause, name=attempt.job.module, document_type=COMMIT),
        attempt=attempt.number,
        token=attempt.token,
        image=image,
        started_at=started_at,
        committed_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        files=stored,
        insights=output.insights,
        events=tuple(
            child_event(attempt, event.file, event_type=event.type, data=event.data, files=event.files)
            for event in output.events
        ),
        cause_type=attempt.job.event.type if evaluates else "",
        evaluates=evaluates,
    )
