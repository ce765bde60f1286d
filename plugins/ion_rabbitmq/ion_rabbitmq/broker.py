"""The message broker of Ion on RabbitMQ."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError, PublishError

from ion_core.contracts.messaging import DeadLetter, Delivery, HoldLimit, Message, QueueStats, RetryPolicy
from ion_core.errors import DeadLetterNotFound, ProviderError, QueueNotDeclared, TransientError, Unroutable
from ion_rabbitmq import envelope
from ion_rabbitmq.delivery import Subscription, send
from ion_rabbitmq.holding import limit_at
from ion_rabbitmq.link import Link, closed, translated
from ion_rabbitmq.settings import RabbitSettings
from ion_rabbitmq.topology import Topology, rungs_of

log = logging.getLogger(__name__)

BACK_WITHIN = 2.0
"""Seconds after its delay within which a retry is back, here or with another dispatcher."""


class RabbitBroker:
    """The contract's ``MessageBroker``. Two connections, so that a broker that stops publishers still takes acks.

    What it cannot know without RabbitMQ's management plugin: ``unsettled`` counts what this process holds, and
    ``declare`` lets go of topics it has itself bound earlier.
    """

    def __init__(self, settings: RabbitSettings) -> None:
        self.settings = settings
        self.topology = Topology.of(settings)
        self.consuming = Link(settings, "consume")
        self.asking = self.consuming
        self._publishing = Link(settings, "publish")
        self._channel: AbstractChannel | None = None
        self._opening: asyncio.Task[AbstractChannel] | None = None
        self._letters = asyncio.Lock()
        self._bound: dict[str, set[str]] = {}
        self._subscriptions: set[Subscription] = set()
        self._returning: dict[str, dict[str, float]] = {}
        self._under_way: dict[str | None, asyncio.Future[None]] = {}
        self._timeout = settings.timeout.total_seconds()

    @property
    def max_hold(self) -> HoldLimit | None:
        """As far as we were told: RabbitMQ does not say what it has. Its version decides what would change it."""
        return limit_at(self.settings, self.consuming.version)

    async def declare(self, queue: str, *, topics: Sequence[str], retry: RetryPolicy) -> None:
        topology = self.topology
        async with self.asking.borrowed() as channel, asyncio.timeout(self._timeout):
            exchange = await channel.declare_exchange(topology.exchange, aio_pika.ExchangeType.TOPIC, durable=True)
            await channel.declare_queue(topology.dead(queue), durable=True, arguments=topology.dead_arguments())
            main = await channel.declare_queue(
                topology.queue(queue), durable=True, arguments=topology.queue_arguments(queue)
            )
            for rung in rungs_of(retry):
                await self._declare_rung(channel, queue, rung)
            for topic in topics:
                await main.bind(exchange, topic)
            for topic in self._bound.get(queue, set()) - set(topics):
                await main.unbind(exchange, topic)
        self._bound[queue] = set(topics)

    async def _declare_rung(self, channel: AbstractChannel, queue: str, rung: int) -> None:
        arguments = self.topology.waiting_arguments(queue, rung)
        await channel.declare_queue(self.topology.waiting(queue, rung), durable=True, arguments=arguments)
        self.topology.rungs.setdefault(queue, set()).add(rung)

    async def publish(self, topic: str, body: bytes, *, headers: Mapping[str, str]) -> None:
        message = envelope.new(topic, body, headers)
        try:
            await self._send(message, to=topic, exchange=self.topology.exchange)
        except PublishError:
            raise Unroutable(f"topic {topic!r}: no queue takes it. Name a type that a module subscribes to.") from None

    async def postpone(self, queue: str, message: aio_pika.Message, delay: timedelta) -> None:
        """Put it into the queue where it waits for its delay, or at once into its own."""
        rung = self.topology.rung(queue, delay)
        if not rung:
            await self._to_queue(message, self.topology.queue(queue))
            return
        if rung not in self.topology.rungs.get(queue, ()):
            async with self.asking.borrowed() as channel:
                await self._declare_rung(channel, queue, rung)
        await self._to_queue(message, self.topology.waiting(queue, rung))
        due = asyncio.get_running_loop().time() + rung / 1000
        self._returning.setdefault(queue, {})[envelope.key(message)] = due + BACK_WITHIN

    def arrived(self, queue: str, key: str) -> None:
        """A message that may have been on its way back from where it waited."""
        self._returning.get(queue, {}).pop(key, None)

    async def bury(self, queue: str, message: aio_pika.Message) -> None:
        """Put it among the dead letters of ``queue``."""
        await self._to_queue(message, self.topology.dead(queue))

    async def _to_queue(self, message: aio_pika.Message, name: str) -> None:
        try:
            await self._send(message, to=name)
        except PublishError as error:
            raise TransientError(
                f"{self.settings.place()}: the queue {name} is gone; it is declared anew soon"
            ) from error

    async def _send(self, message: aio_pika.Message, *, to: str, exchange: str = "") -> None:
        """Returns once it is confirmed. Raises PublishError when nothing takes it."""
        with translated(self.settings):
            try:
                async with asyncio.timeout(self._timeout), self._alone(message.message_id):
                    channel = await self._publisher()
                    await send(channel, message, to=to, exchange=exchange, timeout=self._timeout)
            except PublishError:
                raise
            except DeliveryError as error:
                raise TransientError(f"{self.settings.place()}: RabbitMQ refused a message: {error}") from error

    @asynccontextmanager
    async def _alone(self, message_id: str | None) -> AsyncIterator[None]:
        """One publish of an id at a time: when RabbitMQ returns a message, its id is how aiormq knows which it was."""
        while (other := self._under_way.get(message_id)) is not None:
            await asyncio.wait([other])
        mine = self._under_way[message_id] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            del self._under_way[message_id]
            mine.set_result(None)

    async def _publisher(self) -> AbstractChannel:
        """The channel to publish on. Opened by a task of its own: others wait for it when one who does is cancelled."""
        if self._channel is not None and not self._channel.is_closed:
            return self._channel
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open_publisher(), name="open a channel to publish on")
            self._opening.add_done_callback(
                lambda task: task.cancelled() or task.exception()
            )  # looked at, if by nobody
        return await asyncio.shield(self._opening)

    async def _open_publisher(self) -> AbstractChannel:
        channel = await self._publishing.channel(returns=True)
        # Publishing to an exchange that is not there closes the channel: it has to be there.
        async with asyncio.timeout(self._timeout):
            await channel.declare_exchange(self.topology.exchange, aio_pika.ExchangeType.TOPIC, durable=True)
        self._channel = channel
        return channel

    @asynccontextmanager
    async def subscribe(self, queue: str, *, prefetch: int) -> AsyncIterator[AsyncIterator[Delivery]]:
        subscription = Subscription(self, queue, max(prefetch, 1))
        await subscription.open()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            await subscription.close()

    async def stats(self, queue: str) -> QueueStats:
        """Counted in the order in which messages move: one that moves meanwhile is seen twice, never missed."""
        topology = self.topology
        async with self._declared(queue) as channel:
            waiting = [
                await _count(channel, topology.waiting(queue, it)) for it in sorted(topology.rungs.get(queue, ()))
            ]
            ready = await _count(channel, topology.queue(queue))
            dead = await _count(channel, topology.dead(queue))
        held = sum(len(it.held) for it in self._subscriptions if it.queue == queue)
        return QueueStats(ready=ready, delayed=max(sum(waiting), self._on_their_way(queue)), unsettled=held, dead=dead)

    def _on_their_way(self, queue: str) -> int:
        """Retries of ours that have not come back: between two queues RabbitMQ counts a message in neither."""
        now = asyncio.get_running_loop().time()
        left = self._returning[queue] = {key: by for key, by in self._returning.get(queue, {}).items() if by > now}
        return len(left)

    @asynccontextmanager
    async def _declared(self, queue: str) -> AsyncIterator[AbstractChannel]:
        try:
            async with self.asking.borrowed() as channel, asyncio.timeout(self._timeout):
                yield channel
        except ChannelNotFoundEntity as error:
            raise QueueNotDeclared(f"queue {queue!r}: is not declared on this broker. Declare it first.") from error

    async def peek(self, queue: str, *, limit: int) -> Sequence[Message]:
        async with self._declared(queue) as channel:
            found = await _got(channel, self.topology.queue(queue), limit)
            return [envelope.peeked(message) for message in found]

    async def dead_letters(self, queue: str, *, limit: int | None = None) -> Sequence[DeadLetter]:
        async with self._letters, self._declared(queue) as channel:
            found = await _got(channel, self.topology.dead(queue), limit)
            return [envelope.dead_letter(message, queue) for message in found]

    async def redrive(self, queue: str, ids: Sequence[str]) -> int:
        async def put_back(message: AbstractIncomingMessage) -> None:
            await self._to_queue(envelope.again(message, attempt=1), self.topology.queue(queue))

        return await self._take_out(queue, ids, put_back)

    async def purge(self, queue: str, ids: Sequence[str]) -> int:
        async def nothing(message: AbstractIncomingMessage) -> None:
            """It is only acked."""

        return await self._take_out(queue, ids, nothing)

    async def _take_out(self, queue: str, ids: Sequence[str], before: Any) -> int:
        """Those of ``ids``, each after ``before``; closing the channel puts the others back where they were."""
        wanted = set(ids)
        async with self._letters, self._declared(queue) as channel:
            found = await _got(channel, self.topology.dead(queue), None)
            missing = wanted - {envelope.letter_id(message) for message in found}
            if missing:
                named = ", ".join(repr(letter[:80]) for letter in sorted(missing)[:10])
                raise DeadLetterNotFound(f"queue {queue!r}: keeps no dead letter {named}; none was touched.")
            chosen = [message for message in found if envelope.letter_id(message) in wanted]
            for message in chosen:
                await before(message)
                await message.ack()
            return len(chosen)

    async def watch(self) -> None:
        """For ever: look whether RabbitMQ still knows our consumers, which it may forget without a word."""
        while True:
            await asyncio.sleep(self.settings.watch.total_seconds())
            for subscription in list(self._subscriptions):
                try:
                    await subscription.check()
                except ProviderError as error:
                    log.warning("RabbitMQ could not be asked for its consumers: %s", error)

    async def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        if self._channel is not None:
            await closed(self._channel, self.settings)
        await asyncio.gather(self._publishing.close(), self.consuming.close())


async def _count(channel: AbstractChannel, name: str) -> int:
    found = await channel.declare_queue(name, passive=True)
    return found.declaration_result.message_count or 0


async def _got(channel: AbstractChannel, name: str, limit: int | None) -> list[AbstractIncomingMessage]:
    """Up to ``limit`` messages, oldest first, unsettled on this channel."""
    queue = await channel.declare_queue(name, passive=True)
    found: list[AbstractIncomingMessage] = []
    while limit is None or len(found) < limit:
        message = await queue.get(no_ack=False, fail=False)
        if message is None:
            break
        found.append(message)
    return found


@asynccontextmanager
async def open_rabbit_broker(settings: RabbitSettings) -> AsyncIterator[RabbitBroker]:
    """Connects. Raises TransientError when nobody answers, ConfigError for credentials or TLS that cannot work."""
    for worry in settings.worries():
        log.warning("messaging: %s", worry)
    broker = RabbitBroker(settings)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(broker.close)
        await closed(await broker.consuming.channel(), settings)
        watching = asyncio.create_task(broker.watch(), name="watch RabbitMQ")
        stack.callback(watching.cancel)
        yield broker
