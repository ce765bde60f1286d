"""How the messaging kit declares, publishes and takes, and the hooks of its subclasses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import pytest_asyncio

from ion_core.contracts.messaging import Delivery, MessageBroker, QueueStats, RetryPolicy
from ion_core.testing.kit import Conformance, many, undeclared

BODY = b"\x00a body: \xff\xfe \xc3\xa9\r\n"
HEADERS = {"ion-hops": "3", "greeting": "grüß Gott 🙂"}
MANY = 120
"""More than a broker should read at a time."""
T = TypeVar("T")


class Subscriber:
    """One task iterates over the deliveries; the test takes them from here, waiting as long as the kit waits."""

    def __init__(self, kit: Conformance, queue: str) -> None:
        self._kit, self._queue = kit, queue
        self._arrived: asyncio.Queue[Delivery | BaseException] = asyncio.Queue()

    async def iterate(self, deliveries: AsyncIterator[Delivery]) -> None:
        try:
            async for delivery in deliveries:
                self._arrived.put_nowait(delivery)
            self._arrived.put_nowait(AssertionError(f"the subscription of {self._queue} ended by itself"))
        except Exception as error:
            self._arrived.put_nowait(error)

    async def take(self, *, within: timedelta = timedelta(0)) -> Delivery:
        """The next one; it may come so much later than what is to come at once."""
        arrived = await self._kit.within(self._arrived.get(), f"a delivery of {self._queue}", later=within)
        if isinstance(arrived, BaseException):
            raise arrived
        return arrived

    async def take_all(self, count: int) -> list[Delivery]:
        return [await self.take() for _ in range(count)]

    async def nothing_comes(self) -> None:
        async def body() -> bytes:
            return (await self.take()).body

        await self._kit.stays_quiet(body(), f"nothing more was to come from {self._queue}")


@dataclass(frozen=True, kw_only=True)
class Held:
    """A delivery in our hands and where it came from."""

    queue: str
    topic: str
    subscriber: Subscriber
    delivery: Delivery


class BrokerKit(Conformance):
    """``retry`` is the policy every queue is declared with; ``retry()`` is only asked for delays that are in it."""

    contract = "messaging"
    retry: ClassVar[RetryPolicy] = RetryPolicy(
        retries=3, initial=timedelta(seconds=0.2), factor=10, maximum=timedelta(seconds=20), jitter=0
    )
    unbinds: ClassVar[bool] = True
    take_back: Callable[..., Awaitable[None]] | None = undeclared(
        "take_back", "async def take_back(self, broker, delivery): the broker takes this delivery away from us"
    )
    reopen: Callable[..., AbstractAsyncContextManager[Any]] | None = undeclared(
        "reopen", "def reopen(self): a context manager of a second broker, as another process on this backend has it"
    )
    outage: Callable[..., AbstractAsyncContextManager[None]] | None = undeclared(
        "outage", "def outage(self, broker): a context manager within which the backend fails every call"
    )

    def another(self, broker: MessageBroker) -> AbstractAsyncContextManager[MessageBroker]:
        """A second process's; the same where nothing outlives a process."""
        return nullcontext(broker) if self.reopen is None else self.reopen()

    @pytest_asyncio.fixture(autouse=True)
    async def _leaves_no_queue(self, broker: MessageBroker) -> AsyncIterator[None]:
        """What a rule has declared is dropped behind it, with all that is in there."""
        yield
        await many(broker.drop, [it.name for it in await broker.queues() if self.is_made_up(it.name)])

    async def declared(self, broker: MessageBroker, *topics: str) -> str:
        queue = self.fresh("queue")
        await self.within(broker.declare(queue, topics=topics, retry=self.retry), "declare")
        return queue

    async def publish(self, broker: MessageBroker, topic: str, *bodies: bytes) -> None:
        for body in bodies:
            await self.within(broker.publish(topic, body, headers=HEADERS), f"publish to {topic}")

    @asynccontextmanager
    async def subscribed(self, broker: MessageBroker, queue: str, *, prefetch: int = 50) -> AsyncIterator[Subscriber]:
        async with broker.subscribe(queue, prefetch=prefetch) as deliveries:
            subscriber = Subscriber(self, queue)
            iterating = asyncio.create_task(subscriber.iterate(deliveries))
            try:
                yield subscriber
            finally:
                iterating.cancel()
                await asyncio.wait({iterating}, timeout=self.patience)

    @asynccontextmanager
    async def holding(self, broker: MessageBroker, body: bytes = BODY) -> AsyncIterator[Held]:
        """A queue with one message, which has been delivered to us."""
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        await self.publish(broker, topic, body)
        async with self.subscribed(broker, queue) as subscriber:
            yield Held(queue=queue, topic=topic, subscriber=subscriber, delivery=await subscriber.take())

    def short_lease(self, delivery: Delivery) -> timedelta | None:
        """Its lease, which is to run out while the kit waits."""
        lease = delivery.lease
        assert lease is None or timedelta(0) < lease <= timedelta(seconds=self.patience), (
            f"a lease of {lease} does not run out within {self.patience:g} s, for which the kit waits. "
            "Open it for the kit with one of 2 to 4 s."
        )
        return lease

    @asynccontextmanager
    async def renewing(self, held: Sequence[Delivery]) -> AsyncIterator[None]:
        """Within, they are renewed, as the core does with all that it holds."""

        async def renew() -> None:
            while (lease := held[0].lease) is not None:
                await asyncio.gather(*(delivery.renew() for delivery in held))
                await asyncio.sleep(lease.total_seconds() / 4)  # within which it is to be renewed

        task = asyncio.create_task(renew())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task}, timeout=self.patience)

    @asynccontextmanager
    async def dead(self, broker: MessageBroker, *bodies: bytes) -> AsyncIterator[Held]:
        """A queue whose messages have all died, one after the other, for the reason ``died of`` their body."""
        topic = self.fresh("topic")
        queue = await self.declared(broker, topic)
        await self.publish(broker, topic, *bodies)
        async with self.subscribed(broker, queue) as subscriber:
            for _ in bodies:
                delivery = await subscriber.take()
                await delivery.dead_letter(f"died of {delivery.body!r}")
            yield Held(queue=queue, topic=topic, subscriber=subscriber, delivery=delivery)

    async def read(self, reading: AbstractAsyncContextManager[AsyncIterator[T]]) -> list[T]:
        """All that it gives."""

        async def collect() -> list[T]:
            async with reading as found:
                return [one async for one in found]

        return await self.within(collect(), "reading a queue")

    async def counts(self, broker: MessageBroker, queue: str, **expected: int) -> None:
        """The counts of ``queue`` become these; what is not named is 0."""
        full = QueueStats(**({"ready": 0, "delayed": 0, "unsettled": 0, "dead": 0} | expected))
        await self.eventually(lambda: broker.stats(queue), lambda stats: stats == full, f"counts of {queue}: {full}")

    async def kept(self, broker: MessageBroker, queues: Sequence[str], expected: set[str]) -> None:
        """Each of these bodies is ready or a dead letter in one of ``queues``, at least once, and nothing else is."""

        async def bodies() -> set[str]:
            ready = [it.body for queue in queues for it in await broker.peek(queue, limit=2 * len(expected))]
            dead = [it.body for queue in queues for it in await broker.dead_letters(queue)]
            return {body.decode() for body in ready + dead}

        await self.eventually(bodies, lambda them: them == expected, f"in {', '.join(queues)}: {sorted(expected)}")
