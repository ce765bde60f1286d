"""Retention: removes flows that are old and over, and files of attempts that never committed.

What is still owed is never removed: a message anywhere that could bring a job back must find the commit it had. So a
flow is only removed when

- every document of it was stored before the cutoff;
- none of its commits still owes events;
- no message of it is ready in a queue or among its dead letters: of our modules, of others that have worked here, and
  of queues that the broker lists;
- and each of its jobs has a commit, or its module's queue holds nothing that cannot be looked at (delivered to
  somebody, or waiting for a retry). A commit that is published and older than the cutoff needs no such check: what
  could still be delivered was acknowledged long ago, or is ready and seen.

Modules that the configuration lacks are known by the commits and logs they left, and by the queues that the broker
lists. What types those took that have worked here is not known, so any job of theirs may be under way.

Files go first, then documents, commits last: cut short, it is simply run again. What cannot be removed, or is damaged,
is said and passed over, with the rest of its flow, which would otherwise never be found again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from ion_core.commits import Commit
from ion_core.contracts.messaging import MessageBroker
from ion_core.contracts.storage import Document, DocumentStore
from ion_core.dataplane import DataPlane
from ion_core.errors import InvalidEvent, QueueNotDeclared, TransientError, passing_over_damage
from ion_core.events import COMMIT, EVENT_META, MODULE_LOGS, Context, Event, StoredFile, parse_context, parse_event
from ion_core.jobs import Job
from ion_core.modules import MODULE_NAME, Module
from ion_core.stores import key_segment, try_each

log = logging.getLogger(__name__)

_SPARE = 1_000
"""How many messages more than were counted are looked at: others arrive meanwhile."""
_DOUBTFUL = 16
"""After how many failures in a row the stores are asked whether they are there at all."""
_PART = 64
"""How many are tried before that is asked."""
_SAID = 20
"""How many of those that cannot be removed are named."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What was removed, or would be.

    ``kept`` counts the flows that are old enough, and not over; ``failed`` the files and documents that could not be
    removed, or are damaged, whose flows stay.
    """

    flows: int = 0
    documents: int = 0
    files: int = 0
    uncommitted_files: int = 0
    kept: int = 0
    failed: int = 0

    def __add__(self, other: Removed) -> Removed:
        return Removed(**{name: value + getattr(other, name) for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Queue:
    """What waits for one module: flows seen in its queue and dead letters, and whether there is what nobody sees.

    ``exists`` is False of a queue that the broker does not know. What others may hold, where a broker cannot tell, is
    what nobody sees.
    """

    exists: bool = False
    flows: frozenset[str] = frozenset()
    hides: bool = False


async def collect(
    dataplane: DataPlane, modules: Iterable[Module], *, before: datetime, dry_run: bool = False
) -> Removed:
    """Remove what was over ``before`` then. Safe beside running dispatchers, and to repeat.

    A file or document that cannot be removed, or is damaged, keeps its flow and nothing else. Raises as the stores do
    where they do not answer for what is their own either.

    ``modules`` are those we know. What waits for others is seen where the broker lists their queues, or they have left
    a commit or a log by then: modules that were removed or renamed, or another configuration's. A warning names them.
    """
    damaged, deletions = _Damaged(), _Deletions(dataplane)
    try:
        return await _collected(dataplane, modules, damaged, None if dry_run else deletions, before)
    finally:
        damaged.told.end()
        deletions.told.end()


async def _collected(
    dataplane: DataPlane,
    modules: Iterable[Module],
    damaged: _Damaged,
    deletions: _Deletions | None,
    before: datetime,
) -> Removed:
    takers = {module.name: frozenset(module.subscribes) for module in modules}
    old = await _old_flows(dataplane.documents, before, damaged)
    listed = {queue.name: queue.topics for queue in await dataplane.broker.queues()}
    found = {name: await _queue(dataplane.broker, name) for name in {*takers, *old.workers, *listed}}
    queues = {name: queue for name, queue in found.items() if name in takers or queue.exists}
    if others := sorted(queues.keys() - takers.keys()):
        log.warning(
            "not in this configuration, but they have a queue: %s. What waits for them is kept, and what they may be "
            "working at. Give `gc` a configuration that names all modules.",
            ", ".join(others),
        )
    # What a module that has worked here was given earlier, nobody knows; one that never has was given what it collects.
    strangers = {name: topics for name, topics in listed.items() if name not in old.workers}
    removed = Removed()
    for correlation_id, count in old.flows.items():
        documents = [it async for it in _whole(dataplane.documents, damaged, correlation_id)]
        if correlation_id in damaged.flows:
            continue
        times = [time for document in documents if (time := _time_of(document)) is not None]
        if len(documents) != count or any(time > before for time in times):
            continue  # something of it is younger
        flow = _Flow(correlation_id, documents, queues, takers, strangers)
        removed += await _remove(dataplane, flow, deletions)
    return removed + Removed(failed=len(damaged.problems))


class _Told:
    """Warns of the first ones, each with ``words``; at its end, of how many more there are ``that`` it befell."""

    def __init__(self, words: str, that: str) -> None:
        self._words = words
        self._that = that
        self._count = 0

    def say(self, what: object) -> None:
        self._count += 1
        if self._count <= _SAID:
            log.warning("%s: %s", self._words, what)

    def end(self) -> None:
        if self._count > _SAID:
            log.warning("and %s more %s", f"{self._count - _SAID:,}", self._that)


class _Damaged:
    """Documents that do not say what they should: each is told once, and its flow stays."""

    def __init__(self) -> None:
        self.told = _Told("its flow stays", "that are damaged")
        self.problems: set[str] = set()
        self.flows: set[str] = set()

    def add(self, problems: Iterable[str], correlation_id: str | None) -> None:
        if correlation_id is not None:
            self.flows.add(correlation_id)
        for problem in sorted(set(problems) - self.problems):
            self.problems.add(problem)
            self.told.say(problem)


async def _whole(
    documents: DocumentStore, damaged: _Damaged, correlation_id: str | None = None
) -> AsyncIterator[Document]:
    """Those of a flow, or all; what is damaged is passed over and noted."""
    with passing_over_damage(lambda problems: damaged.add(problems, correlation_id)):
        async for document in documents.find(correlation_id=correlation_id):
            if (problem := _problem(document)) is None:
                yield document
            else:
                damaged.add([problem], document.correlation_id)


def _problem(document: Document) -> str | None:
    """What is wrong with one that is not as Ion writes it, as far as what is removed depends on that."""
    try:
        if document.kind == COMMIT:
            Commit.from_document(document).documents()
        elif document.kind == EVENT_META:
            for blob in document.body.get("blobs", ()):
                StoredFile.from_json(blob)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        return f"{document.kind} {document.id[:80]!r}: is damaged ({what:.80}). Restore it, or remove it."
    return None


async def _queue(broker: MessageBroker, name: str) -> Queue:
    try:
        stats = await broker.stats(name)
        messages = await broker.peek(name, limit=stats.ready + _SPARE)
        bodies = [it.body for it in messages] + [it.body for it in await broker.dead_letters(name)]
    except QueueNotDeclared:
        return Queue()
    hides = stats.unsettled is None or stats.delayed + stats.unsettled > 0 or len(messages) < stats.ready
    return Queue(exists=True, flows=frozenset(await asyncio.to_thread(_flows_of, bodies)), hides=hides)


def _flows_of(bodies: Sequence[bytes]) -> set[str]:
    found = set()
    for body in bodies:
        try:
            found.add(parse_event(body).context.correlation_id)
        except InvalidEvent:
            continue  # what is no event belongs to no flow
    return found


@dataclass(frozen=True, kw_only=True)
class _Old:
    """Flows with documents that are old, and how many of them each has; the modules that committed or logged there."""

    flows: Mapping[str, int]
    workers: frozenset[str]


async def _old_flows(documents: DocumentStore, before: datetime, damaged: _Damaged) -> _Old:
    """What was stored before then. Only what is old is read, and one more.

    Documents without a time are as old as the commit that tells of them, or at least as the next one that has a time.
    """
    old: Counter[str] = Counter()
    undated: Counter[str] = Counter()
    told: set[tuple[str, str]] = set()
    workers: set[str] = set()
    async for document in _whole(documents, damaged):
        time = _time_of(document)
        if document.kind in (COMMIT, MODULE_LOGS):
            name = parse_context(document.body, what=document.kind, problems=[]).name
            workers |= {name} if MODULE_NAME.fullmatch(name) else set()
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
    return _Old(flows=old, workers=frozenset(workers))


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
    strangers: Mapping[str, frozenset[str]]
    commits: dict[str, Document] = field(init=False)

    def __post_init__(self) -> None:
        self.commits = {document.id: document for document in self.documents if document.kind == COMMIT}

    def is_over(self) -> bool:
        if any(document.pending for document in self.documents):
            return False
        if any(self.correlation_id in queue.flows for queue in self.queues.values()):
            return False
        return not any(self._may_run(event, module) for event in self._events() for module in self.queues)

    def _events(self) -> list[Document]:
        return [document for document in self.documents if document.kind == EVENT_META]

    def _may_run(self, event: Document, module: str) -> bool:
        """Whether an attempt at that job may be under way, or about to be."""
        takes = self.takers.get(module, self.strangers.get(module))
        if takes is not None and event.body.get("type") not in takes:
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


class _Deletions:
    """Deletes what can be deleted, and says what cannot."""

    def __init__(self, dataplane: DataPlane) -> None:
        self._dataplane = dataplane
        self.told = _Told("cannot be removed, so its flow stays", "that cannot be removed")
        self._in_a_row = 0

    async def all(self, delete: Callable[[T], Awaitable[object]], items: Sequence[T]) -> list[T]:
        """Those that stay. Raises TransientError once the store answers for nothing."""
        stay: list[T] = []
        for start in range(0, len(items), _PART):
            part = items[start : start + _PART]
            failed = await try_each(delete, part)
            for _, error in failed:
                self.told.say(error)
            stay += [item for item, _ in failed]
            self._in_a_row = self._in_a_row + len(failed) if len(failed) == len(part) else 0
            if self._in_a_row >= _DOUBTFUL and isinstance(failed[-1][1], TransientError):
                await self._check_stores()
                self._in_a_row = 0
        return stay

    async def _check_stores(self) -> None:
        with tempfile.TemporaryDirectory(prefix="ion-gc-") as scratch:
            await self._dataplane.answers(scratch=Path(scratch), name=f"gc-{secrets.token_hex(8)}")


async def _remove(dataplane: DataPlane, flow: _Flow, deletions: _Deletions | None) -> Removed:
    """Without ``deletions`` nothing is removed, and counted all the same."""
    keys = [key for prefix in flow.prefixes() async for key in dataplane.blobs.list(prefix)]
    counted, over = flow.counted(), flow.is_over()
    left_over = {key for key in keys if key not in counted and flow.is_left_over(key)}
    gone = keys if over else sorted(left_over)
    stay = [] if deletions is None else await deletions.all(dataplane.blobs.delete, gone)
    away = set(gone) - set(stay)
    removed = Removed(
        uncommitted_files=len(away & left_over),
        files=len(away - left_over),
        failed=len(stay),
        kept=0 if over else 1,
    )
    if not over or stay:
        return removed
    if deletions is None:
        return replace(removed, flows=1, documents=len(flow.documents))
    commits = list(flow.commits.values())
    for documents in ([it for it in flow.documents if it.kind != COMMIT], commits):
        failed = await deletions.all(lambda it: dataplane.documents.delete(it.kind, it.id), documents)
        removed = replace(removed, documents=removed.documents + len(documents) - len(failed), failed=len(failed))
        if failed:
            return removed
    return replace(removed, flows=1)
