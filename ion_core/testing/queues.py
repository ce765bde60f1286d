"""The messaging kit's rules for the queues there are: listing, moving what waits, dropping."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from ion_core.contracts.messaging import DeclaredQueue, MessageBroker
from ion_core.errors import DeliveryLost, QueueNotDeclared, TransientError, Unroutable
from ion_core.testing.cuts import CUTS, Cutting
from ion_core.testing.dead_letters import letters
from ion_core.testing.kit import needs, only, refused
from ion_core.testing.settling import VERBS
from ion_core.testing.subscriber import BODY, HEADERS, BrokerKit, Subscriber


class QueueRules(BrokerKit):
    """Queues that nobody serves any more: found, emptied into another, dropped."""

    async def test_queues_are_listed_with_their_topics(self, broker: MessageBroker) -> None:
        one, two = self.fresh("topic"), self.fresh("topic")
        both, none = await self.declared(broker, one, two), await self.declared(broker)
        queues = await self.within(broker.queues(), "queues")
        assert [queue.name for queue in queues] == sorted({queue.name for queue in queues}), "by name, each once"
        found = {queue.name: queue.topics for queue in queues}
        assert (found.get(both), found.get(none)) == (frozenset({one, two}), frozenset())

    async def test_queues_of_other_processes_are_listed(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        async with self.another(broker) as second:
            queue = await self.declared(second, topic)
        assert DeclaredQueue(name=queue, topics=frozenset({topic})) in await broker.queues()

    @needs("unbinds")
    async def test_declaring_again_lets_go_of_what_another_process_bound(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        await self.publish(broker, topic, b"kept: it was there before")
        async with self.another(broker) as second:
            await second.declare(queue, topics=[], retry=self.retry)
            assert DeclaredQueue(name=queue, topics=frozenset()) in await second.queues()
        with refused(Unroutable):
            await broker.publish(topic, b"too late", headers={})
        await self.counts(broker, queue, ready=1)

    async def test_what_waits_can_be_moved_to_another_queue(self, broker: MessageBroker) -> None:
        topic, elsewhere = self.fresh("topic"), self.fresh("topic")
        queue, other = await self.declared(broker, topic), await self.declared(broker, elsewhere)
        await self.publish(broker, elsewhere, b"there")
        due = await self._filled(broker, queue, topic)
        letter = only(await broker.dead_letters(queue))

        assert await self.within(broker.move(queue, other), "move") == 4

        await self.counts(broker, queue)
        moved = only(await broker.dead_letters(other))
        assert (moved.queue, moved.body, dict(moved.headers)) == (other, b"dead", HEADERS)
        assert (moved.reason, moved.attempts, tuple(moved.log_tail)) == ("died", 1, ("last line",))
        assert moved.died_at == letter.died_at
        async with self.subscribed(broker, other) as subscriber:
            found = await self._acked(subscriber, 4)
            assert asyncio.get_running_loop().time() >= due, "its delay was cut short"
            assert found == {b"there": 1, b"fresh": 1, b"again": 2, b"later": 2}
            await subscriber.nothing_comes()
        await self.publish(broker, topic, b"both keep their topics")
        await self.counts(broker, queue, ready=1)

    async def test_a_move_cut_short_loses_nothing(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue, other = await self.declared(broker, topic), await self.declared(broker)
        expected = set[str]()

        async def filled(name: str) -> None:
            expected.update((f"{name} ready", f"{name} dead"))
            await self.publish(broker, topic, f"{name} ready".encode())
            await broker.add_dead_letters(queue, letters(f"{name} dead"))

        await filled("whole")
        cutting = Cutting(self, "move")
        await cutting.whole(broker.move(queue, other))
        for n, cut in enumerate(CUTS):
            await filled(str(n))
            await cutting.short(broker.move(queue, other), cut)
        await self.kept(broker, [queue, other], expected)

    async def test_moving_leaves_what_is_held(self, broker: MessageBroker) -> None:
        async with self.holding(broker) as held:
            other = await self.declared(broker)
            assert await broker.move(held.queue, other) == 0
            assert not held.delivery.lost.is_set()
            await held.delivery.retry(delay=timedelta(0))
            assert (await held.subscriber.take()).body == BODY
        await self.counts(broker, other)

    async def test_moving_from_or_to_an_undeclared_queue_is_refused(self, broker: MessageBroker) -> None:
        topic, missing = self.fresh("topic"), self.fresh("queue")
        queue = await self.declared(broker, topic)
        await self.publish(broker, topic, BODY)
        with refused(QueueNotDeclared, naming=missing):
            await broker.move(queue, missing)
        with refused(QueueNotDeclared, naming=missing):
            await broker.move(missing, queue)
        await self.counts(broker, queue, ready=1)

    async def test_a_dropped_queue_is_gone(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        await self.publish(broker, topic, BODY)
        await self.within(broker.drop(queue), "drop")
        assert queue not in {it.name for it in await broker.queues()}
        with refused(QueueNotDeclared, naming=queue):
            await broker.stats(queue)
        with refused(QueueNotDeclared, naming=queue):
            async with broker.subscribe(queue, prefetch=1):
                pass
        with refused(Unroutable):
            await broker.publish(topic, BODY, headers={})

    async def test_drop_takes_all_of_a_queue_and_nothing_else(self, broker: MessageBroker) -> None:
        topic, elsewhere = self.fresh("topic"), self.fresh("topic")
        queue, neighbour = await self.declared(broker, topic), await self.declared(broker, elsewhere)
        await self._filled(broker, queue, topic)
        await self._filled(broker, neighbour, elsewhere)
        await broker.drop(queue)
        await broker.declare(queue, topics=[topic], retry=self.retry)
        assert await broker.dead_letters(queue) == []
        async with self.subscribed(broker, queue) as subscriber, self.subscribed(broker, neighbour) as other:
            assert await self._acked(other, 3) == {b"fresh": 1, b"again": 2, b"later": 2}
            await subscriber.nothing_comes()  # neither what was delayed: the neighbour's delay began later and is over
            await self.counts(broker, queue)
            await self.counts(broker, neighbour, dead=1)

    async def test_dropping_what_is_not_there_is_done(self, broker: MessageBroker) -> None:
        queue = await self.declared(broker)
        await broker.drop(queue)
        await broker.drop(queue)
        await broker.drop(self.fresh("queue"))

    async def test_what_is_held_of_a_dropped_queue_is_lost(self, broker: MessageBroker) -> None:
        async with self.holding(broker) as held:
            self.short_lease(held.delivery)
            await broker.drop(held.queue)
            await self.within(held.delivery.lost.wait(), "lost is set")
            for verb, settle in VERBS.items():
                with refused(DeliveryLost, of=f"{verb} on a delivery of a dropped queue"):
                    await settle(held.delivery)
            with refused(TransientError, of="iterating"):
                await held.subscriber.take()
        await broker.declare(held.queue, topics=[held.topic], retry=self.retry)
        await self.counts(broker, held.queue)

    async def _filled(self, broker: MessageBroker, queue: str, topic: str) -> float:
        """Have it hold a dead letter, two that are ready (one of them for the second time) and one that is delayed.

        Returns when that is due, by the clock of the event loop.
        """
        await self.publish(broker, topic, b"dead", b"later", b"again", b"fresh")
        async with self.subscribed(broker, queue) as subscriber:
            taken = {it.body: it for it in await subscriber.take_all(4)}
            await taken[b"dead"].dead_letter("died", log_tail=["last line"])
            await taken[b"again"].retry(delay=timedelta(0))
            assert (await subscriber.take()).attempt == 2
            delay = self.retry.delays()[1]
            due = asyncio.get_running_loop().time() + delay.total_seconds()
            await taken[b"later"].retry(delay=delay)
        return due

    async def _acked(self, subscriber: Subscriber, count: int) -> dict[bytes, int]:
        """So many bodies and their attempts, each acknowledged as it comes."""
        found = {}
        for _ in range(count):
            delivery = await subscriber.take()
            assert dict(delivery.headers) == HEADERS
            found[delivery.body] = delivery.attempt
            await delivery.ack()
        return found
