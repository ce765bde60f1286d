"""A message broker in memory: topics, queues, leases, retries and dead letters of one event loop, gone with it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from ion_core.contracts.messaging import DeadLetter, DeclaredQueue, HoldLimit, Message, QueueStats, RetryPolicy
from ion_core.errors import (
    AlreadySettled,
    DeadLetterNotFound,
    DeliveryLost,
    ProviderError,
    QueueNotDeclared,
    TransientError,
    Unroutable,
)

T = TypeVar("T")


class Timer(Protocol):
    def cancel(self) -> None: ...


CallLater = Callable[[float, Callable[[], None]], Timer]
"""Calls back after so many seconds, unless cancelled: ``loop.call_later``, or a clock a test turns by hand."""


@dataclass(frozen=True, kw_only=True, order=True)
class Stored:
    """A message in a queue; the number it got when it was published, or last put behind the others, keeps the order."""

    number: int
    message: Message = field(compare=False)


@dataclass(eq=False)
class Delayed:
    """A message that waits for its delay; ``queue`` is where it will be ready."""

    stored: Stored
    queue: MemoryQueue
    timer: Timer = field(init=False)


class MemoryQueue:
    """What is ready, delayed, held and dead of one queue."""

    def __init__(self) -> None:
        self.topics: frozenset[str] = frozenset()
        self.ready: list[Stored] = []
        self.delayed: dict[int, Delayed] = {}
        self.held: set[MemoryDelivery] = set()
        self.dead: dict[str, DeadLetter] = {}


class MemoryDelivery:
    """One message, held by a subscriber until it is settled or taken back."""

    def __init__(self, broker: MemoryBroker, queue: str, stored: Stored) -> None:
        self.body, self.headers = stored.message.body, stored.message.headers
        self.attempt = stored.message.attempt
        self.lease = broker.lease
        self.lost = asyncio.Event()
        self._broker, self._name, self._stored = broker, queue, stored
        self._settled = False
        self._timer: Timer | None = None
        self._start_lease()

    async def ack(self) -> None:
        self._settle()

    async def retry(self, *, delay: timedelta) -> None:
        self._settle()
        self._broker._put_behind(self._name, replace(self._stored.message, attempt=self.attempt + 1), delay)

    async def release(self) -> None:
        self._settle()
        self._broker._put_back(self._name, self._stored, timedelta(0))

    async def postpone(self, *, delay: timedelta) -> None:
        self._settle()
        self._broker._put_behind(self._name, self._stored.message, delay)

    async def dead_letter(self, reason: str, *, log_tail: Sequence[str] = ()) -> None:
        self._settle()
        self._broker._bury(self._name, self._stored.message, reason, tuple(log_tail))

    async def renew(self) -> None:
        self._check()
        self._start_lease()

    def take_back(self) -> None:
        """As when the lease has run out: lost, and ready for whoever asks next. Nothing if it is settled."""
        if not self._settled and not self.lost.is_set():
            self._stop_lease()
            self.lost.set()
            self._broker.queue(self._name).held.discard(self)
            self._broker._put_back(self._name, self._stored, timedelta(0))

    def lose(self) -> None:
        """As when its queue is dropped: lost, and back in no queue."""
        self._stop_lease()
        self.lost.set()

    def _check(self) -> None:
        if self.lost.is_set():
            raise DeliveryLost(f"queue {self._name}: the delivery was taken back. It will be delivered again.")
        if self._settled:
            raise AlreadySettled(f"queue {self._name}: the delivery is settled. Settle each delivery once.")
        self._broker._check()

    def _settle(self) -> None:
        self._check()
        self._settled = True
        self._stop_lease()
        self._broker.queue(self._name).held.discard(self)
        self._broker._changed_now()

    def _start_lease(self) -> None:
        self._stop_lease()
        if self.lease is not None:
            self._timer = self._broker._call_later(self.lease.total_seconds(), self.take_back)

    def _stop_lease(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class _Subscription:
    """Waiting in it can be cancelled at any time without losing a delivery."""

    def __init__(self, broker: MemoryBroker, queue: str, prefetch: int) -> None:
        self._broker, self._queue, self._prefetch = broker, queue, prefetch
        self.mine: list[MemoryDelivery] = []

    def __aiter__(self) -> AsyncIterator[MemoryDelivery]:
        return self

    async def __anext__(self) -> MemoryDelivery:
        await self._broker.until(self._may_take)
        self._broker._check()
        delivery = self._broker._take(self._queue)
        self.mine.append(delivery)
        return delivery

    def _may_take(self) -> bool:
        try:
            queue = self._broker.queue(self._queue)
        except QueueNotDeclared as error:
            raise TransientError(f"queue {self._queue}: was dropped while we subscribed to it.") from error
        self.mine = [delivery for delivery in self.mine if delivery in queue.held]
        return bool(queue.ready) and len(self.mine) < self._prefetch


class MemoryBroker:
    """The messaging contract, and for tests: conditions to wait on, a clock to bring along, failures to order.

    ``lease``       how long a delivery may be held without ``renew``; None for ever.
    ``call_later``  times retries and leases; the running loop's unless a test brings its own.
    ``failing``     set to an error, every call raises it until it is None again.
    """

    delivery_type = MemoryDelivery
    max_hold: HoldLimit | None = None
    letters_unseen_for = timedelta(0)

    def __init__(self, *, lease: timedelta | None = None, call_later: CallLater | None = None) -> None:
        self.lease = lease
        self.failing: ProviderError | None = None
        self._call_later: CallLater = call_later or (
            lambda seconds, call: asyncio.get_running_loop().call_later(seconds, call)
        )
        self._queues: dict[str, MemoryQueue] = {}
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return once ``condition()`` holds; it is asked now and after each change of the broker."""
        while not condition():
            await self._changed.wait()

    async def idle(self) -> None:
        """Return once no queue has anything ready, delayed or held."""
        await self.until(lambda: all(self.counts(queue).pending == 0 for queue in self._queues))

    def counts(self, queue: str) -> QueueStats:
        """``stats`` for conditions, which cannot wait."""
        found = self.queue(queue)
        return QueueStats(
            ready=len(found.ready), delayed=len(found.delayed), unsettled=len(found.held), dead=len(found.dead)
        )

    def queue(self, name: str) -> MemoryQueue:
        if name not in self._queues:
            raise QueueNotDeclared(f"queue {name}: was never declared. Declare it before using it.")
        return self._queues[name]

    async def declare(self, queue: str, *, topics: Sequence[str], retry: RetryPolicy) -> None:
        self._check()
        self._queues.setdefault(queue, MemoryQueue()).topics = frozenset(topics)
        self._changed_now()

    async def queues(self) -> Sequence[DeclaredQueue]:
        self._check()
        return [DeclaredQueue(name=name, topics=queue.topics) for name, queue in sorted(self._queues.items())]

    async def move(self, queue: str, to: str) -> int:
        self._check()
        source, target = self.queue(queue), self.queue(to)
        moved = len(source.ready) + len(source.delayed) + len(source.dead)
        for stored in source.ready:
            heapq.heappush(target.ready, stored)
        for number, delayed in source.delayed.items():
            delayed.queue = target
            target.delayed[number] = delayed
        for id, letter in source.dead.items():
            target.dead[id] = replace(letter, queue=to)
        source.ready, source.delayed, source.dead = [], {}, {}
        self._changed_now()
        return moved

    async def drop(self, queue: str) -> None:
        self._check()
        found = self._queues.pop(queue, None)
        if found is None:
            return
        for delayed in found.delayed.values():
            delayed.timer.cancel()
        for delivery in found.held:
            delivery.lose()
        self._changed_now()

    async def publish(self, topic: str, body: bytes, *, headers: Mapping[str, str]) -> None:
        self._check()
        queues = [queue for queue in self._queues.values() if topic in queue.topics]
        if not queues:
            raise Unroutable(f"topic {topic}: no queue takes it. Declare a queue for it first.")
        message = Message(body=bytes(body), headers=MappingProxyType(dict(headers)), attempt=1)
        for queue in queues:
            heapq.heappush(queue.ready, Stored(number=next(self._numbers), message=message))
        self._changed_now()

    @asynccontextmanager
    async def subscribe(self, queue: str, *, prefetch: int) -> AsyncIterator[AsyncIterator[MemoryDelivery]]:
        self._check()
        self.queue(queue)
        subscription = _Subscription(self, queue, prefetch)
        try:
            yield subscription
        finally:
            for delivery in subscription.mine:
                delivery.take_back()

    async def stats(self, queue: str) -> QueueStats:
        self._check()
        return self.counts(queue)

    async def peek(self, queue: str, *, limit: int) -> Sequence[Message]:
        self._check()
        return [stored.message for stored in heapq.nsmallest(limit, self.queue(queue).ready)]

    async def dead_letters(self, queue: str, *, limit: int | None = None) -> Sequence[DeadLetter]:
        self._check()
        return sorted(self.queue(queue).dead.values(), key=lambda it: int(it.id))[:limit]

    @asynccontextmanager
    async def each_message(self, queue: str) -> AsyncIterator[AsyncIterator[Message]]:
        self._check()
        yield _each(stored.message for stored in sorted(self.queue(queue).ready))

    @asynccontextmanager
    async def each_dead_letter(self, queue: str) -> AsyncIterator[AsyncIterator[DeadLetter]]:
        yield _each(await self.dead_letters(queue))

    async def dead_letter(self, queue: str, id: str) -> DeadLetter:
        self._check()
        try:
            return self.queue(queue).dead[id]
        except KeyError:
            raise DeadLetterNotFound(f"queue {queue}: no dead letter {id}. List them for their ids.") from None

    async def add_dead_letters(self, queue: str, letters: Sequence[DeadLetter]) -> Sequence[str]:
        self._check()
        dead = self.queue(queue).dead
        added = [replace(letter, id=str(next(self._numbers)), queue=queue) for letter in letters]
        dead.update((letter.id, letter) for letter in added)
        self._changed_now()
        return [letter.id for letter in added]

    async def redrive(self, queue: str, ids: Sequence[str]) -> int:
        letters = self._remove_dead(queue, ids)
        for letter in letters:
            self._put_behind(queue, Message(body=letter.body, headers=letter.headers, attempt=1), timedelta(0))
        return len(letters)

    async def purge(self, queue: str, ids: Sequence[str]) -> int:
        return len(self._remove_dead(queue, ids))

    def _remove_dead(self, queue: str, ids: Sequence[str]) -> list[DeadLetter]:
        self._check()
        dead = self.queue(queue).dead
        if unknown := [id for id in ids if id not in dead]:
            raise DeadLetterNotFound(f"queue {queue}: no dead letter {', '.join(unknown)}. List them for their ids.")
        letters = [dead.pop(id) for id in dict.fromkeys(ids)]
        self._changed_now()
        return letters

    def _take(self, queue: str) -> MemoryDelivery:
        found = self.queue(queue)
        delivery = self.delivery_type(self, queue, heapq.heappop(found.ready))
        found.held.add(delivery)
        self._changed_now()
        return delivery

    def _put_back(self, name: str, stored: Stored, delay: timedelta) -> None:
        waiting = Delayed(stored, self.queue(name))

        def ready() -> None:
            waiting.queue.delayed.pop(stored.number, None)
            heapq.heappush(waiting.queue.ready, stored)
            self._changed_now()

        if delay > timedelta(0):
            waiting.timer = self._call_later(delay.total_seconds(), ready)
            waiting.queue.delayed[stored.number] = waiting
            self._changed_now()
        else:
            ready()

    def _put_behind(self, name: str, message: Message, delay: timedelta) -> None:
        """With a new number: behind what is there."""
        self._put_back(name, Stored(number=next(self._numbers), message=message), delay)

    def _bury(self, queue: str, message: Message, reason: str, log_tail: tuple[str, ...]) -> None:
        letter = DeadLetter(
            id=str(next(self._numbers)),
            queue=queue,
            body=message.body,
            headers=message.headers,
            reason=reason,
            attempts=message.attempt,
            log_tail=log_tail,
            died_at=datetime.now(UTC),
        )
        self.queue(queue).dead[letter.id] = letter
        self._changed_now()

    def _check(self) -> None:
        if self.failing is not None:
            raise self.failing

    def _changed_now(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _close(self) -> None:
        for queue in self._queues.values():
            for delayed in queue.delayed.values():
                delayed.timer.cancel()
            for delivery in queue.held:
                delivery._stop_lease()


async def _each(found: Iterable[T]) -> AsyncIterator[T]:
    for one in found:
        yield one


@asynccontextmanager
async def open_memory_broker(settings: Any = None) -> AsyncIterator[MemoryBroker]:
    """Everything in it is gone when the context is left."""
    broker = MemoryBroker()
    try:
        yield broker
    finally:
        broker._close()
