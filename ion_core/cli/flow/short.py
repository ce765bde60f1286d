"""A flow in one line: how it stands, what it began with, and when."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ion_core.cli.flow.flow import COMMITTED, DEAD_LETTERED, PENDING, Flow, FlowReader
from ion_core.cli.output import plain, say
from ion_core.errors import DocumentsDamaged, QueueNotDeclared, TransientError
from ion_core.events import EVENT_META, FAILURE, pairs_to_json

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.contracts.messaging import MessageBroker
    from ion_core.contracts.storage import Document, DocumentStore

DEAD, FAILED, RUNNING, DONE = "dead", "failed", "running", "done"
AT_ONCE = 16
"""Flows that are read at the same time."""
IN_A_ROW = 100
"""Documents that are too old, after which no younger one is expected: their order is nearly that of their times."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which flows: all that meet every condition given."""

    failed: bool = False
    """A job of it was given up, or failed and is to be tried again."""
    module: str | None = None
    """This one had a job in it, or is to have one."""
    type: str | None = None
    """It has an event of this type."""
    since: datetime | None = None
    """A job of it ended since then, or none has begun."""

    def takes(self, flow: FlowInShort) -> bool:
        return (
            (not self.failed or flow.outcome in (DEAD, FAILED))
            and self.module in (None, *flow.modules)
            and self.type in (None, *flow.types)
            and (self.since is None or flow.is_since(self.since))
        )


@dataclass(kw_only=True)
class FlowInShort:
    """``jobs`` counts them by state; times are ISO 8601, '' where no job has begun.

    ``waits`` names the modules of jobs that have not begun: whether their queues have anything is for ``settle`` to
    say, which takes those out that wait for nothing, such as a module that came later than the event.
    """

    correlation_id: str
    event_id: str
    type: str
    data: Sequence[tuple[str, str]] = ()
    files: Sequence[str] = ()
    events: int = 0
    jobs: Mapping[str, int] = field(default_factory=dict)
    modules: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    failing: Sequence[str] = ()
    waits: frozenset[str] = frozenset()
    begun: int = 0
    started_at: str = ""
    finished_at: str = ""

    @classmethod
    def of(cls, flow: Flow) -> FlowInShort:
        events, jobs = list(flow.events()), list(flow.jobs())
        attempts = [attempt for job in jobs for attempt in job.attempts]
        first = flow.roots[0]
        pending = [job for job in jobs if job.state == PENDING]
        bad = [job.module for job in jobs if job.state not in (COMMITTED, PENDING)]
        return cls(
            correlation_id=flow.correlation_id,
            event_id=first.id,
            type=first.type,
            data=first.pairs,
            files=first.files,
            events=len(events),
            jobs=Counter(job.state for job in jobs),
            modules=frozenset(job.module for job in jobs),
            types=frozenset(event.type for event in events),
            failing=list(dict.fromkeys(bad)),
            waits=frozenset(job.module for job in pending if not job.attempts),
            begun=sum(1 for job in pending if job.attempts),
            started_at=min((it.started_at for it in attempts if it.started_at), default=""),
            finished_at=max((it.finished_at for it in attempts if it.finished_at), default=""),
        )

    @property
    def outcome(self) -> str:
        """The worst of its jobs: ``dead`` was given up, ``failed`` failed and is to be tried again; then ``running``.

        ``done`` is what has nothing of these.
        """
        if self.jobs.get(DEAD_LETTERED):
            return DEAD
        if self.failing:
            return FAILED
        return RUNNING if self.begun or self.waits else DONE

    def is_since(self, then: datetime) -> bool:
        ended = parsed(self.finished_at)
        return ended is None or ended >= then

    def to_json(self) -> dict[str, Any]:
        return {
            "correlationId": self.correlation_id,
            "eventId": self.event_id,
            "type": self.type,
            "outcome": self.outcome,
            "events": self.events,
            "jobs": dict(self.jobs),
            "failing": list(self.failing),
            "data": pairs_to_json(self.data),
            "files": list(self.files),
            "startedAt": self.started_at or None,
            "finishedAt": self.finished_at or None,
        }


async def flows_in_short(app: App, wanted: Wanted, *, limit: int, damaged: set[str]) -> list[FlowInShort]:
    """At most ``limit`` of those, the newest first: by the newest event, failed ones by what failed first in them.

    What is said of documents that are damaged is added to ``damaged``; all others count.
    """
    documents = await app.documents()
    modules = app.config.modules

    async def read(correlation_id: str) -> FlowInShort | None:
        reader = FlowReader(correlation_id, modules.values())
        try:
            async for document in documents.find(correlation_id=correlation_id):
                reader.add(document)
        except DocumentsDamaged as error:
            damaged.update(error.problems)
        flow = reader.flow()
        return FlowInShort.of(flow) if flow.roots else None  # `gc` was quicker

    found: list[FlowInShort] = []
    ids = _candidates(documents, wanted, damaged)
    while len(found) < limit and (some := await _next(ids, min(AT_ONCE, limit - len(found)))):
        flows = await asyncio.gather(*(read(id) for id in some))
        found += [flow for flow in flows if flow is not None and wanted.takes(flow)]
    await _settle(app, found)
    return found


async def _candidates(documents: DocumentStore, wanted: Wanted, damaged: set[str]) -> AsyncIterator[str]:
    """Correlation ids of flows that may be wanted, each once; as few as can be told without reading the flows."""
    seen: set[str] = set()
    try:
        async for document in _told(documents, wanted):
            if document.correlation_id not in seen:
                seen.add(document.correlation_id)
                yield document.correlation_id
    except DocumentsDamaged as error:
        damaged.update(error.problems)


async def _told(documents: DocumentStore, wanted: Wanted) -> AsyncIterator[Document]:
    """Documents that tell of them, the newest first."""
    if wanted.failed:
        async for document in documents.find(FAILURE, newest_first=True):
            yield document
    elif wanted.type is not None:
        async for document in documents.find(EVENT_META, newest_first=True):
            if document.body.get("type") == wanted.type:
                yield document
    elif wanted.since is not None:
        old = 0
        async for document in documents.find(newest_first=True):
            time = _time(document)
            if time is None or time >= wanted.since:
                yield document
                old = 0 if time is not None else old
            elif (old := old + 1) == IN_A_ROW:
                return
    else:
        async for document in documents.find(EVENT_META, newest_first=True):
            yield document


def _time(document: Document) -> datetime | None:
    """When that was which it tells of; None for what says nothing of it."""
    return parsed(document.body.get("finishedAt") or document.body.get("committedAt"))


def parsed(time: Any) -> datetime | None:
    """A time of a document; None for what is none, such as one of another making."""
    try:
        return datetime.fromisoformat(time).astimezone(UTC) if isinstance(time, str) else None
    except ValueError:
        return None


async def _next(ids: AsyncIterator[str], most: int) -> list[str]:
    """The next ones, so many if there are."""
    some: list[str] = []
    while len(some) < most and (id := await anext(ids, None)) is not None:
        some.append(id)
    return some


async def _settle(app: App, flows: Sequence[FlowInShort]) -> None:
    """Take out of ``waits`` the modules whose queues hold nothing."""
    names = frozenset().union(*(flow.waits for flow in flows))
    if not names:
        return
    try:
        broker = await app.broker()
        empty = {name for name in sorted(names) if await _is_empty(broker, name)}
    except TransientError as error:
        say(f"The queues were not looked at, so what waits in none may be called running: {plain(str(error))}")
        return
    for flow in flows:
        flow.waits -= empty


async def _is_empty(broker: MessageBroker, name: str) -> bool:
    try:
        stats = await broker.stats(name)
    except QueueNotDeclared:
        return True
    return not stats.pending
