"""Which flows there are, the newest first, each in short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ion_core.cli.output import plain, say
from ion_core.errors import QueueNotDeclared, TransientError, passing_over_damage
from ion_core.events import EVENT_META, FAILURE
from ion_core.flows import DEAD, FAILED, FlowInShort, parsed, read_flow

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.contracts.messaging import MessageBroker
    from ion_core.contracts.storage import Document, DocumentStore

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


async def flows_in_short(app: App, wanted: Wanted, *, limit: int, damaged: set[str]) -> list[FlowInShort]:
    """At most ``limit`` of those, the newest first: by the newest event, failed ones by what failed first in them.

    What is said of documents that are damaged is added to ``damaged``; all others count.
    """
    documents = await app.documents()
    modules = app.config.modules

    async def read(correlation_id: str) -> FlowInShort | None:
        flow = await read_flow(documents, correlation_id, modules.values(), damaged=damaged)
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
    with passing_over_damage(damaged.update):
        async for document in _told(documents, wanted):
            if document.correlation_id not in seen:
                seen.add(document.correlation_id)
                yield document.correlation_id


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
