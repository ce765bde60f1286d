"""Which flows there are, by page, the newest first, each in short.

A flow stands where it began: at the first document of those that tell of it, which stays where it is, whatever comes
later. So pages hold while flows go on, come and go. What tells of a flow depends on which are wanted, and is as little
as can be: see ``_Candidates``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ion_core.contracts.messaging import MessageBroker
from ion_core.contracts.storage import Document, DocumentStore
from ion_core.errors import QueueNotDeclared, TransientError, passing_over_damage
from ion_core.events import EVENT_META, FAILURE, parse_context
from ion_core.flows.flow import EventSeen, aside, read_flow
from ion_core.flows.short import DEAD, FAILED, FlowInShort, Outcome
from ion_core.modules import Module

AT_ONCE = 16
"""Flows that are read at the same time."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which flows: all that meet every condition given."""

    outcomes: frozenset[Outcome] | None = None
    """How it stands is one of these."""
    module: str | None = None
    """This one had a job in it, or is to have one."""
    type: str | None = None
    """It has an event of this type."""
    since: datetime | None = None
    """A job of it ended since then; or it came since, and none has begun."""
    containing: str | None = None
    """Part of the correlation id, or of the first event's id, type, a key, a value or a file name, in any case."""

    def takes(self, flow: FlowInShort) -> bool:
        return (
            (self.outcomes is None or flow.outcome in self.outcomes)
            and self.module in (None, *flow.modules)
            and self.type in (None, *flow.types)
            and (self.since is None or flow.is_since(self.since))
            and self.is_in(flow.correlation_id, flow.event_id, flow.type, flow.data, flow.files)
        )

    def is_in(
        self, correlation_id: str, event_id: str, type: str, data: Iterable[tuple[str, str]], files: Iterable[str]
    ) -> bool:
        """Whether a flow that begins with this event contains what it is to contain."""
        if self.containing is None:
            return True
        text = self.containing.casefold()
        texts = (correlation_id, event_id, type, *files, *(it for pair in data for it in pair))
        return any(text in it.casefold() for it in texts)


@dataclass(frozen=True, kw_only=True)
class FlowPage:
    """``cursor`` is where the next page goes on; None where there is none."""

    flows: Sequence[FlowInShort]
    cursor: str | None


class Queues:
    """Which queues hold nothing, asked once each. ``trouble`` is why that could not be told, if it could not."""

    def __init__(self, broker: Callable[[], Awaitable[MessageBroker]]) -> None:
        """``broker`` opens it, once it is needed."""
        self.trouble: TransientError | None = None
        self._broker = broker
        self._empty: dict[str, bool] = {}

    async def settle(self, flows: Sequence[FlowInShort]) -> None:
        """Take out of ``waits`` the modules whose queues hold nothing, as far as that can be told."""
        for flow in flows:
            flow.waits = frozenset([name for name in sorted(flow.waits) if not await self._is_empty(name)])

    async def _is_empty(self, name: str) -> bool:
        if self.trouble is None and name not in self._empty:
            try:
                self._empty[name] = not (await (await self._broker()).stats(name)).pending
            except QueueNotDeclared:
                self._empty[name] = True
            except TransientError as error:
                self.trouble = error
        return self._empty.get(name, False)


@dataclass(kw_only=True)
class _Candidates:
    """Flows that may be wanted, each once, with as little read of others as can be.

    - Those that failed are found by the documents of kind ``failure`` alone, which exist for nothing else.
    - Those of a time are found by what was stored since.
    - Those with an event of a type by all documents of events: the others' flows are not read.
    - Any, by the first document of an event.
    - Of those that are to contain a text, the first document of an event says whether they do.

    ``cursor`` stands behind the last that was looked at; ``left`` is how many more documents may be, None for any.
    """

    documents: DocumentStore
    wanted: Wanted
    damaged: set[str]
    cursor: str | None
    left: int | None
    over: bool = False
    _stands_at: dict[str, str | None] = field(default_factory=dict)

    async def ids(self) -> AsyncIterator[str]:
        """Until all were given, which is ``over``, or as many were looked at as may be."""
        kind, since = self._source()
        with passing_over_damage(self.damaged.update):
            found = self.documents.find(kind, since=since, newest_first=True, after=self.cursor)
            async for document in found:
                if self.left is not None:
                    if not self.left:
                        return
                    self.left -= 1
                self.cursor = document.cursor
                if not self._tells(document) or await self._place(document.correlation_id) != document.cursor:
                    continue
                if self._by_first or await self._may_contain(document.correlation_id):
                    yield document.correlation_id
        self.over = True

    def _source(self) -> tuple[str | None, datetime | None]:
        """Kind and time of the documents that tell of them."""
        wanted = self.wanted
        if wanted.outcomes is not None and wanted.outcomes <= {DEAD, FAILED}:
            return FAILURE, None  # which may be older than the last that failed
        return (EVENT_META, None) if wanted.since is None else (None, wanted.since)

    @property
    def _by_first(self) -> bool:
        """Whether the document that tells of a flow is the first of its events."""
        return self.wanted.type is None and self._source() == (EVENT_META, None)

    def _tells(self, document: Document) -> bool:
        if self._by_first:
            return self._may_begin(document)
        only_type = self.wanted.type if self._source() == (EVENT_META, None) else None
        return only_type in (None, document.body.get("type"))

    def _may_begin(self, document: Document) -> bool:
        """Whether a flow that this event is the first of may be wanted: of one that has a cause it is not known."""
        if self.wanted.containing is None:
            return True
        context = parse_context(document.body, what="document", problems=[])
        event = EventSeen.of(document.id, document.body, context)
        return bool(event.parent) or self.wanted.is_in(
            document.correlation_id, event.id, event.type, event.pairs, event.files
        )

    async def _may_contain(self, correlation_id: str) -> bool:
        if self.wanted.containing is None:
            return True
        with passing_over_damage(self.damaged.update):
            async for first in self.documents.find(EVENT_META, correlation_id=correlation_id, limit=1):
                return self._may_begin(first)
        return True  # its first event left no document

    async def _place(self, correlation_id: str) -> str | None:
        """Where the flow stands: the cursor of the first document that tells of it."""
        if correlation_id not in self._stands_at:
            kind, since = self._source()
            self._stands_at[correlation_id] = None
            only_first = 1 if self.wanted.type is None else None
            with passing_over_damage(self.damaged.update):
                found = self.documents.find(kind, correlation_id=correlation_id, since=since, limit=only_first)
                async for document in found:
                    if self._tells(document):
                        self._stands_at[correlation_id] = document.cursor
                        break
        return self._stands_at[correlation_id]


async def list_flows(
    documents: DocumentStore,
    modules: Iterable[Module],
    queues: Queues,
    wanted: Wanted,
    *,
    limit: int,
    after: str | None = None,
    look_at: int | None = None,
    damaged: set[str],
) -> FlowPage:
    """At most ``limit`` of those, the newest first: by their first event, failed ones by what failed first in them.

    ``after`` is the cursor of the page before. A page that has looked at ``look_at`` documents, the whole flows that
    it read aside, ends there though it is not full, or empty: there may be more behind its cursor. What is said of
    documents that are damaged is added to ``damaged``; all others count. Raises InvalidCursor, otherwise as the store.
    """
    modules = list(modules)

    async def read(correlation_id: str) -> FlowInShort | None:
        flow = await read_flow(documents, correlation_id, modules, damaged=damaged)
        if not flow.roots:
            return None  # `gc` was quicker
        return await aside(flow.documents, lambda: FlowInShort.of(flow))

    found: list[FlowInShort] = []
    candidates = _Candidates(documents=documents, wanted=wanted, damaged=damaged, cursor=after, left=look_at)
    ids = candidates.ids()
    while len(found) < limit:
        some = await _next(ids, min(AT_ONCE, limit - len(found)))
        flows = [flow for flow in await asyncio.gather(*(read(id) for id in some)) if flow is not None]
        await queues.settle(flows)
        found += [flow for flow in flows if wanted.takes(flow)]
        if not some:
            break
    return FlowPage(flows=found, cursor=None if candidates.over else candidates.cursor)


async def _next(ids: AsyncIterator[str], most: int) -> list[str]:
    """The next ones, so many if there are."""
    some: list[str] = []
    while len(some) < most and (id := await anext(ids, None)) is not None:
        some.append(id)
    return some
