"""An executor in memory. Its engine is an object beside it, as a real one is a program beside ours.

    steps = …                                  # what prepares and commits: a Steps
    async with open_memory_engine(steps, programs) as engine:
        executor = MemoryExecutor(engine)      # as many as there are to be dispatchers
        engine.end(ref, Cause.INFRASTRUCTURE, "node lost")

No configuration can name it: the steps are handed in, since what prepares and commits is no provider's to know.
"""

from __future__ import annotations

import asyncio
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Protocol

from ion_core.contracts.executor import (
    Cause,
    ExecutorCapabilities,
    HandlerExit,
    JobEnd,
    JobRef,
    JobSpec,
    JobState,
    JobStatus,
    Step,
    StepLogLine,
    StepResult,
    Ticket,
    cause_of,
)
from ion_core.contracts.provider import Reach
from ion_core.contracts.runtime import ContainerState, ExitStatus
from ion_core.embedded.memory.logs import MemoryLog
from ion_core.embedded.memory.runtime import MemoryContainer, MemoryRuntime, Program
from ion_core.errors import JobNotFound, NoRoom, PermanentError, ProviderError

_NOTHING = timedelta(0)
_STEPS = (Step.PREPARE, Step.MODULE, Step.COMMIT)


@dataclass(frozen=True, kw_only=True)
class StepEnd:
    """How step 1 or 3 ended: its exit code, and the result beside it."""

    exit: HandlerExit = HandlerExit.DONE
    result: StepResult = StepResult()


class Steps(Protocol):
    """What ``ion-core handler prepare`` and ``commit`` are elsewhere; ``say`` takes lines of their standard error.

    What they raise is a bug of theirs. Stopping a job cancels them.
    """

    async def prepare(
        self, settings: bytes, ticket: Ticket, workspace: Path, say: Callable[[str], None]
    ) -> StepEnd: ...

    async def commit(self, settings: bytes, ticket: Ticket, workspace: Path, say: Callable[[str], None]) -> StepEnd: ...


class MemoryJob:
    """One job, from ``create`` to its removal. It runs by itself once it is started."""

    def __init__(self, spec: JobSpec, engine: MemoryEngine, workspace: Path, container: MemoryContainer) -> None:
        self.spec = spec
        self.container = container
        self.ref = JobRef(id=uuid.uuid4().hex, name=spec.name, image_digest=container.ref.image_digest)
        self.workspace = workspace
        self.ticket: Ticket | None = None
        self.step = Step.QUEUED
        self.began: dict[Step, float] = {}
        self.logs = {step: MemoryLog(spec.log_limit) for step in _STEPS} | {Step.MODULE: container.log}
        self.end: JobEnd | None = None
        self.ended = asyncio.Event()
        self._engine = engine
        self._told: tuple[Cause, str] | None = None
        self._run: asyncio.Task[JobEnd] | None = None

    @property
    def state(self) -> JobState:
        if self.end is not None:
            return JobState.ENDED
        return JobState.CREATED if self.ticket is None else JobState.STARTED

    def start(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self._run = asyncio.create_task(self._drive(ticket))
        self._run.add_done_callback(self._over)

    async def stop(self, cause: Cause, reason: str, *, grace: timedelta) -> None:
        """End it for this cause, whichever step it is at; nothing of it runs afterwards. Idempotent."""
        if self.end is not None:
            return
        self._told = self._told or (cause, reason)
        if self._run is None:
            self._conclude(JobEnd(step=Step.QUEUED))
        elif self.container.state is ContainerState.RUNNING:
            await self._engine.runtime.stop(self.container.ref, grace=grace)
        else:
            self._run.cancel()
        await self.ended.wait()

    def _over(self, run: asyncio.Task[JobEnd]) -> None:
        if run.cancelled():
            self._conclude(JobEnd(step=self.step))
        elif (error := run.exception()) is not None:  # a bug of the step, which a process of its own would have died of
            bug = HandlerExit.BUG.value
            self.logs[self.step].write("stderr", "".join(traceback.format_exception(error)).encode())
            reason = f"bug: {type(error).__name__}: {error}"
            self._conclude(JobEnd(step=self.step, status=ExitStatus(code=bug), cause=cause_of(bug), reason=reason))
        else:
            self._conclude(run.result())

    def _conclude(self, end: JobEnd) -> None:
        if self._told is not None:
            cause, reason = self._told
            end = replace(end, cause=cause, reason=reason)
        for log in self.logs.values():
            log.close()
        self.end = replace(end, image_digest=self.ref.image_digest, began=dict(self.began), ended_at=time.time())
        rmtree(self.workspace)
        self.ended.set()

    async def _drive(self, ticket: Ticket) -> JobEnd:
        await self._engine.room.wait()
        for step in _STEPS:
            self.step, self.began[step] = step, time.time()
            await self._engine.held[step].wait()
            end = await (self._module() if step is Step.MODULE else self._ours(step, ticket))
            self.logs[step].close()
            if end.cause is not None or self._told is not None:
                break
        return end

    async def _ours(self, step: Step, ticket: Ticket) -> JobEnd:
        steps, log = self._engine.steps, self.logs[step]
        call = steps.prepare if step is Step.PREPARE else steps.commit
        end = await call(
            self.spec.settings, ticket, self.workspace, lambda line: log.write("stderr", line.encode() + b"\n")
        )
        code, reason = (
            end.exit.value,
            "; ".join(StepResult.decode(end.result.encode()).reasons),
        )  # as one comes from afar
        return JobEnd(step=step, status=ExitStatus(code=code), cause=cause_of(code), reason=reason)

    async def _module(self) -> JobEnd:
        runtime, ref = self._engine.runtime, self.container.ref
        await runtime.start(ref)
        try:
            async with asyncio.timeout(self.spec.timeout.total_seconds()):
                status = await runtime.wait(ref)
        except TimeoutError:
            await runtime.stop(ref, grace=_NOTHING)
            reason = f"timed out after {self.spec.timeout.total_seconds():g} s"
            return JobEnd(step=Step.MODULE, status=await runtime.wait(ref), cause=Cause.MODULE, reason=reason)
        if status.limit is not None:
            return JobEnd(step=Step.MODULE, status=status, cause=Cause.LIMIT, reason=f"limit: {status.limit}")
        return JobEnd(step=Step.MODULE, status=status, cause=None if status.code == 0 else Cause.MODULE)


class MemoryEngine:
    """Holds the jobs and runs them, whoever looks on. What may go wrong with one is at hand for tests:

    ``failing``   while it is set to an error, every call of an executor raises it.
    ``full``      while it is set, there is no room for another job, in these words.
    ``forbids``   while it is set, no job may be made, in these words.
    ``room``      while it is clear, started jobs stay queued.
    ``held``      while the event of a step is clear, jobs stay at its beginning.
    """

    job_type = MemoryJob

    def __init__(self, steps: Steps, programs: Mapping[str, Program], directory: Path) -> None:
        self.steps = steps
        self.runtime = MemoryRuntime(programs)
        self.jobs: dict[str, MemoryJob] = {}
        self.failing: ProviderError | None = None
        self.full = ""
        self.forbids = ""
        self.room = _open_gate()
        self.held = {step: _open_gate() for step in _STEPS}
        self._directory = directory

    async def make(self, spec: JobSpec) -> MemoryJob:
        """A job of this engine. Raises as ``Executor.create``."""
        if self.forbids:
            raise PermanentError(f"job {spec.name}: {self.forbids}")
        if self.full:
            raise NoRoom(f"job {spec.name}: {self.full}")
        workspace = self._directory / uuid.uuid4().hex
        container = await self.runtime.create(spec.container(workspace))
        workspace.mkdir()
        job = self.job_type(spec, self, workspace, self.runtime.containers[container.id])
        self.jobs[job.ref.id] = job
        return job

    async def end(self, ref: JobRef, cause: Cause, reason: str) -> None:
        """What an engine does of its own accord: lose the node, evict, preempt, or delete for somebody."""
        await self.jobs[ref.id].stop(cause, reason, grace=_NOTHING)

    async def remove(self, job: MemoryJob) -> None:
        """Forget it, ended by force if it runs."""
        self.jobs.pop(job.ref.id, None)
        await job.stop(Cause.CANCELLED, "it was removed", grace=_NOTHING)
        await self.runtime.remove(job.container.ref)


class MemoryExecutor:
    """The executor contract for the jobs of a MemoryEngine, with the programs of a MemoryRuntime as modules."""

    capabilities = ExecutorCapabilities(
        images=True,
        isolates=False,
        inputs_read_only=False,
        memory_limit=False,
        cpu_limit=False,
        pids_limit=False,
        gpus=False,
        handler_api=False,
        networks=frozenset({"none", "bridge", "host"}),
        warm=True,
        reach=Reach.PROCESS,
        notice="The memory executor runs jobs inside this process and isolates nothing.",
    )

    def __init__(self, engine: MemoryEngine) -> None:
        self.engine = engine

    async def create(self, spec: JobSpec) -> JobRef:
        self._check()
        for job in self.engine.jobs.values():
            if job.spec.name == spec.name:
                if dict(job.spec.labels) != dict(spec.labels):
                    raise PermanentError(f"job {spec.name}: exists with other labels. Remove it first.")
                return job.ref
        return (await self.engine.make(spec)).ref

    async def start(self, ref: JobRef, ticket: Ticket) -> None:
        job = self._job(ref)
        if job.ticket is None and job.end is None:
            job.start(ticket)
        elif job.ticket != ticket:
            raise PermanentError(f"job {ref.name}: was started for another attempt. Make another job for this one.")

    async def wait(self, ref: JobRef) -> JobEnd:
        job = self._job(ref)
        await job.ended.wait()
        assert job.end is not None, "set before ended is"
        return job.end

    async def logs(self, ref: JobRef, *, follow: bool = False) -> AsyncIterator[StepLogLine]:
        for step, log in self._job(ref).logs.items():
            async for line in log.lines(follow=follow):
                yield StepLogLine(step=step, stream=line.stream, text=line.text, at=line.at)

    async def stop(self, ref: JobRef, *, grace: timedelta) -> None:
        self._check()
        job = self.engine.jobs.get(ref.id)
        if job is not None and job.state is JobState.STARTED:
            await job.stop(Cause.CANCELLED, "it was stopped", grace=grace)

    async def remove(self, ref: JobRef) -> None:
        self._check()
        if ref.id in self.engine.jobs:
            await self.engine.remove(self.engine.jobs[ref.id])

    async def find(self, labels: Mapping[str, str]) -> Sequence[JobStatus]:
        self._check()
        return [
            JobStatus(ref=job.ref, state=job.state, labels=dict(job.spec.labels), ticket=job.ticket)
            for job in self.engine.jobs.values()
            if labels.items() <= dict(job.spec.labels).items()
        ]

    def _job(self, ref: JobRef) -> MemoryJob:
        self._check()
        if ref.id not in self.engine.jobs:
            raise JobNotFound(f"job {ref.name}: is not there. Create it first.")
        return self.engine.jobs[ref.id]

    def _check(self) -> None:
        if self.engine.failing is not None:
            raise self.engine.failing


def _open_gate() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


@asynccontextmanager
async def open_memory_engine(
    steps: Steps, programs: Mapping[str, Program] | None = None
) -> AsyncIterator[MemoryEngine]:
    """Jobs are ended and gone when the context is left; that an executor goes changes nothing about them."""
    with TemporaryDirectory(prefix="ion-jobs-", ignore_cleanup_errors=True) as directory:
        engine = MemoryEngine(steps, {} if programs is None else programs, Path(directory))
        try:
            yield engine
        finally:
            for job in list(engine.jobs.values()):
                await engine.remove(job)
