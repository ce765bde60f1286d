"""One delivery from receipt to settlement: steps S0 to S12 of ``docs/delivery.md``, read from top to bottom.

    receive    S0 S1      JobRunner.handle, _receive: whose job it is, or a dead letter
    decide     S2         JobRunner._decide: whether there is anything to run
    run        S3 to S9   Place.committed: prepare, module, commit record, wherever the module runs
    pay        S10 S11    JobRunner._pay: what the record owes
    conclude   S12        JobRunner._conclude: the delivery is settled; the place is given up

Each step hands on what the next one needs. What goes wrong is an exception, whose class decides in ``_outcome`` what
becomes of the delivery.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Protocol

from ion_core import crash
from ion_core.commits import Commit
from ion_core.contracts.looking import SlotsView
from ion_core.contracts.messaging import MESSAGE_HEADER, Delivery
from ion_core.dataplane import DOCUMENT_HEADER, DOCUMENT_STORED, HOPS_HEADER, TRACEPARENT_HEADER
from ion_core.dispatcher.attempt_log import STORE_WITHIN, AttemptLog
from ion_core.dispatcher.bounded import side_by_side, together, uninterrupted, wait_for_any
from ion_core.dispatcher.doubles import Doubles
from ion_core.dispatcher.hold import GIVE_BACK_WITHIN, SETTLE_WITHIN, Hold, Verb
from ion_core.dispatcher.lost import LostEvents
from ion_core.dispatcher.surroundings import Surroundings
from ion_core.dispatcher.trouble import Stage, Troubles
from ion_core.errors import (
    EventRefused,
    InvalidEvent,
    IonError,
    MessageRefused,
    ModuleFailed,
    PermanentError,
    ProviderError,
    StorageFull,
    TooManyAttempts,
    TransientError,
)
from ion_core.events import MAX_HOPS, checked_traceparent, parse_event
from ion_core.handler import Committed
from ion_core.jobs import Attempt, Job, Outcome, Verdict
from ion_core.modules import Module
from ion_core.rounds import Round
from ion_core.rules import (
    BUG,
    CANNOT_RUN,
    NO_SPACE,
    PUBLISH_LATER,
    REFUSED,
    REFUSED_FOR_GOOD,
    SHUTDOWN,
    UNREADABLE,
    Rule,
    rule_of,
)
from ion_core.words import counted

log = logging.getLogger(__name__)

CONCLUDE_WITHIN = SETTLE_WITHIN + GIVE_BACK_WITHIN + STORE_WITHIN + 5.0
"""Seconds to store a log, to settle and to give back, which each have a bound of their own."""

_SHUTTING_DOWN = Outcome(verdict=Verdict.RELEASED, reason="shutting down", rule=SHUTDOWN.name)

COMMITS = {Verdict.COMMITTED, Verdict.ALREADY_COMMITTED}

LEVELS = {
    Verdict.DEAD_LETTERED: logging.ERROR,
    Verdict.RETRIED: logging.WARNING,
    Verdict.DUPLICATE: logging.WARNING,
    Verdict.LOST: logging.WARNING,
}
"""Of the line that says how an attempt ended; INFO otherwise."""


class Place(Protocol):
    """Where the jobs of a module run."""

    @property
    def slots(self) -> SlotsView:
        """How many wait ready for an event, and how many attempts found one."""

    async def committed(self, attempt: Attempt, record: AttemptLog, stack: AsyncExitStack) -> Committed:
        """S3 to S9: the job's commit. What goes wrong is the exception's class.

        ``stack`` keeps what the attempt took, which is gone once that is closed, and is closed already where an
        exception comes out.
        """

    async def fetch(self, attempt: Attempt, commit: Commit, record: AttemptLog) -> bool:
        """Put away what is left of a job that has committed while nobody looked.

        True where it was the attempt of ``commit`` and ``record`` has its log now, which nobody has stored.
        """

    async def holds(self, attempt: Attempt) -> bool:
        """Whether its job is there already, running or ended: it is fetched then, and not run again.

        Raises TransientError where that cannot be told.
        """

    async def keep(self, stop: asyncio.Event) -> None:
        """Do what is to be done beside, such as making places ahead, until ``stop``, or until cancelled."""


class _UnderWay:
    """A job under way here: its hold, and when it has ended."""

    def __init__(self, hold: Hold) -> None:
        self.hold = hold
        self.ended = asyncio.Event()


class JobRunner:
    """Runs the jobs of one module. ``counts`` says how many attempts ended how."""

    def __init__(self, module: Module, place: Place, around: Surroundings, *, stopping: asyncio.Event) -> None:
        self.module = module
        self.counts: dict[Verdict, int] = dict.fromkeys(Verdict, 0)
        self.place = place
        self._around = around
        self._stopping = stopping
        self._under_way: dict[str, _UnderWay] = {}
        self._capacity = asyncio.Semaphore(module.concurrency)
        self.troubles = Troubles(around.stores)
        self._doubles = Doubles(module, around.dataplane)
        self._gathering = around.dataplane.gathering if module.leads_to else None
        self.lost = LostEvents(module.name, around.dataplane)

    # Receive

    async def handle(self, delivery: Delivery) -> None:
        """From here to settlement. Raises nothing but cancellation; then too the delivery is given back first."""
        hold = Hold(delivery, self._around.health)
        crash.reached("S0")
        with self._around.leases.keep(hold):
            try:
                attempt = self._receive(delivery)
            except (InvalidEvent, PermanentError) as error:
                await self._refuse(hold, error)
                return
            crash.reached("S1")
            try:
                await self._alone(attempt, hold)
            except Exception:  # a bug of ours: it is told by whoever awaits this; the delivery takes no place meanwhile
                if not hold.over:
                    await uninterrupted(hold.settle(lambda delivery: delivery.release()), within=CONCLUDE_WITHIN)
                raise

    def _receive(self, delivery: Delivery) -> Attempt:
        """S1. Raises InvalidEvent for what is no event, EventRefused for one that has come too far."""
        headers = delivery.headers
        hops = headers.get(HOPS_HEADER, "0")
        event = parse_event(
            delivery.body,
            hops=int(hops) if hops.isdecimal() and len(hops) < 9 else 0,
            documented=headers.get(DOCUMENT_HEADER) == DOCUMENT_STORED,
            traceparent=checked_traceparent(headers.get(TRACEPARENT_HEADER, "")),
        )
        if event.hops >= MAX_HOPS:
            raise EventRefused(
                f"is {counted(event.hops, 'module')} from the start of its flow, {MAX_HOPS} are allowed: a loop?"
            )
        job = Job(event=event, module=self.module.name)
        return Attempt(job=job, number=delivery.attempt, message=headers.get(MESSAGE_HEADER, ""))

    async def _refuse(self, hold: Hold, error: IonError) -> None:
        """Poison: kept aside at once, so that the next one is handled."""
        reason = f"{UNREADABLE if isinstance(error, InvalidEvent) else REFUSED}: {error}"
        reason = self._around.hide(reason)
        log.error("dead letter: %s", reason, extra={"moduleName": self.module.name})
        self.lost.seen(reason)
        settling = hold.settle(lambda delivery: delivery.dead_letter(reason))
        if await uninterrupted(settling, within=CONCLUDE_WITHIN):
            self._count(Verdict.DEAD_LETTERED)
        elif hold.lost:
            self.lost.add_unreadable(reason)

    async def _alone(self, attempt: Attempt, hold: Hold) -> None:
        """One delivery of a job at a time: a redelivery is adopted, a duplicate waits and finds the commit."""
        job_id = attempt.job.id
        try:
            while other := self._under_way.get(job_id):
                if other.hold.adopt(hold.delivery):
                    return
                await other.ended.wait()
        except asyncio.CancelledError:
            await uninterrupted(hold.settle(lambda delivery: delivery.release()), within=CONCLUDE_WITHIN)
            raise
        self.lost.seen(job_id)
        ours = self._under_way[job_id] = _UnderWay(hold)
        try:
            await self._attempt(attempt, hold)
        finally:
            del self._under_way[job_id]
            ours.ended.set()

    # From decide to conclude

    async def _attempt(self, attempt: Attempt, hold: Hold) -> None:
        """S2 to S12. Its place outlives the settlement: removing it takes time that nobody has to wait for."""
        record = AttemptLog(attempt, hide=self._around.hide)
        async with AsyncExitStack() as taken:
            try:
                outcome = await self._outcome(attempt, hold, record, taken)
            except asyncio.CancelledError:
                outcome = _SHUTTING_DOWN
                await uninterrupted(self._conclude(attempt, hold, record, outcome), within=CONCLUDE_WITHIN)
                raise
            await uninterrupted(self._conclude(attempt, hold, record, outcome), within=CONCLUDE_WITHIN)

    async def _outcome(self, attempt: Attempt, hold: Hold, record: AttemptLog, taken: AsyncExitStack) -> Outcome:
        """Do the work; what went wrong decides what becomes of the delivery. A failure is recorded before that."""
        if self.troubles.is_paused and not await self.troubles.pause(self._stopping):
            return _SHUTTING_DOWN
        begun = self.troubles.begins()
        by_a_bug = False
        try:
            try:
                with record.hearing():
                    outcome = await self._work(attempt, record, taken)
            except (StorageFull, TransientError):
                raise
            except (PermanentError, InvalidEvent) as error:
                rule = rule_of(error)
                if rule is REFUSED_FOR_GOOD and record.progress.stage in (Stage.SLOT, Stage.MODULE):
                    rule = CANNOT_RUN  # it is what would run the module that says no
                outcome = Outcome(verdict=Verdict.DEAD_LETTERED, reason=str(error), rule=rule.name)
            except ModuleFailed as error:
                outcome = self._retry_or_not(attempt, str(error), rule_of(error))
            except Exception as error:
                # A bug, ours or a provider's. This job fails, with the traceback in the log; the others go on.
                log.exception("job failed by a bug", extra=record.fields)
                outcome = self._retry_or_not(attempt, f"bug: {type(error).__name__}: {error}", BUG)
                by_a_bug = True
            outcome = await self._recorded(attempt, hold, record, outcome)
        except StorageFull as error:
            self._around.health.storage_full(str(error))
            return Outcome(verdict=Verdict.RELEASED, reason=str(error), rule=NO_SPACE.name)
        except TransientError as error:
            return await self._later(attempt, hold, begun, record, error)
        if outcome.verdict is not Verdict.RELEASED and not by_a_bug:
            committed = outcome.verdict is Verdict.COMMITTED
            self.troubles.passed(attempt.job.id, begun, record.progress, all_of_it=committed)
        return outcome

    async def _recorded(self, attempt: Attempt, hold: Hold, record: AttemptLog, outcome: Outcome) -> Outcome:
        """A failure in its record; of several messages of one event only one comes to be tried again or kept aside."""
        if outcome.verdict not in (Verdict.RETRIED, Verdict.DEAD_LETTERED):
            return outcome
        if hold.lost:  # nothing will settle it, and a record would say that something may have
            hold.over = True
            return outcome
        try:
            hidden = replace(outcome, reason=self._around.hide(outcome.reason))
            outcome = await self._doubles.failed(attempt, hidden, seen=record.rounds)
            if outcome.verdict is Verdict.DEAD_LETTERED and self._gathering is not None:
                await self._gathering.dying(attempt.job, message=attempt.message, reason=outcome.reason)
        except TransientError:
            if record.progress.stage is not Stage.PUBLISH:  # there it is the commit that waits
                record.progress.stage = Stage.COMMIT  # it is a store that does not answer
            raise
        except Exception:
            log.exception("a failed attempt could not be recorded", extra=record.fields)
        crash.reached(crash.FAILED)
        return outcome

    async def _later(
        self, attempt: Attempt, hold: Hold, begun: int, record: AttemptLog, error: TransientError
    ) -> Outcome:
        """Something was not to be had: the event makes room for the others; a failure only if it is its own trouble."""
        reason, rule = str(error), PUBLISH_LATER if record.progress.stage is Stage.PUBLISH else rule_of(error)
        ruling = await self.troubles.failed(attempt.job.id, begun, record.progress)
        if ruling.counted:
            outcome = self._retry_or_not(attempt, reason, rule)
            if outcome.verdict is Verdict.DEAD_LETTERED:
                self.troubles.forget(attempt.job.id)
            try:
                return await self._recorded(attempt, hold, record, outcome)
            except TransientError as unrecorded:  # that may be its trouble: then it comes to an end all the same
                log.warning("a failed attempt could not be recorded: %s", unrecorded, extra=record.fields)
                return outcome
        if not ruling.own:
            self._around.unanswered()
        whose = "this event's own trouble" if ruling.own else "provider unavailable"
        seconds = ruling.delay.total_seconds()
        log.warning("%s, next try in %.1f s: %s", whose, seconds, reason, extra=record.fields)
        return Outcome(verdict=Verdict.RELEASED, reason=reason, rule=rule.name, delay=ruling.delay)

    def _retry_or_not(self, attempt: Attempt, reason: str, rule: Rule) -> Outcome:
        if attempt.number <= self.module.retry.retries:
            delay = self.module.retry.delay(attempt.number, random.uniform(-1, 1))
            return Outcome(verdict=Verdict.RETRIED, reason=reason, rule=rule.name, delay=delay)
        last = f"{reason} (attempt {attempt.number}, the last)"
        return Outcome(verdict=Verdict.DEAD_LETTERED, reason=last, rule=rule.name)

    async def _work(self, attempt: Attempt, record: AttemptLog, taken: AsyncExitStack) -> Outcome:
        """S2 to S11 without settling. What goes wrong is the exception's class."""
        decided = await self._decide(attempt, record)
        if decided is not None:
            return decided
        async with self._capacity:  # a lost delivery makes room at the broker while its job still runs here
            log.info("job started", extra=record.fields)
            self._around.observer.job_started(attempt)
            committed = await self.place.committed(attempt, record, taken)
        return await self._pay(record, committed)

    # Decide

    async def _decide(self, attempt: Attempt, record: AttemptLog) -> Outcome | None:
        """S2. The outcome where there is nothing to run; None where the module is to run now."""
        found, round = await self._records_of(attempt.job.id)
        record.rounds = [round] if round is not None else []
        crash.reached("S2")
        if found is not None:
            record.committed = True
            record.progress.reaches(Stage.PUBLISH)  # whatever fails from here on: the job is done
            commit, pending = found
            if differs := await self._around.dataplane.contradictions(attempt.job.event):
                log.warning(
                    "this event has been committed, and a message says otherwise than it did: %s. What it says is not "
                    "done: publish it under an event id of its own",
                    differs,
                    extra=record.fields,
                )
            if pending:
                await self._publish(commit)
            elif self._gathering is not None:  # whoever paid it may not have known of the gatherer
                await self._owed(commit, self._gathering.committed)
            outcome = Outcome(verdict=Verdict.ALREADY_COMMITTED, children=len(commit.events))
            if await self.place.fetch(attempt, commit, record):
                outcome = replace(outcome, verdict=Verdict.COMMITTED)
                await record.store(self._around.dataplane.documents, outcome)
            return outcome
        if (double := await self._doubles.outcome(attempt, round)) is not None:
            return double
        if (refused := self._refused(attempt)) is not None and not await self.place.holds(attempt):
            raise refused
        room = self._around.health.room
        if not room.is_set():
            await wait_for_any(room, self._stopping)
        if not room.is_set():
            return Outcome(verdict=Verdict.RELEASED, reason="shutting down, no space left", rule=SHUTDOWN.name)
        if self._gathering is not None:
            await self._gathering.begins(attempt.job)
        return None

    def _refused(self, attempt: Attempt) -> PermanentError | None:
        """Why an attempt is not to begin: what it was given out for has been changed in the configuration since.

        One that has begun counts all the same: so its commit is looked for before, and its job at an engine.
        """
        name, type = self.module.name, attempt.job.event.type
        if type not in self.module.subscribes:
            return EventRefused(f"refused event: module {name} takes no events of type {type!r}")
        if attempt.number > (most := self.module.retry.retries + 1):
            return TooManyAttempts(f"attempt {attempt.number} is one too many: modules.{name}.retries is {most - 1}")
        return None

    async def _records_of(self, job_id: str) -> tuple[tuple[Commit, bool] | None, Round | None]:
        """What is known of a job: its commit and whether that owes something, and which message of it has failed."""
        dataplane = self._around.dataplane
        return await side_by_side(dataplane.committed(job_id), dataplane.round(job_id))

    # Commit

    async def _pay(self, record: AttemptLog, committed: Committed) -> Outcome:
        """S10 and S11: publish what the commit owes, and mark it published; keep the attempt's log."""
        record.committed = True
        record.progress.reaches(Stage.PUBLISH)
        verdict = Verdict.COMMITTED if committed.ours else Verdict.ALREADY_COMMITTED
        outcome = Outcome(verdict=verdict, children=len(committed.commit.events))
        owes = committed.commit.owes or bool(self.module.leads_to)
        owed = [self._publish(committed.commit)] if owes else []
        await together([*owed, record.store(self._around.dataplane.documents, outcome)])
        crash.reached("S11")
        return outcome

    async def _publish(self, commit: Commit) -> None:
        """Pay what a commit owes. Its job is done: whatever fails here is tried later, and is no failed attempt.

        But for what the broker will never take: MessageRefused. Its event is kept aside, for people to see and redrive.
        """
        await self._owed(commit, self._around.dataplane.publish_commit)

    async def _owed(self, commit: Commit, pay: Callable[[Commit], Awaitable[None]]) -> None:
        try:
            await pay(commit)
        except TransientError:
            raise
        except MessageRefused as error:
            raise MessageRefused(f"it has committed, and what it emitted cannot be published: {error}") from error
        except Exception as error:
            log.exception("a commit could not be published", extra={"job": commit.job_id})
            raise TransientError(f"commit {commit.job_id} could not be published: {error}") from error

    # Conclude

    async def _conclude(self, attempt: Attempt, hold: Hold, record: AttemptLog, outcome: Outcome) -> None:
        """Keep the log, settle, tell. A commit's log is stored already."""
        if outcome.reason:
            outcome = replace(outcome, reason=self._around.hide(outcome.reason))
        nothing_new = outcome.verdict is Verdict.ALREADY_COMMITTED or record.is_of_no_run(outcome) or record.goes_on
        if not record.committed and not nothing_new:
            record.committer.append(f"{outcome.verdict.value}: {outcome.reason}")
            await record.store(self._around.dataplane.documents, outcome)
        settled = await hold.settle(self._verb(attempt, record, outcome))
        verdict = outcome.verdict if settled else Verdict.LOST
        if hold.lost and not settled and outcome.verdict not in COMMITS:
            self.lost.add(attempt.job)
        if settled and verdict is Verdict.DEAD_LETTERED:
            await self._tell_gatherers(attempt.job)
        outcome = replace(outcome, verdict=verdict, seconds=record.elapsed(), delay=None, steps=record.steps())
        self._count(verdict)
        log.log(
            LEVELS.get(verdict, logging.INFO),
            "job %s%s",
            verdict.value,
            f": {outcome.reason}" if outcome.reason else "",
            extra={**record.fields, "seconds": round(outcome.seconds, 3)},
        )
        self._around.observer.job_finished(attempt, outcome)

    def _count(self, verdict: Verdict) -> None:
        self.counts[verdict] += 1
        self._around.counted()
        if verdict is Verdict.DEAD_LETTERED:
            crash.reached(crash.DIED)

    async def _tell_gatherers(self, job: Job) -> None:
        """Of a dead letter. What cannot be done now is found by the outbox."""
        if self._gathering is None:
            return
        try:
            await self._gathering.dead(job)
        except ProviderError as error:
            log.warning("gatherers could not be told of a dead letter yet: %s", error, extra={"job": job.id})

    def _verb(self, attempt: Attempt, record: AttemptLog, outcome: Outcome) -> Verb:
        """What settles the delivery of an attempt that ended so."""
        if outcome.verdict is Verdict.DEAD_LETTERED:
            return lambda delivery: delivery.dead_letter(outcome.reason, log_tail=record.tail())
        later = outcome.delay
        if outcome.verdict is Verdict.RETRIED and later is not None:
            return lambda delivery: delivery.retry(delay=later)
        if later is not None:
            return lambda delivery: delivery.postpone(delay=later)
        if outcome.verdict is Verdict.RELEASED:
            return lambda delivery: delivery.release()
        return lambda delivery: delivery.ack()
