"""Retention: removes flows that are old and over, and files of attempts that never committed.

What is still owed is never removed: a message anywhere that could bring a job back must find the commit it had. So a
flow is only removed when

- every document of it was stored before the cutoff;
- none of its commits still owes events;
- no message of it is ready in a queue of our modules or among their dead letters;
- and each of its jobs has a commit, or its module's queue holds nothing that cannot be looked at (delivered to
  somebody, or waiting for a retry). A commit that is published and older than the cutoff needs no such check: what
  could still be delivered was acknowledged long ago, or is ready and seen.

Files go first, then documents, commits last: cut short, it is simply run again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from ion_core.commits import Commit
from ion_core.contracts.messaging import MessageBroker
from ion_core.contracts.storage import Document, DocumentStore
from ion_core.dataplane import DataPlane, for_each, key_segment
from ion_core.errors import InvalidEvent, QueueNotDeclared
from ion_core.events import COMMIT, EVENT_META, Context, Event, parse_event
from ion_core.jobs import Job, Module

_SPARE = 1_000
"""How many messages more than were counted are looked at: others arrive meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What was removed, or would be. ``kept`` counts the flows that are old enough, and not over."""

    flows: int = 0
    documents: int = 0
    files: int = 0
    uncommitted_files: int = 0
    kept: int = 0

    def __add__(self, other: Removed) -> Removed:
        return Removed(**{name: value + getattr(other, name) for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Queue:
    """What waits for one module: flows seen in its queue and dead letters, and whether there is what nobody sees."""

    flows: frozenset[str] = frozenset()
    hides: bool = False


async def collect(
    dataplane: DataPlane, modules: Iterable[Module], *, before: datetime, dry_run: bool = False
) -> Removed:
    """Remove what was over ``before`` then. Safe beside running dispatchers, and to repeat. Raises as the stores do.

    ``modules`` are all that work on these stores: what waits for one that is not named is not seen.
    """
    queues = {module.name: await _queue(dataplane.broker, module.name) for module in modules}
    takers = {module.name: frozenset(module.subscribes) for module in modules}
    removed = Removed()
    for correlation_id, count in (await _old_flows(dataplane.documents, before)).items():
        documents = [it async for it in dataplane.documents.find(correlation_id=correlation_id)]
        times = [time for document in documents if (time := _time_of(document)) is not None]
        if len(documents) != count or any(time > before for time in times):
            continue  # something of it is younger
        flow = _Flow(correlation_id, documents, queues, takers)
        removed += await _remove(dataplane, flow, dry_run=dry_run)
    return removed


async def _queue(broker: MessageBroker, name: str) -> Queue:
    try:
        stats = await broker.stats(name)
        messages = await broker.peek(name, limit=stats.ready + _SPARE)
        bodies = [it.body for it in messages] + [it.body for it in await broker.dead_letters(name)]
    except QueueNotDeclared:
        return Queue()
    hides = stats.delayed + stats.unsettled > 0 or len(messages) < stats.ready
    return Queue(flows=frozenset(await asyncio.to_thread(_flows_of, bodies)), hides=hides)


def _flows_of(bodies: Sequence[bytes]) -> set[str]:
    found = set()
    for body in bodies:
        try:
            found.add(parse_event(body).context.correlation_id)
        except InvalidEvent:
            continue  # what is no event belongs to no flow
    return found


async def _old_flows(documents: DocumentStore, before: datetime) -> Mapping[str, int]:
    """Flows with documents stored before then, and how many of them. Only what is old is read, and one more.

    Documents without a time are as old as the commit that tells of them, or at least as the next one that has a time.
    """
    old: Counter[str] = Counter()
    undated: Counter[str] = Counter()
    told: set[tuple[str, str]] = set()
    async for document in documents.find():
        time = _time_of(document)
        if (document.kind, document.id) in told:
            told.discard((document.kind, document.id))
            old[document.correlation_id] += 1
        elif time is None:
            undated[document.correlation_id] += 1
        elif time > before:
            break
        else:
            undated[document.correlation_id] += 1
            old.update(undated)
            undated.clear()
            if document.kind == COMMIT:
                told |= {(it.kind, it.id) for it in Commit.from_document(document).documents()}
    return old


def _time_of(document: Document) -> datetime | None:
    """When it was stored, as far as it says so itself: commits and logs do."""
    text = document.body.get("committedAt") or document.body.get("finishedAt")
    try:
        time = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


@dataclass
class _Flow:
    """The documents of one flow, all of them old, and what can be told from them."""

    correlation_id: str
    documents: Sequence[Document]
    queues: Mapping[str, Queue]
    takers: Mapping[str, frozenset[str]]
    commits: dict[str, Document] = field(init=False)

    def __post_init__(self) -> None:
        self.commits = {document.id: document for document in self.documents if document.kind == COMMIT}

    def is_over(self) -> bool:
        if any(document.pending for document in self.documents):
            return False
        if any(self.correlation_id in queue.flows for queue in self.queues.values()):
            return False
        return not any(self._may_run(event, module) for event in self._events() for module in self.takers)

    def _events(self) -> list[Document]:
        return [document for document in self.documents if document.kind == EVENT_META]

    def _may_run(self, event: Document, module: str) -> bool:
        """Whether an attempt at that job may be under way, or about to be."""
        if event.body.get("type") not in self.takers[module]:
            return False
        return self._commit_of(event.id, module) is None and self.queues[module].hides

    def _commit_of(self, event_id: str, module: str) -> Document | None:
        context = Context(name=module, event_id=event_id, correlation_id=self.correlation_id)
        return self.commits.get(Job(event=Event(context=context, type="-"), module=module).id)

    def prefixes(self) -> list[str]:
        """Where the files of its events lie: of those known here only, should somebody just add another event."""
        ids = {document.id for document in self._events()}
        ids |= {document.body["context"]["eventId"] for document in self.commits.values()}
        return sorted(f"{key_segment(self.correlation_id)}/{key_segment(id)}" for id in ids)

    def counted(self) -> set[str]:
        """Keys of files that some document names."""
        keys = {file["key"] for commit in self.commits.values() for file in commit.body["outputs"]}
        return keys | {blob["key"] for event in self._events() for blob in event.body.get("blobs", ())}

    def is_left_over(self, key: str) -> bool:
        """Whether a file that no document names is of an attempt that is over, and not of one that may be under way."""
        _, segment, module, *_ = key.split("/")
        if module not in self.takers:
            return False  # of an event from outside, or of a module that we know nothing of
        events = [event for event in self._events() if key_segment(event.id) == segment]
        return bool(events) and not any(self._may_run(event, module) for event in events)


async def _remove(dataplane: DataPlane, flow: _Flow, *, dry_run: bool) -> Removed:
    keys = [key for prefix in flow.prefixes() async for key in dataplane.blobs.list(prefix)]
    counted = flow.counted()
    left_over = [key for key in keys if key not in counted and flow.is_left_over(key)]
    removed = Removed(uncommitted_files=len(left_over), kept=1)
    gone, first, last = left_over, list[Document](), list[Document]()
    if flow.is_over():
        first = [document for document in flow.documents if document.kind != COMMIT]
        last = list(flow.commits.values())
        gone = keys
        files = len(keys) - len(left_over)
        removed = replace(removed, kept=0, flows=1, documents=len(flow.documents), files=files)
    if not dry_run:
        await for_each(dataplane.blobs.delete, gone)
        for documents in (first, last):
            await for_each(lambda document: dataplane.documents.delete(document.kind, document.id), documents)
    return removed
