"""The messaging kit: ``docs/contracts/messaging.md`` as tests, one for each rule and of its name."""

from __future__ import annotations

import asyncio

from ion_core.contracts.messaging import Delivery, MessageBroker
from ion_core.errors import QueueNotDeclared, Unroutable
from ion_core.testing.cuts import CUTS, Cutting
from ion_core.testing.dead_letters import DeadLetterRules
from ion_core.testing.kit import in_brief, needs, only, refused
from ion_core.testing.processes import ProcessRules
from ion_core.testing.queues import QueueRules
from ion_core.testing.settling import SettlingRules
from ion_core.testing.subscriber import BODY, HEADERS, MANY, BrokerKit

LONG = 1_100
"""Messages of a queue that is long: more than a round number at which a backend might begin to forget."""
LIKE_OTHERS = {"  padded\t": "  padded\t\r\n", "é": "é", "e\u0301": "e\u0301", "\ufb01": "\u212b"}
"""Names and values that become others where somebody strips them or normalises their Unicode."""


class PublishingRules(BrokerKit):
    """Publishing, queues and topics, counts."""

    async def test_bodies_arrive_byte_for_byte(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        bodies = [b"", bytes(range(256)), BODY, b"\xff" * (1 << 20)]
        await self.publish(broker, topic, *bodies)
        async with self.subscribed(broker, queue) as subscriber:
            found = sorted(d.body for d in await subscriber.take_all(len(bodies)))
            assert [in_brief(body) for body in found] == [in_brief(body) for body in sorted(bodies)]

    async def test_headers_arrive_as_given(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        given = {**HEADERS, "empty": "", "digits": "007", "Case": "Case", "case": "case", **LIKE_OTHERS}
        expected = dict(given)
        await broker.publish(topic, BODY, headers=given)
        given["late"] = "added by the caller afterwards"
        await broker.publish(topic, BODY, headers={})
        async with self.subscribed(broker, queue) as subscriber:
            first, second = await subscriber.take_all(2)
            assert dict(first.headers) == expected
            assert dict(second.headers) == {}

    async def test_names_and_headers_may_be_255_bytes_long(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic").ljust(255, "t")
        queue = self.fresh("queue").ljust(255, "q")
        headers = {"h" * 255: "v" * 255, "wide": "é" * 127}
        await broker.declare(queue, topics=[topic], retry=self.retry)
        await broker.publish(topic, BODY, headers=headers)
        async with self.subscribed(broker, queue) as subscriber:
            assert dict((await subscriber.take()).headers) == headers

    async def test_every_queue_of_a_topic_gets_a_copy(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queues = [await self.declared(broker, topic) for _ in range(3)]
        await self.publish(broker, topic, BODY)
        for queue in queues:
            async with self.subscribed(broker, queue) as subscriber:
                delivery = await subscriber.take()
                assert (delivery.body, dict(delivery.headers)) == (BODY, HEADERS)
                await delivery.ack()
            await self.counts(broker, queue)

    async def test_a_queue_gets_its_own_topics_only(self, broker: MessageBroker) -> None:
        one, two, other = (self.fresh("topic") for _ in range(3))
        queue, elsewhere = await self.declared(broker, one, two), await self.declared(broker, other)
        await self.publish(broker, one, b"one")
        await self.publish(broker, other, b"other")
        await self.publish(broker, two, b"two")
        await self.counts(broker, elsewhere, ready=1)
        async with self.subscribed(broker, queue) as subscriber:
            assert {d.body for d in await subscriber.take_all(2)} == {b"one", b"two"}
            await subscriber.nothing_comes()

    async def test_a_topic_without_queue_is_unroutable(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        with refused(Unroutable, naming=topic):
            await broker.publish(topic, BODY, headers={})
        queue = await self.declared(broker, topic)
        await self.publish(broker, topic, b"after")
        async with self.subscribed(broker, queue) as subscriber:
            assert (await subscriber.take()).body == b"after"
            await subscriber.nothing_comes()

    async def test_publish_returns_when_it_is_stored(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queues = [await self.declared(broker, topic) for _ in range(2)]
        for n in range(5):
            await self.publish(broker, topic, b"%d" % n)
            for queue in queues:
                assert len(await broker.peek(queue, limit=10)) == n + 1, "publish returned before it was in every queue"

    async def test_a_publish_cut_short_is_in_all_queues_or_none(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queues = [await self.declared(broker, topic) for _ in range(3)]
        cutting = Cutting(self, "publish")
        await cutting.whole(broker.publish(topic, b"first", headers={}))
        for n, cut in enumerate(CUTS * 2):
            await cutting.short(broker.publish(topic, b"%d" % n, headers={}), cut)
        await self.publish(broker, topic, b"last")

        async def contents() -> list[list[bytes]]:
            return [sorted(m.body for m in await broker.peek(queue, limit=50)) for queue in queues]

        found = await self.eventually(contents, lambda them: them[0] == them[1] == them[2], "the same in every queue")
        assert {b"first", b"last"} <= {*found[0]}

    async def test_names_that_are_alike_are_told_apart(self, broker: MessageBroker) -> None:
        base, alike = self.fresh("x"), []
        for ending in (
            "",
            ".y",
            "-y",
            "_y",
            ".Y",
            "..y",
            ".y.z",
            ".yz",
            "/y",
            " y",
            ".y ",
            ".dead",
            ".retry",
            *LIKE_OTHERS,
        ):
            alike.append(f"{base}{ending}")
        alike += [f"{base.ljust(250, 'x')}{n}" for n in (1, 2)]
        for name in alike:
            await self.within(broker.declare(name, topics=[name], retry=self.retry), "declare")
        for name in alike:
            await self.publish(broker, name, name.encode())
        for name in alike:
            found = [message.body.decode() for message in await broker.peek(name, limit=9)]
            assert found == [name], f"in queue {name!r}, of the topic of that name"
        listed = {queue.name: queue.topics for queue in await broker.queues()}
        assert {name: listed.get(name) for name in alike} == {name: frozenset({name}) for name in alike}

    async def test_nothing_is_cut_from_a_long_queue(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        numbers = iter(range(LONG))

        async def publish() -> None:
            for n in numbers:
                await broker.publish(topic, b"%d" % n, headers={})

        await self.within(asyncio.gather(*(publish() for _ in range(50))), f"{LONG} publishes")
        await self.counts(broker, queue, ready=LONG)
        found = set()
        async with self.subscribed(broker, queue, prefetch=10) as subscriber:
            for _ in range(LONG):
                delivery = await subscriber.take()
                found.add(int(delivery.body))
                await delivery.ack()  # at once: all of them take longer than a lease, where a call takes milliseconds
        assert found == {*range(LONG)}

    async def test_tasks_may_publish_at_once(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        bodies = [b"%d" % n for n in range(100)]

        async def publish(some: list[bytes]) -> None:
            for body in some:
                await broker.publish(topic, body, headers={"is": body.decode()})

        await self.within(asyncio.gather(*(publish(bodies[n::5]) for n in range(5))), "100 publishes by 5 tasks")
        async with self.subscribed(broker, queue, prefetch=200) as subscriber:
            taken = await subscriber.take_all(100)
            assert sorted(d.body for d in taken) == sorted(bodies)
            assert all(d.headers["is"].encode() == d.body for d in taken)
            await subscriber.nothing_comes()

    async def test_declaring_again_changes_nothing(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        await self.publish(broker, topic, b"before")
        await broker.declare(queue, topics=[topic], retry=self.retry)
        await self.publish(broker, topic, b"after")
        async with self.subscribed(broker, queue) as subscriber:
            assert [d.body for d in await subscriber.take_all(2)] == [b"before", b"after"]
            await subscriber.nothing_comes()

    async def test_declaring_again_takes_nothing_from_who_holds_it(self, broker: MessageBroker) -> None:
        async with self.another(broker) as second, self.holding(second) as held:
            async with self.subscribed(broker, held.queue) as subscriber:
                for declaring in (broker, second):
                    await declaring.declare(held.queue, topics=[held.topic], retry=self.retry)
                await subscriber.nothing_comes()
            assert not held.delivery.lost.is_set(), "declaring its queue again took it back"
            await held.delivery.ack()
            await self.counts(second, held.queue)

    async def test_declaring_again_adds_topics(self, broker: MessageBroker) -> None:
        old, new = self.fresh("topic"), self.fresh("topic")
        queue = await self.declared(broker, old)
        await broker.declare(queue, topics=[old, new], retry=self.retry)
        await self.publish(broker, old, b"old")
        await self.publish(broker, new, b"new")
        await self.counts(broker, queue, ready=2)

    @needs("unbinds")
    async def test_declaring_again_lets_go_of_topics(self, broker: MessageBroker) -> None:
        old, new = self.fresh("topic"), self.fresh("topic")
        queue = await self.declared(broker, old)
        await self.publish(broker, old, b"kept: it was there before")
        await broker.declare(queue, topics=[new], retry=self.retry)
        with refused(Unroutable):
            await broker.publish(old, b"too late", headers={})
        await self.counts(broker, queue, ready=1)

    async def test_counts_tell_every_state(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        await self.counts(broker, queue)
        await self.publish(broker, topic, *(b"%d" % n for n in range(10)))
        await self.counts(broker, queue, ready=10)
        async with self.subscribed(broker, queue, prefetch=4) as subscriber:
            taken = await subscriber.take_all(4)
            await self.counts(broker, queue, ready=6, unsettled=4)
            await taken[0].retry(delay=self.retry.delays()[-1])
            await taken[1].dead_letter("seen enough")
            await taken[2].ack()
            await subscriber.take_all(3)
            await self.counts(broker, queue, ready=3, delayed=1, unsettled=4, dead=1)
        await self.counts(broker, queue, ready=7, delayed=1, dead=1)

    @needs("reopen")
    async def test_what_others_hold_is_counted_or_not_known(self, broker: MessageBroker) -> None:
        assert self.reopen is not None
        async with self.holding(broker) as held, self.reopen() as second:
            await self.eventually(
                lambda: second.stats(held.queue),
                lambda stats: (stats.ready, stats.delayed, stats.dead) == (0, 0, 0) and stats.unsettled in (1, None),
                f"counts of {held.queue} for another process: one is held, or that is not known",
            )

    async def test_counts_of_an_undeclared_queue_are_refused(self, broker: MessageBroker) -> None:
        queue = self.fresh("queue")
        with refused(QueueNotDeclared, naming=queue):
            await broker.stats(queue)

    async def test_peek_takes_nothing(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        await self.publish(broker, topic, BODY)
        for _ in range(3):
            seen = only(await broker.peek(queue, limit=10))
            assert (seen.body, dict(seen.headers), seen.attempt) == (BODY, HEADERS, 1)
        await self.counts(broker, queue, ready=1)
        async with self.subscribed(broker, queue) as subscriber:
            assert (await subscriber.take()).attempt == 1
            assert await broker.peek(queue, limit=10) == [], "peek shows what is ready, not what somebody holds"

    async def test_peek_is_oldest_first_up_to_its_limit(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        await self.publish(broker, topic, *(b"%d" % n for n in range(5)))
        assert [m.body for m in await broker.peek(queue, limit=3)] == [b"0", b"1", b"2"]

    async def test_each_message_is_what_peek_shows_of_any_number(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        bodies = [b"%d" % n for n in range(MANY)]
        await self.publish(broker, topic, *bodies)
        async with self.subscribed(broker, queue, prefetch=2) as subscriber:
            late, dead = await subscriber.take_all(2)
            await dead.dead_letter("seen enough")
            await late.retry(delay=self.retry.delays()[-1])
        await self.counts(broker, queue, ready=MANY - 2, delayed=1, dead=1)
        expected = await broker.peek(queue, limit=2 * MANY)
        assert len({message.body for message in expected}) == MANY - 2
        for _ in range(2):
            assert await self.read(broker.each_message(queue)) == list(expected), "oldest first, each once"
        await self.counts(broker, queue, ready=MANY - 2, delayed=1, dead=1)

    async def test_what_is_read_in_part_is_where_it_was(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        await self.publish(broker, topic, *(b"%d" % n for n in range(9)))
        async with broker.each_message(queue) as messages:
            async for message in messages:
                assert message.body == b"0"
                break
        await self.counts(broker, queue, ready=9)
        assert [it.body for it in await self.read(broker.each_message(queue))] == [b"%d" % n for n in range(9)]

    async def test_reading_an_undeclared_queue_is_refused(self, broker: MessageBroker) -> None:
        queue = self.fresh("queue")
        for read in (broker.each_message, broker.each_dead_letter):
            with refused(QueueNotDeclared, naming=queue):
                async with read(queue):
                    pass
        with refused(QueueNotDeclared, naming=queue):
            await broker.dead_letter(queue, "1")

    @needs("reopen")
    async def test_messages_outlive_their_publisher(self, broker: MessageBroker) -> None:
        assert self.reopen is not None
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        await self.publish(broker, topic, BODY)
        async with self.holding(broker) as retried:
            await retried.delivery.retry(delay=self.retry.delays()[0])
            async with self.dead(broker, b"dead") as dead, self.reopen() as second:
                async with self.subscribed(second, queue) as subscriber:
                    delivery: Delivery = await subscriber.take()
                    assert (delivery.body, dict(delivery.headers)) == (BODY, HEADERS)
                assert [letter.body for letter in await second.dead_letters(dead.queue)] == [b"dead"]
            async with self.reopen() as second, self.subscribed(second, queue) as subscriber:
                assert (await subscriber.take()).body == BODY
            again = await retried.subscriber.take()
            assert (again.attempt, again.body) == (2, BODY)


class MessageBrokerConformance(PublishingRules, QueueRules, SettlingRules, DeadLetterRules, ProcessRules):
    """Every rule of the messaging contract. Subclass it, give it the fixture and the hooks::

        class TestMyBroker(MessageBrokerConformance):
            @pytest_asyncio.fixture
            async def broker(self, tmp_path):
                self.settings = MySettings(path=tmp_path / "broker")
                async with open_my_broker(self.settings) as broker:
                    yield broker

            def reopen(self):                           # None where nothing is left once it is closed
                return open_my_broker(self.settings)

            def opening(self):                          # None where another process has nothing of it
                return open_my_broker, self.settings    # a function by its name, and what can be pickled

            async def take_back(self, broker, delivery):    # None where the broker never takes one back
                await make_its_lease_end(delivery)

            def outage(self, broker):                   # None where the backend cannot be made to fail
                return backend_that_fails(self.settings)

    ``broker``    an open broker; queues of other tests may be in it. If it has leases, let them last 2 to 4 seconds.
    ``patience``  seconds to wait for what must happen (10); ``quiet`` for what must not (0.3).
    ``retry``     the policy to declare queues with, if the default's delays (0.2, 2 and 20 s) do not suit.
    ``unbinds``   False where ``declare`` cannot tell which topics to let go of.
    """
