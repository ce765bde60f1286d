"""The messaging kit's rules for what a process leaves that is blocked for too long, or killed at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta

from ion_core.contracts.messaging import Delivery, MessageBroker
from ion_core.testing.dead_letters import letters
from ion_core.testing.kit import needs, undeclared
from ion_core.testing.process import Elsewhere, Opening, Test, Work, elsewhere
from ion_core.testing.settling import VERBS
from ion_core.testing.subscriber import BODY, BrokerKit

MANY = 150
"""Messages of one process: more than a page of what a backend looks through at once."""
EACH = 12
"""Messages of each kind that a process works on when it is killed."""
MOMENTS = (0.25, 0.5, 0.75)
"""Parts of the time that the work takes, after which it is killed."""
EXPECTED = {f"settled {n}" for n in range(4 * EACH)}
EXPECTED |= {f"{what} {n}" for what in ("moved", "redriven") for n in range(EACH)}
NOW = timedelta(0)


async def _taken(deliveries: AsyncIterator[Delivery], count: int) -> list[Delivery]:
    return [await anext(deliveries) for _ in range(count)]


async def _holds(broker: MessageBroker, test: Test, *, queue: str, count: int) -> None:
    async with broker.subscribe(queue, prefetch=count) as deliveries:
        await _taken(deliveries, count)
        test.say(holds=count)
        await asyncio.Event().wait()


async def _tried(held: Sequence[Delivery]) -> list[str]:
    """What each verb raised, and ``renew``, all of them called at once."""
    calls = [settle(delivery) for settle, delivery in zip(VERBS.values(), held, strict=False)] + [held[-1].renew()]
    return [type(error).__name__ for error in await asyncio.gather(*calls, return_exceptions=True)]


async def _sleeps_over_its_lease(broker: MessageBroker, test: Test, *, kept: str, returned: str) -> None:
    count = len(VERBS) + 1
    async with (
        broker.subscribe(kept, prefetch=2 * count) as of_kept,
        broker.subscribe(returned, prefetch=2 * count) as of_returned,
    ):
        ours, returns = await _taken(of_kept, count), await _taken(of_returned, count)
        test.say(lease=ours[0].lease.total_seconds() if ours[0].lease else None)
        test.ask()
        raised = await _tried(ours)
        again = await _taken(of_returned, count)
        raised += await _tried(returns)
        test.say(raised=raised)
        await asyncio.gather(*(delivery.ack() for delivery in again))
        test.say(acked=count)
        test.ask()


@dataclass(frozen=True, kw_only=True)
class Place:
    """Queues to work in: of ``settled`` all is settled, of ``redriven`` put back, of ``moved`` moved to ``other``.

    ``topic`` is what is published to.
    """

    settled: str
    redriven: str
    moved: str
    other: str
    topic: str


async def _works(broker: MessageBroker, test: Test, *, places: Sequence[Place]) -> None:
    """All that a backend may do in several steps, at once, in one place after the other."""
    for place in places:
        async with broker.subscribe(place.settled, prefetch=4 * EACH) as deliveries:
            held = iter(await _taken(deliveries, 4 * EACH))
            letters = [letter.id for letter in await broker.dead_letters(place.redriven)]
            work: list[Awaitable[object]] = [broker.redrive(place.redriven, letters)]
            work += [broker.move(place.moved, place.other)]
            for n in range(EACH):
                work += [next(held).retry(delay=NOW), next(held).postpone(delay=NOW), next(held).release()]
                work += [
                    next(held).dead_letter("died"),
                    broker.publish(place.topic, f"{place.settled} {n}".encode(), headers={}),
                ]
            test.say(ready=True)
            test.ask()
            begun = asyncio.get_running_loop().time()
            await asyncio.gather(*work)
            test.say(seconds=asyncio.get_running_loop().time() - begun)


class ProcessRules(BrokerKit):
    """Two processes, of which one stops where nobody expects it."""

    opening: Callable[..., Opening] | None = undeclared(
        "opening", "def opening(self): what opens it in a process of its own, an importable function, and its argument"
    )

    def _elsewhere(self, work: Work, **given: object) -> AbstractAsyncContextManager[Elsewhere]:
        assert self.opening is not None
        return elsewhere(self.opening(), work, **given)

    @needs("opening")
    async def test_what_a_killed_process_held_comes_back(self, broker: MessageBroker) -> None:
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        await self._published(broker, topic, MANY)
        async with self.subscribed(broker, queue, prefetch=MANY) as ours:
            held = await ours.take_all(MANY)
            self.short_lease(held[0])
            async with self.renewing(held):
                await self._published(broker, topic, MANY)
                async with self._elsewhere(_holds, queue=queue, count=MANY) as other:
                    await self.within(other.said(), "a process of its own that holds messages")
                    await other.kill()
                async with self.subscribed(broker, queue, prefetch=2 * MANY) as subscriber:
                    again = await subscriber.take_all(MANY)
                    assert {(delivery.body, delivery.attempt) for delivery in again} == {(BODY, 1)}
                    await subscriber.nothing_comes()

    @needs("opening")
    async def test_no_verb_works_on_what_others_have_been_given(self, broker: MessageBroker) -> None:
        topics = [self.fresh("topic") for _ in range(2)]
        kept, returned = [await self.declared(broker, topic) for topic in topics]
        count = len(VERBS) + 1
        for topic in topics:
            await self.publish(broker, topic, *[BODY] * count)
        async with self._elsewhere(_sleeps_over_its_lease, kept=kept, returned=returned) as other:
            lease = (await self.within(other.said(), "a process of its own that holds messages"))["lease"]
            if lease is None:
                return
            async with self.subscribed(broker, kept) as ours:
                async with self.subscribed(broker, returned) as passing:
                    over = timedelta(seconds=lease)
                    for _ in range(count):  # and they go back as this subscription is left
                        await passing.take(within=over)
                    again = [await ours.take(within=over) for _ in range(count)]
                async with self.renewing(again):
                    other.go()
                    raised = (await self.within(other.said(), "verbs on what was lost"))["raised"]
                    assert raised == ["DeliveryLost"] * 2 * count, f"verbs on what others were given raised {raised}"
                    await self.within(other.said(), "verbs on what it was given anew")
                for delivery in again:
                    await delivery.ack()
        for queue in (kept, returned):
            await self.counts(broker, queue)

    @needs("opening")
    async def test_a_process_killed_at_work_loses_nothing(self, broker: MessageBroker) -> None:
        copies = self.fresh("topic")
        queues = [await self.declared(broker, copies) for _ in range(2)]
        whole, *killed = [await self._place(broker, copies) for _ in range(1 + len(MOMENTS))]
        took = 0.0
        for moment, place in zip(MOMENTS, killed, strict=True):
            places = [place] if took else [whole, place]
            async with self._elsewhere(_works, places=places) as other:
                for working in places:
                    await self.within(other.said(), "a process of its own that is about to work")
                    other.go()
                    if working is whole:
                        took = (await self.within(other.said(), "the work of a process of its own"))["seconds"]
                await asyncio.sleep(took * moment)  # the moment is what is tested
                await other.kill()
            await self.kept(broker, [place.settled, place.redriven, place.moved, place.other], EXPECTED)

        async def published() -> list[set[bytes]]:
            many = (1 + len(MOMENTS)) * EACH
            return [{message.body for message in await broker.peek(queue, limit=2 * many)} for queue in queues]

        await self.eventually(published, lambda them: them[0] == them[1], "the same in every queue")

    async def _place(self, broker: MessageBroker, topic: str) -> Place:
        """One in which there is work to do."""
        settled, moved = self.fresh("topic"), self.fresh("topic")
        place = Place(
            settled=await self.declared(broker, settled),
            redriven=await self.declared(broker),
            moved=await self.declared(broker, moved),
            other=await self.declared(broker),
            topic=topic,
        )
        publishes = [self.publish(broker, settled, f"settled {n}".encode()) for n in range(4 * EACH)]
        publishes += [self.publish(broker, moved, f"moved {n}".encode()) for n in range(EACH)]
        await self.within(asyncio.gather(*publishes), "publishes")
        await broker.add_dead_letters(place.redriven, letters(*(f"redriven {n}" for n in range(EACH))))
        return place

    async def _published(self, broker: MessageBroker, topic: str, count: int) -> None:
        await self.within(asyncio.gather(*(self.publish(broker, topic, BODY) for _ in range(count))), "publishes")
