"""What a service is shown of the work under way, and the dead letters that it may mend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from datetime import datetime
from typing import Literal

from ion_core.app.opening import App
from ion_core.app.process import Process
from ion_core.contracts.looking import (
    EVERY_LETTER,
    Change,
    DeadLetterView,
    HealthView,
    LetterFilter,
    LetterGroup,
    LetterId,
    LogLine,
    OutboxView,
    Page,
    QueueView,
    RunningView,
    SlotsView,
)
from ion_core.contracts.messaging import DeclaredQueue
from ion_core.dataplane import DataPlane
from ion_core.errors import DocumentNotFound, DocumentsDamaged, InvalidEvent, QueueNotDeclared, TransientError
from ion_core.events import EVENT_META, parse_event
from ion_core.letters import By, Kept, Letters, grouped

QUEUES_WITHIN = 30.0
"""Seconds for all queues to be counted."""

LONGEST_PAGE = 1_000


class Working:
    """Queues, running attempts, dead letters, changes, and how the process is."""

    def __init__(self, app: App, dataplane: DataPlane, process: Process) -> None:
        self._app = app
        self._dataplane = dataplane
        self._process = process
        self._kept = Kept()

    @property
    def _letters(self) -> Letters:
        return Letters(self._dataplane, self._app.config.modules)

    async def follow(self, event_id: str, *, wait: bool = False) -> AsyncIterator[LogLine]:
        masked = self._app.config.hidden.masked
        async with aclosing(self._process.attempts.follow(event_id, wait=wait)) as lines:
            with suppress(ConnectionAbortedError):  # a worker died, and no attempt runs there any more
                async for line in lines:
                    yield LogLine(module=line.module, attempt=line.attempt, text=masked(line.text))

    def running(self) -> Sequence[RunningView]:
        return [
            RunningView(
                event_id=attempt.job.event.context.event_id,
                correlation_id=attempt.job.event.context.correlation_id,
                type=attempt.job.event.type,
                module=attempt.job.module,
                attempt=attempt.number,
                token=attempt.token,
                since=since,
            )
            for attempt, since in self._process.attempts.now()
        ]

    def slots(self) -> Sequence[SlotsView]:
        return self._process.slots()

    def outbox(self) -> OutboxView:
        return self._process.outbox()

    async def queues(self) -> Sequence[QueueView]:
        try:
            async with asyncio.timeout(QUEUES_WITHIN) as bound:
                views = [await self._queue(queue) for queue in await self._dataplane.broker.queues()]
        except TimeoutError as error:
            if not bound.expired():
                raise
            message = f"the queues were not counted within {QUEUES_WITHIN:.0f} s. Ask again later."
            raise TransientError(message) from error
        return [view for view in views if view is not None]

    async def dead_letters(
        self,
        which: LetterFilter = EVERY_LETTER,
        *,
        newest_first: bool = True,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[DeadLetterView]:
        most = max(1, min(limit, LONGEST_PAGE))
        return await self._letters.page(which, newest_first=newest_first, after=after, limit=most, kept=self._kept)

    async def dead_letter_groups(self, by: Literal["reason", "module", "type"]) -> Sequence[LetterGroup]:
        letters = [view.letter for view in await self._letters.found(EVERY_LETTER, strays=True)]
        groups = await asyncio.to_thread(grouped, letters, By(by))
        return [LetterGroup(key=it.key or "", count=it.count, oldest=it.first, newest=it.last) for it in groups]

    async def redrive(self, ids: Sequence[LetterId]) -> int:
        return await self._mended(self._letters.redrive(ids))

    async def redrive_all(self, which: LetterFilter) -> int:
        return await self._mended(self._letters.redrive_all(which))

    async def purge(self, ids: Sequence[LetterId]) -> int:
        return await self._mended(self._letters.purge(ids))

    async def purge_all(self, which: LetterFilter) -> int:
        return await self._mended(self._letters.purge_all(which))

    async def _mended(self, mending: Awaitable[int]) -> int:
        try:
            return await mending
        finally:
            self._kept.forget()

    def changes(self) -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        return self._process.changes.listening()

    def health(self) -> HealthView:
        return self._process.view()

    async def _queue(self, queue: DeclaredQueue) -> QueueView | None:
        """None where it was dropped meanwhile."""
        try:
            stats = await self._dataplane.broker.stats(queue.name)
            oldest = await self._oldest(queue.name) if stats.ready else None
        except QueueNotDeclared:
            return None
        taken = queue.name in self._app.config.modules
        return QueueView(name=queue.name, topics=sorted(queue.topics), taken=taken, stats=stats, oldest=oldest)

    async def _oldest(self, queue: str) -> datetime | None:
        """When the event that is next was first stored; None where that is not known."""
        for message in await self._dataplane.broker.peek(queue, limit=1):
            try:
                event = parse_event(message.body)
                return (await self._dataplane.documents.get(EVENT_META, event.context.event_id)).stored_at
            except (InvalidEvent, DocumentNotFound, DocumentsDamaged):
                return None
        return None
