"""Broken executors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from ion_core.contracts.executor import Cause, JobEnd, JobRef, JobState, JobStatus, Step, StepLogLine
from ion_core.embedded.memory.executor import MemoryEngine, MemoryExecutor, MemoryJob
from ion_core.embedded.memory.logs import MemoryLog
from ion_core.embedded.memory.runtime import MemoryContainer
from ion_core.errors import JobNotFound, PermanentError, ProviderError
from tests.conformance.memory_jobs import MemoryExecutors
from tests.teeth.harness import Mutants, Open

M = TypeVar("M")


class Executors(MemoryExecutors):
    executor_type: type[MemoryExecutor]

    @asynccontextmanager
    async def reopen(self) -> AsyncIterator[MemoryExecutor]:
        executor = self.executor_type(self.engine)
        yield executor
        close = getattr(executor, "close", None)
        if close is not None:
            await close()


def opening(
    executor_type: type[MemoryExecutor] = MemoryExecutor,
    engine_type: type[MemoryEngine] = MemoryEngine,
    job_type: type[MemoryJob] = MemoryJob,
    container_type: type[MemoryContainer] = MemoryContainer,
) -> Open:
    """Whatever a broken executor leaves running is ended after its test."""

    @asynccontextmanager
    async def opens(kit: Executors) -> AsyncIterator[MemoryExecutor]:
        containers: list[MemoryContainer] = []

        class Noted(container_type):  # type: ignore[valid-type, misc]
            def start(self) -> None:
                containers.append(self)
                super().start()

        before = asyncio.all_tasks()
        kit.executor_type = executor_type
        with TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            kit.engine = engine_type(kit.steps(), kit.programs, Path(directory))
            kit.engine.job_type = job_type
            kit.engine.runtime.container_type = Noted
            yield executor_type(kit.engine)
            for container in containers:
                container.signal(kill=True)
            while left := asyncio.all_tasks() - before:
                for task in left:
                    task.cancel()
                await asyncio.wait(left)

    return opens


EXECUTOR = Mutants(Executors, "executor", opening())


def executor(rule: str, method: str) -> Callable[[M], M]:
    """The function replaces that method of the executor."""
    return EXECUTOR.breaks(rule, MemoryExecutor, method, lambda mutant: opening(executor_type=mutant))


def engine(rule: str, method: str) -> Callable[[M], M]:
    return EXECUTOR.breaks(rule, MemoryEngine, method, lambda mutant: opening(engine_type=mutant))


def job(rule: str, method: str) -> Callable[[M], M]:
    return EXECUTOR.breaks(rule, MemoryJob, method, lambda mutant: opening(job_type=mutant))


def container(rule: str, method: str) -> Callable[[M], M]:
    return EXECUTOR.breaks(rule, MemoryContainer, method, lambda mutant: opening(container_type=mutant))


def log(rule: str, method: str) -> Callable[[M], M]:
    """Of the log of the module."""

    def opens(log_type: type[MemoryLog]) -> Open:
        def init(self: Any, spec: Any, program: Any) -> None:
            MemoryContainer.__init__(self, spec, program)
            self.log = log_type(spec.log_limit)

        return opening(container_type=type("Container", (MemoryContainer,), {"__init__": init}))

    return EXECUTOR.breaks(rule, MemoryLog, method, opens)


def ends(rule: str) -> Callable[[Callable[[JobEnd], JobEnd]], Callable[[JobEnd], JobEnd]]:
    """The function changes how an end is told."""

    def add(change: Callable[[JobEnd], JobEnd]) -> Callable[[JobEnd], JobEnd]:
        async def wait(self: Any, ref: Any) -> JobEnd:
            return change(await MemoryExecutor.wait(self, ref))

        wait.__name__ = change.__name__
        executor(rule, "wait")(wait)
        return change

    return add


def shows(name: str, rule: str, **changes: Any) -> None:
    """An executor that says otherwise what it offers."""
    capabilities = replace(MemoryExecutor.capabilities, **changes)
    EXECUTOR.add(rule, name, opening(type("Mutant", (MemoryExecutor,), {"capabilities": capabilities})))


def with_module(spec: Any, **changes: Any) -> Any:
    return replace(spec, module=replace(spec.module, **changes))


def creating(rule: str) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """The function changes what is made."""

    def add(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
        async def create(self: Any, spec: Any) -> JobRef:
            return await MemoryExecutor.create(self, change(spec))

        create.__name__ = change.__name__
        executor(rule, "create")(create)
        return change

    return add


# Making


shows("keeps_it_to_itself", "an_executor_that_isolates_nothing_says_so", notice="")
shows("shares_what_it_cannot", "an_executor_that_isolates_nothing_says_so", shares_workspace=True)


@executor("create_runs_nothing", "create")
async def create_runs(self: Any, spec: Any) -> JobRef:
    ref = await MemoryExecutor.create(self, spec)
    made = self.engine.jobs[ref.id]
    await self.engine.runtime.start(made.container.ref)
    return ref


@executor("create_again_gives_the_same_job", "create")
async def create_replaces(self: Any, spec: Any) -> JobRef:
    for made in list(self.engine.jobs.values()):
        if made.spec.name == spec.name:
            await self.remove(made.ref)
    return await MemoryExecutor.create(self, spec)


@executor("create_again_gives_the_same_job", "create")
async def create_refuses_what_exists(self: Any, spec: Any) -> JobRef:
    if any(made.spec.name == spec.name for made in self.engine.jobs.values()):
        raise PermanentError(f"job {spec.name}: exists.")
    return await MemoryExecutor.create(self, spec)


@executor("create_with_other_labels_is_refused", "create")
async def create_ignores_labels(self: Any, spec: Any) -> JobRef:
    for made in self.engine.jobs.values():
        if made.spec.name == spec.name:
            return made.ref  # type: ignore[no-any-return]
    return await MemoryExecutor.create(self, spec)


@executor("what_is_made_ahead_starts_later", "find")
async def lists_what_runs_only(self: Any, labels: Any) -> Sequence[JobStatus]:
    return [it for it in await MemoryExecutor.find(self, labels) if it.state is not JobState.CREATED]


@executor("names_may_be_at_their_longest", "create")
async def cuts_names(self: Any, spec: Any) -> JobRef:
    return await MemoryExecutor.create(self, replace(spec, name=spec.name[:40]))


@executor("names_may_be_at_their_longest", "create")
async def cuts_labels(self: Any, spec: Any) -> JobRef:
    labels = {name: value[:32] for name, value in spec.labels.items()}
    return await MemoryExecutor.create(self, replace(spec, labels=labels))


@executor("names_may_be_at_their_longest", "start")
async def cuts_ids(self: Any, ref: Any, ticket: Any) -> None:
    await MemoryExecutor.start(self, ref, replace(ticket, correlation_id=ticket.correlation_id[:255]))


# Starting


@executor("one_ticket_runs_once", "start")
async def start_runs_again(self: Any, ref: Any, ticket: Any) -> None:
    found = self._job(ref)
    if found.end is not None:
        found.end, found.ended, found.container._main = None, asyncio.Event(), None
        found.workspace.mkdir()
    found.start(ticket)


@executor("one_ticket_runs_once", "start")
async def start_of_the_running_fails(self: Any, ref: Any, ticket: Any) -> None:
    if self._job(ref).state is not JobState.CREATED:
        raise ProviderError("already started")
    await MemoryExecutor.start(self, ref, ticket)


@executor("another_ticket_is_refused", "start")
async def start_ignores_the_ticket(self: Any, ref: Any, ticket: Any) -> None:
    if self._job(ref).state is JobState.CREATED:
        await MemoryExecutor.start(self, ref, ticket)


@executor("another_ticket_is_refused", "start")
async def start_takes_the_last_ticket(self: Any, ref: Any, ticket: Any) -> None:
    found = self._job(ref)
    if found.state is JobState.CREATED:
        await MemoryExecutor.start(self, ref, ticket)
    elif found.ticket != ticket:
        found.ticket = ticket
        raise PermanentError(f"job {ref.name}: runs for another")


@executor("another_ticket_is_refused", "start")
async def refuses_while_it_runs(self: Any, ref: Any, ticket: Any) -> None:
    if self._job(ref).state is not JobState.ENDED:
        await MemoryExecutor.start(self, ref, ticket)


@executor("an_unknown_job_is_not_found", "wait")
async def waits_for_nobody(self: Any, ref: Any) -> JobEnd:
    if ref.id not in self.engine.jobs:
        return JobEnd(step=Step.QUEUED, cause=Cause.CANCELLED)
    return await MemoryExecutor.wait(self, ref)


@executor("an_unknown_job_is_not_found", "start")
async def starts_nobody(self: Any, ref: Any, ticket: Any) -> None:
    if ref.id in self.engine.jobs:
        await MemoryExecutor.start(self, ref, ticket)


@executor("an_unknown_job_is_not_found", "logs")
async def reads_of_nobody(self: Any, ref: Any, *, follow: bool = False) -> AsyncIterator[StepLogLine]:
    if ref.id in self.engine.jobs:
        async for line in MemoryExecutor.logs(self, ref, follow=follow):
            yield line


@executor("jobs_run_side_by_side", "start")
async def runs_one_at_a_time(self: Any, ref: Any, ticket: Any) -> None:
    for one in list(self.engine.jobs.values()):
        if one.state is JobState.STARTED:
            await one.ended.wait()
    await MemoryExecutor.start(self, ref, ticket)


# Finding


@executor("find_needs_every_label", "find")
async def takes_any_label(self: Any, labels: Mapping[str, str]) -> Sequence[JobStatus]:
    return [it for it in await MemoryExecutor.find(self, {}) if labels.items() & dict(it.labels).items()]


@executor("find_needs_every_label", "find")
async def overlooks_unknown_labels(self: Any, labels: Mapping[str, str]) -> Sequence[JobStatus]:
    return await MemoryExecutor.find(self, {name: labels[name] for name in labels if name != "absent"})


def finding(rule: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The function changes what is found, or leaves it out."""

    def add(change: Callable[[Any, JobStatus], JobStatus | None]) -> Callable[[Any, JobStatus], JobStatus | None]:
        async def find(self: Any, labels: Mapping[str, str]) -> Sequence[JobStatus]:
            found = [change(self, it) for it in await MemoryExecutor.find(self, labels)]
            return [it for it in found if it is not None]

        find.__name__ = change.__name__
        executor(rule, "find")(find)
        return change

    return add


@finding("find_tells_state_ticket_and_labels")
def knows_no_end(self: Any, found: JobStatus) -> JobStatus:
    return replace(found, state=JobState.STARTED)


@finding("find_tells_state_ticket_and_labels")
def forgets_the_ticket_of_what_ended(self: Any, found: JobStatus) -> JobStatus:
    return replace(found, ticket=None) if found.state is JobState.ENDED else found


@finding("find_tells_state_ticket_and_labels")
def has_no_labels(self: Any, found: JobStatus) -> JobStatus:
    return replace(found, labels={})


async def notes_what_it_started(self: Any, ref: Any, ticket: Any) -> None:
    self.mine = {ref.id, *getattr(self, "mine", ())}
    await MemoryExecutor.start(self, ref, ticket)


async def finds_its_own(self: Any, labels: Any) -> Sequence[JobStatus]:
    return [it for it in await MemoryExecutor.find(self, labels) if it.ref.id in getattr(self, "mine", ())]


async def waits_for_its_own(self: Any, ref: Any) -> JobEnd:
    if ref.id not in getattr(self, "mine", ()):
        raise JobNotFound(ref.name)
    return await MemoryExecutor.wait(self, ref)


async def ends_its_own(self: Any) -> None:
    for mine in getattr(self, "mine", ()):
        await self.stop(JobRef(id=mine, name=""), grace=timedelta(0))


def owning(rule: str, name: str, **methods: Any) -> None:
    """An executor for which jobs are its own."""
    mutant = type("Mutant", (MemoryExecutor,), {"start": notes_what_it_started, **methods})
    EXECUTOR.add(rule, name, opening(executor_type=mutant))


owning("what_was_started_is_found_by_others", "finds_its_own", find=finds_its_own)
owning("a_job_is_adopted", "finds_its_own", find=finds_its_own)
owning("a_job_is_adopted", "waits_for_its_own", wait=waits_for_its_own)
owning("a_job_is_adopted", "ends_its_own", close=ends_its_own)
owning("closing_leaves_jobs_running", "ends_its_own", close=ends_its_own)


@finding("what_was_started_is_found_by_others")
def forgets_the_ticket(self: Any, found: JobStatus) -> JobStatus:
    return replace(found, ticket=None)


@executor("errors_of_the_engine_become_ours", "create")
async def lets_the_librarys_error_out(self: Any, spec: Any) -> JobRef:
    if self.engine.failing is not None:
        raise ConnectionRefusedError("by the library")
    return await MemoryExecutor.create(self, spec)


@executor("an_outage_harms_no_job", "find")
async def finds_nothing_meanwhile(self: Any, labels: Any) -> Sequence[JobStatus]:
    return [] if self.engine.failing is not None else await MemoryExecutor.find(self, labels)


@executor("an_outage_harms_no_job", "wait")
async def gives_up_waiting(self: Any, ref: Any) -> JobEnd:
    while (found := self._job(ref)).end is None:  # noqa: ASYNC110
        await asyncio.sleep(0)
    return found.end  # type: ignore[no-any-return]


@executor("an_outage_harms_no_job", "find")
async def gives_up_its_jobs(self: Any, labels: Any) -> Sequence[JobStatus]:
    if self.engine.failing is not None:
        for found in self.engine.jobs.values():
            await found.stop(Cause.INFRASTRUCTURE, "the engine is away", grace=timedelta(0))
    return await MemoryExecutor.find(self, labels)
