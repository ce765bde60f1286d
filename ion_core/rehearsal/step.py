"""One step: a workspace is prepared, the module runs in it under its timeout, and its output is read and checked."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from ion_core.commits import Commit
from ion_core.contracts.runtime import ContainerRuntime
from ion_core.dataplane import DataPlane
from ion_core.dispatcher.attempt_log import AttemptLog
from ion_core.dispatcher.health import Health, write_probe
from ion_core.dispatcher.module_run import ModuleRun
from ion_core.dispatcher.running import RunningAttempts
from ion_core.dispatcher.slots import Slots
from ion_core.errors import IonError, ModuleFailed, PermanentError
from ion_core.events import Event, Pairs, StoredFile
from ion_core.handler import Committed, Handler, HandlerApi, Workspace
from ion_core.handler.committer import make_record
from ion_core.handler.output import Output, read_output
from ion_core.handler.workspace import World
from ion_core.jobs import Attempt, Job
from ion_core.modules import Module
from ion_core.regular import open_regular

GRACE = timedelta(seconds=10)
"""Between SIGTERM and SIGKILL for a module that took too long."""


@dataclass(frozen=True, kw_only=True)
class FileLeft:
    """A file in ``out/data``: its name there, size in bytes and sha256 in hexadecimal."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What one run of a module came to, and what of it would be committed.

    ``failure``    why nothing would be: how the module ended, or what is wrong with its output. None for a success.
    ``files``      what is in ``out/data``, ``insights`` and ``events`` as a commit would hold them, ids included;
                   all empty after a failure.
    ``lines``      what the module printed; ``prepared`` what the preparer said, ``committing`` the committer.
    ``workspace``  as the module left it, there until the rehearsal is over.
    ``image``      digest of the image that ran, None where it was none.
    """

    module: Module
    attempt: Attempt
    failure: IonError | None
    files: tuple[FileLeft, ...] = ()
    insights: Pairs = ()
    events: tuple[Event, ...] = ()
    prepared: Sequence[str] = ()
    committing: Sequence[str] = ()
    lines: Sequence[str] = ()
    seconds: float
    workspace: Workspace
    image: str | None = None


@asynccontextmanager
async def rehearse(
    module: Module,
    event: Event,
    *,
    dataplane: DataPlane,
    runtime: ContainerRuntime,
    work: Path,
    mark: str,
    said: Callable[[str], None] = lambda line: None,
    grace: timedelta = GRACE,
) -> AsyncIterator[Rehearsal]:
    """Run ``module`` for ``event`` once; container and workspace are gone when the body has ended.

    ``dataplane``  where the event's document and files are read from. Nothing is written to it, nothing published.
    ``work``       a directory that is ours alone; the workspace is made in it.
    ``mark``       the value of the container's label ``ion.state``: what is left by a process that died is found by it.
    ``said``       is given each line the module prints, as it comes.

    A module that fails, hangs or leaves what breaks its contract is a result. Raises what the providers raise:
    ImageUnavailable or another PermanentError when it could not start, BlobNotFound, TransientError.
    """
    handler = Handler(dataplane, work, committer=NoCommit())
    api = HandlerApi()
    alone = replace(module, reuse=False, warm=0)
    slots = Slots(alone, runtime, handler, api=api, state_id=mark)
    attempt = Attempt(job=Job(event=event, module=module.name), number=1)
    record = AttemptLog(attempt)
    async with api.listening(), slots.take() as slot:
        run = ModuleRun(
            attempt=attempt,
            module=alone,
            slot=slot,
            record=record,
            handler=handler,
            health=Health(lambda: write_probe(work)),
            running=RunningAttempts(),
            grace=grace,
        )
        commit, failure = await _outcome(run, said)
        yield _rehearsal(run, module, commit, failure)


def _rehearsal(run: ModuleRun, module: Module, commit: Commit | None, failure: IonError | None) -> Rehearsal:
    files = commit.files if commit else ()
    return Rehearsal(
        module=module,
        attempt=run.attempt,
        failure=failure,
        files=tuple(FileLeft(name=it.name, size=it.size, sha256=it.sha256) for it in files),
        insights=commit.insights if commit else (),
        events=commit.events if commit else (),
        prepared=run.record.preparer,
        committing=run.record.committer,
        lines=run.record.worker,
        seconds=run.record.seconds["module"],
        workspace=run.slot.workspace,
        image=run.slot.ref.image_digest,
    )


async def _outcome(run: ModuleRun, said: Callable[[str], None]) -> tuple[Commit | None, IonError | None]:
    """What would be committed, or why nothing would be."""

    async def listen() -> None:
        async for line in run.slot.follow():
            said(line)

    listening = asyncio.create_task(listen(), name="module's output")
    try:
        committed = await run.committed()
        await listening
        return committed.commit, None
    except (ModuleFailed, PermanentError) as error:
        if "module" not in run.record.seconds:  # it never came to run
            raise
        await listening
        return None, error
    finally:
        listening.cancel()
        await asyncio.wait({listening})


class NoCommit:
    """A committer that reads and checks what a module left, and makes the record of it; nothing is stored."""

    async def commit(
        self, attempt: Attempt, module: Module, workspace: World, *, image: str | None, started_at: str
    ) -> Committed:
        """Raises OutputRefused naming every entry that breaks the module contract."""
        output = await asyncio.to_thread(read_output, workspace, module)
        files = await asyncio.to_thread(_files, workspace, output)
        commit = make_record(attempt, output, files, image=image, started_at=started_at)
        return Committed(commit=commit, ours=True, lines=list(output.remarks))


def _files(workspace: World, output: Output) -> tuple[StoredFile, ...]:
    data = workspace.out / "data"
    return tuple(
        StoredFile(name=name, key="", size=size, sha256=_sha256(data / name), executable=name in output.executable)
        for name, size in output.files.items()
    )


def _sha256(path: Path) -> str:
    """Of a file that was seen to be one, and is not followed should it have become a link."""
    with os.fdopen(open_regular(path)[0], "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
