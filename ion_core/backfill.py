"""Backfill: events that are stored are given to a module that came later, once more, and to nobody else.

Only what such a module has not done, and does not have waiting, is given to it. The events are those that were stored,
under their ids: what a module has committed meanwhile is not done again. Each is as far from the start of its flow as
it was, so that a loop of modules ends where it would have ended.

An event from outside does not say when it was stored. It is as old as the first attempt at a job of it, or else at most
as old as the next document that says when it was stored.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from ion_core.contracts.messaging import MessageBroker, RetryPolicy
from ion_core.contracts.storage import Document, DocumentStore
from ion_core.dataplane import DataPlane, bodies_in
from ion_core.errors import InvalidEvent, ProviderError, passing_over_damage
from ion_core.events import COMMIT, EVENT_META, MODULE_LOGS, Event, parse_event
from ion_core.jobs import Job
from ion_core.modules import Module
from ion_core.stores import event_of, for_each

log = logging.getLogger(__name__)

_AT_ONCE = 256
_QUEUE = re.compile(r"republish-([0-9a-f]{16})-[0-9a-f]{12}")
_SKEW = timedelta(hours=1)
"""By so much the clocks of those who store documents may differ."""


@dataclass(frozen=True, kw_only=True)
class Owed:
    """What a module is owed of the events that were asked for.

    ``events``     oldest first, each with the time it was stored at the latest.
    ``committed``  how many it has done; ``waiting`` how many are in its queue, or among its dead letters.
    """

    module: Module
    events: Sequence[tuple[datetime, Event]]
    committed: int
    waiting: int


async def stored_events(
    dataplane: DataPlane, event_type: str, *, since: datetime, until: datetime | None = None, damaged: set[str]
) -> list[tuple[datetime, Event]]:
    """Events of that type that were stored between these times, oldest first, each with its time.

    Reads the documents from the newest one to the first that is older than ``since``. What is said of those that are
    damaged is added to ``damaged``; all others count. Raises otherwise what the store raises.
    """
    found: list[tuple[datetime, Event]] = []
    hops: dict[str, int] = {}
    began: dict[str, datetime] = {}
    after = datetime.now(UTC)
    async for document in _whole(dataplane.documents, damaged):
        if document.kind in (COMMIT, MODULE_LOGS):
            if (stored := _time(document, "committedAt", "finishedAt")) is not None:
                after = stored
                if stored < since - _SKEW:
                    break
            hops.update(_hops_in(document))
            event_id = (document.body.get("context") or {}).get("eventId")
            if (start := _time(document, "startedAt")) is not None and isinstance(event_id, str):
                began[event_id] = min(start, began.get(event_id, start))
        elif document.kind == EVENT_META and document.body.get("type") == event_type:
            time = min(after, began.pop(document.id, after))
            if since <= time and (until is None or time <= until):
                found.append((time, event_of(document)))
    return [(time, replace(event, hops=hops.get(event.context.event_id, 0))) for time, event in found[::-1]]


async def _whole(documents: DocumentStore, damaged: set[str]) -> AsyncIterator[Document]:
    """The newest first."""
    with passing_over_damage(damaged.update):
        async for document in documents.find(newest_first=True):
            yield document


async def owed(dataplane: DataPlane, module: Module, events: Sequence[tuple[datetime, Event]]) -> Owed:
    """Which of ``events`` the module has neither done nor waiting. Its queue must exist. Raises as the providers do."""

    async def is_committed(event: Event) -> bool:
        names = (module.name, *module.formerly)
        ids = (Job(event=event, module=name).id for name in names)
        return any([await dataplane.committed(id) is not None for id in ids])

    has = {id async for id in _ids(bodies_in(dataplane.broker, module.name))}
    there = [it for it in events if it[1].context.event_id not in has]
    done = await for_each(is_committed, [event for _, event in there])
    left = [it for it, committed in zip(there, done, strict=True) if not committed]
    return Owed(module=module, events=left, committed=sum(done), waiting=len(events) - len(there))


async def give(
    dataplane: DataPlane, owed: Owed, *, state_id: str, given: Callable[[int], None] = lambda count: None
) -> None:
    """Put what is owed into the queue of the module; ``given`` is told how many more are published.

    They are published to a queue of their own first, which is then moved into that of the module: nobody else who takes
    their type gets them again. After an error some, or none, are there: the same again gives the rest. Of a process
    that is killed that queue is left, and known by ``state_id``, that of its state directory: see ``remove_left``.
    """
    async with own_queue(dataplane.broker, state_id) as name:

        async def publish(event: Event) -> None:
            await dataplane.publish(event, topic=name)

        events = [event for _, event in owed.events]
        for start in range(0, len(events), _AT_ONCE):
            batch = events[start : start + _AT_ONCE]
            await for_each(publish, batch)
            given(len(batch))
        await dataplane.broker.move(name, owed.module.name)


@asynccontextmanager
async def own_queue(broker: MessageBroker, state_id: str) -> AsyncIterator[str]:
    """A queue, and its one topic of that name, that nobody else knows: for what is to go into one queue alone.

    It is there while the body runs, which moves what it published. After an error what is in it goes, since it is still
    owed; of a process that is killed ``remove_left`` finds it.
    """
    name = f"republish-{state_id}-{secrets.token_hex(6)}"
    await broker.declare(name, topics=(name,), retry=RetryPolicy(retries=0))
    try:
        yield name
    except BaseException:
        with suppress(ProviderError):
            await broker.drop(name)
        raise
    await broker.drop(name)


async def remove_left(broker: MessageBroker, state_id: str) -> list[tuple[str, int]]:
    """Remove queues that were left by a ``give`` of that state directory, and return each with how many it held.

    What they held was given to nobody yet, and is still owed. Call it while no other process of that directory can be
    giving: ``State.republishing``. Raises what the broker raises.
    """
    removed = []
    for queue in await broker.queues():
        if (found := _QUEUE.fullmatch(queue.name)) is not None and found[1] == state_id:
            held = (await broker.stats(queue.name)).pending
            await broker.drop(queue.name)
            removed.append((queue.name, held))
    return removed


def _hops_in(commit: Document) -> dict[str, int]:
    """Of the events that were emitted with it, by their ids; nothing for another document, or one of another making."""
    events = commit.body.get("events") if commit.kind == COMMIT else ()
    return {
        it["id"]: it["hops"]
        for it in (events if isinstance(events, list) else ())
        if isinstance(it, dict) and isinstance(it.get("id"), str) and isinstance(it.get("hops"), int)
    }


async def _ids(bodies: AsyncIterator[bytes]) -> AsyncIterator[str]:
    async for body in bodies:
        with suppress(InvalidEvent):  # what is no event is none of these
            yield parse_event(body).context.event_id


def _time(document: Document, *keys: str) -> datetime | None:
    """The first of these that the document has."""
    for key in keys:
        text = document.body.get(key)
        if isinstance(text, str):
            with suppress(ValueError):
                time = datetime.fromisoformat(text)
                return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    return None
