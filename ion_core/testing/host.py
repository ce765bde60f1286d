"""The host that the service kit gives a service: it notes what it is asked, and has nothing to show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from ion_core.contracts.looking import (
    EVERY_LETTER,
    Change,
    DeadLetterView,
    FileContent,
    FileView,
    FlowOutcome,
    FlowSummary,
    FlowView,
    HealthView,
    LetterFilter,
    LetterGroup,
    LetterId,
    LogLine,
    LogView,
    OutboxView,
    Page,
    Pipeline,
    PlannedView,
    QueueView,
    RunningView,
    SlotsView,
    WhyView,
)
from ion_core.contracts.storage import BlobInfo, Document
from ion_core.errors import BlobNotFound, DeadLetterNotFound, IonError
from ion_core.events import Context, Event, checked_traceparent
from ion_core.testing.kit import Conformance

T = TypeVar("T")


@dataclass(frozen=True)
class Received:
    """An event that the host was given."""

    type: str
    data: Sequence[tuple[str, str]]
    files: Mapping[str, bytes]


class Host:
    """What the kit gives a service to publish to: it notes every event, or raises ``refusing``.

    ``directory`` is there, and ``work`` in it. Every type is taken that is among ``taken``; nothing waits, and every
    flow is over at once. Files that are given away are gone, whatever becomes of the event.

    ``received`` has each event with the bytes of its files, as they were when ``publish`` ended, and ``unreadable`` the
    names of those that were not there then. While ``answering`` is not set, no call of ``publish`` ends.

    There is nothing to look at: what is asked for is empty, or ``unanswering`` is raised. ``looked_at`` has the name
    of each method that was called for that.
    """

    name = "kit"

    def __init__(self, directory: Path, *, taken: Sequence[str] = ()) -> None:
        self.directory = directory
        self.work = directory / "work"
        self.work.mkdir()
        self.taken = taken
        self.published: asyncio.Queue[str] = asyncio.Queue()
        self.received: list[Received] = []
        self.unreadable: list[str] = []
        self.answering = asyncio.Event()
        self.answering.set()
        self.refusing: IonError | None = None
        self.unanswering: IonError | None = None
        self.looked_at: asyncio.Queue[str] = asyncio.Queue()

    async def publish(
        self,
        event_type: str,
        *,
        data: Sequence[tuple[str, str]] = (),
        files: Mapping[str, Path] | None = None,
        event_id: str | None = None,
        correlation_id: str | None = None,
        name: str | None = None,
        parent_event_id: str = "",
        traceparent: str = "",
        consume: bool = False,
        told: Mapping[str, BlobInfo] | None = None,
    ) -> Event:
        self.published.put_nowait(event_type)
        await self.answering.wait()
        brought = {}
        for file, path in (files or {}).items():
            try:
                brought[file] = path.read_bytes()
                if consume:
                    path.unlink()
            except OSError as error:
                self.unreadable.append(f"{file}: {error}")
        if self.refusing is not None:
            raise self.refusing
        self.received.append(Received(event_type, tuple(data), brought))
        event_id = event_id or Conformance.fresh("event")
        context = Context(
            name=self.name if name is None else name,
            event_id=event_id,
            correlation_id=correlation_id or event_id,
            parent_event_id=parent_event_id,
        )
        traceparent = checked_traceparent(traceparent)
        return Event(
            context=context, type=event_type, data=tuple(data), files=tuple(files or ()), traceparent=traceparent
        )

    async def pending(self, event_type: str) -> int | None:
        return 0

    async def outcome(self, correlation_id: str, *, within: timedelta = timedelta(0)) -> FlowOutcome | None:
        return FlowOutcome(correlation_id=correlation_id, outcome="done", over=True, events=1, jobs={"committed": 1})

    def event_types(self) -> Sequence[str]:
        return sorted(self.taken)

    def problems(self) -> Sequence[str]:
        return ()

    def pipeline(self) -> Pipeline:
        return Pipeline(modules=[], links=[])

    async def flows(self, **asked: Any) -> Page[FlowSummary]:
        return self._told("flows", Page(items=[]))

    async def flow(self, correlation_id: str) -> FlowView | None:
        return self._told("flow", None)

    async def documents(self, kind: str | None = None, **asked: Any) -> Page[Document]:
        return self._told("documents", Page(items=[]))

    async def files(self, correlation_id: str, event_id: str | None = None) -> Sequence[FileView]:
        return self._told("files", [])

    @asynccontextmanager
    async def file(self, correlation_id: str, key: str, *, start: int = 0) -> AsyncIterator[FileContent]:
        raise self._told("file", BlobNotFound(f"flow {correlation_id!r}: has no file {key!r}. There are none."))
        yield

    async def logs(self, event_id: str, *, correlation_id: str | None = None) -> Sequence[LogView]:
        return self._told("logs", [])

    async def follow(self, event_id: str, *, wait: bool = False) -> AsyncIterator[LogLine]:
        for line in self._told("follow", list[LogLine]()):
            yield line

    async def why(self, event_id: str, *, correlation_id: str | None = None) -> Sequence[WhyView]:
        return self._told("why", [])

    async def report(self, correlation_id: str) -> bytes | None:
        return self._told("report", None)

    def running(self) -> Sequence[RunningView]:
        return []

    def slots(self) -> Sequence[SlotsView]:
        return []

    def outbox(self) -> OutboxView:
        return OutboxView(owed=0, published=0, looked_at=None)

    def planned(self, count: int = 3) -> Sequence[PlannedView]:
        return []

    async def queues(self) -> Sequence[QueueView]:
        return self._told("queues", [])

    async def dead_letters(self, which: LetterFilter = EVERY_LETTER, **asked: Any) -> Page[DeadLetterView]:
        return self._told("dead_letters", Page(items=[]))

    async def dead_letter_groups(self, by: str) -> Sequence[LetterGroup]:
        return self._told("dead_letter_groups", [])

    async def redrive(self, ids: Sequence[LetterId]) -> int:
        if ids:
            raise self._told("redrive", DeadLetterNotFound(f"no dead letter {ids[0].id!r}. There are none."))
        return self._told("redrive", 0)

    async def redrive_all(self, which: LetterFilter) -> int:
        return self._told("redrive_all", 0)

    async def purge(self, ids: Sequence[LetterId]) -> int:
        return await self.redrive(ids)

    async def purge_all(self, which: LetterFilter) -> int:
        return await self.redrive_all(which)

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[AsyncIterator[Change]]:
        yield self._told("changes", _nothing())

    def health(self) -> HealthView:
        return HealthView(live=True, ready=True, draining=False)

    def _told(self, what: str, answer: T) -> T:
        self.looked_at.put_nowait(what)
        if self.unanswering is not None:
            raise self.unanswering
        return answer


async def _nothing() -> AsyncIterator[Change]:
    """Nothing ever happens."""
    await asyncio.Event().wait()
    yield Change(kind="missed", at=datetime.now(UTC))
