"""The queue against a model: any sequence of what subscribers, publishers and operators do, with time passing."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ion_core.contracts.messaging import QueueStats, RetryPolicy
from ion_core.embedded.sqlite import queue as sql
from ion_core.embedded.sqlite.broker import SqliteBroker
from ion_core.embedded.sqlite.database import Access, open_database
from ion_core.embedded.sqlite.delivery import SqliteDelivery, Subscription
from ion_core.errors import AlreadySettled, DeadLetterNotFound, DeliveryLost

LEASE = 1000.0
PREFETCH = 2
QUEUES = {"one": ["both"], "two": ["both", "single"]}
SUBSCRIBERS = [("one", 0), ("one", 1), ("two", 1)]
"""Queue and broker: the second and third share a broker, the first two a queue."""
Verb = Callable[[SqliteDelivery], Awaitable[None]]


@dataclass(eq=False)
class Stored:
    """A message as it should be. ``due`` None is ready; ``holder`` is whoever was given it last."""

    body: bytes
    attempt: int = 1
    due: float | None = None
    holder: Holding | None = None


@dataclass(eq=False)
class Holding:
    """A claim of a subscriber on a message, with a delivery once it was handed out."""

    message: Stored
    attempt: int
    delivery: SqliteDelivery | None = None


@dataclass(eq=False)
class Taker:
    """A subscriber: what it holds in all, and which of that it has not handed out yet."""

    queue: str
    subscription: Subscription
    held: list[Holding] = field(default_factory=list)
    ahead: list[Holding] = field(default_factory=list)


class QueueMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.count = 0
        self.stale: list[SqliteDelivery] = []
        """Given away meanwhile, and never settled by whoever had it."""
        self.queues: dict[str, list[Stored]] = {queue: [] for queue in QUEUES}
        self.dead: dict[str, list[Stored]] = {queue: [] for queue in QUEUES}
        self.directory = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.runner.run(self.open())

    async def open(self) -> None:
        self.stack, self.brokers = AsyncExitStack(), list[SqliteBroker]()
        for _ in range(2):
            database = await self.stack.enter_async_context(open_database(Path(self.directory.name) / "db", sql.SCHEMA))
            far = timedelta(days=1)  # never polls: the rules look
            broker = SqliteBroker(database, lease=timedelta(seconds=LEASE), poll=far, clock=lambda: self.now)
            await broker.start()
            self.stack.push_async_callback(broker.stop)
            self.brokers.append(broker)
        for queue, topics in QUEUES.items():
            await self.brokers[0].declare(queue, topics=topics, retry=RetryPolicy())
        self.takers = []
        for queue, number in SUBSCRIBERS:
            subscription = await self.stack.enter_async_context(
                self.brokers[number].subscribe(queue, prefetch=PREFETCH)
            )
            assert isinstance(subscription, Subscription)
            self.takers.append(Taker(queue, subscription))

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()
        self.directory.cleanup()

    def ready(self, queue: str) -> list[Stored]:
        return [message for message in self.queues[queue] if message.due is None or message.due <= self.now]

    def let_go(self, holding: Holding) -> None:
        """It counts no longer against its subscriber."""
        if holding.delivery is not None and not holding.delivery.settled:
            self.stale.append(holding.delivery)
        for taker in self.takers:
            for holdings in (taker.held, taker.ahead):
                if holding in holdings:
                    holdings.remove(holding)

    def claim(self, taker: Taker) -> None:
        """What the broker does when a subscriber has nothing ahead: what fell due is ready, the oldest are taken."""
        claimable = self.ready(taker.queue)
        for message in claimable:
            message.due = None
            if message.holder is not None:
                self.let_go(message.holder)
                message.holder = None
        for message in claimable[: PREFETCH - len(taker.held)]:
            message.holder, message.due = Holding(message, message.attempt), self.now + LEASE
            taker.held.append(message.holder)
            taker.ahead.append(message.holder)

    def expire(self) -> None:
        """What nobody renewed in time is nobody's any more, as the next look finds."""
        for taker in self.takers:
            for holding in [holding for holding in taker.held if (holding.message.due or 0.0) <= self.now]:
                self.let_go(holding)

    async def look(self) -> None:
        """What each broker does every poll."""
        for broker in self.brokers:
            await broker._look()

    @rule(topic=st.sampled_from(["both", "single"]), broker=st.integers(0, 1))
    def publish(self, topic: str, broker: int) -> None:
        self.count += 1
        body = b"%d" % self.count
        self.runner.run(self.brokers[broker].publish(topic, body, headers={"n": body.decode()}))
        for queue, topics in QUEUES.items():
            if topic in topics:
                self.queues[queue].append(Stored(body))

    @rule(number=st.integers(0, len(SUBSCRIBERS) - 1))
    def take(self, number: int) -> None:
        taker = self.takers[number]
        if not taker.ahead and len(taker.held) == PREFETCH:
            return
        if not taker.ahead:
            self.claim(taker)
        delivery = self.runner.run(self.next_of(taker.subscription))
        if not taker.ahead:
            assert delivery is None
            return
        holding = taker.ahead.pop(0)
        assert delivery is not None
        assert (delivery.body, delivery.attempt) == (holding.message.body, holding.attempt)
        assert delivery.headers == {"n": delivery.body.decode()}
        holding.delivery = delivery

    async def next_of(self, subscription: Subscription) -> SqliteDelivery | None:
        waiting = asyncio.ensure_future(anext(subscription))
        for _ in range(2):
            await asyncio.sleep(0)
            await subscription.broker.database.call(lambda connection: None, Access.READ)
        await asyncio.sleep(0)
        if waiting.done():
            return waiting.result()
        waiting.cancel()
        await asyncio.wait([waiting])
        return None

    def settle(self, data: st.DataObject, verb: Verb) -> Stored:
        """Settle something that was handed out, by ``verb`` and in vain by another; returns the message."""
        handed = [holding for taker in self.takers for holding in taker.held if holding.delivery is not None]
        holding = data.draw(st.sampled_from(handed))
        assert holding.delivery is not None

        async def twice(delivery: SqliteDelivery) -> None:
            await verb(delivery)
            try:
                await delivery.ack()
            except AlreadySettled:
                return
            raise AssertionError("settled twice")

        self.runner.run(twice(holding.delivery))
        self.let_go(holding)
        holding.message.holder = None
        return holding.message

    def has_handed_out(self) -> bool:
        return any(holding.delivery is not None for taker in self.takers for holding in taker.held)

    def queue_of(self, message: Stored) -> str:
        return next(queue for queue, messages in self.queues.items() if message in messages)

    @precondition(has_handed_out)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        message = self.settle(data, lambda delivery: delivery.ack())
        self.queues[self.queue_of(message)].remove(message)

    @precondition(has_handed_out)
    @rule(data=st.data(), delay=st.sampled_from([0.0, 5.0, 500.0]), counts=st.booleans())
    def put_behind(self, data: st.DataObject, delay: float, counts: bool) -> None:
        def verb(delivery: SqliteDelivery) -> Awaitable[None]:
            put = delivery.retry if counts else delivery.postpone
            return put(delay=timedelta(seconds=delay))

        message = self.settle(data, verb)
        message.attempt += int(counts)
        message.due = self.now + delay if delay else None
        messages = self.queues[self.queue_of(message)]
        messages.remove(message)
        messages.append(message)

    @precondition(has_handed_out)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        message = self.settle(data, lambda delivery: delivery.release())
        message.due = None

    @precondition(has_handed_out)
    @rule(data=st.data())
    def dead_letter(self, data: st.DataObject) -> None:
        message = self.settle(data, lambda delivery: delivery.dead_letter("why", log_tail=["last"]))
        queue = self.queue_of(message)
        self.queues[queue].remove(message)
        self.dead[queue].append(message)

    @precondition(has_handed_out)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        handed = [holding for taker in self.takers for holding in taker.held if holding.delivery is not None]
        holding = data.draw(st.sampled_from(handed))
        assert holding.delivery is not None
        self.runner.run(holding.delivery.renew())
        holding.message.due = self.now + LEASE

    @precondition(lambda self: self.stale)
    @rule(verb=st.sampled_from(["ack", "release", "renew"]))
    def settle_too_late(self, verb: str) -> None:
        delivery = self.stale.pop()
        assert delivery.lost.is_set()
        try:
            self.runner.run(getattr(delivery, verb)())
        except DeliveryLost:
            return
        raise AssertionError(f"{verb} of what somebody else holds")

    @rule(seconds=st.sampled_from([1.0, 6.0, 600.0, 1001.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(data=st.data(), queue=st.sampled_from(sorted(QUEUES)), purge=st.booleans(), wrong=st.booleans())
    def redrive_or_purge(self, data: st.DataObject, queue: str, purge: bool, wrong: bool) -> None:
        letters = self.runner.run(self.brokers[0].dead_letters(queue))
        chosen = sorted(data.draw(st.sets(st.sampled_from(range(len(letters))))) if letters else ())
        ids = [letters[n].id for n in chosen]
        operation = self.brokers[1].purge if purge else self.brokers[1].redrive
        if wrong:
            try:
                self.runner.run(operation(queue, [*ids, "1000000"]))
            except DeadLetterNotFound:
                return
            raise AssertionError("accepted an id that is not there")
        assert self.runner.run(operation(queue, ids)) == len(ids)
        moved = [self.dead[queue][n] for n in chosen]
        self.dead[queue] = [message for message in self.dead[queue] if message not in moved]
        if not purge:
            self.queues[queue] += [Stored(message.body) for message in moved]

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.stack.aclose())
        for messages in self.queues.values():
            for message in messages:
                if message.holder is not None:
                    holding, message.holder, message.due = message.holder, None, None
                    assert holding.delivery is None or holding.delivery.lost.is_set()
        self.runner.run(self.open())

    @invariant()
    def is_as_it_should_be(self) -> None:
        self.expire()
        held_in_time = [holding for taker in self.takers for holding in taker.held]
        self.runner.run(self.look())
        assert not any(holding.delivery.lost.is_set() for holding in held_in_time if holding.delivery is not None)
        for queue, messages in self.queues.items():
            broker = self.brokers[0]
            ready = self.ready(queue)
            waiting = [message for message in messages if message not in ready]
            held = [message for message in waiting if message.holder is not None]
            assert self.runner.run(broker.stats(queue)) == QueueStats(
                ready=len(ready), delayed=len(waiting) - len(held), unsettled=len(held), dead=len(self.dead[queue])
            )
            peeked = self.runner.run(broker.peek(queue, limit=1000))
            assert [(m.body, m.attempt) for m in peeked] == [(m.body, m.attempt) for m in ready]
            letters = self.runner.run(broker.dead_letters(queue))
            assert [(letter.body, letter.attempts) for letter in letters] == [
                (message.body, message.attempt) for message in self.dead[queue]
            ]


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=40, stateful_step_count=40, deadline=None, database=None)
