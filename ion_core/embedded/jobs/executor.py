"""The embedded executor: whole jobs as processes of this machine, which go on whatever becomes of us."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from ion_core.contracts.executor import (
    Cause,
    Executor,
    ExecutorCapabilities,
    JobEnd,
    JobRef,
    JobSpec,
    JobState,
    JobStatus,
    Step,
    StepLogLine,
    Ticket,
)
from ion_core.contracts.output import Piece, PieceReader
from ion_core.contracts.provider import Reach
from ion_core.contracts.runtime import LogLine, RuntimeCapabilities
from ion_core.embedded.jobs import layout
from ion_core.embedded.jobs.kept import KeptJobs, Seen
from ion_core.embedded.os_errors import writable_directory
from ion_core.embedded.programs import bubblewrap, ends, spawning, table
from ion_core.embedded.programs import start as program_start
from ion_core.embedded.programs.launch import Launch, Launches
from ion_core.embedded.programs.threads import Threads, threads
from ion_core.embedded.settings import SubprocessSettings
from ion_core.errors import ConfigError, JobNotFound, PermanentError, TransientError
from ion_core.python_environments import Environments, lock_of

log = logging.getLogger(__name__)

HANDLER = (sys.executable, "-P", "-m", "ion_core")
"""What does steps 1 and 3: ourselves, and nothing that lies where we were started."""

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,50}[a-z0-9])?")
_DEATH = 30.0
"""Seconds for processes that were sent SIGKILL to be gone: one that waits for a disk may take a while."""
_FIRST_PAUSE = 0.01
_PAUSE = 0.1
"""Seconds between looks at what tells nobody when it changes: files, and jobs that others are to start."""


class SubprocessExecutor:
    """An Executor whose jobs are local processes: a supervisor for each, and below it one step at a time.

    ``handler`` is the command of steps 1 and 3, in place of ``ion-core``, and ``allowances`` how long they may take.
    What is said of modules as processes holds for step 2 as for those of ``ProcessRuntime``; the supervisor waits for
    their end, so that any process is told it.
    """

    def __init__(
        self,
        path: Path,
        threads: Threads,
        bwrap: str | None,
        *,
        environments: Environments,
        allowances: Mapping[Step, timedelta],
        handler: Sequence[str] = HANDLER,
    ) -> None:
        self.capabilities = _capabilities(bwrap)
        self._jobs = KeptJobs(path)
        self._threads = threads
        self._environments = environments
        self._handler = handler
        self._allowances = {step.value: allowance.total_seconds() for step, allowance in allowances.items()}
        self._launches = Launches(
            bwrap=bwrap, networks=self.capabilities.networks, what="job", by="the subprocess executor"
        )
        self._cores = spawning.Cores()
        self._supervisors: dict[str, table.ProcessId] = {}
        """Those that we started, by the ids of their jobs, until they have ended."""
        self._watching: dict[str, asyncio.Task[None]] = {}
        self._waiting: Counter[str] = Counter()
        self._removed: dict[str, JobEnd | None] = {}
        """How jobs had ended that we removed while somebody here waited for them."""

    async def create(self, spec: JobSpec) -> JobRef:
        if not _NAME.fullmatch(spec.name):
            raise PermanentError(
                f"job {spec.name}: is no name for a job: lower-case letters, digits and -, 52 at most, "
                "a letter first and no - last."
            )
        module, mark = spec.module, uuid.uuid4().hex
        python = None
        if module.python is not None and not module.python.ion:
            python = await self._environments.get(module.python.requirements)
        container = spec.container(Path(layout.workspace(self._jobs.directory(spec.name), mark)))
        launch = self._launches.of(container, mark=mark, python=python)
        job = {
            "id": mark,
            "handler": list(self._handler),
            "module": self._program(launch, spec),
            "timeout": spec.timeout.total_seconds(),
            "allowances": self._allowances,
            "log_limit": spec.log_limit,
            "uses": None if python is None else str(lock_of(python)),
        }
        return JobRef(
            id=await self._threads.run(self._jobs.add, spec.name, spec.labels, job, spec.settings), name=spec.name
        )

    async def start(self, ref: JobRef, ticket: Ticket) -> None:
        _check(ref)
        try:
            await self._threads.run(self._start, ref, ticket)
        finally:  # cancelled or not
            supervisor = self._supervisors.get(ref.id)
            if supervisor is not None and ref.id not in self._watching:
                self._watching[ref.id] = asyncio.create_task(self._watch(ref, supervisor), name=f"watch {ref.name}")

    async def wait(self, ref: JobRef) -> JobEnd:
        if (seen := await self._look_patiently(ref)) is None:
            raise JobNotFound(f"job {ref.name}: there is none (any more).")
        self._waiting[ref.id] += 1
        try:
            pause = _FIRST_PAUSE
            step = seen.step
            while seen is not None:
                if seen.end is not None:
                    return seen.end
                step = seen.step
                if not await self._ended(self._supervisor(seen), None):
                    await asyncio.sleep(pause)
                    pause = min(_PAUSE, 2 * pause)
                seen = await self._look_patiently(ref)
            if (end := self._removed.get(ref.id)) is not None:
                return end
            return JobEnd(step=step, cause=Cause.CANCELLED, reason="it was removed")
        finally:
            self._waiting[ref.id] -= 1
            if not self._waiting[ref.id]:
                del self._waiting[ref.id]
                self._removed.pop(ref.id, None)

    async def logs(self, ref: JobRef, *, follow: bool = False) -> AsyncIterator[StepLogLine]:
        if not follow:
            _check(ref)
            for step, pieces in await self._threads.run(self._printed, ref):
                reader = PieceReader()
                for line in itertools.chain(*map(reader.read, pieces), reader.rest()):
                    yield _line(step, line)
            return
        if (seen := await self._look(ref)) is None:
            raise JobNotFound(f"job {ref.name}: there is none (any more).")
        for number, name in enumerate(layout.STEPS):
            reader = PieceReader()
            later = layout.STEPS[number + 1 :]
            while True:
                over = seen is None or seen.end is not None
                try:
                    over = over or await self._began(ref, later)
                    printed = await self._threads.run(self._jobs.printed, ref, Step(name))
                except JobNotFound:
                    return
                for piece in printed or ():
                    if piece.end > reader.position:
                        for line in reader.read(piece):
                            yield _line(Step(name), line)
                if over:
                    break
                await self._ended(self._supervisor(seen), _PAUSE)
                seen = await self._look(ref)
            for line in reader.rest():
                yield _line(Step(name), line)

    async def stop(self, ref: JobRef, *, grace: timedelta) -> None:
        seen = await self._look(ref)
        if seen is None or seen.state is not JobState.STARTED:
            return
        await self._threads.run(self._jobs.ask_to_stop, ref, grace.total_seconds())
        until = time.monotonic() + grace.total_seconds() + _DEATH
        number, told = signal.SIGTERM, None
        while seen is not None and seen.end is None:
            supervisor = self._supervisor(seen)
            if supervisor is not None and (number, supervisor) != told and table.is_alive(supervisor):
                with suppress(ProcessLookupError):
                    os.kill(supervisor.pid, number)
                told = number, supervisor
            left = until - time.monotonic()
            if left <= 0 and number is signal.SIGTERM:  # it does not do its part: somebody halted it
                number, until = signal.SIGKILL, until + _DEATH
                continue
            if left <= 0:
                raise TransientError(
                    f"job {ref.name}: did not end within {_DEATH:g} s of SIGKILL. It waits for the kernel."
                )
            if not await self._ended(supervisor, left):
                await asyncio.sleep(_FIRST_PAUSE)
            seen = await self._look(ref)

    async def remove(self, ref: JobRef) -> None:
        while (seen := await self._look(ref)) is not None:
            if seen.state is JobState.STARTED:
                await self.stop(ref, grace=timedelta(0))
                continue
            if self._waiting[ref.id]:
                self._removed[ref.id] = seen.end
            await self._threads.run(self._jobs.remove, ref)

    async def find(self, labels: Mapping[str, str]) -> Sequence[JobStatus]:
        return await self._threads.run(self._find, labels)

    async def close(self) -> None:
        """Leave all jobs alone."""
        watching = list(self._watching.values())
        for task in watching:
            task.cancel()
        if watching:
            await asyncio.wait(watching)
        await self._threads.run(self._jobs.close)

    def _program(self, launch: Launch, spec: JobSpec) -> dict[str, Any]:
        cores = self._cores.take(spec.module.resources.cpus)
        env = {name: value for name, value in launch.env.items() if name != table.MARK}
        argv = launch.argv
        if launch.isolated:  # bubblewrap itself is known by where the workspace is outside
            argv = (argv[0], "--setenv", layout.MARK, env[layout.MARK], *argv[1:])
            env[layout.MARK] = layout.mark(self._jobs.directory(spec.name), launch.mark)
        return {
            "argv": argv,
            "program": launch.program,
            "cwd": launch.cwd,
            "env": env,
            "isolated": launch.isolated,
            "memory": spec.module.resources.memory,
            "cores": None if cores is None else sorted(cores),
        }

    async def _look(self, ref: JobRef) -> Seen | None:
        return await self._threads.run(self._jobs.look, ref) if _NAME.fullmatch(ref.name) else None

    async def _look_patiently(self, ref: JobRef) -> Seen | None:
        while True:
            try:
                return await self._look(ref)
            except TransientError as error:
                log.debug("waiting for where jobs are kept", extra={"job": ref.name, "error": str(error)})
                await asyncio.sleep(_PAUSE)

    async def _began(self, ref: JobRef, steps: Sequence[str]) -> bool:
        for step in steps:
            if await self._threads.run(self._jobs.printed, ref, Step(step)) is not None:
                return True
        return False

    def _supervisor(self, seen: Seen | None) -> table.ProcessId | None:
        return None if seen is None else seen.supervisor or self._supervisors.get(seen.ref.id)

    async def _ended(self, process: table.ProcessId | None, within: float | None) -> bool:
        """Wait for it; False at once if it is not known or does not live (any more): that is no wait."""
        if process is None:
            return False
        gone = ends.ended(process.pid)
        try:
            if not table.is_alive(process):  # asked now that the number cannot come to mean another
                return False
            await asyncio.wait({gone}, timeout=within)
            return True
        finally:
            gone.cancel()

    async def _watch(self, ref: JobRef, supervisor: table.ProcessId) -> None:
        try:
            await self._ended(supervisor, None)
        finally:
            self._supervisors.pop(ref.id, None)
            del self._watching[ref.id]

    def _start(self, ref: JobRef, ticket: Ticket) -> None:
        if (supervisor := self._jobs.start(ref, ticket)) is not None:
            self._supervisors[ref.id] = supervisor

    def _printed(self, ref: JobRef) -> Sequence[tuple[Step, Sequence[Piece]]]:
        return [(step, self._jobs.printed(ref, step) or ()) for step in map(Step, layout.STEPS)]

    def _find(self, labels: Mapping[str, str]) -> Sequence[JobStatus]:
        return [
            JobStatus(ref=seen.ref, state=seen.state, labels=seen.labels, ticket=seen.ticket)
            for seen in self._jobs.all(labels)
        ]


def _check(ref: JobRef) -> None:
    if not _NAME.fullmatch(ref.name):
        raise JobNotFound(f"job {ref.name}: there is none (any more).")


def _line(step: Step, line: LogLine) -> StepLogLine:
    return StepLogLine(step=step, stream=line.stream, text=line.text, at=line.at)


def _capabilities(bwrap: str | None) -> ExecutorCapabilities:
    offered = program_start.CAPABILITIES if bwrap is None else bubblewrap.CAPABILITIES
    kept = {field.name: getattr(offered, field.name) for field in fields(RuntimeCapabilities)}
    kept |= {"shares_workspace": False, "handler_api": False, "notice": _NOTICES[bwrap is not None]}
    return ExecutorCapabilities(**kept, warm=True, reach=Reach.MACHINE)


_NOTICES = {
    False: "The subprocess executor isolates nothing: a module can do what you can, also read the settings and the "
    "ticket of its job; network, gpus and pids settings are not enforced. Where bubblewrap is installed, "
    "`isolation: bubblewrap` helps.",
    True: bubblewrap.CAPABILITIES.notice,
}


def _prepare(path: Path) -> None:
    writable_directory(path)
    KeptJobs(path).sweep()


@asynccontextmanager
async def open_subprocess_executor(
    settings: SubprocessSettings, *, handler: Sequence[str] = HANDLER
) -> AsyncIterator[Executor]:
    """Open the executor; on leaving, its jobs go on.

    Raises ConfigError when ``settings.path`` cannot be written or bubblewrap was asked for and does not work.
    """
    path = settings.path.absolute()
    try:
        await asyncio.to_thread(_prepare, path)
    except OSError as error:
        raise ConfigError(
            f"{settings.section.where('path')}: cannot keep jobs in {path}: {error.strerror or error}. "
            "Name a directory that can be written."
        ) from error
    bwrap = None
    if settings.isolation == "bubblewrap":
        bwrap = await bubblewrap.find_bubblewrap(settings.section.where("isolation"))
    async with threads("subprocess executor", "ion-subprocess") as working:
        environments = Environments(settings.environments, timeout=settings.install_timeout.total_seconds())
        try:
            allowances = {Step.PREPARE: settings.prepare_allowance, Step.COMMIT: settings.commit_allowance}
            executor = SubprocessExecutor(
                path, working, bwrap, environments=environments, allowances=allowances, handler=handler
            )
            try:
                yield executor
            finally:
                await executor.close()
        finally:
            environments.close()
