"""A migration as a whole: what it asks of both brokers first, what it moves queue by queue, and how far it has come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from ion_core.backfill import own_queue
from ion_core.contracts.messaging import MessageBroker, QueueStats, RetryPolicy
from ion_core.contracts.storage import Document
from ion_core.errors import IonError, UsageError, passing_over_damage
from ion_core.migration.messages import move_letters, move_waiting

Progress = Callable[[int, str], AbstractContextManager[Callable[[int], object]]]
"""Given how much there is to do and of what; what it enters is told how many more are done."""


@dataclass(kw_only=True)
class Moved:
    """What was done, and what was not; ``size`` in bytes."""

    documents: int = 0
    files: int = 0
    size: int = 0
    waiting: int = 0
    dead: int = 0
    problems: list[str] = field(default_factory=list)
    stayed: bool = False
    """Whether messages stayed where they were, since something else could not be copied."""

    def to_json(self) -> dict[str, Any]:
        return {
            "documents": self.documents,
            "files": self.files,
            "bytes": self.size,
            "waiting": self.waiting,
            "deadLetters": self.dead,
            "problems": self.problems,
        }


async def queues_at_rest(broker: MessageBroker, *, where: str) -> Mapping[str, QueueStats]:
    """What each queue has. Raises IonError, which begins with ``where``, where somebody holds an event."""
    found = {it.name: await broker.stats(it.name) for it in await broker.queues()}
    if held := {name: it.unsettled for name, it in found.items() if it.unsettled}:
        named = ", ".join(f"{count:,} of {name}" for name, count in sorted(held.items()))
        raise IonError(
            f"{where}: somebody holds events: {named}. Stop every `serve` there; what one held that died comes back "
            "by itself. Nothing was moved."
        )
    return found


async def check_are_two(source: MessageBroker, target: MessageBroker, *, state_id: str, where: str) -> None:
    """Raises UsageError, which begins with ``where``, where both are one broker."""
    async with own_queue(source, state_id) as name:
        if name in {it.name for it in await target.queues()}:
            raise UsageError(
                f"{where}: are the same broker, with other settings. Say the same in both, and it is left alone."
            )


async def move_queues(
    source: MessageBroker,
    target: MessageBroker,
    queues: Mapping[str, QueueStats],
    moved: Moved,
    *,
    state_id: str,
    progress: Progress,
) -> None:
    """Move dead letters and what waits, queue by queue; ``moved`` says at any time how many have been.

    Queues that ``target`` lacks are made there, and collect what they do here. ``state_id`` is that of ``target``.
    """
    there = {it.name for it in await target.queues()}
    topics = {it.name: sorted(it.topics) for it in await source.queues()}
    for name, stats in queues.items():
        if name not in there:
            await target.declare(name, topics=topics.get(name, ()), retry=RetryPolicy(retries=0))
        with progress(stats.dead + stats.ready + stats.delayed, name) as advance:

            def of_dead(count: int, advance: Callable[[int], object] = advance) -> None:
                moved.dead += count
                advance(count)

            def of_waiting(count: int, advance: Callable[[int], object] = advance) -> None:
                moved.waiting += count
                advance(count)

            await move_letters(source, target, name, unmoved=moved.problems, done=of_dead)
            await move_waiting(source, target, name, state_id=state_id, unmoved=moved.problems, done=of_waiting)


class Share:
    """How far a copy has come, by when its last document was stored: nobody counts documents beforehand."""

    WHOLE = 1_000

    def __init__(self, first: Document | None, last: Document | None) -> None:
        self._first = None if first is None else first.stored_at
        self._last = None if last is None else last.stored_at
        self._told = 0

    @classmethod
    async def of(cls, newest: AsyncIterator[Document], oldest: AsyncIterator[Document]) -> Share:
        """What is damaged at either end is passed over: the copy tells of it."""
        found: list[list[Document]] = []
        for some in (oldest, newest):
            found.append([])
            with passing_over_damage(lambda problems: None):
                async for document in some:
                    found[-1].append(document)
        first, last = (it[0] if it else None for it in found)
        return cls(first, last)

    def further(self, document: Document) -> int:
        """By how many of ``WHOLE`` parts more than when it was last asked."""
        if self._first is None or self._last is None or document.stored_at is None or self._last == self._first:
            return 0
        now = int(self.WHOLE * ((document.stored_at - self._first) / (self._last - self._first)))
        more, self._told = max(now - self._told, 0), max(now, self._told)
        return more
