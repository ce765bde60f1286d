"""Looks at the documents that an event left and at the queues it may be in, and changes neither."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ion_core.contracts.messaging import DeadLetter, MessageBroker, QueueStats
from ion_core.contracts.storage import DocumentStore
from ion_core.errors import DocumentNotFound, InvalidEvent, ProviderError, QueueNotDeclared
from ion_core.events import COMMIT, ROUND, Event, parse_event
from ion_core.flows import (
    DEAD_LETTERED,
    RELEASED,
    RETRIED,
    AttemptSeen,
    EventSeen,
    JobSeen,
    parsed,
    read_flow,
)
from ion_core.gathering.waiting import Waits, waits_in
from ion_core.jobs import job_id
from ion_core.modules import Module
from ion_core.rounds import Round
from ion_core.rules import MESSAGE_REFUSED, RULES, Rule, rule_of_refusal
from ion_core.why.told import AttemptTold, ChildTold, EventTold, JobState, JobTold, LetterTold

UNKNOWN = "(unknown)"
"""The type of an event that left no document."""
LOOKED_AT = 10_000
"""Messages of one queue that are looked at, the oldest."""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """What a ``serve`` says of an attempt whose module runs."""

    module: str
    attempt: int
    since: str


@dataclass(frozen=True, kw_only=True)
class _Queue:
    """What a queue shows of the event: its place among what is ready, its dead letter."""

    stats: QueueStats
    ahead: int | None
    attempt: int
    letter: DeadLetter | None
    event: Event | None
    """As its message has it, where one is seen."""

    @property
    def shows_all(self) -> bool:
        """Whether an event that is not seen in it is not there."""
        return not self.stats.delayed and self.stats.unsettled == 0 and self.stats.ready <= LOOKED_AT


async def look(
    event_id: str,
    correlation_id: str | None,
    modules: Sequence[Module],
    *,
    documents: DocumentStore,
    broker: MessageBroker | None,
    running: Sequence[Runs] | None = None,
    unseen: str = "",
    damaged: set[str] | None = None,
) -> EventTold:
    """What is known of the event, from the documents of its flow and from queues.

    ``correlation_id`` is None for one of which no document is known: queues may have it all the same. ``broker`` is
    None where it cannot be had, and ``unseen`` says why. ``running`` is what a ``serve`` says that runs; None where
    there is none. What is said of documents of the flow that are damaged is added to ``damaged``; without it they raise
    DocumentsDamaged. Raises DocumentNotFound where nothing is stored of the event and no queue shows it, and otherwise
    as the store does.
    """
    event = None
    if correlation_id is not None:
        flow = await read_flow(documents, correlation_id, modules, damaged=damaged)
        event = next((it for it in flow.events() if it.id == event_id), None)
    stored = event is not None and bool(event.name)
    event = event or EventSeen(id=event_id, type=UNKNOWN, name="", parent="")
    jobs = dict(event.jobs)
    owing = {name: await _owes(documents, event_id, job) for name, job in jobs.items()}
    queues: dict[str, _Queue] = {}
    try:
        if broker is not None:
            queues = await _queues(broker, event, owing)
    except ProviderError as error:
        broker, unseen = None, str(error)
    shown = next((it.event for it in queues.values() if it.event is not None), None)
    if correlation_id is None and shown is None:
        raise DocumentNotFound(
            f"no event {event_id!r}: nothing is stored of it, and no queue shows it. `ion-core trace flow` shows the "
            "events of a flow, `ion-core dlq list` dead letters."
        )
    names = {module.name for module in modules}
    for name in sorted(queues.keys() - jobs.keys()):
        jobs[name] = JobSeen(module=name, taken=name in names)
    told = []
    for name, job in jobs.items():
        round = await _round(documents, event_id, job)
        runs = next((it for it in running or () if it.module == name), None)
        told.append(_job(job, owing.get(name, False), queues.get(name), round, runs, asked=broker is not None))
    return EventTold(
        id=event_id,
        type=event.type if shown is None or event.type != UNKNOWN else shown.type,
        correlation_id=correlation_id or (shown.context.correlation_id if shown is not None else ""),
        stored=stored,
        name=event.name or (shown.context.name if shown is not None else ""),
        parent=event.parent or (shown.context.parent_event_id if shown is not None else ""),
        files=event.files,
        data=tuple(event.pairs) or (shown.data if shown is not None and not stored else ()),
        jobs=told,
        waits=[] if correlation_id is None else await _waits(documents, event_id, correlation_id, modules),
        serving=running is not None,
        unseen=unseen,
    )


async def _waits(
    documents: DocumentStore, event_id: str, correlation_id: str, modules: Sequence[Module]
) -> list[Waits]:
    """Gatherers of which the event is the scope, and those that wait for a job of it."""
    found = await waits_in(documents, correlation_id, modules)
    return [it for it in found if it.scope == event_id or any(job.event_id == event_id for job in it.awaited)]


async def _owes(documents: DocumentStore, event_id: str, job: JobSeen) -> bool:
    """Whether the job's commit is still to be published."""
    if job.committed_by is None:
        return False
    for name in sorted(job.names):
        try:
            return (await documents.get(COMMIT, job_id(event_id, name))).pending
        except DocumentNotFound:
            continue
    return False


async def _round(documents: DocumentStore, event_id: str, job: JobSeen) -> Round | None:
    if job.committed_by is not None:
        return None
    try:
        return Round.from_document(await documents.get(ROUND, job_id(event_id, job.module)))
    except DocumentNotFound:
        return None


async def _queues(broker: MessageBroker, event: EventSeen, owing: Mapping[str, bool]) -> dict[str, _Queue]:
    """Those that may have it, by name: of jobs that are not over, and others in which it is seen."""
    found: dict[str, _Queue] = {}
    open_jobs = [name for name, job in event.jobs.items() if job.committed_by is None or owing[name]]
    for name in open_jobs:
        try:
            found[name] = await _queue(broker, name, event.id)
        except QueueNotDeclared:
            continue
    if event.jobs and not open_jobs:
        return found
    for queue in await broker.queues():
        if queue.name in event.jobs:
            continue
        try:
            stray = await _queue(broker, queue.name, event.id)
        except QueueNotDeclared:  # dropped meanwhile
            continue
        if stray.ahead is not None or stray.letter is not None:
            found[queue.name] = stray
    return found


async def _queue(broker: MessageBroker, name: str, event_id: str) -> _Queue:
    stats = await broker.stats(name)
    ahead, attempt, event = None, 1, None
    if stats.ready:
        async with broker.each_message(name) as messages:
            n = 0
            async for message in messages:
                if (event := _of(message.body, event_id)) is not None:
                    ahead, attempt = n, message.attempt
                if event is not None or (n := n + 1) == LOOKED_AT:
                    break
    letter = None
    if stats.dead:
        async with broker.each_dead_letter(name) as letters:
            async for it in letters:
                if (found := _of(it.body, event_id)) is not None:
                    letter, event = it, found
    return _Queue(stats=stats, ahead=ahead, attempt=attempt, letter=letter, event=event)


def _of(body: bytes, event_id: str) -> Event | None:
    """The event, if a message is one of it. Parsing takes its time, and most messages can be told without."""
    if re.fullmatch(r"[\w.:-]+", event_id, re.ASCII) and event_id.encode() not in body:
        return None
    try:
        event = parse_event(body)
    except InvalidEvent:
        return None
    return event if event.context.event_id == event_id else None


def _job(
    job: JobSeen, owes: bool, queue: _Queue | None, round: Round | None, runs: Runs | None, *, asked: bool
) -> JobTold:
    """How the module stands to the event, by all that there is. ``asked``: the broker has said what queues show."""
    attempts = [_attempt(it) for it in sorted(job.attempts, key=lambda it: (it.finished_at, it.number))]
    last = None if job.last is None else _attempt(job.last)
    letter = None if queue is None or queue.letter is None else _letter(queue.letter)

    def told(
        state: JobState, *, rule: Rule | None = None, reason: str = "", since: str = "", until: str = "",
        attempt: int | None = None,
    ) -> JobTold:  # fmt: skip
        return JobTold(
            module=job.module,
            taken=job.taken,
            state=state,
            rule=rule,
            reason=reason,
            since=since,
            until=until,
            attempt=attempt,
            ahead=queue.ahead if queue is not None and state is JobState.WAITING else None,
            attempts=attempts,
            letter=letter,
            emitted=[ChildTold(id=it.id, type=it.type) for it in job.events],
        )

    if job.committed_by is not None:
        number, since = job.committed_by[0], last.finished_at if last is not None else ""
        if not owes:
            return told(JobState.COMMITTED, since=since, attempt=number)
        if letter is None:
            return told(JobState.OWING, since=since, attempt=number)
        # nothing else is a dead letter once its job has committed
        return told(JobState.OWING, since=since, attempt=number, rule=MESSAGE_REFUSED, reason=letter.reason)
    rule, reason = (last.rule, last.reason) if last is not None else (None, "")
    if letter is not None:
        return told(
            JobState.DEAD, rule=rule or rule_of_refusal(letter.reason), reason=letter.reason, since=letter.died_at
        )
    if runs is not None:
        return told(JobState.RUNNING, since=runs.since, attempt=runs.attempt, rule=rule, reason=reason)
    if queue is not None and queue.ahead is not None:
        since = last.finished_at if last is not None else ""
        return told(JobState.WAITING, since=since, attempt=queue.attempt, rule=rule, reason=reason)
    if last is not None and last.outcome in (RETRIED, RELEASED):
        until = last.next_at or (_text(round.next_at) if round is not None else "")
        again = last.number + (last.outcome == RETRIED)
        state = JobState.RETRIED if last.outcome == RETRIED else JobState.POSTPONED
        if queue is None or not _is_over(until) or queue.stats.delayed:
            return told(state, rule=rule, reason=reason, since=last.finished_at, until=until, attempt=again)
    since = last.finished_at if last is not None else ""
    return told(_unseen(queue, last, asked=asked), rule=rule, reason=reason, since=since)


def _unseen(queue: _Queue | None, last: AttemptTold | None, *, asked: bool) -> JobState:
    """Where an event may be that has not committed, and is neither ready nor a dead letter."""
    if not asked:
        return JobState.DEAD if last is not None and last.outcome == DEAD_LETTERED else JobState.UNKNOWN
    if queue is not None and not queue.shows_all:
        if queue.stats.unsettled != 0:
            return JobState.HELD
        return JobState.DELAYED if queue.stats.delayed else JobState.UNKNOWN
    return JobState.REMOVED if last is not None and last.outcome == DEAD_LETTERED else JobState.ABSENT


def _is_over(time: str) -> bool:
    due = parsed(time)
    return due is not None and due < datetime.now(UTC)


def _attempt(seen: AttemptSeen) -> AttemptTold:
    return AttemptTold(
        number=seen.number,
        outcome=seen.outcome,
        reason=seen.reason,
        rule=RULES.get(seen.rule),
        started_at=seen.started_at,
        finished_at=seen.finished_at,
        next_at=seen.next_at,
        seconds=seen.seconds.get("all"),
    )


def _letter(letter: DeadLetter) -> LetterTold:
    return LetterTold(id=letter.id, reason=letter.reason, attempts=letter.attempts, died_at=_text(letter.died_at))


def _text(time: datetime | None) -> str:
    return "" if time is None else time.astimezone(UTC).isoformat(timespec="milliseconds")
