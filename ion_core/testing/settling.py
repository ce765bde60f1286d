"""The messaging kit's rules for subscribing, holding and settling."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta

from ion_core.contracts.messaging import Delivery, MessageBroker
from ion_core.errors import AlreadySettled, DeliveryLost, IonError, QueueNotDeclared
from ion_core.testing.cuts import CUTS, Cut, Cutting
from ion_core.testing.kit import needs, only, refused
from ion_core.testing.subscriber import BODY, HEADERS, BrokerKit, Subscriber

VERBS: dict[str, Callable[[Delivery], Awaitable[None]]] = {
    "ack": lambda delivery: delivery.ack(),
    "retry": lambda delivery: delivery.retry(delay=timedelta(0)),
    "release": lambda delivery: delivery.release(),
    "postpone": lambda delivery: delivery.postpone(delay=timedelta(0)),
    "dead_letter": lambda delivery: delivery.dead_letter("settled by a test"),
}


async def _renew(delivery: Delivery) -> None:
    await delivery.renew()


COMES_BACK = {"retry": 2, "release": 1, "postpone": 1}
"""The verbs that give it back, and its attempt then."""


class SubscribingRules(BrokerKit):
    """Who is given what, and what happens to it when they leave."""

    async def test_subscribing_to_an_undeclared_queue_is_refused(self, broker: MessageBroker) -> None:
        queue = self.fresh("queue")
        with refused(QueueNotDeclared, naming=queue):
            async with broker.subscribe(queue, prefetch=1):
                pass

    async def test_ready_messages_come_oldest_first(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        bodies = [b"%d" % n for n in range(20)]
        await self.publish(broker, topic, *bodies)
        async with self.subscribed(broker, queue) as subscriber:
            assert [d.body for d in await subscriber.take_all(20)] == bodies

    async def test_a_waiting_subscriber_is_given_what_comes(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        async with self.subscribed(broker, queue) as subscriber:
            await subscriber.nothing_comes()
            for body in (b"one", b"two"):
                await self.publish(broker, topic, body)
                assert (await subscriber.take()).body == body

    async def test_no_more_than_prefetch_are_unsettled(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        await self.publish(broker, topic, *(b"%d" % n for n in range(5)))
        async with self.subscribed(broker, queue, prefetch=2) as subscriber:
            taken = await subscriber.take_all(2)
            await subscriber.nothing_comes()
            for n, settle in enumerate(VERBS[verb] for verb in ("ack", "dead_letter")):
                await settle(taken[n])
                taken.append(await subscriber.take())
                await subscriber.nothing_comes()

    async def test_each_message_goes_to_one_subscriber(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        async with self.subscribed(broker, queue, prefetch=1) as one, self.subscribed(broker, queue, prefetch=1) as two:
            await self.publish(broker, topic, b"1", b"2", b"3", b"4")
            first = [await one.take(), await two.take()]  # each holds one: a full subscriber leaves the rest to others
            await one.nothing_comes()
            for delivery in first:
                await delivery.ack()
            second = [await one.take(), await two.take()]
            assert sorted(d.body for d in first + second) == [b"1", b"2", b"3", b"4"]

    @needs("reopen")
    async def test_subscribers_of_two_processes_share_a_queue(self, broker: MessageBroker) -> None:
        assert self.reopen is not None
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        async with (
            self.reopen() as second,
            self.subscribed(broker, queue, prefetch=1) as here,
            self.subscribed(second, queue, prefetch=1) as there,
        ):
            await self.publish(broker, topic, b"1")
            await self.publish(second, topic, b"2", b"3")
            first = [await here.take(), await there.take()]
            await here.nothing_comes()
            await first[0].ack()
            assert sorted(d.body for d in [*first, await here.take()]) == [b"1", b"2", b"3"]

    async def test_leaving_releases_what_is_unsettled(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        held = [b"held %d" % n for n in range(9)]
        await self.publish(broker, topic, b"settled", *held, b"waiting")
        async with self.subscribed(broker, queue, prefetch=1 + len(held)) as leaving:
            settled, *_ = await leaving.take_all(1 + len(held))
            await settled.ack()
        async with self.subscribed(broker, queue) as staying:
            taken = await staying.take_all(len(held) + 1)
            assert [(d.body, d.attempt) for d in taken] == [(body, 1) for body in [*held, b"waiting"]]

    async def test_what_was_held_is_lost_once_its_subscription_is_left(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        await self.publish(broker, topic, *(verb.encode() for verb in VERBS), b"renew", b"settled")
        async with self.subscribed(broker, queue) as leaving:
            *taken, settled = await leaving.take_all(len(VERBS) + 2)
            await settled.ack()
        assert [d.body for d in taken if not d.lost.is_set()] == [], "these were held, and are not lost"
        for settle, delivery in zip([*VERBS.values(), _renew], taken, strict=True):
            with refused(DeliveryLost, of=f"a verb on {delivery.body!r}"):
                await self.within(settle(delivery), "a verb after leaving")
        await self.counts(broker, queue, ready=len(taken))

    @needs("outage")
    async def test_leaving_while_the_backend_is_away_is_leaving(self, broker: MessageBroker) -> None:
        assert self.outage is not None
        async with AsyncExitStack() as away:
            async with self.holding(broker) as held:
                await away.enter_async_context(self.outage(broker))
            assert held.delivery.lost.is_set(), "it was held, and is not lost"
            for settle in VERBS.values():
                with refused(DeliveryLost):
                    await self.within(settle(held.delivery), "a verb after leaving")
        async with self.subscribed(broker, held.queue) as subscriber:
            again = await subscriber.take()
            assert (again.body, again.attempt) == (BODY, 1)
            await again.ack()
        await self.counts(broker, held.queue)

    @needs("outage")
    async def test_a_subscription_outlives_an_outage(self, broker: MessageBroker) -> None:
        assert self.outage is not None
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        async with broker.subscribe(queue, prefetch=1) as deliveries:
            await self.publish(broker, topic, b"before")
            await (await self.within(anext(deliveries), "a delivery")).ack()
            for body in (b"after", b"after another"):
                async with self.outage(broker):
                    coming = asyncio.ensure_future(anext(deliveries))
                    await asyncio.wait({coming}, timeout=self.quiet)
                await self.publish(broker, topic, body)
                found = await self.within(self._iterated_on(coming, deliveries), "a delivery after an outage")
                assert found.body == body
                await found.ack()
        await self.counts(broker, queue)

    @needs("outage")
    async def test_a_subscription_that_nobody_waits_for_outlives_an_outage(self, broker: MessageBroker) -> None:
        assert self.outage is not None
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        await self.publish(broker, topic, b"delayed", b"held")
        async with broker.subscribe(queue, prefetch=1) as deliveries:
            delayed = await self.within(anext(deliveries), "a delivery")
            await delayed.retry(delay=self.retry.delays()[0])
            held = await self.within(anext(deliveries), "a delivery")
            async with self.outage(broker):
                await self.a_while()  # as while a job runs: nothing is asked for, and a delay ends meanwhile
            await self.publish(broker, topic, b"after")
            expected, found = {b"delayed": 2, b"after": 1}, dict[bytes, int]()
            try:
                await held.ack()
            except DeliveryLost:  # the outage may have cost us the delivery, never the message
                expected[b"held"] = 1
            while found != expected:
                coming = asyncio.ensure_future(anext(deliveries))
                delivery = await self.within(self._iterated_on(coming, deliveries), f"{expected}, it gave {found}")
                found[delivery.body] = delivery.attempt
                await delivery.ack()
        await self.counts(broker, queue)

    async def _iterated_on(self, coming: asyncio.Future[Delivery], deliveries: AsyncIterator[Delivery]) -> Delivery:
        while True:
            try:
                return await coming
            except IonError:
                await asyncio.sleep(0.01)
                coming = asyncio.ensure_future(anext(deliveries))
            except (Exception, StopAsyncIteration) as error:
                raise AssertionError(f"the iteration raised {type(error).__name__}: {error}") from error

    async def test_a_cancelled_holder_settles_nothing(self, broker: MessageBroker) -> None:
        async with self.holding(broker) as held:

            async def work() -> None:
                await asyncio.Event().wait()
                await held.delivery.ack()

            working = asyncio.create_task(work())
            await asyncio.sleep(0)
            working.cancel()
            await asyncio.wait({working})
            await held.subscriber.nothing_comes()
            await self.counts(broker, held.queue, unsettled=1)
            await held.delivery.ack()
            await self.counts(broker, held.queue)

    async def test_a_cancelled_subscriber_settles_nothing(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        await self.publish(broker, topic, BODY)
        taken = asyncio.Event()

        async def subscribe() -> None:
            async with broker.subscribe(queue, prefetch=1) as deliveries:
                async for _ in deliveries:
                    taken.set()

        subscribing = asyncio.create_task(subscribe())
        await self.within(taken.wait(), "the delivery")
        subscribing.cancel()
        await self.within(asyncio.wait({subscribing}), "the end of a cancelled subscriber")
        async with self.subscribed(broker, queue) as subscriber:
            again = await subscriber.take()
            assert (again.body, again.attempt) == (BODY, 1)
            await self.counts(broker, queue, unsettled=1)


class SettlingRules(SubscribingRules):
    """What each verb does, and what two of them do."""

    async def test_ack_is_for_good(self, broker: MessageBroker) -> None:
        async with self.holding(broker) as held:
            await held.delivery.ack()
            await held.subscriber.nothing_comes()
        await self.counts(broker, held.queue)

    async def test_retry_comes_back_one_attempt_higher(self, broker: MessageBroker) -> None:
        async with self.holding(broker) as held:
            delivery = held.delivery
            for attempt in (1, 2, 3):
                assert (delivery.attempt, delivery.body, dict(delivery.headers)) == (attempt, BODY, HEADERS)
                await delivery.retry(delay=timedelta(0))
                delivery = await held.subscriber.take()
            assert delivery.attempt == 4

    async def test_retry_waits_for_its_delay(self, broker: MessageBroker) -> None:
        loop, topic = asyncio.get_running_loop(), self.fresh("topic")
        queue = await self.declared(broker, topic)
        delays = {str(delay).encode(): delay for delay in self.retry.delays()}
        await self.publish(broker, topic, *delays)
        async with self.subscribed(broker, queue) as subscriber:
            asked = {}
            for delivery in await subscriber.take_all(len(delays)):
                asked[delivery.body] = loop.time()
                await delivery.retry(delay=delays[delivery.body])
            for _ in delays:
                body = (again := await subscriber.take(within=max(delays.values()))).body
                waited = timedelta(seconds=loop.time() - asked[body] + 0.005)  # the backend's clock may differ a little
                assert waited >= delays[body], f"came back after {waited}, asked for {delays[body]}"
                await again.ack()

    async def test_a_delayed_message_holds_up_no_other(self, broker: MessageBroker) -> None:
        delays = self.retry.delays()
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        await self.publish(broker, topic, b"long", b"short", b"fresh")
        async with self.subscribed(broker, queue, prefetch=2) as subscriber:
            long, short = await subscriber.take_all(2)
            await long.retry(delay=delays[-1])
            await short.retry(delay=delays[0])
            assert {d.body for d in await subscriber.take_all(2)} == {b"fresh", b"short"}

    async def test_release_comes_back_uncounted(self, broker: MessageBroker) -> None:
        async with self.holding(broker) as held:
            await held.delivery.release()
            again = await held.subscriber.take()
            assert (again.attempt, again.body, dict(again.headers)) == (1, BODY, HEADERS)
            await again.retry(delay=timedelta(0))
            second = await held.subscriber.take()
            await second.release()
            assert (await held.subscriber.take()).attempt == 2

    async def test_postpone_comes_back_uncounted(self, broker: MessageBroker) -> None:
        async with self.holding(broker) as held:
            await held.delivery.retry(delay=timedelta(0))
            delivery = await held.subscriber.take()
            for delay in (timedelta(0), self.retry.delays()[0]):
                await delivery.postpone(delay=delay)
                delivery = await held.subscriber.take()
                assert (delivery.attempt, delivery.body, dict(delivery.headers)) == (2, BODY, HEADERS)
            await delivery.retry(delay=timedelta(0))
            assert (await held.subscriber.take()).attempt == 3

    async def test_postpone_waits_for_its_delay(self, broker: MessageBroker) -> None:
        loop, delay = asyncio.get_running_loop(), self.retry.delays()[0]
        async with self.holding(broker) as held:
            asked = loop.time()
            await held.delivery.postpone(delay=delay)
            await self.counts(broker, held.queue, delayed=1)
            await held.subscriber.take()
            waited = timedelta(seconds=loop.time() - asked + 0.005)  # the backend's clock may differ a little
            assert waited >= delay, f"came back after {waited}, asked for {delay}"

    async def test_a_released_message_keeps_its_place(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        await self.publish(broker, topic, b"first", b"second", b"third")
        async with self.subscribed(broker, queue, prefetch=1) as subscriber:
            for _ in range(3):
                delivery = await subscriber.take()
                assert delivery.body == b"first"
                await delivery.release()
            found = []
            for _ in range(3):
                delivery = await subscriber.take()
                found.append(delivery.body)
                await delivery.ack()
            assert found == [b"first", b"second", b"third"]

    async def test_what_is_retried_or_postponed_stands_behind_the_others(self, broker: MessageBroker) -> None:
        for verb in ("retry", "postpone"):
            for delay in (timedelta(0), self.retry.delays()[0]):
                await self._stands_behind(broker, verb, delay)

    async def _stands_behind(self, broker: MessageBroker, verb: str, delay: timedelta) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        await self.publish(broker, topic, b"first", b"second", b"third")
        async with self.subscribed(broker, queue, prefetch=1) as subscriber:
            first = await subscriber.take()
            await (first.retry(delay=delay) if verb == "retry" else first.postpone(delay=delay))
            second = await subscriber.take()
            await self.counts(broker, queue, ready=2, unsettled=1)  # it is back before the next one is asked for
            found = [second.body]
            await second.ack()
            for _ in range(2):
                delivery = await subscriber.take()
                found.append(delivery.body)
                await delivery.ack()
            assert found == [b"second", b"third", b"first"], f"after {verb} with a delay of {delay}"

    async def test_a_cancelled_verb_has_settled_or_not(self, broker: MessageBroker) -> None:
        for verb, settle in VERBS.items():
            topic = self.fresh("topic")
            queue = await self.declared(broker, topic)
            await self.publish(broker, topic, b"whole")
            async with self.subscribed(broker, queue) as subscriber:
                cutting = Cutting(self, verb)
                await cutting.whole(settle(await subscriber.take()))
                if verb in COMES_BACK:
                    await (await subscriber.take()).ack()
                settled = 1
                for cut in CUTS:
                    await self.publish(broker, topic, BODY)
                    delivery = await subscriber.take()
                    await cutting.short(settle(delivery), cut)
                    settled += await self._is_whole(subscriber, delivery, verb, cut)
                await subscriber.nothing_comes()
                await self.counts(broker, queue, dead=settled if verb == "dead_letter" else 0)

    async def _is_whole(self, subscriber: Subscriber, delivery: Delivery, verb: str, cut: Cut) -> bool:
        """Releasing it works, and then the first did nothing; or it is refused, and then the first did all of it."""
        try:
            await self.within(delivery.release(), f"a verb after {verb}, cancelled {cut}")
            settled = False
        except AlreadySettled:
            settled = True
        attempt = COMES_BACK.get(verb) if settled else 1
        if attempt is not None:
            again = await subscriber.take()
            assert (again.body, again.attempt) == (BODY, attempt), f"{verb}, cancelled {cut}, settled: {settled}"
            await again.ack()
        return settled

    async def test_a_second_verb_is_refused(self, broker: MessageBroker) -> None:
        for first, settle in VERBS.items():
            async with self.holding(broker) as held:
                await settle(held.delivery)
                for again in VERBS.values():
                    with refused(AlreadySettled):
                        await again(held.delivery)
                if first in COMES_BACK:
                    await (await held.subscriber.take()).ack()
                await held.subscriber.nothing_comes()
                await self.counts(broker, held.queue, dead=1 if first == "dead_letter" else 0)

    async def test_any_task_may_settle(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        await self.publish(broker, topic, *(verb.encode() for verb in VERBS))
        async with self.subscribed(broker, queue) as subscriber:
            taken = await subscriber.take_all(len(VERBS))
            settling = (settle(d) for settle, d in zip(VERBS.values(), taken, strict=True))
            await self.within(asyncio.gather(*settling), "verbs by as many tasks")
            back = await subscriber.take_all(len(COMES_BACK))
            assert {d.body.decode(): d.attempt for d in back} == COMES_BACK
            await self.counts(broker, queue, unsettled=len(COMES_BACK), dead=1)

    async def test_renewing_holds_it(self, broker: MessageBroker) -> None:
        async with self.holding(broker) as held:
            lease = self.short_lease(held.delivery) or timedelta(seconds=self.quiet)
            for _ in range(5):
                await asyncio.sleep(lease.total_seconds() / 4)  # the time that passes is what is tested
                await held.delivery.renew()
            await held.subscriber.nothing_comes()
            assert not held.delivery.lost.is_set()
            await held.delivery.ack()
            await self.counts(broker, held.queue)

    async def test_a_delivery_is_ours_for_its_whole_lease(self, broker: MessageBroker) -> None:
        loop, topic = asyncio.get_running_loop(), self.fresh("topic")
        queue = await self.declared(broker, topic)
        async with (
            self.another(broker) as second,
            self.subscribed(broker, queue, prefetch=1) as here,
            self.subscribed(second, queue, prefetch=1) as there,
        ):
            since = loop.time()  # its lease begins no earlier
            await self.publish(broker, topic, BODY)
            if (lease := (await self._given_to(here, there)).lease) is None:
                return
            again = await self._given_to(here, there, within=lease)
            held = timedelta(seconds=loop.time() - since + 0.005)  # the backend's clock may differ a little
            assert held >= lease, f"given away {held} after it was given to us, for a lease of {lease}"
            await asyncio.sleep(lease.total_seconds() / 4)  # renewing then is more than doing nothing
            since = loop.time()
            await again.renew()
            await (await self._given_to(here, there, within=lease)).ack()
            held = timedelta(seconds=loop.time() - since + 0.005)
            assert held >= lease, f"given away {held} after it was renewed, for a lease of {lease}"
        await self.counts(broker, queue)

    async def _given_to(self, *subscribers: Subscriber, within: timedelta = timedelta(0)) -> Delivery:
        """What the first of them is given."""
        taking = [asyncio.ensure_future(subscriber.take(within=within)) for subscriber in subscribers]
        done, waiting = await asyncio.wait(taking, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        await asyncio.wait(taking, timeout=self.patience)
        return await only([*done])

    async def test_max_hold_says_how_long_and_what_to_do(self, broker: MessageBroker) -> None:
        if (limit := broker.max_hold) is None:
            return
        async with self.holding(broker) as held:
            assert limit.longest > timedelta(0), f"nothing can be held for {limit.longest}"
            assert limit.longest >= (held.delivery.lease or limit.longest), "a lease may not exceed max_hold"
            remedies = {limit.remedy(longer * limit.longest) for longer in (2, 20)}
            assert all(remedy.strip() for remedy in remedies), "the remedy is no sentence"
            assert len(remedies) == 2, f"the remedy does not say how long: {remedies.pop()}"
            await held.delivery.ack()

    @needs("take_back")
    async def test_a_delivery_taken_back_says_so(self, broker: MessageBroker) -> None:
        assert self.take_back is not None
        async with self.holding(broker) as held:
            assert not held.delivery.lost.is_set()
            await self.within(self.take_back(broker, held.delivery), "take_back")
            await self.within(held.delivery.lost.wait(), "lost being set")

    @needs("take_back")
    async def test_a_delivery_taken_back_comes_again(self, broker: MessageBroker) -> None:
        assert self.take_back is not None
        async with self.holding(broker) as held:
            await self.within(self.take_back(broker, held.delivery), "take_back")
            again = await held.subscriber.take()
            assert (again.body, dict(again.headers), again.attempt) == (BODY, HEADERS, 1)
            assert not again.lost.is_set()
            await again.ack()
            await self.counts(broker, held.queue)

    @needs("take_back")
    async def test_whoever_is_told_that_it_is_lost_finds_lost_set(self, broker: MessageBroker) -> None:
        assert self.take_back is not None
        async with self.holding(broker) as held:
            await self.within(self.take_back(broker, held.delivery), "take_back")

            async def told() -> None:
                while True:
                    await held.delivery.renew()
                    await asyncio.sleep(0.01)

            with refused(DeliveryLost, of="renewing what was taken back"):
                await self.within(told(), "DeliveryLost")
            assert held.delivery.lost.is_set()
            await (await held.subscriber.take()).ack()

    @needs("take_back")
    async def test_no_verb_works_on_a_lost_delivery(self, broker: MessageBroker) -> None:
        assert self.take_back is not None
        async with self.holding(broker) as held:
            await self.within(self.take_back(broker, held.delivery), "take_back")
            again = await held.subscriber.take()
            async with self.renewing([again]):  # a holder may find out as late as at the end of its lease
                await self.within(held.delivery.lost.wait(), "lost being set")
            for verb in VERBS.values():
                with refused(DeliveryLost):
                    await verb(held.delivery)
            with refused(DeliveryLost):
                await held.delivery.renew()
            await self.counts(broker, held.queue, unsettled=1)
            await again.ack()
            await self.counts(broker, held.queue)

    @needs("outage")
    async def test_a_verb_that_failed_has_settled_nothing(self, broker: MessageBroker) -> None:
        assert self.outage is not None
        for settle in VERBS.values():
            async with self.holding(broker) as held:
                async with self.outage(broker):
                    with refused(IonError):
                        await self.within(settle(held.delivery), "a verb during an outage")
                delivery = held.delivery
                if delivery.lost.is_set():  # the outage may have cost us the delivery, never the message
                    delivery = await held.subscriber.take()
                assert delivery.attempt == 1
                await delivery.ack()
                await self.counts(broker, held.queue)

    @needs("outage")
    async def test_errors_of_the_backend_become_ours(self, broker: MessageBroker) -> None:
        assert self.outage is not None
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        async with self.outage(broker):
            for call in (
                lambda: broker.publish(topic, BODY, headers={}),
                lambda: broker.declare(queue, topics=[topic], retry=self.retry),
                lambda: broker.stats(queue),
                lambda: broker.peek(queue, limit=1),
                lambda: broker.dead_letters(queue),
                lambda: broker.redrive(queue, ["1"]),
                lambda: broker.purge(queue, ["1"]),
            ):
                with refused(IonError):
                    await self.within(call(), "a call during an outage")
