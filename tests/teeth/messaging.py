"""Broken message brokers."""

from __future__ import annotations

import asyncio
import heapq
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from ion_core.contracts.messaging import DeadLetter, Message, QueueStats, RetryPolicy
from ion_core.embedded.memory.broker import MemoryBroker, MemoryDelivery, MemoryQueue, Stored
from ion_core.errors import (
    DeadLetterNotFound,
    ProviderError,
    QueueNotDeclared,
    Unroutable,
)
from ion_core.testing.messaging import MessageBrokerConformance
from ion_core.testing.processes import ProcessRules
from tests.teeth.harness import Mutants, hop, out_of_order

Method = Callable[..., Any]
NOW = timedelta(0)


class Brokers(MessageBrokerConformance):
    patience = 5.0
    quiet = 0.05
    retry = RetryPolicy(retries=3, initial=timedelta(seconds=0.05), factor=6, maximum=timedelta(seconds=5), jitter=0)
    outage = staticmethod(out_of_order)
    opening = None  # its rules are those of PROCESSES
    opened: MemoryBroker

    def reopen(self) -> Any:
        return nullcontext(self.opened)

    async def take_back(self, broker: MemoryBroker, delivery: MemoryDelivery) -> None:
        delivery.take_back()


def opening(broker: Callable[[], MemoryBroker]) -> Callable[[Brokers], Any]:
    @asynccontextmanager
    async def opens(kit: Brokers) -> AsyncIterator[MemoryBroker]:
        kit.opened = broker()
        yield kit.opened
        kit.opened._close()

    return opens


MESSAGING = Mutants(Brokers, "broker", opening(MemoryBroker), but=ProcessRules)


def broker(rule: str, method: str) -> Callable[[Method], Method]:
    """The function replaces that method of the broker."""

    def add(function: Method) -> Method:
        mutant = type("Mutant", (MemoryBroker,), {method: function})
        MESSAGING.add(rule, function.__name__, opening(mutant))
        return function

    return add


def delivery(rule: str, method: str, *, lease: timedelta | None = None) -> Callable[[Method], Method]:
    """The function replaces that method of the delivery."""

    def add(function: Method) -> Method:
        mutant = type("Mutant", (MemoryDelivery,), {method: function})
        broker = type("Broker", (MemoryBroker,), {"delivery_type": mutant})
        MESSAGING.add(rule, function.__name__, opening(lambda: broker(lease=lease)))
        return function

    return add


# Publishing


@broker("bodies_arrive_byte_for_byte", "publish")
async def takes_bodies_for_text(self: Any, topic: str, body: bytes, *, headers: Any) -> None:
    await MemoryBroker.publish(self, topic, body.decode(errors="replace").encode(), headers=headers)


@broker("bodies_arrive_byte_for_byte", "publish")
async def cuts_bodies_at_64_kib(self: Any, topic: str, body: bytes, *, headers: Any) -> None:
    await MemoryBroker.publish(self, topic, body[: 1 << 16], headers=headers)


@broker("headers_arrive_as_given", "publish")
async def adds_a_header_of_its_own(self: Any, topic: str, body: bytes, *, headers: Any) -> None:
    await MemoryBroker.publish(self, topic, body, headers={**headers, "x-attempt": "1"})


@broker("headers_arrive_as_given", "publish")
async def keeps_the_callers_headers(self: Any, topic: str, body: bytes, *, headers: Any) -> None:
    message = Message(body=body, headers=headers, attempt=1)
    for queue in self._queues.values():
        heapq.heappush(queue.ready, Stored(number=next(self._numbers), message=message))
    self._changed_now()


def changing_headers(name: str, changed: Callable[[str], str], *, names: bool) -> None:
    """Publishes the names of headers as ``changed``, or their values."""

    async def publish(self: Any, topic: str, body: bytes, *, headers: Any) -> None:
        other = {changed(it) if names else it: value if names else changed(value) for it, value in headers.items()}
        await MemoryBroker.publish(self, topic, body, headers=other)

    MESSAGING.add("headers_arrive_as_given", name, opening(type("Mutant", (MemoryBroker,), {"publish": publish})))


changing_headers("lowers_header_names", str.lower, names=True)
changing_headers("strips_header_names", str.strip, names=True)
changing_headers("strips_header_values", str.strip, names=False)
changing_headers("normalises_header_names", partial(unicodedata.normalize, "NFC"), names=True)
changing_headers("normalises_header_values", partial(unicodedata.normalize, "NFC"), names=False)


ALIKE = "names_that_are_alike_are_told_apart"


def folding(name: str, fold: Callable[[str], str]) -> None:
    """Takes queues for one whose names are alike once folded."""

    async def declare(self: Any, queue: str, *, topics: Any, retry: Any) -> None:
        there = self._queues.get(fold(queue))
        before = there.topics if there is not None and queue != fold(queue) else ()
        await MemoryBroker.declare(self, fold(queue), topics=[*topics, *before], retry=retry)

    def queue(self: Any, name: str) -> MemoryQueue:
        return MemoryBroker.queue(self, fold(name))

    MESSAGING.add(ALIKE, name, opening(type("Mutant", (MemoryBroker,), {"declare": declare, "queue": queue})))


folding("cuts_names_at_60_characters", lambda name: name[:60])
folding("takes_dots_dashes_and_underscores_for_one", lambda name: name.replace(".", "_").replace("-", "_"))
folding("lowers_queue_names", str.lower)
folding("strips_queue_names", str.strip)


@broker(ALIKE, "publish")
async def reaches_topics_below(self: Any, topic: str, body: bytes, *, headers: Any) -> None:
    message = Message(body=body, headers=headers, attempt=1)
    for name, queue in self._queues.items():
        if any(it == topic or topic.startswith(f"{it}.") for it in queue.topics):
            self._put_back(name, Stored(number=next(self._numbers), message=message), NOW)


@broker("nothing_is_cut_from_a_long_queue", "publish")
async def trims_at_a_thousand(self: Any, topic: str, body: bytes, *, headers: Any) -> None:
    await MemoryBroker.publish(self, topic, body, headers=headers)
    for queue in self._queues.values():
        queue.ready = sorted(queue.ready)[-1000:]


@broker("declaring_again_takes_nothing_from_who_holds_it", "declare")
async def takes_back_what_is_held(self: Any, queue: str, *, topics: Any, retry: Any) -> None:
    await MemoryBroker.declare(self, queue, topics=topics, retry=retry)
    for held in list(self.queue(queue).held):
        held.take_back()


@broker("names_and_headers_may_be_255_bytes_long", "publish")
async def cuts_header_values(self: Any, topic: str, body: bytes, *, headers: Any) -> None:
    await MemoryBroker.publish(self, topic, body, headers={name: value[:128] for name, value in headers.items()})


@broker("names_and_headers_may_be_255_bytes_long", "declare")
async def has_short_queue_names(self: Any, queue: str, *, topics: Any, retry: Any) -> None:
    if len(queue) > 200:
        raise ProviderError("the name is too long")
    await MemoryBroker.declare(self, queue, topics=topics, retry=retry)


@broker("every_queue_of_a_topic_gets_a_copy", "publish")
async def has_one_queue_per_topic(self: Any, topic: str, body: bytes, *, headers: Any) -> None:
    name = next(name for name, queue in self._queues.items() if topic in queue.topics)
    message = Message(body=body, headers=headers, attempt=1)
    self._put_back(name, Stored(number=next(self._numbers), message=message), NOW)


@broker("a_queue_gets_its_own_topics_only", "publish")
async def broadcasts(self: Any, topic: str, body: bytes, *, headers: Any) -> None:
    for name in self._queues:
        message = Message(body=body, headers=headers, attempt=1)
        self._put_back(name, Stored(number=next(self._numbers), message=message), NOW)


@broker("a_topic_without_queue_is_unroutable", "publish")
async def drops_the_unroutable(self: Any, topic: str, body: bytes, *, headers: Any) -> None:
    with suppress(Unroutable):
        await MemoryBroker.publish(self, topic, body, headers=headers)


@broker("a_topic_without_queue_is_unroutable", "publish")
async def raises_the_librarys_error(self: Any, topic: str, body: bytes, *, headers: Any) -> None:
    try:
        await MemoryBroker.publish(self, topic, body, headers=headers)
    except Unroutable as error:
        raise LookupError(topic) from error


@broker("publish_returns_when_it_is_stored", "publish")
async def publishes_later(self: Any, topic: str, body: bytes, *, headers: Any) -> None:
    async def later() -> None:
        for _ in range(5):
            await hop()
        await MemoryBroker.publish(self, topic, body, headers=headers)

    self.later = asyncio.create_task(later())


@broker("a_publish_cut_short_is_in_all_queues_or_none", "publish")
async def fills_queue_after_queue(self: Any, topic: str, body: bytes, *, headers: Any) -> None:
    for name in [name for name, queue in self._queues.items() if topic in queue.topics]:
        message = Message(body=body, headers=headers, attempt=1)
        self._put_back(name, Stored(number=next(self._numbers), message=message), NOW)
        await hop()


@broker("tasks_may_publish_at_once", "publish")
async def has_one_buffer_for_all(self: Any, topic: str, body: bytes, *, headers: Any) -> None:
    self.buffer = body
    await asyncio.sleep(0)
    await MemoryBroker.publish(self, topic, self.buffer, headers=headers)


# Declaring, counting, looking


@broker("declaring_again_changes_nothing", "declare")
async def makes_a_new_queue(self: Any, queue: str, *, topics: Any, retry: Any) -> None:
    self._queues[queue] = MemoryQueue()
    self._queues[queue].topics = frozenset(topics)


@broker("declaring_again_adds_topics", "declare")
async def declares_once(self: Any, queue: str, *, topics: Any, retry: Any) -> None:
    if queue not in self._queues:
        await MemoryBroker.declare(self, queue, topics=topics, retry=retry)


@broker("declaring_again_lets_go_of_topics", "declare")
async def never_unbinds(self: Any, queue: str, *, topics: Any, retry: Any) -> None:
    before = self._queues[queue].topics if queue in self._queues else frozenset()
    await MemoryBroker.declare(self, queue, topics=[*topics, *before], retry=retry)


@broker("counts_tell_every_state", "counts")
def counts_delayed_as_ready(self: Any, queue: str) -> QueueStats:
    found = MemoryBroker.counts(self, queue)
    return replace(found, ready=found.ready + found.delayed, delayed=0)


@broker("counts_tell_every_state", "counts")
def forgets_who_holds_what(self: Any, queue: str) -> QueueStats:
    return replace(MemoryBroker.counts(self, queue), unsettled=0)


@broker("what_others_hold_is_counted_or_not_known", "stats")
async def counts_what_it_holds_itself(self: Any, queue: str) -> QueueStats:
    """Asked by another process, which holds nothing."""
    return replace(self.counts(queue), unsettled=0)


@broker("counts_of_an_undeclared_queue_are_refused", "stats")
async def counts_what_is_not_there(self: Any, queue: str) -> QueueStats:
    with suppress(QueueNotDeclared):
        return self.counts(queue)  # type: ignore[no-any-return]
    return QueueStats(ready=0, delayed=0, unsettled=0, dead=0)


@broker("peek_takes_nothing", "peek")
async def peeks_by_taking(self: Any, queue: str, *, limit: int) -> list[Message]:
    ready = self.queue(queue).ready
    return [heapq.heappop(ready).message for _ in range(min(limit, len(ready)))]


@broker("peek_takes_nothing", "peek")
async def peeks_at_what_is_held(self: Any, queue: str, *, limit: int) -> list[Message]:
    held = [delivery._stored.message for delivery in self.queue(queue).held]
    return [*await MemoryBroker.peek(self, queue, limit=limit), *held]


@broker("peek_is_oldest_first_up_to_its_limit", "peek")
async def peeks_at_the_newest(self: Any, queue: str, *, limit: int) -> list[Message]:
    return [stored.message for stored in heapq.nlargest(limit, self.queue(queue).ready)]


@broker("peek_is_oldest_first_up_to_its_limit", "peek")
async def peeks_at_everything(self: Any, queue: str, *, limit: int) -> list[Message]:
    return [stored.message for stored in sorted(self.queue(queue).ready)]


@broker("each_message_is_what_peek_shows_of_any_number", "each_message")
@asynccontextmanager
async def reads_one_page(self: Any, queue: str) -> AsyncIterator[AsyncIterator[Message]]:
    yield _each(await self.peek(queue, limit=100))


@broker("each_message_is_what_peek_shows_of_any_number", "each_message")
@asynccontextmanager
async def reads_what_is_delayed(self: Any, queue: str) -> AsyncIterator[AsyncIterator[Message]]:
    found = self.queue(queue)
    yield _each(it.message for it in sorted([*found.ready, *(delayed.stored for delayed in found.delayed.values())]))


@broker("each_message_is_what_peek_shows_of_any_number", "each_message")
@asynccontextmanager
async def reads_the_newest_first(self: Any, queue: str) -> AsyncIterator[AsyncIterator[Message]]:
    yield _each(it.message for it in sorted(self.queue(queue).ready, reverse=True))


@broker("each_message_is_what_peek_shows_of_any_number", "each_message")
@asynccontextmanager
async def counts_what_is_read(self: Any, queue: str) -> AsyncIterator[AsyncIterator[Message]]:
    ready = self.queue(queue).ready
    ready[:] = [replace(it, message=replace(it.message, attempt=it.message.attempt + 1)) for it in ready]
    yield _each(it.message for it in sorted(ready))


@broker("what_is_read_in_part_is_where_it_was", "each_message")
@asynccontextmanager
async def puts_back_what_was_read_behind_the_others(self: Any, queue: str) -> AsyncIterator[AsyncIterator[Message]]:
    read: list[Message] = []

    async def reading() -> AsyncIterator[Message]:
        while self.queue(queue).ready:
            read.append(heapq.heappop(self.queue(queue).ready).message)
            yield read[-1]

    yield reading()
    for message in read:
        self._put_behind(queue, message, NOW)


@broker("what_is_read_in_part_is_where_it_was", "each_message")
@asynccontextmanager
async def gives_back_what_was_not_read(self: Any, queue: str) -> AsyncIterator[AsyncIterator[Message]]:
    ready = self.queue(queue).ready

    async def reading() -> AsyncIterator[Message]:
        while ready:
            yield heapq.heappop(ready).message

    yield reading()


@broker("reading_an_undeclared_queue_is_refused", "each_message")
@asynccontextmanager
async def reads_nothing_of_what_is_not_there(self: Any, queue: str) -> AsyncIterator[AsyncIterator[Message]]:
    yield _each([])


@broker("reading_an_undeclared_queue_is_refused", "dead_letter")
async def has_no_letter_of_what_is_not_there(self: Any, queue: str, id: str) -> DeadLetter:
    raise DeadLetterNotFound(f"queue {queue}: no dead letter {id}")


async def _each(found: Iterable[Message]) -> AsyncIterator[Message]:
    for one in found:
        yield one


@asynccontextmanager
async def empty_after_reopening(self: Brokers) -> AsyncIterator[MemoryBroker]:
    again = MemoryBroker()
    for name, queue in self.opened._queues.items():
        await again.declare(name, topics=list(queue.topics), retry=self.retry)
    yield again


MESSAGING.add("messages_outlive_their_publisher", "empty_after_reopening", reopen=empty_after_reopening)
MESSAGING.add("subscribers_of_two_processes_share_a_queue", "empty_after_reopening", reopen=empty_after_reopening)

# Subscribing


@broker("subscribing_to_an_undeclared_queue_is_refused", "subscribe")
@asynccontextmanager
async def declares_on_subscribing(self: Any, queue: str, *, prefetch: int) -> AsyncIterator[Any]:
    self._queues.setdefault(queue, MemoryQueue())
    async with MemoryBroker.subscribe(self, queue, prefetch=prefetch) as deliveries:
        yield deliveries


@broker("ready_messages_come_oldest_first", "publish")
async def is_a_stack(self: Any, topic: str, body: bytes, *, headers: Any) -> None:
    self.lowest = getattr(self, "lowest", 0) - 1
    self._numbers = iter([self.lowest])
    await MemoryBroker.publish(self, topic, body, headers=headers)


@broker("a_waiting_subscriber_is_given_what_comes", "publish")
async def wakes_nobody(self: Any, topic: str, body: bytes, *, headers: Any) -> None:
    self._changed, waiting = asyncio.Event(), self._changed
    await MemoryBroker.publish(self, topic, body, headers=headers)
    self._changed = waiting


@broker("no_more_than_prefetch_are_unsettled", "subscribe")
@asynccontextmanager
async def ignores_prefetch(self: Any, queue: str, *, prefetch: int) -> AsyncIterator[Any]:
    async with MemoryBroker.subscribe(self, queue, prefetch=1000) as deliveries:
        yield deliveries


@broker("no_more_than_prefetch_are_unsettled", "subscribe")
@asynccontextmanager
async def gives_prefetch_once(self: Any, queue: str, *, prefetch: int) -> AsyncIterator[Any]:
    async with MemoryBroker.subscribe(self, queue, prefetch=prefetch) as deliveries:

        async def some() -> AsyncIterator[Any]:
            for _ in range(prefetch):
                yield await anext(deliveries)
            await asyncio.Event().wait()

        yield some()


@broker("each_message_goes_to_one_subscriber", "_take")
def gives_it_to_two(self: Any, queue: str) -> MemoryDelivery:
    taken = MemoryBroker._take(self, queue)
    if taken._stored.number > 0:
        again = Stored(number=-taken._stored.number, message=taken._stored.message)
        heapq.heappush(self.queue(queue).ready, again)
    return taken


@broker("leaving_releases_what_is_unsettled", "subscribe")
@asynccontextmanager
async def leaving_acks(self: Any, queue: str, *, prefetch: int) -> AsyncIterator[Any]:
    async with MemoryBroker.subscribe(self, queue, prefetch=prefetch) as deliveries:
        yield deliveries
        for held in list(self.queue(queue).held):
            await held.ack()


@broker("leaving_releases_what_is_unsettled", "subscribe")
@asynccontextmanager
async def leaving_counts(self: Any, queue: str, *, prefetch: int) -> AsyncIterator[Any]:
    async with MemoryBroker.subscribe(self, queue, prefetch=prefetch) as deliveries:
        yield deliveries
        for held in list(self.queue(queue).held):
            await held.retry(delay=NOW)


@broker("leaving_releases_what_is_unsettled", "subscribe")
@asynccontextmanager
async def leaving_gives_it_back_backwards(self: Any, queue: str, *, prefetch: int) -> AsyncIterator[Any]:
    async with MemoryBroker.subscribe(self, queue, prefetch=prefetch) as deliveries:
        yield deliveries
        for held in deliveries.mine[::-1]:  # type: ignore[attr-defined]
            if held in self.queue(queue).held:
                await held.postpone(delay=NOW)


@broker("what_was_held_is_lost_once_its_subscription_is_left", "subscribe")
@asynccontextmanager
async def leaves_in_silence(self: Any, queue: str, *, prefetch: int) -> AsyncIterator[Any]:
    async with MemoryBroker.subscribe(self, queue, prefetch=prefetch) as deliveries:
        yield deliveries
        for held in list(self.queue(queue).held):
            await held.release()


@broker("what_was_held_is_lost_once_its_subscription_is_left", "subscribe")
@asynccontextmanager
async def keeps_what_was_held(self: Any, queue: str, *, prefetch: int) -> AsyncIterator[Any]:
    async with MemoryBroker.subscribe(self, queue, prefetch=prefetch) as deliveries:
        yield deliveries
        deliveries.mine.clear()  # type: ignore[attr-defined]


@broker("leaving_while_the_backend_is_away_is_leaving", "subscribe")
@asynccontextmanager
async def cannot_be_left_in_an_outage(self: Any, queue: str, *, prefetch: int) -> AsyncIterator[Any]:
    async with MemoryBroker.subscribe(self, queue, prefetch=prefetch) as deliveries:
        yield deliveries
        self._check()


@broker("leaving_while_the_backend_is_away_is_leaving", "subscribe")
@asynccontextmanager
async def loses_nothing_in_an_outage(self: Any, queue: str, *, prefetch: int) -> AsyncIterator[Any]:
    async with MemoryBroker.subscribe(self, queue, prefetch=prefetch) as deliveries:
        yield deliveries
        if self.failing is not None:
            deliveries.mine.clear()  # type: ignore[attr-defined]


@broker("a_subscription_outlives_an_outage", "subscribe")
@asynccontextmanager
async def ends_with_its_first_error(self: Any, queue: str, *, prefetch: int) -> AsyncIterator[Any]:
    async with MemoryBroker.subscribe(self, queue, prefetch=prefetch) as deliveries:

        async def until_an_outage() -> AsyncIterator[Any]:
            async for found in deliveries:
                yield found
                while self.failing is None and not self.queue(queue).ready:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                self._check()

        yield until_an_outage()


@broker("a_subscription_outlives_an_outage", "subscribe")
@asynccontextmanager
async def lets_the_librarys_error_out_of_the_iteration(self: Any, queue: str, *, prefetch: int) -> AsyncIterator[Any]:
    async with MemoryBroker.subscribe(self, queue, prefetch=prefetch) as deliveries:

        async def until_an_outage() -> AsyncIterator[Any]:
            async for found in deliveries:
                yield found
                while self.failing is None and not self.queue(queue).ready:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                if self.failing is not None:
                    raise ConnectionResetError("by the library")

        yield until_an_outage()


@broker("a_cancelled_holder_settles_nothing", "_take")
def settles_on_delivery(self: Any, queue: str) -> MemoryDelivery:
    taken = MemoryBroker._take(self, queue)
    self.queue(queue).held.discard(taken)
    return taken


@broker("a_cancelled_subscriber_settles_nothing", "subscribe")
@asynccontextmanager
async def takes_cancellation_for_failure(self: Any, queue: str, *, prefetch: int) -> AsyncIterator[Any]:
    async with MemoryBroker.subscribe(self, queue, prefetch=prefetch) as deliveries:
        try:
            yield deliveries
        except asyncio.CancelledError:
            for held in list(self.queue(queue).held):
                await held.dead_letter("cancelled")
            raise
