"""What a subscriber holds: the subscription, which outlives its channels, and its deliveries, which do not."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.exceptions import ChannelNotFoundEntity

from ion_core.errors import AlreadySettled, DeliveryLost, QueueNotDeclared, TransientError
from ion_rabbitmq import envelope
from ion_rabbitmq.holding import timed_out
from ion_rabbitmq.link import closed, translated

if TYPE_CHECKING:
    from ion_rabbitmq.broker import RabbitBroker

log = logging.getLogger(__name__)


class RabbitDelivery:
    """One message, on the channel it came by. The verbs and attributes are those of the contract's ``Delivery``."""

    lease: timedelta | None = None
    """RabbitMQ holds it for as long as the channel lives, or its acknowledgement timeout allows."""

    def __init__(self, message: AbstractIncomingMessage, subscription: Subscription) -> None:
        self._message = message
        self._subscription = subscription
        self._settled = False
        self._lock = asyncio.Lock()
        self.attempt = envelope.attempt(message)
        self.headers: Mapping[str, str] = envelope.headers(message)
        self.lost = asyncio.Event()

    @property
    def body(self) -> bytes:
        return self._message.body

    async def ack(self) -> None:
        async def nothing() -> None:
            """The ack itself is all there is."""

        await self._settle(nothing)

    async def retry(self, *, delay: timedelta) -> None:
        again = envelope.again(self._message, attempt=self.attempt + 1)
        await self._settle(lambda: self._subscription.broker.postpone(self._subscription.queue, again, delay))

    async def release(self) -> None:
        async with self._lock:
            self._check()
            with translated(self._subscription.broker.settings):
                await self._message.nack(requeue=True)
            self._is_over()

    async def dead_letter(self, reason: str, *, log_tail: Sequence[str] = ()) -> None:
        dead = envelope.again(self._message, **envelope.death(reason, log_tail))
        await self._settle(lambda: self._subscription.broker.bury(self._subscription.queue, dead))

    async def renew(self) -> None:
        self._check()

    async def _settle(self, before: Callable[[], Awaitable[None]]) -> None:
        """``before``, confirmed, and only then the ack: a crash in between doubles the message and never loses it.

        Carried through when the caller is cancelled, so that we know whether it was settled.
        """
        await asyncio.shield(asyncio.ensure_future(self._settled_after(before)))

    async def _settled_after(self, before: Callable[[], Awaitable[None]]) -> None:
        async with self._lock:
            self._check()
            await before()
            if self.lost.is_set():
                raise DeliveryLost("the channel was lost while the delivery was settled; it is delivered again")
            with translated(self._subscription.broker.settings):
                await self._message.ack()
            self._is_over()

    def _check(self) -> None:
        if self._settled:
            raise AlreadySettled("the delivery was settled before. Settle each delivery once.")
        if self.lost.is_set():
            raise DeliveryLost("RabbitMQ took the delivery back; it is delivered again")

    def _is_over(self) -> None:
        self._settled = True
        self._subscription.held.discard(self)


class Subscription:
    """Consumes a queue on a channel of its own. When that is lost, so is what it held, and another one is opened.

    The iteration raises TransientError when that does not work for as long as ``timeout``; it may be continued.
    """

    def __init__(self, broker: RabbitBroker, queue: str, prefetch: int) -> None:
        self.broker = broker
        self.queue = queue
        self.held: set[RabbitDelivery] = set()
        self._prefetch = prefetch
        self._arrived: asyncio.Queue[RabbitDelivery | None] = asyncio.Queue()
        self._channel: AbstractChannel | None = None
        self._tag = ""
        self._closing: asyncio.Task[None] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RabbitDelivery:
        while True:
            if self._channel is None:
                await self._open_again()
            delivery = await self._arrived.get()
            if delivery is not None and not delivery.lost.is_set():
                return delivery

    async def _open_again(self) -> None:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self.broker.settings.timeout.total_seconds()
        pause = 0.05
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # not all subscribers of all hosts at once
            try:
                await self.open()
            except QueueNotDeclared as error:  # it was there when we came: whoever iterates may declare it anew
                raise TransientError(f"queue {self.queue!r}: was deleted while we subscribed to it") from error
            except TransientError:
                if loop.time() > give_up:
                    raise
                pause = min(2 * pause, 2.0)
            else:
                return

    async def open(self) -> None:
        """Consume. Raises QueueNotDeclared, TransientError."""
        channel = await self.broker.consuming.channel()
        try:
            with translated(self.broker.settings):
                async with asyncio.timeout(self.broker.settings.timeout.total_seconds()):
                    await channel.set_qos(prefetch_count=self._prefetch)
                    queue = await channel.get_queue(self.broker.topology.queue(self.queue))
                    self._channel = channel
                    channel.close_callbacks.add(self._on_close)
                    underlay = await channel.get_underlay_channel()
                    underlay.on_consumer_cancel_callbacks.add(self._on_cancel)
                    self._tag = await queue.consume(self._on_message, no_ack=False)
        except ChannelNotFoundEntity as error:
            raise QueueNotDeclared(
                f"queue {self.queue!r}: is not declared on this broker. Declare it first."
            ) from error
        except BaseException:
            self._channel = None
            await closed(channel, self.broker.settings)
            raise

    async def _on_message(self, message: AbstractIncomingMessage) -> None:
        delivery = RabbitDelivery(message, self)
        self.broker.arrived(self.queue, envelope.key(message))
        self.held.add(delivery)
        self._arrived.put_nowait(delivery)

    def _on_cancel(self, *_: Any) -> None:
        """The broker ended our consumer, because the queue was deleted or its leader moved.

        What was delivered stays ours until the channel is closed: then it is given to others, or to us again.
        """
        channel = self._channel
        log.warning("RabbitMQ cancelled a consumer", extra={"queue": self.queue, "held": len(self.held)})
        self._forget()
        if channel is not None:
            self._closing = asyncio.create_task(closed(channel, self.broker.settings))

    def _on_close(self, channel: object, error: BaseException | None = None) -> None:
        if channel is not self._channel:
            return
        fields = {"queue": self.queue, "held": len(self.held)}
        if timed_out(error):
            limit = self.broker.max_hold
            hint = limit.remedy(2 * limit.longest) if limit is not None else ""
            log.warning("RabbitMQ took back what was held for too long; its jobs go on. %s", hint, extra=fields)
        else:
            log.warning("channel lost: %s", error, extra=fields)
        self._forget()

    def _forget(self) -> None:
        self._channel = None
        for delivery in self.held:
            delivery.lost.set()
        self.held.clear()
        self._arrived.put_nowait(None)  # wakes whoever waits

    async def check(self) -> None:
        """The watchdog's: whether RabbitMQ still has a consumer on the queue; if not, start over."""
        channel = self._channel
        if channel is None:
            return
        async with self.broker.asking.borrowed() as asking:
            with suppress(ChannelNotFoundEntity):
                found = await asking.declare_queue(self.broker.topology.queue(self.queue), passive=True)
                if found.declaration_result.consumer_count:
                    return
        if channel is self._channel:
            log.error("RabbitMQ has no consumer for a queue we subscribe to", extra={"queue": self.queue})
            await closed(channel, self.broker.settings)

    async def close(self) -> None:
        """Stop consuming; closing the channel gives back what is unsettled."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await closed(channel, self.broker.settings)
        if self._closing is not None:
            await asyncio.wait([self._closing])
        for delivery in self.held:
            delivery.lost.set()
        self.held.clear()


async def send(
    channel: AbstractChannel, message: aio_pika.Message, *, to: str, exchange: str = "", timeout: float
) -> None:
    """Publish persistent, mandatory and confirmed. Raises what aio-pika raises."""
    target = channel.default_exchange if not exchange else await channel.get_exchange(exchange, ensure=False)
    confirmation = await target.publish(message, routing_key=to, mandatory=True, timeout=timeout)
    if confirmation is None:
        raise TransientError("RabbitMQ did not confirm")
