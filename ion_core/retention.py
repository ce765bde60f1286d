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

Of flows that stay, a file that no document names is removed where its job has a commit: no attempt at it will commit
any more. Where it has none, an attempt may be under way that has lost its delivery, wherever the message is now.

Modules that the configuration lacks are known by the commits and logs they left, and by the queues that the broker
lists. What types those took that have worked here is not known, so any job of theirs may be under way.

Files go first, then documents, commits last: cut short, it is simply run again. What cannot be removed, or is damaged,
is said and passed over, with the rest of its flow, which would otherwise never be found again.
"""

from __future__ import annotations

import logging
import secrets
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from ion_core.commits import Commit
from ion_core.contracts.messaging import MessageBroker
from ion_core.contracts.storage import BlobStore, Document, DocumentStore
from ion_core.dataplane import DataPlane
from ion_core.errors import InvalidEvent, QueueNotDeclared, TransientError, passing_over_damage
from ion_core.events import (
    COMMIT,
    EVENT_META,
    GATHERING,
    GIVEN_UP,
    MODULE_LOGS,
    Context,
    Event,
    StoredFile,
    parse_context,
    parse_event,
)
from ion_core.jobs import Job
from ion_core.modules import MODULE_NAME, Module
from ion_core.stores import for_each, key_segment, try_each

log = logging.getLogger(__name__)

_DOUBTFUL = 16
"""After how many failures in a row the stores are asked whether they are there at all."""
_PART = 64
"""How many are tried before that is asked."""
_FLOWS, _LARGE = 32, 100
"""Flows whose files are listed together, which most stores do at once; fewer where one has more documents than that."""
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
    """What waits for one module: old flows seen in its queue and dead letters, and whether there is what nobody sees.

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
    modules = list(modules)
    takers = {module.name: frozenset(module.subscribes) for module in modules}
    owing = {
        GATHERING: _names(module for module in modules if module.gather is not None),
        GIVEN_UP: _names(module for module in modules if module.leads_to),
    }
    old = await _old_flows(dataplane.documents, before, damaged)
    listed = {queue.name: queue.topics for queue in await dataplane.broker.queues()}
    found = {name: await _queue(dataplane.broker, name, old.flows) for name in {*takers, *old.workers, *listed}}
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
    some: list[_Flow] = []
    for correlation_id, count in old.flows.items():
        flow, young = _Flow(correlation_id, queues, takers, strangers, owing, old.pending), False
        async for document in _whole(dataplane.documents, damaged, correlation_id):
            flow.add(document)
            time = _time_of(document)
            young = young or (time is not None and time > before)
        if correlation_id in damaged.flows or young or len(flow) != count:
            continue  # something of it is damaged, or younger
        some.append(flow)
        if len(some) == _FLOWS or len(flow) > _LARGE:
            removed += await _remove_all(dataplane, some, deletions)
            some = []
    removed += await _remove_all(dataplane, some, deletions)
    return removed + Removed(failed=len(damaged.problems))


def _names(modules: Iterable[Module]) -> frozenset[str]:
    """Former ones as well."""
    return frozenset(name for module in modules for name in (module.name, *module.formerly))


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
            commit = Commit.from_document(document)
            if commit.events or commit.insights:
                commit.documents()
        elif document.kind == EVENT_META:
            for blob in document.body.get("blobs", ()):
                StoredFile.from_json(blob)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        return f"{document.kind} {document.id[:80]!r}: is damaged ({what:.80}). Restore it, or remove it."
    return None


async def _queue(broker: MessageBroker, name: str, old: Mapping[str, int]) -> Queue:
    """What of the flows that are ``old`` waits in it: of all others nothing is kept, however many wait."""
    flows: set[str] = set()
    seen = 0

    async def see_the_dead() -> None:
        async with broker.each_dead_letter(name) as letters:
            async for letter in letters:
                flows.update(_flow_of(letter.body, old))

    try:
        before = await broker.stats(name)
        await see_the_dead()  # before, for what is redriven meanwhile, and behind, for what dies
        async with broker.each_message(name) as messages:
            async for message in messages:
                seen += 1
                flows |= _flow_of(message.body, old)
        await see_the_dead()
        after = await broker.stats(name)
    except QueueNotDeclared:
        return Queue()
    hides = any(it.unsettled is None or it.delayed + it.unsettled > 0 for it in (before, after)) or seen < before.ready
    return Queue(exists=True, flows=frozenset(flows), hides=hides)


def _flow_of(body: bytes, old: Mapping[str, int]) -> set[str]:
    try:
        flow = parse_event(body).context.correlation_id
    except InvalidEvent:
        return set()  # what is no event belongs to no flow
    return {flow} if flow in old else set()


@dataclass(frozen=True, kw_only=True)
class _Old:
    """Flows with documents that are old, and how many of them each has; the modules that committed or logged there.

    ``pending`` are kind and id of those from which events were still owed.
    """

    flows: Mapping[str, int]
    workers: frozenset[str]
    pending: frozenset[tuple[str, str]]


async def _old_flows(documents: DocumentStore, before: datetime, damaged: _Damaged) -> _Old:
    """What was stored before then. Only what is old is read, and one more.

    Documents without a time are as old as the commit that tells of them, or at least as the next one that has a time.
    So nothing behind the last one that has a time is old: what waits there, perhaps very much, is not read.
    """
    last = await _last_dated(documents, before)
    old: Counter[str] = Counter()
    undated: Counter[str] = Counter()
    told: set[tuple[str, str]] = set()
    named: set[object] = set()
    pending: set[tuple[str, str]] = set()
    async for document in _whole(documents, damaged):
        time = _time_of(document)
        if document.kind in (COMMIT, MODULE_LOGS):
            named.add(_name_in(document.body))
        if document.pending:
            pending.add((document.kind, document.id))
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
            if document.kind == COMMIT and (document.body["events"] or document.body["insights"]):
                told |= {(it.kind, it.id) for it in Commit.from_document(document).documents()}
        if last is not None and document.cursor == last:
            break
    workers = frozenset(name for name in named if isinstance(name, str) and MODULE_NAME.fullmatch(name))
    return _Old(flows=old, workers=workers, pending=frozenset(pending))


def _name_in(body: Mapping[str, Any]) -> object:
    """Of a commit or a log, the module: nested under ``context``, or flat as the oldest documents have it."""
    context = body.get("context", body)
    name = context.get("name") if isinstance(context, Mapping) else None
    return name if isinstance(name, str) else None


async def _last_dated(documents: DocumentStore, before: datetime) -> str | None:
    """The cursor of the newest document that was stored before then and says itself that it is so old.

    None where the store's own times know of none: documents may be older than the store, having come from another.
    """
    with passing_over_damage(lambda problems: None):  # told by who reads forward
        async for document in documents.find(newest_first=True, until=before):
            time = _time_of(document)
            if time is not None and time <= before:
                return document.cursor
    return None


def _time_of(document: Document) -> datetime | None:
    """When it was stored, as far as it says so itself: commits and logs do."""
    text = document.body.get("committedAt") or document.body.get("finishedAt")
    try:
        time = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


class _Flow:
    """What can be told from the documents of one flow, all of them old. It may have so many that they are not held."""

    def __init__(
        self,
        correlation_id: str,
        queues: Mapping[str, Queue],
        takers: Mapping[str, frozenset[str]],
        strangers: Mapping[str, frozenset[str]],
        owing: Mapping[str, frozenset[str]],
        pending: frozenset[tuple[str, str]],
    ) -> None:
        self.correlation_id = correlation_id
        self._queues, self._takers, self._strangers, self._owing = queues, takers, strangers, owing
        self._pending = pending
        self.others: list[tuple[str, str]] = []
        """Kind and id of those that are no commits."""
        self.commits: list[tuple[str, str]] = []
        self.counted: set[str] = set()
        """Keys of files that some document names."""
        self._owes = False
        self._types: dict[str, Any] = {}
        """Of its events, by their ids."""
        self._committed: set[str] = set()
        self._by_segment: dict[str, list[str]] = {}
        """Its events, by the part of keys that is theirs; none for an event that is known by a commit alone."""

    def __len__(self) -> int:
        return len(self.others) + len(self.commits)

    def add(self, document: Document) -> None:
        self._owes = self._owes or self._is_owed(document)
        if document.kind == COMMIT:
            self.commits.append((document.kind, document.id))
            self._committed.add(document.id)
            self._by_segment.setdefault(key_segment(document.body["context"]["eventId"]), [])
            self.counted |= {file["key"] for file in document.body["outputs"]}
            return
        self.others.append((document.kind, document.id))
        if document.kind == EVENT_META:
            self._types[document.id] = document.body.get("type")
            self._by_segment.setdefault(key_segment(document.id), []).append(document.id)
            self.counted |= {blob["key"] for blob in document.body.get("blobs", ())}

    def is_over(self) -> bool:
        if self._owes or any(self.correlation_id in queue.flows for queue in self._queues.values()):
            return False
        return not any(self._may_run(event, module) for event in self._types for module in self._queues)

    def _is_owed(self, document: Document) -> bool:
        """Not what was for a gatherer that this configuration does not have: nobody will do it.

        What has been paid meanwhile counts: its messages may be ready since the queues were looked at.
        """
        if not document.pending:
            return (document.kind, document.id) in self._pending
        if document.kind not in self._owing:
            return True
        name = parse_context(document.body, what=document.kind, problems=[]).name
        return name in self._owing[document.kind]

    def _may_run(self, event_id: str, module: str) -> bool:
        """Whether an attempt at that job may be under way, or about to be."""
        takes = self._takers.get(module, self._strangers.get(module))
        if takes is not None and self._types[event_id] not in takes:
            return False
        return self._queues[module].hides and not self._has_commit(event_id, module)

    def _has_commit(self, event_id: str, module: str) -> bool:
        context = Context(name=module, event_id=event_id, correlation_id=self.correlation_id)
        return Job(event=Event(context=context, type="-"), module=module).id in self._committed

    async def keys(self, blobs: BlobStore) -> list[str]:
        """Of the files of its events: of those known here only, should somebody just add another event."""
        whole = key_segment(self.correlation_id)
        return [key async for key in blobs.list(whole) if key.split("/")[1] in self._by_segment]

    def is_left_over(self, key: str) -> bool:
        """Whether a file that no document names is of an attempt that will not commit: another one has.

        Without a commit of its job it may be under way, wherever the message is: its delivery may have been lost.
        """
        _, segment, module, *_ = key.split("/")
        events = self._by_segment[segment]
        return bool(events) and all(self._has_commit(event, module) for event in events)


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


async def _remove_all(dataplane: DataPlane, flows: Sequence[_Flow], deletions: _Deletions | None) -> Removed:
    removed = Removed()
    listed = await for_each(lambda flow: flow.keys(dataplane.blobs), flows)
    for flow, keys in zip(flows, listed, strict=True):
        removed += await _remove(dataplane, flow, keys, deletions)
    return removed


async def _remove(dataplane: DataPlane, flow: _Flow, keys: Sequence[str], deletions: _Deletions | None) -> Removed:
    """Without ``deletions`` nothing is removed, and counted all the same."""
    over = flow.is_over()
    uncommitted = set(keys) - flow.counted
    gone = keys if over else sorted(key for key in uncommitted if flow.is_left_over(key))
    stay = [] if deletions is None else await deletions.all(dataplane.blobs.delete, gone)
    away = set(gone) - set(stay)
    removed = Removed(
        uncommitted_files=len(away & uncommitted),
        files=len(away - uncommitted),
        failed=len(stay),
        kept=0 if over else 1,
    )
    if not over or stay:
        return removed
    if deletions is None:
        return replace(removed, flows=1, documents=len(flow))
    for documents in (flow.others, flow.commits):
        failed = await deletions.all(lambda it: dataplane.documents.delete(*it), documents)
        removed = replace(removed, documents=removed.documents + len(documents) - len(failed), failed=len(failed))
        if failed:
            return removed
    return replace(removed, flows=1)
