"""JobRunner: one delivery from receipt to settlement, steps S0 to S12 of ``docs/delivery.md``."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta

from ion_core import crash
from ion_core.commits import Commit
from ion_core.contracts.messaging import Delivery
from ion_core.contracts.observer import Observer
from ion_core.dataplane import HOPS_HEADER, DataPlane
from ion_core.dispatcher.attempt_log import STORE_WITHIN, AttemptLog
from ion_core.dispatcher.bounded import Backoff, together, uninterrupted, wait_for_any
from ion_core.dispatcher.health import Health
from ion_core.dispatcher.hold import SETTLE_WITHIN, Hold, Leases
from ion_core.dispatcher.module_run import ModuleRun
from ion_core.dispatcher.running import RunningAttempts
from ion_core.dispatcher.slot import Failed
from ion_core.dispatcher.slots import Slots
from ion_core.errors import (
    InvalidEvent,
    IonError,
    ModuleFailed,
    PermanentError,
    StorageFull,
    TransientError,
)
from ion_core.events import MAX_HOPS, parse_event
from ion_core.handler import Committed, Handler
from ion_core.jobs import Attempt, Job, Module, Outcome, Verdict

log = logging.getLogger(__name__)

CONCLUDE_WITHIN = SETTLE_WITHIN + STORE_WITHIN + 5.0
"""Seconds to store a log and settle, which each have a bound of their own."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What every job runner of a dispatcher shares. ``grace`` is between SIGTERM and SIGKILL."""

    handler: Handler
    dataplane: DataPlane
    observer: Observer
    health: Health
    leases: Leases
    running: RunningAttempts
    grace: timedelta = timedelta(seconds=10)


class _Running:
    """A job under way here: its hold, and when it has ended."""

    def __init__(self, hold: Hold) -> None:
        self.hold = hold
        self.ended = asyncio.Event()


class JobRunner:
    """Runs the jobs of one module. ``counts`` says how many attempts ended how."""

    def __init__(self, module: Module, slots: Slots, around: Surroundings, *, stopping: asyncio.Event) -> None:
        self.module = module
        self.counts: dict[Verdict, int] = dict.fromkeys(Verdict, 0)
        self._slots = slots
        self._around = around
        self._stopping = stopping
        self._running: dict[str, _Running] = {}
        self._capacity = asyncio.Semaphore(module.concurrency)
        self._backoff = Backoff()

    async def handle(self, delivery: Delivery) -> None:
        """From here to settlement. Raises nothing but cancellation; then too the delivery is given back first."""
        hold = Hold(delivery, self._around.health)
        crash.reached("S0")
        with self._around.leases.keep(hold):
            try:
                attempt = self._parse(delivery)
            except (InvalidEvent, PermanentError) as error:
                await self._refuse(hold, error)
                return
            crash.reached("S1")
            await self._alone(attempt, hold)

    def _parse(self, delivery: Delivery) -> Attempt:
        hops = delivery.headers.get(HOPS_HEADER, "0")
        event = parse_event(delivery.body, hops=int(hops) if hops.isdecimal() and len(hops) < 9 else 0)
        if event.hops >= MAX_HOPS:
            raise PermanentError(f"is {event.hops} modules from the start of its flow, {MAX_HOPS} are allowed: a loop?")
        if event.type not in self.module.subscribes:
            raise PermanentError(f"module {self.module.name} takes no events of type {event.type!r}")
        return Attempt(job=Job(event=event, module=self.module.name), number=delivery.attempt)

    async def _refuse(self, hold: Hold, error: IonError) -> None:
        """Poison: kept aside at once, so that the next one is handled."""
        reason = f"unreadable event: {error}" if isinstance(error, InvalidEvent) else f"refused event: {error}"
        log.error("dead letter: %s", reason, extra={"moduleName": self.module.name})
        settling = hold.settle(lambda delivery: delivery.dead_letter(reason))
        if await uninterrupted(settling, within=CONCLUDE_WITHIN):
            self.counts[Verdict.DEAD_LETTERED] += 1

    async def _alone(self, attempt: Attempt, hold: Hold) -> None:
        """One delivery of a job at a time: a redelivery is adopted, a duplicate waits and finds the commit."""
        job_id = attempt.job.id
        try:
            while running := self._running.get(job_id):
                if running.hold.adopt(hold.delivery):
                    return
                await running.ended.wait()
        except asyncio.CancelledError:
            await uninterrupted(hold.settle(lambda delivery: delivery.release()), within=CONCLUDE_WITHIN)
            raise
        running = self._running[job_id] = _Running(hold)
        try:
            await self._attempt(attempt, hold)
        finally:
            del self._running[job_id]
            running.ended.set()

    async def _attempt(self, attempt: Attempt, hold: Hold) -> None:
        """The slot outlives the settlement: removing it takes time that nobody has to wait for."""
        record = AttemptLog(attempt)
        async with AsyncExitStack() as slot:
            try:
                outcome = await self._outcome(attempt, record, slot)
            except asyncio.CancelledError:
                outcome = Outcome(verdict=Verdict.RELEASED, reason="shutting down")
                await uninterrupted(self._conclude(attempt, hold, record, outcome), within=CONCLUDE_WITHIN)
                raise
            await uninterrupted(self._conclude(attempt, hold, record, outcome), within=CONCLUDE_WITHIN)

    async def _outcome(self, attempt: Attempt, record: AttemptLog, slot: AsyncExitStack) -> Outcome:
        """Do the work; what went wrong decides what becomes of the delivery."""
        try:
            outcome = await self._work(attempt, record, slot)
        except StorageFull as error:
            self._around.health.storage_full(str(error))
            return Outcome(verdict=Verdict.RELEASED, reason=str(error))
        except TransientError as error:
            return await self._later(str(error))
        except (PermanentError, InvalidEvent) as error:
            return Outcome(verdict=Verdict.DEAD_LETTERED, reason=str(error))
        except ModuleFailed as error:
            return self._retry_or_not(attempt, str(error))
        except Exception as error:
            # A bug, ours or a provider's. This job fails, with the traceback in the log; the others go on.
            log.exception("job failed by a bug", extra=record.fields())
            return self._retry_or_not(attempt, f"bug: {type(error).__name__}: {error}")
        self._backoff.reset()
        return outcome

    async def _later(self, reason: str) -> Outcome:
        """A provider is down: hold the delivery for a while, so that neither it nor the next is tried in a hurry."""
        seconds = self._backoff.next()
        fields = {"moduleName": self.module.name}
        log.warning("provider unavailable, next try in %.1f s: %s", seconds, reason, extra=fields)
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass
        return Outcome(verdict=Verdict.RELEASED, reason=reason)

    def _retry_or_not(self, attempt: Attempt, reason: str) -> Outcome:
        if attempt.number <= self.module.retry.retries:
            return Outcome(verdict=Verdict.RETRIED, reason=reason)
        return Outcome(verdict=Verdict.DEAD_LETTERED, reason=f"{reason} (attempt {attempt.number}, the last)")

    async def _work(self, attempt: Attempt, record: AttemptLog, stack: AsyncExitStack) -> Outcome:
        """S2 to S11 without settling. What goes wrong is the exception's class."""
        found = await self._around.dataplane.committed(attempt.job.id)
        crash.reached("S2")
        if found is not None:
            record.committed = True
            commit, pending = found
            if pending:
                await self._publish(commit)
            return Outcome(verdict=Verdict.ALREADY_COMMITTED, children=len(commit.events))
        most = self.module.retry.retries + 1
        if attempt.number > most:  # the limit was lowered meanwhile
            raise PermanentError(
                f"attempt {attempt.number} is one too many: modules.{self.module.name}.retries is {most - 1}"
            )
        room = self._around.health.room
        if not room.is_set():
            await wait_for_any(room, self._stopping)
        if not room.is_set():
            return Outcome(verdict=Verdict.RELEASED, reason="shutting down, no space left")
        async with self._capacity:  # a lost delivery makes room at the broker while its job still runs here
            committed = await self._run_in_a_slot(attempt, record, stack)
        record.committed = True
        verdict = Verdict.COMMITTED if committed.ours else Verdict.ALREADY_COMMITTED
        outcome = Outcome(verdict=verdict, children=len(committed.commit.events))
        owed = [self._publish(committed.commit)] if committed.commit.owes else []
        if committed.ours or committed.commit.attempt != attempt.number:  # never over the log of the one that won
            owed.append(record.store(self._around.dataplane.documents, outcome))
        await together(owed)
        crash.reached("S11")
        return outcome

    async def _publish(self, commit: Commit) -> None:
        """Pay what a commit owes. Its job is done: whatever fails here is tried later, and is no failed attempt."""
        try:
            await self._around.dataplane.publish_commit(commit)
        except TransientError:
            raise
        except Exception as error:
            log.exception("a commit could not be published", extra={"job": commit.job_id})
            raise TransientError(f"commit {commit.job_id} could not be published: {error}") from error

    async def _run_in_a_slot(self, attempt: Attempt, record: AttemptLog, stack: AsyncExitStack) -> Committed:
        log.info("job started", extra=record.fields())
        self._around.observer.job_started(attempt)
        slot = await stack.enter_async_context(self._slots.take())
        crash.reached("S3")
        try:
            run = ModuleRun(
                attempt=attempt,
                module=self.module,
                slot=slot,
                record=record,
                handler=self._around.handler,
                health=self._around.health,
                running=self._around.running,
                grace=self._around.grace,
            )
            committed = await run.committed()
        except BaseException as error:
            if isinstance(error, Exception) and not isinstance(error, TransientError):
                slot.failed = Failed(attempt, str(error))
            await stack.aclose()  # gone before anybody can be given the event again
            record.committer += slot.log
            raise
        if slot.is_kept:
            await stack.aclose()  # to be found by the next event
        return committed

    async def _conclude(self, attempt: Attempt, hold: Hold, record: AttemptLog, outcome: Outcome) -> None:
        """Keep the log, settle, tell. A commit's log is stored already."""
        if not record.committed and outcome.verdict is not Verdict.ALREADY_COMMITTED:
            record.committer.append(f"{outcome.verdict.value}: {outcome.reason}")
            await record.store(self._around.dataplane.documents, outcome)
        settled = await self._settle(attempt, hold, record, outcome)
        verdict = outcome.verdict if settled else Verdict.LOST
        outcome = Outcome(verdict=verdict, reason=outcome.reason, seconds=record.elapsed(), children=outcome.children)
        self.counts[verdict] += 1
        level = {Verdict.DEAD_LETTERED: logging.ERROR, Verdict.RETRIED: logging.WARNING, Verdict.LOST: logging.WARNING}
        log.log(
            level.get(verdict, logging.INFO),
            "job %s%s",
            verdict.value,
            f": {outcome.reason}" if outcome.reason else "",
            extra={**record.fields(), "seconds": round(outcome.seconds, 3)},
        )
        self._around.observer.job_finished(attempt, outcome)

    async def _settle(self, attempt: Attempt, hold: Hold, record: AttemptLog, outcome: Outcome) -> bool:
        if outcome.verdict is Verdict.DEAD_LETTERED:
            return await hold.settle(lambda delivery: delivery.dead_letter(outcome.reason, log_tail=record.tail()))
        if outcome.verdict is Verdict.RETRIED:
            delay = self.module.retry.delay(attempt.number, random.uniform(-1, 1))
            return await hold.settle(lambda delivery: delivery.retry(delay=delay))
        if outcome.verdict is Verdict.RELEASED:
            return await hold.settle(lambda delivery: delivery.release())
        return await hold.settle(lambda delivery: delivery.ack())
