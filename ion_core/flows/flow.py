"""A flow: the events of one correlation id, the jobs they started and how those went, read from documents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

from ion_core.contracts.storage import Document, DocumentStore
from ion_core.errors import passing_over_damage
from ion_core.events import COMMIT, EVENT_META, INSIGHT, MODULE_LOGS, Context, parse_context
from ion_core.jobs import Verdict
from ion_core.modules import Module, present_names

COMMITTED = Verdict.COMMITTED.value
ALREADY_COMMITTED = Verdict.ALREADY_COMMITTED.value
DEAD_LETTERED = Verdict.DEAD_LETTERED.value
RETRIED = Verdict.RETRIED.value
RELEASED = Verdict.RELEASED.value
DUPLICATE = Verdict.DUPLICATE.value
PENDING = "pending"
GONE = "gone"

SHORT = 300
"""Documents of a flow of which a tree is made within a few milliseconds."""
T = TypeVar("T")


@dataclass(kw_only=True)
class AttemptSeen:
    """What the log of one attempt says. Times are ISO 8601; ``seconds`` by step, and ``all``.

    Numbers begin again after a redrive; ``token`` is unlike that of any other attempt.
    """

    number: int
    token: str = ""
    outcome: str
    reason: str = ""
    started_at: str = ""
    finished_at: str = ""
    rule: str = ""
    """The name of the rule that decided what became of it (``ion_core.rules``), '' of a log that does not say."""
    next_at: str = ""
    """When it is tried again, at the earliest."""
    seconds: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def in_log(cls, body: Mapping[str, Any]) -> AttemptSeen:
        """The one whose log has this body. Shapes are not trusted."""
        number, seconds = body.get("attempt"), body.get("seconds")
        outcome = COMMITTED if body.get("succeeded") else "failed"
        return cls(
            number=number if isinstance(number, int) else 1,
            token=_text(body.get("token"), ""),
            outcome=_text(body.get("outcome"), outcome),
            reason=_text(body.get("reason"), ""),
            started_at=_text(body.get("startedAt"), ""),
            finished_at=_text(body.get("finishedAt"), ""),
            rule=_text(body.get("rule"), ""),
            next_at=_text(body.get("nextAttemptAt"), ""),
            seconds={
                str(step): value
                for step, value in (seconds.items() if isinstance(seconds, Mapping) else ())
                if isinstance(value, int | float)
            },
        )


@dataclass(kw_only=True, eq=False)
class JobSeen:
    """One module's work for one event, and the events it led to.

    ``committed_by`` is number and token of the attempt that committed.
    """

    module: str
    then: list[str] = field(default_factory=list)
    """What it was called when it did some of this, where that was another name."""
    taken: bool = True
    """Whether the configuration has a module of that name."""
    unseen: bool = False
    """It is not in its module's queue, though it should be, if that was ever given it."""
    attempts: list[AttemptSeen] = field(default_factory=list)
    committed_by: tuple[int, str] | None = None
    pairs: list[tuple[str, str]] = field(default_factory=list)
    events: list[EventSeen] = field(default_factory=list)

    @property
    def names(self) -> set[str]:
        return {self.module, *self.then}

    @property
    def last(self) -> AttemptSeen | None:
        """The attempt that committed, None if its log was lost; without a commit the one that ended last."""
        if self.committed_by is not None:
            return next((it for it in self.attempts if (it.number, it.token) == self.committed_by), None)
        counted = [it for it in self.attempts if it.outcome != DUPLICATE]  # the other message tells how it went
        return max(counted, key=lambda it: (it.finished_at, it.number), default=None)

    @property
    def state(self) -> str:
        """``committed``, ``dead-lettered``, ``retried`` (another attempt is to come), ``pending``, or ``gone``.

        The last is what would be one of the two before, if the configuration still had the module.
        """
        last = self.last
        if self.committed_by is not None or (last is not None and last.outcome in (COMMITTED, ALREADY_COMMITTED)):
            return COMMITTED
        state = last.outcome if last is not None and last.outcome in (DEAD_LETTERED, RETRIED) else PENDING
        return state if self.taken or state == DEAD_LETTERED else GONE


@dataclass(kw_only=True, eq=False)
class EventSeen:
    """An event: who it came from, what it brings, and the jobs it started. ``others`` are events of no known job."""

    id: str
    type: str
    name: str
    parent: str
    files: list[str] = field(default_factory=list)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    jobs: dict[str, JobSeen] = field(default_factory=dict)
    others: list[EventSeen] = field(default_factory=list)
    gathered: list[str] = field(default_factory=list)
    """The ids of what a gatherer is given with it, of an event that starts one."""

    @classmethod
    def of(cls, id: str, body: Mapping[str, Any], context: Context) -> EventSeen:
        """The one whose document, or place in a commit, has this body. Shapes are not trusted."""
        return cls(
            id=id,
            type=_text(body.get("type"), "(unknown)"),
            name=context.name,
            parent=context.parent_event_id,
            files=[str(name) for name in _list(body.get("files"))],
            pairs=_pairs(body.get("data")),
            gathered=_gathered(body.get("gathered")),
        )


@dataclass(kw_only=True)
class Flow:
    """``roots`` are the events that nothing in here caused; each event is in exactly one place below them."""

    correlation_id: str
    roots: list[EventSeen]
    documents: int = 0
    """So many it was read from."""

    def events(self) -> Iterator[EventSeen]:
        """Each before what it led to, which comes before its next sibling."""
        waiting = self.roots[::-1]
        while waiting:
            event = waiting.pop()
            yield event
            waiting += children(event)[::-1]

    def jobs(self) -> Iterator[JobSeen]:
        for event in self.events():
            yield from event.jobs.values()

    def span(self) -> tuple[datetime, float] | None:
        """When its first attempt began, and the seconds until its last one ended; None where that is not known."""
        attempts = [attempt for job in self.jobs() for attempt in job.attempts]
        try:
            begun = min(datetime.fromisoformat(it.started_at) for it in attempts)
            ended = max(datetime.fromisoformat(it.finished_at) for it in attempts)
            return begun, (ended - begun).total_seconds()
        except (ValueError, TypeError):  # no attempt, or times of another making
            return None

    def tells(self) -> Callable[[Document], bool]:
        """Whether a document is that of an event or a job in here."""
        events = {event.id for event in self.events()}
        jobs = {(event.id, it) for event in self.events() for job in event.jobs.values() for it in job.names}

        def is_told(document: Document) -> bool:
            context = parse_context(document.body, what="document", problems=[])
            return document.id in events if document.kind == EVENT_META else (context.event_id, context.name) in jobs

        return is_told

    def failed(self) -> Flow:
        """What of it leads to jobs that were given up, or failed, and these themselves. ``roots`` is empty if none did.

        It shares nothing with this one.
        """
        kept: dict[EventSeen, EventSeen] = {}
        for event in reversed(list(self.events())):  # causes after what they led to
            jobs = {}
            for name, job in event.jobs.items():
                below = [kept[it] for it in job.events if it in kept]
                if below or job.state in (DEAD_LETTERED, RETRIED, GONE):
                    jobs[name] = replace(job, events=below)
            others = [kept[it] for it in event.others if it in kept]
            if jobs or others:
                kept[event] = replace(event, jobs=jobs, others=others)
        return Flow(correlation_id=self.correlation_id, roots=[kept[it] for it in self.roots if it in kept])


def children(event: EventSeen) -> list[EventSeen]:
    """Events that this one led to, through whichever job."""
    return [child for job in event.jobs.values() for child in job.events] + event.others


class FlowReader:
    """Takes the documents of one correlation id, in any order, keeping what a tree needs of them."""

    def __init__(self, correlation_id: str, modules: Iterable[Module] | None = None) -> None:
        """``modules`` tell who takes which type, so that jobs that have not begun are known, and those of nobody.

        What was done under a former name of one is its own.
        """
        self._correlation_id = correlation_id
        self._modules = list(modules or ())
        self._names = None if modules is None else {module.name for module in self._modules}
        self._now = present_names(self._modules)
        self._events: dict[str, EventSeen] = {}
        self._jobs: dict[tuple[str, str], JobSeen] = {}
        self.count = 0

    def add(self, document: Document) -> None:
        """Documents of unknown kinds count and tell nothing. Shapes are not trusted."""
        self.count += 1
        body = document.body
        context = parse_context(body, what="document", problems=[])
        if document.kind == EVENT_META:
            self._events[document.id] = EventSeen.of(document.id, body, context)
        elif document.kind == INSIGHT:
            self._job(context).pairs = _pairs(body.get("data"))
        elif document.kind == MODULE_LOGS:
            self._add_attempt(body, context)
        elif document.kind == COMMIT:
            self._add_commit(body, context)

    def flow(self) -> Flow:
        """What all documents together say. Call it once, at the end. Jobs are in the order of the modules given."""
        for (event_id, module), job in self._jobs.items():
            cause = self._events.get(event_id)
            if cause is None:  # an event that left no document, such as one that another system sent
                cause = self._events[event_id] = EventSeen(id=event_id, type="(unknown)", name="", parent="")
            cause.jobs[module] = job
            job.taken = self._names is None or module in self._names
        for event in self._events.values():
            takers = [it.name for it in self._modules if event.type in it.subscribes or it.name in event.jobs]
            jobs = {name: event.jobs.get(name, JobSeen(module=name)) for name in takers}
            event.jobs = jobs | event.jobs
        return Flow(correlation_id=self._correlation_id, roots=self._place(), documents=self.count)

    def _add_attempt(self, body: Mapping[str, Any], context: Context) -> None:
        self._job(context).attempts.append(AttemptSeen.in_log(body))

    def _add_commit(self, body: Mapping[str, Any], context: Context) -> None:
        number = body.get("attempt")
        job = self._job(context)
        job.committed_by = (number if isinstance(number, int) else 1, _text(body.get("token"), ""))
        job.pairs = job.pairs or _pairs(body.get("insights"))
        for item in _list(body.get("events")):  # those that are not published yet have no document of their own
            if isinstance(item, Mapping) and isinstance(id := item.get("id"), str) and id not in self._events:
                child = Context(
                    name=context.name,
                    event_id=id,
                    correlation_id=context.correlation_id,
                    parent_event_id=context.event_id,
                )
                self._events[id] = EventSeen.of(id, item, child)

    def _job(self, context: Context) -> JobSeen:
        name = self._now.get(context.name, context.name)
        job = self._jobs.setdefault((context.event_id, name), JobSeen(module=name))
        if context.name != name and context.name not in job.then:
            job.then.append(context.name)
        return job

    def _place(self) -> list[EventSeen]:
        """Put every event below what caused it; circles, which only foreign documents have, are opened somewhere."""
        roots = []
        for event in self._events.values():
            cause = self._events.get(event.parent)
            if cause is None or cause is event:
                roots.append(event)
            else:
                self._siblings(cause, event).append(event)
        reached: set[str] = set()
        self._mark(roots, reached)
        for event in self._events.values():
            if event.id not in reached:
                self._siblings(self._events[event.parent], event).remove(event)
                roots.append(event)
                self._mark([event], reached)
        return roots

    def _siblings(self, cause: EventSeen, event: EventSeen) -> list[EventSeen]:
        """Where ``event`` belongs below its cause: to the job that made it, if there is one."""
        job = cause.jobs.get(self._now.get(event.name, event.name))
        return cause.others if job is None else job.events

    @staticmethod
    def _mark(events: Iterable[EventSeen], reached: set[str]) -> None:
        waiting = list(events)
        while waiting:
            event = waiting.pop()
            reached.add(event.id)
            waiting += children(event)


async def read_flow(
    documents: DocumentStore, correlation_id: str, modules: Iterable[Module], *, damaged: set[str] | None = None
) -> Flow:
    """What the store knows of a flow; without ``roots`` where that is nothing.

    What is said of documents that are damaged is added to ``damaged``, and all others count; without it they raise
    DocumentsDamaged. Raises otherwise as the store does.
    """
    reader = FlowReader(correlation_id, modules)
    with nullcontext() if damaged is None else passing_over_damage(damaged.update):
        async for document in documents.find(correlation_id=correlation_id):
            reader.add(document)
    return await aside(reader.count, reader.flow)


async def aside(documents: int, work: Callable[[], T]) -> T:
    """``work`` on a flow of so many documents: of a long one in a thread, as the event loop has events to serve."""
    return work() if documents <= SHORT else await asyncio.to_thread(work)


def _text(value: Any, instead: str) -> str:
    return value if isinstance(value, str) else instead


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _gathered(value: Any) -> list[str]:
    made = _list(value.get("made")) if isinstance(value, Mapping) else []
    return [str(id) for it in made if isinstance(it, Mapping) for id in _list(it.get("events"))]


def _pairs(value: Any) -> list[tuple[str, str]]:
    return [(str(it.get("key", "")), str(it.get("value", ""))) for it in _list(value) if isinstance(it, Mapping)]
