"""One step: a workspace is prepared, the module runs in it under its timeout, and its output is read and checked."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from ion_core.commits import child_event
from ion_core.contracts.runtime import ContainerRuntime, ExitStatus
from ion_core.dataplane import DataPlane
from ion_core.dispatcher.job_runner import judge
from ion_core.dispatcher.slots import Slot, Slots
from ion_core.errors import IonError, OutputRefused, storage_error
from ion_core.events import Event, Pairs
from ion_core.handler import Handler, Workspace
from ion_core.handler.output import read_output
from ion_core.jobs import Attempt, Job, Module

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
    ``lines``      what the module printed; ``prepared`` what the preparer said.
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
    handler = Handler(dataplane, work)
    slots = Slots(module, runtime, handler, state_id=mark)
    attempt = Attempt(job=Job(event=event, module=module.name), number=1)
    async with slots.take() as slot:
        prepared = await handler.prepare(attempt, slot.workspace, link=slots.inputs_read_only)
        begun = time.monotonic()
        status, lines = await _run(slot, module, said, grace)
        seconds = time.monotonic() - begun
        left = await _read(slot.workspace, attempt, module) if status is not None and status.code == 0 else _Left()
        yield Rehearsal(
            module=module,
            attempt=attempt,
            failure=judge(status, module) or left.failure,
            files=left.files,
            insights=left.insights,
            events=left.events,
            prepared=prepared,
            lines=lines,
            seconds=seconds,
            workspace=slot.workspace,
            image=slot.ref.image_digest,
        )


async def _run(
    slot: Slot, module: Module, said: Callable[[str], None], grace: timedelta
) -> tuple[ExitStatus | None, list[str]]:
    """How it ended, None if it took too long, and what it printed. Nothing of it runs when this returns."""
    lines: list[str] = []

    async def listen() -> None:
        async for line in slot.output(follow=True):
            lines.append(line)
            said(line)

    await slot.start()
    listening = asyncio.create_task(listen(), name="module's output")
    try:
        status: ExitStatus | None = None
        try:
            async with asyncio.timeout(module.timeout.total_seconds()) as limit:
                status = await slot.wait()
        except TimeoutError:
            if not limit.expired():
                raise
            await slot.stop(grace=grace)
        await listening
        return status, lines
    finally:
        listening.cancel()


@dataclass(frozen=True, kw_only=True)
class _Left:
    """What is in ``out/``, or what is wrong with it."""

    failure: IonError | None = None
    files: tuple[FileLeft, ...] = ()
    insights: Pairs = ()
    events: tuple[Event, ...] = ()


async def _read(workspace: Workspace, attempt: Attempt, module: Module) -> _Left:
    try:
        return await asyncio.to_thread(_collect, workspace, attempt, module)
    except OutputRefused as error:
        return _Left(failure=error)
    except OSError as error:
        raise storage_error(str(error.filename or workspace.home), error) from error


def _collect(workspace: Workspace, attempt: Attempt, module: Module) -> _Left:
    output = read_output(workspace, module)
    files = tuple(
        FileLeft(name=name, size=size, sha256=_sha256(workspace.out / "data" / name))
        for name, size in output.files.items()
    )
    events = tuple(
        child_event(attempt, it.file, event_type=it.type, data=it.data, files=it.files) for it in output.events
    )
    return _Left(files=files, insights=output.insights, events=events)


def _sha256(path: Path) -> str:
    """Of a file that was seen to be one, and is not followed should it have become a link."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
