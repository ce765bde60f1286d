"""S3 to S9 where they run elsewhere: the whole job is given to an engine, by the executor of its module.

    fetch     a job that is with the engine already, of an earlier life or of a dispatcher that died, or
    start     a new one: created, perhaps ahead of its event, and started with a ticket
    wait      until it has ended, whatever that takes
    commit    the commit record says whether it is done; only without one does it matter how the job ended

A dispatcher that ends leaves its jobs to the engine. They go on, commit, and are fetched when their events come back.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TypeVar

from ion_core import crash
from ion_core.commits import Commit
from ion_core.contracts.executor import (
    Cause,
    Executor,
    HandlerExit,
    JobEnd,
    JobRef,
    JobSpec,
    JobState,
    JobStatus,
    ModuleSpec,
    Step,
    Ticket,
)
from ion_core.contracts.looking import SlotsView
from ion_core.dispatcher.attempt_log import AttemptLog, which
from ion_core.dispatcher.bounded import Backoff, uninterrupted, wait_for_any
from ion_core.dispatcher.engine import Engine
from ion_core.dispatcher.module_run import judge
from ion_core.dispatcher.slots import MODULE_ENV
from ion_core.dispatcher.surroundings import Surroundings
from ion_core.dispatcher.trouble import Stage
from ion_core.dispatcher.warm import WarmSlots
from ion_core.errors import (
    DocumentNotFound,
    EngineLostJob,
    EngineRefused,
    HandlerBug,
    ImageUnavailable,
    IonError,
    JobNotFound,
    ModuleFailed,
    NoRoom,
    OutputRefused,
    ProviderError,
    TransientError,
)
from ion_core.events import MODULE_LOGS, Event
from ion_core.handler import Committed
from ion_core.jobs import Attempt, log_id
from ion_core.modules import Module
from ion_core.words import counted

log = logging.getLogger(__name__)
T = TypeVar("T")

LOST_IN_A_ROW = 10
"""Times that the engine may lose a job before that counts as a failed attempt."""
CLEAN_WITHIN = 60.0
"""Seconds for removing a job; what is left then is removed when nobody has fetched it for long."""
END_WITHIN = 30.0
"""Seconds for a job to end that has committed."""
LOG_WITHIN = 30.0
"""Seconds for what a job printed to be read, once it has ended."""

_GONE = JobEnd(step=Step.QUEUED, cause=Cause.INFRASTRUCTURE, reason="the job is gone, and its engine does not know why")


@dataclass(frozen=True, kw_only=True)
class _EngineJob:
    """A job that was started, and which attempt it runs; ``fetched`` if somebody else did, or an earlier life."""

    executor: Executor
    ref: JobRef
    ticket: Ticket
    fetched: bool = False

    async def follow(self) -> AsyncIterator[str]:
        """What its module prints, as it comes, until it has ended."""
        async for line in self.executor.logs(self.ref, follow=True):
            if line.step is Step.MODULE:
                yield line.text


class AtEngine:
    """The place of jobs that an executor takes. ``settings`` are the configuration of steps 1 and 3."""

    def __init__(
        self, module: Module, engine: Engine, settings: bytes, around: Surroundings, *, stopping: asyncio.Event
    ) -> None:
        self._module = module
        self._engine = engine
        self._settings = settings
        self._around = around
        self._stopping = stopping
        self._spent: set[str] = set()
        """Jobs that were to be removed and are not: what they ended with has been told."""
        self._warm = WarmSlots(module.warm, self._create, self._remove, module=module.name)

    @property
    def slots(self) -> SlotsView:
        module, warm = self._module, self._warm
        return SlotsView(
            module=module.name, warm=module.warm, ready=warm.ready, found=warm.found, reused=0, made=warm.made
        )

    async def keep(self, stop: asyncio.Event) -> None:
        await self._warm.run(stop)

    async def committed(self, attempt: Attempt, record: AttemptLog, stack: AsyncExitStack) -> Committed:
        await self._documented(attempt.job.event)
        lost, room = 0, Backoff(first=1.0)
        while True:
            record.progress.reaches(Stage.SLOT)
            job = await self._fetched(attempt, record) or await self._started(attempt, record)
            crash.reached("S5")
            try:
                end, committed = await self._ended(job, attempt, record)
            except asyncio.CancelledError:
                record.goes_on = not self._around.hurrying.is_set()
                await uninterrupted(self._part_with(job), within=CLEAN_WITHIN + 5.0)
                raise
            except TransientError:  # how it ended will be asked again
                self._engine.leaves(job.ref)
                raise
            except BaseException:
                await self._remove(job.ref)
                raise
            if committed is not None:
                stack.push_async_callback(self._remove, job.ref)
                return committed
            await self._remove(job.ref)
            if end.cause is Cause.NO_ROOM:
                await self._no_room(NoRoom(end.reason), room)
            elif end.cause is Cause.INFRASTRUCTURE and _told(end) is None and lost < LOST_IN_A_ROW:
                lost += 1
                log.warning("the engine lost a job, which is tried again: %s", end.reason, extra=record.fields)
                record.committer.append(f"the engine lost the job, which is no failed attempt: {end.reason}")
                attempt = record.attempt = replace(attempt, token=secrets.token_hex(6))
            else:
                record.progress.stage = _stage(end)
                raise self._failure(end)

    async def _documented(self, event: Event) -> None:
        """What others publish has no document, by which step 1 knows an event: it gets one."""
        dataplane = self._around.dataplane
        if not event.documented and await dataplane.accepted(event.context.event_id) is None:
            await dataplane.document(event, ())

    # Fetch or start

    async def fetch(self, attempt: Attempt, commit: Commit, record: AttemptLog) -> bool:
        found = False
        try:
            for status in await self._engine.started(self._module.name, attempt.job.event.context.event_id):
                end = await self._end_soon(status)
                if end is None or status.ticket is None:
                    continue
                if status.ticket.token == commit.token:
                    job = self._adopted(status.ref, status.ticket, attempt, record)
                    await self._keep_log(job, end, record)
                    found = True
                await self._remove(status.ref)
        except ProviderError as error:
            log.warning("what is left of a job stays with its engine for now: %s", error, extra=record.fields)
        return found

    async def holds(self, attempt: Attempt) -> bool:
        for status in await self._engine.started(self._module.name, attempt.job.event.context.event_id):
            ticket = status.ticket
            if ticket is not None and ticket.attempt == attempt.number and not await self._is_spent(status, ticket):
                return True
        return False

    async def _end_soon(self, status: JobStatus) -> JobEnd | None:
        """Of a job that has nothing more to do; None where it does not end all the same, as on a node that is lost."""
        try:
            async with asyncio.timeout(END_WITHIN):
                return await self._engine.executor.wait(status.ref)
        except (JobNotFound, TimeoutError):
            return None

    async def _fetched(self, attempt: Attempt, record: AttemptLog) -> _EngineJob | None:
        """The job of this attempt that is with the engine already."""
        for status in await self._engine.started(self._module.name, attempt.job.event.context.event_id):
            ticket = status.ticket
            if ticket is None or await self._is_spent(status, ticket):
                await self._remove(status.ref)
            elif ticket.attempt == attempt.number:
                log.info("its job is with the engine already", extra={**record.fields, "job": status.ref.name})
                return self._adopted(status.ref, ticket, attempt, record)
            elif status.state is JobState.ENDED:  # of an attempt that is settled
                await self._remove(status.ref)
        return None

    async def _is_spent(self, status: JobStatus, ticket: Ticket) -> bool:
        """Whether its end has been told: its removal failed then, and numbers begin again after a redrive."""
        if status.ref.id in self._spent:
            return True
        if status.state is not JobState.ENDED:
            return False
        which_log = log_id(ticket.module, ticket.event_id, which(ticket.attempt, ticket.token))
        try:
            await self._around.dataplane.documents.get(MODULE_LOGS, which_log)
        except DocumentNotFound:
            return False
        return True

    async def _started(self, attempt: Attempt, record: AttemptLog) -> _EngineJob:
        """A new job; where an error comes out, none is left, as far as the engine answers."""
        ref = await self._with_room(self._made)
        crash.reached("S3")
        context = attempt.job.event.context
        ticket = Ticket(
            event_id=context.event_id,
            correlation_id=context.correlation_id,
            module=self._module.name,
            attempt=attempt.number,
            token=attempt.token,
            hops=attempt.job.event.hops,
            started_at=record.started_at,
            image=ref.image_digest,
            traceparent=self._around.traceparent(attempt),
        )
        try:
            await self._with_room(lambda: self._engine.executor.start(ref, ticket))
        except JobNotFound as error:
            await self._warm.distrust()
            raise TransientError(f"a job is gone before it ran: {error}") from error
        except BaseException:
            await self._remove(ref)
            raise
        finally:
            self._warm.refill()
        self._engine.fetches(ref)
        record.attempt = attempt
        return _EngineJob(executor=self._engine.executor, ref=ref, ticket=ticket)

    def _adopted(self, ref: JobRef, ticket: Ticket, attempt: Attempt, record: AttemptLog) -> _EngineJob:
        self._engine.fetches(ref)
        record.began_before(replace(attempt, token=ticket.token), ticket.started_at)
        return _EngineJob(executor=self._engine.executor, ref=ref, ticket=ticket, fetched=True)

    async def _made(self) -> JobRef:
        return await self._warm.take() or await self._create()

    async def _create(self) -> JobRef:
        """A job that waits for its ticket, or the error with nothing left behind."""
        module = self._module
        spec = JobSpec(
            name=f"ion-{module.name[:30]}-{secrets.token_hex(6)}",
            module=ModuleSpec(
                name=module.name,
                image=module.image,
                command=module.command,
                args=module.args,
                source=module.source,
                python=module.python,
                env={**MODULE_ENV, **module.env},
                resources=module.resources,
                network=module.network,
            ),
            settings=self._settings,
            labels=self._engine.labels(module.name),
            timeout=module.timeout,
        )
        try:
            ref = await self._engine.executor.create(spec)
        except asyncio.CancelledError:
            await uninterrupted(self._remove_half_made(spec), within=CLEAN_WITHIN + 5.0)
            raise
        self._engine.fetches(ref)
        return ref

    async def _with_room(self, call: Callable[[], Awaitable[T]]) -> T:
        """What ``call`` returns, once the engine has room."""
        backoff = Backoff(first=1.0)
        while True:
            try:
                found = await call()
            except NoRoom as error:
                await self._no_room(error, backoff)
                continue
            self._around.health.green(self._room)
            return found

    async def _no_room(self, error: NoRoom, backoff: Backoff) -> None:
        """Wait before the next try. Raises ``error`` when we are to stop meanwhile."""
        self._around.health.red(self._room, str(error))
        await wait_for_any(self._stopping, timeout=backoff.next())
        if self._stopping.is_set():
            raise error

    @property
    def _room(self) -> str:
        return f"runtime {self._engine.name}"

    # Wait and commit

    async def _ended(self, job: _EngineJob, attempt: Attempt, record: AttemptLog) -> tuple[JobEnd, Committed | None]:
        """How it ended, and the job's commit, if there is one."""
        record.progress.reaches(Stage.MODULE)
        with self._around.running.running(attempt, job):
            try:
                end = await job.executor.wait(job.ref)
            except JobNotFound:
                end = _GONE
        crash.reached("S6")
        await self._keep_log(job, end, record)
        crash.reached("S7")
        record.progress.reaches(Stage.COMMIT)
        found = await self._around.dataplane.committed(attempt.job.id)
        if found is None:
            return end, None
        commit, _ = found
        ours = commit.token == job.ticket.token
        if not ours:
            record.committer.append(f"attempt {commit.attempt} had committed already: this one changes nothing")
        if end.cause is not None:
            record.committer.append(f"after its commit the job did not end well: {end.reason or end.cause.value}")
        return end, Committed(commit=commit, ours=ours, lines=[])

    async def _keep_log(self, job: _EngineJob, end: JobEnd, record: AttemptLog) -> None:
        """What its steps printed, and how long they took. A log that cannot be had changes nothing."""
        sections = {Step.PREPARE: record.preparer, Step.MODULE: record.worker, Step.COMMIT: record.committer}
        try:
            async with asyncio.timeout(LOG_WITHIN):
                async for line in job.executor.logs(job.ref):
                    sections.get(line.step, record.preparer).append(line.text)
        except (ProviderError, TimeoutError) as error:
            record.worker.append(f"[… output is lost from here on: {str(error) or 'not told in time'} …]")
        times = [*sorted(end.began.items(), key=lambda it: it[1])]
        if job.fetched and times and end.ended_at is not None:
            record.took(max(0.0, end.ended_at - times[0][1]))
        for n, (step, begun) in enumerate(times):
            until = times[n + 1][1] if n + 1 < len(times) else end.ended_at
            if until is not None and step is not Step.QUEUED:
                record.ran(step.value, until - begun, ago=0.0 if end.ended_at is None else end.ended_at - until)

    def _failure(self, end: JobEnd) -> IonError:
        """What an end without a commit means for the attempt."""
        name = self._module.name
        code = end.status.code if end.status is not None else None
        reason = end.reason or f"its job ended at step {end.step.value}" + (f" with {code}" if code is not None else "")
        if (told := _told(end)) is not None:
            return told(reason)
        if end.cause in (Cause.MODULE, Cause.LIMIT):
            if end.reason.startswith("timed out"):
                return ModuleFailed(f"{reason} (modules.{name}.timeout)")
            judged = judge(end.status, self._module) if end.status is not None else None
            return judged or ModuleFailed(reason)
        if end.cause is Cause.OUTPUT_REFUSED:
            return OutputRefused(reason)
        if end.cause is Cause.IMAGE:
            return ImageUnavailable(reason)
        if end.cause is Cause.INFRASTRUCTURE:
            return EngineLostJob(f"the engine lost its job {counted(LOST_IN_A_ROW + 1, 'time')} in a row: {reason}")
        if end.cause is Cause.REFUSED:
            return EngineRefused(f"runtime {self._engine.name} refuses its job: {reason}")
        if end.cause is Cause.CANCELLED:
            return EngineRefused(
                f"its job was cancelled at the engine: {reason}. If it is to run after all: ion-core dlq redrive {name}"
            )
        return EngineRefused(
            "its job says that it has committed, and there is no commit in "
            f"{self._around.dataplane.documents_at}. Have its steps and this dispatcher use the same document store"
        )

    # Let go

    async def _part_with(self, job: _EngineJob) -> None:
        """We end, and it is left to the engine; where we are in a hurry, somebody wants it stopped."""
        self._engine.leaves(job.ref)
        if not self._around.hurrying.is_set():
            log.info("a job is left to its engine", extra={"moduleName": self._module.name, "job": job.ref.name})
            return
        try:
            async with asyncio.timeout(CLEAN_WITHIN):
                await job.executor.stop(job.ref, grace=self._around.grace)
                await job.executor.remove(job.ref)
        except (ProviderError, TimeoutError) as error:
            log.warning("a job was not stopped: %s", str(error) or "not in time", extra={"job": job.ref.name})

    async def _remove(self, ref: JobRef) -> None:
        await uninterrupted(self._clean(ref), within=CLEAN_WITHIN + 5.0)

    async def _clean(self, ref: JobRef) -> None:
        self._spent.add(ref.id)
        try:
            async with asyncio.timeout(CLEAN_WITHIN):
                await self._engine.executor.remove(ref)
            self._spent.discard(ref.id)
        except (ProviderError, TimeoutError) as error:
            reason = str(error) or f"not removed within {CLEAN_WITHIN:.0f} s"
            log.warning("a job is left behind for now: %s", reason, extra={"job": ref.name})
        except Exception:
            log.exception("a job is left behind for now, by a bug", extra={"job": ref.name})
        finally:
            self._engine.leaves(ref)
            crash.reached("S12")

    async def _remove_half_made(self, spec: JobSpec) -> None:
        """The job of a ``create`` that was cancelled, which may have made it all the same."""
        try:
            for status in await self._engine.executor.find(spec.labels):
                if status.ref.name == spec.name:
                    await self._engine.executor.remove(status.ref)
        except ProviderError as error:
            log.warning("a job may be left behind for now: %s", error, extra={"job": spec.name})


def _told(end: JobEnd) -> Callable[[str], IonError] | None:
    """What a step of ours says by its exit code; None where it says nothing that it chose to say."""
    meanings: dict[int, Callable[[str], IonError]] = {
        HandlerExit.OUTPUT_REFUSED.value: OutputRefused,
        HandlerExit.NO_EVENT.value: DocumentNotFound,
        HandlerExit.AWAY.value: TransientError,
        HandlerExit.FULL.value: TransientError,  # not of this machine: the others go on
        HandlerExit.BUG.value: lambda reason: HandlerBug(f"bug: {reason}"),
        HandlerExit.CONFIGURATION.value: EngineRefused,
    }
    if end.step not in (Step.PREPARE, Step.COMMIT) or end.status is None:
        return None
    return meanings.get(end.status.code)


def _stage(end: JobEnd) -> Stage:
    """Who would have had to answer."""
    return {Step.QUEUED: Stage.SLOT, Step.PREPARE: Stage.PREPARE, Step.MODULE: Stage.MODULE}.get(end.step, Stage.COMMIT)
