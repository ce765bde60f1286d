"""Broken executors."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from ion_core.contracts.executor import Cause, JobEnd, JobRef, JobState, JobStatus, Step, StepLogLine
from ion_core.contracts.runtime import ExitStatus
from ion_core.embedded.memory.executor import MemoryEngine, MemoryExecutor, MemoryJob
from ion_core.embedded.memory.logs import MemoryLog
from ion_core.embedded.memory.runtime import MemoryContainer
from ion_core.errors import ImageUnavailable, JobNotFound, NoRoom, PermanentError, ProviderError, TransientError
from ion_core.events import COMMIT
from ion_core.jobs import job_id
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
        found.end, found.ended, found.container._run = None, asyncio.Event(), None
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


# The three steps


@job("a_job_prepares_runs_and_commits", "_ours")
async def forgets_to_prepare(self: Any, step: Step, ticket: Any) -> JobEnd:
    if step is Step.PREPARE:
        (self.workspace / "out/data").mkdir(parents=True)
        return JobEnd(step=step, status=ExitStatus(code=0))
    return await MemoryJob._ours(self, step, ticket)


@job("a_job_prepares_runs_and_commits", "_ours")
async def forgets_to_commit(self: Any, step: Step, ticket: Any) -> JobEnd:
    if step is Step.COMMIT:
        return JobEnd(step=step, status=ExitStatus(code=0))
    return await MemoryJob._ours(self, step, ticket)


def ticketing(change: Callable[[Any], Any]) -> None:
    """Steps are told another ticket."""

    async def ours(self: Any, step: Step, ticket: Any) -> JobEnd:
        return await MemoryJob._ours(self, step, change(ticket))

    ours.__name__ = change.__name__
    job("the_record_tells_its_attempt", "_ours")(ours)


@ticketing
def counts_from_one(ticket: Any) -> Any:
    return replace(ticket, attempt=1)


@ticketing
def makes_up_a_token(ticket: Any) -> Any:
    return replace(ticket, token="token")


@ticketing
def knows_no_image(ticket: Any) -> Any:
    return replace(ticket, image=None)


@ticketing
def knows_no_start(ticket: Any) -> Any:
    return replace(ticket, started_at="")


@job("what_a_job_emits_is_left_to_the_dispatcher", "_ours")
async def publishes(self: Any, step: Step, ticket: Any) -> JobEnd:
    end = await MemoryJob._ours(self, step, ticket)
    if step is Step.COMMIT:
        dataplane = self._engine.steps._dataplane
        found = await dataplane.committed(job_id(ticket.event_id, ticket.module))
        await dataplane.publish_commit(found[0])
    return end


@job("two_attempts_at_once_commit_once", "_ours")
async def the_last_one_wins(self: Any, step: Step, ticket: Any) -> JobEnd:
    if step is Step.COMMIT:
        dataplane = self._engine.steps._dataplane
        await dataplane.documents.delete(COMMIT, job_id(ticket.event_id, ticket.module))
    return await MemoryJob._ours(self, step, ticket)


@job("two_attempts_at_once_commit_once", "_ours")
async def takes_the_second_for_a_failure(self: Any, step: Step, ticket: Any) -> JobEnd:
    if step is Step.COMMIT:
        dataplane = self._engine.steps._dataplane
        if await dataplane.committed(job_id(ticket.event_id, ticket.module)) is not None:
            return JobEnd(step=step, status=ExitStatus(code=1), cause=Cause.MODULE, reason="there is one")
    return await MemoryJob._ours(self, step, ticket)


def leaves_the_output(self: Any, end: JobEnd) -> None:
    kept = self.workspace.with_name(self.spec.name)
    if not kept.exists():
        shutil.copytree(self.workspace / "out", kept)
    MemoryJob._conclude(self, end)


async def prepares_around_it(self: Any, step: Step, ticket: Any) -> JobEnd:
    end = await MemoryJob._ours(self, step, ticket)
    kept = self.workspace.with_name(self.spec.name)
    if step is Step.PREPARE and kept.exists():
        shutil.copytree(kept, self.workspace / "out", dirs_exist_ok=True)
    return end


EXECUTOR.add(
    "a_workspace_is_empty_for_the_next",
    "leaves_the_output",
    opening(job_type=type("Mutant", (MemoryJob,), {"_conclude": leaves_the_output, "_ours": prepares_around_it})),
)


def creating(rule: str) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """The function changes what is made."""

    def add(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
        async def create(self: Any, spec: Any) -> JobRef:
            return await MemoryExecutor.create(self, change(spec))

        create.__name__ = change.__name__
        executor(rule, "create")(create)
        return change

    return add


@creating("values_reach_the_module_unchanged")
def expands_variables(spec: Any) -> Any:
    return with_module(spec, env={name: os.path.expandvars(value) for name, value in spec.module.env.items()})


@creating("values_reach_the_module_unchanged")
def strips_values(spec: Any) -> Any:
    return with_module(spec, env={name: value.strip() for name, value in spec.module.env.items()})


@creating("values_reach_the_module_unchanged")
def doubles_dollars_of_arguments(spec: Any) -> Any:
    return with_module(spec, args=tuple(it.replace("$", "$$") for it in spec.module.args))


@creating("values_reach_the_module_unchanged")
def forgets_arguments(spec: Any) -> Any:
    return with_module(spec, args=())


@creating("nothing_of_ours_is_in_the_modules_environment")
def passes_its_environment_on(spec: Any) -> Any:
    return with_module(spec, env={**os.environ, **spec.module.env})


@creating("nothing_of_ours_is_in_the_modules_environment")
def tells_where_its_settings_are(spec: Any) -> Any:
    return with_module(spec, env={"ION_CONFIG": "/ion-settings", **spec.module.env})


@creating("the_module_sees_no_ticket_and_no_settings")
def has_settings_in_env(spec: Any) -> Any:
    return with_module(spec, env={"SETTINGS": spec.settings.decode(), **spec.module.env})


@creating("the_module_sees_no_ticket_and_no_settings")
def has_settings_among_arguments(spec: Any) -> Any:
    return with_module(spec, args=(*spec.module.args, spec.settings.decode()))


@job("the_module_sees_no_ticket_and_no_settings", "_ours")
async def leaves_the_ticket_in_the_workspace(self: Any, step: Step, ticket: Any) -> JobEnd:
    end = await MemoryJob._ours(self, step, ticket)
    if step is Step.PREPARE:
        (self.workspace / "in/ticket").write_bytes(ticket.encode())
    return end


@creating("settings_are_not_listed")
def annotates_settings(spec: Any) -> Any:
    return replace(spec, labels={**spec.labels, "settings": spec.settings.decode()})


# Causes


@ends("exit_codes_are_data")
def knows_good_and_bad_only(end: JobEnd) -> JobEnd:
    return replace(end, status=ExitStatus(code=int(end.cause is not None)))


@ends("exit_codes_are_data")
def takes_failure_for_the_engines(end: JobEnd) -> JobEnd:
    return replace(end, cause=end.cause and Cause.INFRASTRUCTURE)


@job("exit_codes_are_data", "_module")
async def commits_what_failed(self: Any) -> JobEnd:
    return replace(await MemoryJob._module(self), cause=None)


@ends("a_death_by_signal_is_told")
def hides_the_signal(end: JobEnd) -> JobEnd:
    return replace(end, status=end.status and ExitStatus(code=end.status.code))


@job("a_timeout_is_the_modules", "_module")
async def commits_what_timed_out(self: Any) -> JobEnd:
    end = await MemoryJob._module(self)
    return replace(end, cause=None) if end.reason else end


@job("a_timeout_is_the_modules", "_module")
async def has_no_timeout(self: Any) -> JobEnd:
    self.spec = replace(self.spec, timeout=timedelta(hours=1))
    return await MemoryJob._module(self)


@ends("a_timeout_is_the_modules")
def does_not_say_which_timeout(end: JobEnd) -> JobEnd:
    return replace(end, reason="DeadlineExceeded")


@ends("a_timeout_is_the_modules")
def takes_a_timeout_for_the_engines(end: JobEnd) -> JobEnd:
    return replace(end, cause=Cause.INFRASTRUCTURE)


@ends("a_memory_limit_is_told")
def takes_a_limit_for_a_failure(end: JobEnd) -> JobEnd:
    return replace(end, cause=Cause.MODULE)


@ends("a_memory_limit_is_told")
def does_not_say_which_limit(end: JobEnd) -> JobEnd:
    return replace(end, reason="OOMKilled")


@ends("a_refused_output_names_every_entry")
def loses_the_result(end: JobEnd) -> JobEnd:
    return replace(end, reason="")


@ends("a_refused_output_names_every_entry")
def tells_the_first_reason(end: JobEnd) -> JobEnd:
    return replace(end, reason=end.reason.partition(";")[0])


@ends("a_refused_output_names_every_entry")
def takes_a_refusal_for_a_failure(end: JobEnd) -> JobEnd:
    return replace(end, cause=Cause.MODULE)


@job("an_event_that_is_not_stored_runs_no_module", "_ours")
async def runs_without_inputs(self: Any, step: Step, ticket: Any) -> JobEnd:
    if step is Step.PREPARE:
        return replace(await MemoryJob._ours(self, step, ticket), cause=None)
    return JobEnd(step=Step.PREPARE, status=ExitStatus(code=66), cause=Cause.REFUSED, reason=ticket.event_id)


@ends("an_event_that_is_not_stored_runs_no_module")
def does_not_say_which_event(end: JobEnd) -> JobEnd:
    return replace(end, reason="exit code 66")


@ends("stores_that_are_away_are_infrastructure")
def takes_absence_for_a_refusal(end: JobEnd) -> JobEnd:
    return replace(end, cause=Cause.REFUSED)


@ends("stores_that_are_away_are_infrastructure")
def does_not_say_why(end: JobEnd) -> JobEnd:
    return replace(end, reason="")


@engine("a_missing_image_is_told", "make")
async def takes_absence_for_an_outage(self: Any, spec: Any) -> MemoryJob:
    try:
        return await MemoryEngine.make(self, spec)
    except ImageUnavailable as error:
        raise TransientError(str(error)) from error


@engine("a_missing_image_is_told", "make")
async def runs_without_image(self: Any, spec: Any) -> MemoryJob:
    return await MemoryEngine.make(self, with_module(spec, image=None))


@engine("what_is_no_name_of_an_image_is_refused_at_once", "make")
async def asks_a_registry_for_anything(self: Any, spec: Any) -> MemoryJob:
    return await MemoryEngine.make(self, with_module(spec, image=None))


@engine("a_missing_program_is_never_tried_again", "make")
async def exits_with_1(self: Any, spec: Any) -> MemoryJob:
    try:
        return await MemoryEngine.make(self, spec)
    except PermanentError:
        return await MemoryEngine.make(self, with_module(spec, command=("exit", "1")))


@engine("a_missing_program_is_never_tried_again", "make")
async def does_not_name_the_program(self: Any, spec: Any) -> MemoryJob:
    try:
        return await MemoryEngine.make(self, spec)
    except PermanentError as error:
        raise PermanentError("StartError") from error


def interrupted(rule: str, name: str, **changes: Any) -> None:
    """What the engine does is told as something else."""

    async def end(self: Any, ref: Any, cause: Cause, reason: str) -> None:
        await MemoryEngine.end(self, ref, changes.get("cause", cause), changes.get("reason", reason))

    end.__name__ = name
    engine(rule, "end")(end)


for lost in ("a_lost_node_is_infrastructure", "an_evicted_job_is_infrastructure"):
    interrupted(lost, "blames_the_module", cause=Cause.MODULE)
    interrupted(lost, "blames_somebody", cause=Cause.CANCELLED)
    interrupted(lost, "keeps_the_words_to_itself", reason="")
interrupted("what_others_delete_is_cancelled", "runs_it_again", cause=Cause.INFRASTRUCTURE)


@executor("what_others_delete_is_cancelled", "wait")
async def misses_the_deletion(self: Any, ref: Any) -> JobEnd:
    end = await MemoryExecutor.wait(self, ref)
    if end.cause is Cause.CANCELLED:
        raise JobNotFound(ref.name)
    return end


@engine("no_room_is_told", "make")
async def takes_a_quota_for_a_policy(self: Any, spec: Any) -> MemoryJob:
    try:
        return await MemoryEngine.make(self, spec)
    except NoRoom as error:
        raise PermanentError(str(error)) from error


@engine("no_room_is_told", "make")
async def remembers_that_there_was_none(self: Any, spec: Any) -> MemoryJob:
    self.was_full = self.full or getattr(self, "was_full", "")
    self.full = self.was_full
    return await MemoryEngine.make(self, spec)


@engine("a_policy_is_told", "make")
async def takes_a_policy_for_a_quota(self: Any, spec: Any) -> MemoryJob:
    if self.forbids:
        raise NoRoom(self.forbids)
    return await MemoryEngine.make(self, spec)


@engine("a_policy_is_told", "make")
async def has_no_words(self: Any, spec: Any) -> MemoryJob:
    if self.forbids:
        raise PermanentError(f"{spec.name}: ")
    return await MemoryEngine.make(self, spec)


# Waiting


@executor("wait_is_for_many_and_again", "wait")
async def wait_removes(self: Any, ref: Any) -> JobEnd:
    end = await MemoryExecutor.wait(self, ref)
    await self.remove(ref)
    return end


@executor("cancelling_wait_stops_nothing", "wait")
async def cancelling_wait_kills(self: Any, ref: Any) -> JobEnd:
    try:
        return await MemoryExecutor.wait(self, ref)
    except asyncio.CancelledError:
        await self.stop(ref, grace=timedelta(0))
        raise


@container("nothing_runs_after_wait", "spawn")
def forgets_children(self: Any, child: Any) -> None:
    self.forgotten = asyncio.create_task(child)


@ends("the_end_tells_when_its_steps_began")
def began_everything(end: JobEnd) -> JobEnd:
    return replace(end, began=dict.fromkeys(Step, end.ended_at))


@ends("the_end_tells_when_its_steps_began")
def ended_before_it_began(end: JobEnd) -> JobEnd:
    return replace(end, ended_at=0.0)


# Stopping, removing


@executor("stop_asks_first", "stop")
async def stop_kills(self: Any, ref: Any, *, grace: timedelta) -> None:
    await MemoryExecutor.stop(self, ref, grace=timedelta(0))


@executor("stop_asks_first", "stop")
async def stop_sits_the_grace_out(self: Any, ref: Any, *, grace: timedelta) -> None:
    await asyncio.sleep(grace.total_seconds())
    await MemoryExecutor.stop(self, ref, grace=grace)


@job("stop_asks_first", "stop")
async def commits_what_was_stopped(self: Any, cause: Any, reason: str, *, grace: timedelta) -> None:
    await self._engine.runtime.stop(self.container.ref, grace=grace)
    await self.ended.wait()


@executor("stop_kills_what_does_not_listen", "stop")
async def stop_only_asks(self: Any, ref: Any, *, grace: timedelta) -> None:
    found = self._job(ref)
    found.container.signal(kill=False)
    await found.ended.wait()


@executor("stop_kills_what_does_not_listen", "stop")
async def stop_has_no_patience(self: Any, ref: Any, *, grace: timedelta) -> None:
    await MemoryExecutor.stop(self, ref, grace=timedelta(0))


@executor("stop_kills_what_does_not_listen", "stop")
async def stop_does_not_wait(self: Any, ref: Any, *, grace: timedelta) -> None:
    self.stopping = asyncio.create_task(MemoryExecutor.stop(self, ref, grace=grace))
    await asyncio.sleep(grace.total_seconds())


def unstopped(step: Step) -> Callable[..., Any]:
    async def stop(self: Any, cause: Any, reason: str, *, grace: timedelta) -> None:
        if self.step is step:
            await self.ended.wait()
        await MemoryJob.stop(self, cause, reason, grace=grace)

    stop.__name__ = f"waits_for_the_end_of_{step.value}"
    return stop


job("stop_while_it_is_queued", "stop")(unstopped(Step.QUEUED))
job("stop_while_it_prepares", "stop")(unstopped(Step.PREPARE))
job("stop_while_it_commits", "stop")(unstopped(Step.COMMIT))


@executor("stop_while_it_is_queued", "stop")
async def knows_running_ones_only(self: Any, ref: Any, *, grace: timedelta) -> None:
    if self._job(ref).step is not Step.QUEUED:
        await MemoryExecutor.stop(self, ref, grace=grace)


@ends("stop_while_it_commits")
def takes_it_for_a_commit(end: JobEnd) -> JobEnd:
    return replace(end, cause=None)


@executor("stop_of_what_does_not_run_is_fine", "stop")
async def stop_insists(self: Any, ref: Any, *, grace: timedelta) -> None:
    if self._job(ref).state is JobState.ENDED:
        raise ProviderError("has ended")
    await MemoryExecutor.stop(self, ref, grace=grace)


@executor("stop_of_what_does_not_run_is_fine", "stop")
async def stop_misses_the_gone(self: Any, ref: Any, *, grace: timedelta) -> None:
    self._job(ref)
    await MemoryExecutor.stop(self, ref, grace=grace)


@executor("stop_of_what_does_not_run_is_fine", "stop")
async def stop_ends_what_never_began(self: Any, ref: Any, *, grace: timedelta) -> None:
    if ref.id in self.engine.jobs:
        await self.engine.jobs[ref.id].stop(Cause.CANCELLED, "it was stopped", grace=grace)


@executor("stop_of_what_does_not_run_is_fine", "stop")
async def stop_changes_the_end(self: Any, ref: Any, *, grace: timedelta) -> None:
    found = self.engine.jobs.get(ref.id)
    if found is not None and found.end is not None:
        found.end = replace(found.end, cause=Cause.CANCELLED)
    await MemoryExecutor.stop(self, ref, grace=grace)


@executor("remove_ends_what_runs", "remove")
async def remove_forgets(self: Any, ref: Any) -> None:
    self.engine.jobs.pop(ref.id, None)


@executor("remove_ends_what_runs", "remove")
async def remove_refuses(self: Any, ref: Any) -> None:
    if ref.id in self.engine.jobs and self.engine.jobs[ref.id].state is JobState.STARTED:
        raise ProviderError("is running")
    await MemoryExecutor.remove(self, ref)


@executor("remove_leaves_nothing", "remove")
async def remove_stops_only(self: Any, ref: Any) -> None:
    await self.stop(ref, grace=timedelta(0))


@engine("remove_leaves_nothing", "remove")
async def remove_tells_nobody(self: Any, removed: Any) -> None:
    self.jobs.pop(removed.ref.id, None)
    removed.container.signal(kill=True)
    await self.runtime.remove(removed.container.ref)
    removed.ended = asyncio.Event()


@engine("remove_leaves_nothing", "remove")
async def remove_keeps_the_name(self: Any, removed: Any) -> None:
    await MemoryEngine.remove(self, removed)
    self.jobs["kept"] = removed


@executor("remove_of_what_is_gone_is_fine", "remove")
async def remove_misses_the_gone(self: Any, ref: Any) -> None:
    await self.engine.remove(self._job(ref))


# Output


@log("logs_are_complete_and_tell_their_step", "_add")
def loses_every_thousandth_line(self: Any, stream: Any, raw: bytes) -> None:
    self.count = getattr(self, "count", 0) + 1
    if self.count % 1000:
        MemoryLog._add(self, stream, raw)


def reading(rule: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The function changes a line, or leaves it out."""

    def add(change: Callable[[StepLogLine], StepLogLine | None]) -> Callable[[StepLogLine], StepLogLine | None]:
        async def logs(self: Any, ref: Any, *, follow: bool = False) -> AsyncIterator[StepLogLine]:
            async for line in MemoryExecutor.logs(self, ref, follow=follow):
                if (changed := change(line)) is not None:
                    yield changed

        logs.__name__ = change.__name__
        executor(rule, "logs")(logs)
        return change

    return add


@reading("logs_are_complete_and_tell_their_step")
def knows_the_module_only(line: StepLogLine) -> StepLogLine | None:
    return line if line.step is Step.MODULE else None


@reading("logs_are_complete_and_tell_their_step")
def knows_no_steps(line: StepLogLine) -> StepLogLine:
    return replace(line, step=Step.MODULE)


@executor("logs_of_what_failed_are_kept", "logs")
async def has_logs_of_what_went_well(self: Any, ref: Any, *, follow: bool = False) -> AsyncIterator[StepLogLine]:
    end = self._job(ref).end
    if end is None or end.cause is None:
        async for line in MemoryExecutor.logs(self, ref, follow=follow):
            yield line


@reading("logs_of_what_failed_are_kept")
def drops_the_last_step(line: StepLogLine) -> StepLogLine | None:
    return line if line.step is not Step.COMMIT else None


@log("streams_are_told_apart_where_offered", "write")
def has_one_stream(self: Any, stream: Any, data: bytes) -> None:
    MemoryLog.write(self, "stdout", data)


@log("streams_are_told_apart_where_offered", "_add")
def strips_lines(self: Any, stream: Any, raw: bytes) -> None:
    if raw.strip():
        MemoryLog._add(self, stream, raw.strip())


shows("boasts_of_none", "streams_are_told_apart_where_offered", streams=False)


@log("a_last_line_needs_no_newline", "close")
def wants_a_newline(self: Any) -> None:
    self._partial = {}
    MemoryLog.close(self)


@log("bytes_that_are_no_utf8_are_replaced", "_add")
def drops_bad_bytes(self: Any, stream: Any, raw: bytes) -> None:
    MemoryLog._add(self, stream, raw.decode(errors="ignore").encode())


@log("a_long_line_stays_one_line", "_add")
def breaks_lines_at_16_kib(self: Any, stream: Any, raw: bytes) -> None:
    for start in range(0, len(raw), 1 << 14):
        MemoryLog._add(self, stream, raw[start : start + (1 << 14)])


@log("output_beyond_the_limit_loses_its_middle", "__init__")
def has_no_limit(self: Any, limit: int) -> None:
    MemoryLog.__init__(self, 1 << 30)


@log("output_beyond_the_limit_loses_its_middle", "_add")
def keeps_the_beginning(self: Any, stream: Any, raw: bytes) -> None:
    if not self._tail:
        MemoryLog._add(self, stream, raw)


@executor("following_shows_lines_as_they_come", "logs")
async def has_logs_afterwards(self: Any, ref: Any, *, follow: bool = False) -> AsyncIterator[StepLogLine]:
    if self._job(ref).end is not None or follow:
        async for line in MemoryExecutor.logs(self, ref, follow=follow):
            yield line


@executor("following_shows_lines_as_they_come", "logs")
async def follows_to_the_end_of_each_step(self: Any, ref: Any, *, follow: bool = False) -> AsyncIterator[StepLogLine]:
    if follow:
        await self._job(ref).ended.wait()
    async for line in MemoryExecutor.logs(self, ref, follow=follow):
        yield line


@executor("following_ends_with_the_job", "logs")
async def follows_nothing(self: Any, ref: Any, *, follow: bool = False) -> AsyncIterator[StepLogLine]:
    async for line in MemoryExecutor.logs(self, ref, follow=False):
        yield line


@executor("following_ends_with_the_job", "logs")
async def follows_for_ever(self: Any, ref: Any, *, follow: bool = False) -> AsyncIterator[StepLogLine]:
    async for line in MemoryExecutor.logs(self, ref, follow=follow):
        yield line
    if follow:
        await asyncio.Event().wait()


@reading("each_line_tells_its_time")
def has_no_clock(line: StepLogLine) -> StepLogLine:
    return replace(line, at=0.0)


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
