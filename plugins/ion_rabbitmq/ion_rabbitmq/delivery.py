"""What a subscriber holds: the subscription, which outlives its channels, and its deliveries, which do not."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, Protocol, Self

from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError

from ion_core.errors import (
    AlreadySettled,
    DeliveryLost,
    IonError,
    MessageRefused,
    PermanentError,
    QueueNotDeclared,
    TransientError,
)
from ion_rabbitmq import envelope
from ion_rabbitmq.arriving import ConsumingChannel
from ion_rabbitmq.closed_frames import Incoming, Kept
from ion_rabbitmq.counting import Answers, is_worn, settled
from ion_rabbitmq.envelope import Envelope
from ion_rabbitmq.holding import cancels_for_it, timed_out
from ion_rabbitmq.link import Link, closed, translated
from ion_rabbitmq.looking import counts_known
from ion_rabbitmq.sending import Sending
from ion_rabbitmq.settings import RabbitSettings
from ion_rabbitmq.topology import Topology

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 30.0
"""Seconds before a channel is opened again: after the first that was lost, and after many in a row."""
AWAY_PAUSE = 2.0
"""Seconds, at most, between tries while none can be opened."""
STEADY = 60.0
"""Seconds after which a channel has not been lost in a row with the one before."""


class Onward(Protocol):
    """Where messages go from here: their broker."""

    def way(self) -> Sending: ...

    async def postpone(self, queue: str, message: Kept, delay: timedelta, way: Sending) -> None: ...

    async def bury(self, queue: str, message: Kept, way: Sending) -> None: ...

    async def put_back(self, queue: str, message: Kept, way: Sending) -> None: ...

    def arrived(self, queue: str, key: str) -> None: ...

    def lost(self, queue: str, keys: Sequence[str]) -> None: ...

    def gone(self) -> None: ...


class RabbitDelivery:
    """One message, on the channel it came by. The verbs and attributes are those of the contract's ``Delivery``."""

    lease: timedelta | None = None
    """RabbitMQ holds it for as long as the channel lives, or its acknowledgement timeout allows."""

    def __init__(self, message: Incoming, channel: ConsumingChannel, subscription: Subscription) -> None:
        self._message = message
        self._channel = channel
        self._envelope = Envelope.of(message)
        self._subscription = subscription
        self._settled = False
        self._lock = asyncio.Lock()
        self._way = subscription.onward.way()
        self._death: dict[str, Any] | None = None
        self._asked = ""
        """The verb whose message is on its way, when that is not answered."""
        self.attempt = self._envelope.ours.attempt
        self.headers: Mapping[str, str] = dict(self._envelope.ours.headers)
        self.lost = asyncio.Event()
        self.since = asyncio.get_running_loop().time()

    @property
    def body(self) -> bytes:
        if self._envelope.unreadable:
            raise PermanentError(self._envelope.unreadable)
        return self._envelope.body

    @property
    def key(self) -> str:
        """What tells it and its attempt from others."""
        return self._envelope.key

    @property
    def is_given_up(self) -> bool:
        """Whether its holder has left it, and RabbitMQ has yet to say whether its message arrived."""
        return self._settled and not self.lost.is_set()

    @property
    def is_being_settled(self) -> bool:
        return self._lock.locked()

    async def ack(self) -> None:
        if self._lock.locked() or self._way.unanswered:
            await self._settle("ack", _nothing)
            return
        self._check()
        self._acked()
        self._is_over()

    async def retry(self, *, delay: timedelta) -> None:
        again = envelope.written(self._envelope, attempt=self.attempt + 1)
        try:
            await self._settle("retry", lambda: self._to.postpone(self._subscription.queue, again, delay, self._way))
        except MessageRefused as error:
            await self.dead_letter(f"failed, and cannot be put aside for another attempt: {error}")

    async def release(self) -> None:
        await self._carried_through(self._released())

    async def _released(self, *, requeue: bool = True) -> None:
        async with self._lock:
            self._check()
            anew = requeue and not self._way.unanswered and is_worn(self._message) and await self._written_anew()
            if self._way.unanswered:
                self._settled = True
                self._subscription.later(self._as_it_is_answered())
                return
            if anew:
                self._acked()
            else:
                self._nack(requeue=requeue)
            self._is_over()

    def __lt__(self, other: RabbitDelivery) -> bool:
        """Given out earlier on their channel: a quorum queue puts back in the order in which they are given back."""
        return self._message.tag < other._message.tag

    async def taken_back(self) -> None:
        """Released by its subscription: for its holder it is lost."""
        await self.release()
        self._settled = False
        self.lost.set()

    async def _written_anew(self) -> bool:
        """A limit may let it come back no more. Whether it is there once more, as a new message."""
        try:
            await self._to.put_back(self._subscription.queue, envelope.written(self._envelope), self._way)
        except (TransientError, MessageRefused) as error:
            log.warning("RabbitMQ counts a release: %s", error, extra={"queue": self._subscription.queue})
            return False
        return not self.lost.is_set()

    async def _as_it_is_answered(self) -> None:
        """Its message is on its way, by a verb that was given up: given back as well, there would be two of it."""
        try:
            with translated(self._subscription.settings):
                await self._way.answer()
            if not self.lost.is_set():
                self._acked()
        except (IonError, DeliveryError) as error:
            log.debug("what was on its way did not arrive: %s", error)
            if not self.lost.is_set():
                self._nack()
        self._is_over()

    def _nack(self, *, requeue: bool = True) -> None:
        """Given back; where that cannot be said, with its channel: what is held for nobody holds up others."""
        try:
            with translated(self._subscription.settings):
                self._channel.nack(self._message, requeue=requeue)
        except IonError as error:
            self._subscription.start_over(f"a delivery could not be given back: {error}")
            raise

    async def postpone(self, *, delay: timedelta) -> None:
        again = envelope.written(self._envelope)
        try:
            await self._settle("postpone", lambda: self._to.postpone(self._subscription.queue, again, delay, self._way))
        except MessageRefused as error:
            log.warning("cannot be written again, is released: %s", error, extra=self._fields())
            await self.release()

    async def dead_letter(self, reason: str, *, log_tail: Sequence[str] = ()) -> None:
        if self._death is None:  # of several tries one dead letter, whatever arrives of them
            self._death = envelope.death(reason, log_tail)
        about = self._death
        try:
            try:
                await self._bury(self._envelope, about)
            except MessageRefused:
                await self._bury(self._envelope.packed(), about)  # it may be small enough then
        except MessageRefused as error:
            await self._hand_to_rabbitmq(reason, error)

    async def _bury(self, message: Envelope, about: Mapping[str, Any]) -> None:
        dead = envelope.written(message, **about)
        await self._settle("dead_letter", lambda: self._to.bury(self._subscription.queue, dead, self._way))

    @property
    def _to(self) -> Onward:
        return self._subscription.onward

    async def _hand_to_rabbitmq(self, reason: str, error: MessageRefused) -> None:
        """Have RabbitMQ move it to the dead letters as it is, without a word of ours; where it cannot, give it back.

        RabbitMQ moves it at most once, so this comes last: a server that ends at that moment may lose it.
        """
        moves = self._subscription.buries_what_is_rejected
        became = "RabbitMQ moves it to the dead letters without its reason" if moves else "it is given back"
        log.error("a dead letter cannot be written, %s: %s: %s", became, reason, error, extra=self._fields())
        await self._carried_through(self._released(requeue=not moves))

    def _fields(self) -> Mapping[str, str]:
        return {"queue": self._subscription.queue, "messageId": self._envelope.message_id}

    async def renew(self) -> None:
        self._check()

    async def _settle(self, verb: str, before: Callable[[], Awaitable[None]]) -> None:
        """``before``, confirmed, and only then the ack: a crash in between doubles the message and never loses it."""
        await self._carried_through(self._settled_after(verb, before))

    async def _carried_through(self, settling: Coroutine[Any, Any, None]) -> None:
        """Also when the caller is cancelled, so that we know whether it was settled."""
        task = asyncio.ensure_future(settling)
        task.add_done_callback(lambda task: task.cancelled() or task.exception())  # looked at, if by nobody
        await asyncio.shield(task)

    async def _settled_after(self, verb: str, before: Callable[[], Awaitable[None]]) -> None:
        async with self._lock:
            self._check()
            if self._way.unanswered and self._asked != verb:
                await self._settled_meanwhile()
            self._asked = verb
            await before()
            if self.lost.is_set():
                raise DeliveryLost("the channel was lost while the delivery was settled; it is delivered again")
            self._acked()
            self._is_over()

    async def _settled_meanwhile(self) -> None:
        """Another verb was given up. Raises AlreadySettled where its message arrived, TransientError until then."""
        settings = self._subscription.settings
        try:
            with translated(settings):
                await self._way.answer(within=settings.timeout.total_seconds())
        except (IonError, DeliveryError):
            if self._way.unanswered:
                raise
            return  # it did not arrive
        if not self.lost.is_set():
            self._acked()
            self._is_over()
        self._check()

    def _acked(self) -> None:
        with translated(self._subscription.settings):
            self._channel.ack(self._message)

    def _check(self) -> None:
        if self._settled:
            raise AlreadySettled("the delivery was settled before. Settle each delivery once.")
        if self.lost.is_set():
            raise DeliveryLost("RabbitMQ took the delivery back; it is delivered again")

    def _is_over(self) -> None:
        self._settled = True
        self._subscription.settled(self)


class Subscription:
    """Consumes a queue on a channel of its own. When that is lost, so is what it held, and another one is opened.

    The iteration raises TransientError when that does not work for as long as ``timeout``; it may be continued.
    """

    def __init__(
        self, queue: str, prefetch: int, settings: RabbitSettings, topology: Topology, link: Link, onward: Onward
    ) -> None:
        self.queue = queue
        self.settings = settings
        self.onward = onward
        self._topology = topology
        self._link = link
        self.held: set[RabbitDelivery] = set()
        self._prefetch = prefetch
        self._arrived: asyncio.Queue[RabbitDelivery | None] = asyncio.Queue()
        self._waiting: set[RabbitDelivery] = set()
        self._channel: AbstractChannel | None = None
        self._consuming: ConsumingChannel | None = None
        """The latest: that of ``_channel``, while there is one."""
        self._tag = ""
        self._closing: asyncio.Task[None] | None = None
        self._later: set[asyncio.Task[None]] = set()
        self._failure: TransientError | None = None
        self._lost_in_a_row = 0
        self._opened_at = 0.0

    @property
    def consumes(self) -> bool:
        """Whether RabbitMQ has a consumer of ours, as far as we know."""
        return self._channel is not None

    @property
    def arrived(self) -> int:
        """How many are here that nobody was given yet."""
        return len(self._waiting)

    @property
    def given_up(self) -> int:
        """How many are held for nobody, until RabbitMQ has answered."""
        return sum(delivery.is_given_up for delivery in self.held)

    @property
    def buries_what_is_rejected(self) -> bool:
        """Whether RabbitMQ keeps among the dead letters what is rejected on the queue, by the queue's arguments."""
        return "x-dead-letter-exchange" in self._topology.queue_arguments(self.queue)

    def settled(self, delivery: RabbitDelivery) -> None:
        """It is over; so is what kept channels from lasting."""
        self.held.discard(delivery)
        self._lost_in_a_row = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RabbitDelivery:
        while True:
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if self._channel is None:
                await self._open_again()
            delivery = await self._arrived.get()
            if delivery is not None:
                self._waiting.discard(delivery)
                if not delivery.lost.is_set():
                    return delivery

    async def _open_again(self) -> None:
        loop = asyncio.get_running_loop()
        pause = self._pause()
        give_up = loop.time() + pause + self.settings.timeout.total_seconds()
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # not all subscribers of all hosts at once
            try:
                await self.open()
            except QueueNotDeclared as error:  # it was there when we came: whoever iterates may declare it anew
                self.onward.gone()
                raise TransientError(f"queue {self.queue!r}: was deleted while we subscribed to it") from error
            except TransientError:
                if loop.time() > give_up:
                    raise
                pause = min(2 * pause, AWAY_PAUSE)
            else:
                return

    def _pause(self) -> float:
        """Seconds before the next channel: longer and longer for as long as they are lost with nothing settled."""
        if asyncio.get_running_loop().time() - self._opened_at > STEADY:
            self._lost_in_a_row = 0
        self._lost_in_a_row += 1
        return min(FIRST_PAUSE * 2.0 ** min(self._lost_in_a_row - 1, 32), LONGEST_PAUSE)

    async def open(self) -> None:
        """Consume. Raises QueueNotDeclared, TransientError."""
        consuming = await self._link.consuming_channel()
        channel = consuming.channel
        try:
            with translated(self.settings):
                timeout = self.settings.timeout.total_seconds()
                async with asyncio.timeout(timeout):
                    await channel.set_qos(prefetch_count=self._prefetch)
                    queue = await channel.get_queue(self._topology.queue(self.queue))
                    self._channel, self._consuming = channel, consuming
                    channel.close_callbacks.add(self._on_close)
                    consuming.underlay.on_consumer_cancel_callbacks.add(self._on_cancel)
                self._tag = await consuming.consume(queue, partial(self._on_message, consuming), within=timeout)
                self._opened_at = asyncio.get_running_loop().time()
        except ChannelNotFoundEntity as error:
            raise QueueNotDeclared(
                f"queue {self.queue!r}: is not declared on this broker. Declare it first."
            ) from error
        except BaseException:
            self._forget()
            await closed(channel, self.settings)
            raise

    def _on_message(self, consuming: ConsumingChannel, message: Incoming) -> None:
        delivery = RabbitDelivery(message, consuming, self)
        self.onward.arrived(self.queue, delivery.key)
        self.held.add(delivery)
        self._waiting.add(delivery)
        self._arrived.put_nowait(delivery)

    def _on_cancel(self, *_: Any) -> None:
        """The broker ended our consumer: the queue was deleted, its leader moved, or, from 4.3 on, one was held long.

        What was delivered stays ours until the channel is closed: then it is given to others, or to us again.
        """
        channel = self._channel
        if self.held and cancels_for_it(self._link.version):
            self._say_taken_back("RabbitMQ took back what was held for too long, or its queue was deleted")
        else:
            log.warning("RabbitMQ cancelled a consumer", extra={"queue": self.queue, "held": len(self.held)})
        self._forget()
        if channel is not None:
            self._closing = asyncio.create_task(closed(channel, self.settings))

    def _on_close(self, channel: object, error: BaseException | None = None) -> None:
        if channel is not self._channel:
            return
        if timed_out(error):
            self._say_taken_back("RabbitMQ took back what was held for too long")
        else:
            alone = self._consuming is None or self._consuming.underlay.connection.is_opened
            level = logging.WARNING if alone else logging.DEBUG  # of a lost connection its link tells, once
            log.log(level, "channel lost: %s", error, extra={"queue": self.queue, "held": len(self.held)})
        self._forget()

    def _say_taken_back(self, what: str) -> None:
        """With how long it was held, and what would do."""
        now = asyncio.get_running_loop().time()
        held = int(now - min((it.since for it in self.held), default=now))
        limit = self.settings.max_hold_at(self._link.version)
        longer = "" if limit is None else limit.remedy(max(2 * limit.longest, timedelta(seconds=2 * held)))
        fields = {"queue": self.queue, "held": len(self.held), "longest": f"{held}s"}
        log.warning("%s; its jobs go on. %s", what, longer, extra=fields)

    def _forget(self) -> None:
        self._channel = None
        if self._consuming is not None:
            self._consuming.end()
        for delivery in self.held:
            delivery.lost.set()
        self.held.clear()
        self.onward.lost(self.queue, [delivery.key for delivery in self._waiting])
        self._waiting.clear()
        self._arrived.put_nowait(None)  # wakes whoever waits

    def fail(self, error: TransientError) -> None:
        """Have the iteration raise that, once."""
        self._failure = error
        self._arrived.put_nowait(None)  # wakes whoever waits

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """What is still to be done for a delivery that its holder has left."""
        task = asyncio.create_task(work, name=f"give back a delivery of {self.queue}")
        self._later.add(task)
        task.add_done_callback(self._later.discard)
        task.add_done_callback(_told)

    def start_over(self, why: str) -> None:
        """On another channel; what is held on this one is given back with it."""
        channel = self._channel
        if channel is None:
            return
        log.warning("a channel is closed: %s", why, extra={"queue": self.queue, "held": len(self.held)})
        self._forget()
        self._closing = asyncio.create_task(closed(channel, self.settings))

    async def check(self, looking: Link) -> None:
        """The watchdog's: whether RabbitMQ still has a consumer on the queue; if not, start over.

        Raises TransientError where that is not known: a quorum queue whose leader does not answer is told as one that
        has no consumer, and nobody could consume it anew.
        """
        channel, timeout = self._channel, self.settings.timeout.total_seconds()
        if channel is None:
            return
        async with looking.borrowed() as asking:
            with suppress(ChannelNotFoundEntity):
                name = self._topology.queue(self.queue)
                found = await asking.declare_queue(name, passive=True, timeout=timeout)
                if found.declaration_result.consumer_count:
                    return
                await counts_known(asking, name, within=timeout)
                found = await asking.declare_queue(name, passive=True, timeout=timeout)
                if found.declaration_result.consumer_count:
                    return
        if channel is self._channel:
            log.error("RabbitMQ has no consumer for a queue we subscribe to", extra={"queue": self.queue})
            await closed(channel, self.settings)

    async def close(self) -> None:
        """Stop consuming, and release what is unsettled: RabbitMQ counts what closing a channel gives back."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await self._release_all(channel)
            await closed(channel, self.settings)
        if self._consuming is not None:
            self._consuming.end()
        if self._closing is not None:
            await asyncio.wait([self._closing])
        for task in list(self._later):
            task.cancel()
        if self._later:
            await asyncio.wait(list(self._later))
        for delivery in self.held:
            delivery.lost.set()
        self.held.clear()

    async def _release_all(self, channel: AbstractChannel) -> None:
        """Within the timeout; what is being settled is left to that."""
        try:
            with translated(self.settings):
                async with asyncio.timeout(self.settings.timeout.total_seconds()):
                    await self._stop_consuming(channel)
                    given_back = sorted(it for it in self.held if not it.is_being_settled)
                    answers = Answers(channel, self._topology.queue(self.queue), within=None)
                    await answers.begin()
                    for delivery in given_back:
                        await delivery.taken_back()
                        await answers.given()
                    await settled(channel, self._topology.queue(self.queue), self._prefetch + len(given_back))
        except (IonError, ChannelNotFoundEntity) as error:
            log.info(
                "what a subscription held goes back as its channel is closed: %s", error, extra={"queue": self.queue}
            )

    async def _stop_consuming(self, channel: AbstractChannel) -> None:
        """Returns once nothing more will come.

        What was just released comes back to us first: RabbitMQ gives back, and counts, what it sends to a consumer that
        it takes for cancelled. ``get`` is answered after that, with a message that we then hold as well. What else was
        on its way still arrives, since quorum queues send that after their answer.
        """
        name = self._topology.queue(self.queue)
        await settled(channel, name, self._prefetch)
        consuming = self._consuming
        assert consuming is not None, "there is a channel"
        message = await (await channel.get_queue(name, ensure=False)).get(no_ack=False, fail=False)
        if message is not None:
            self._on_message(consuming, consuming.incoming(message))
        await settled(channel, name, self._prefetch)
        await consuming.underlay.basic_cancel(self._tag, nowait=True)
        await settled(channel, name, self._prefetch)


async def _nothing() -> None:
    """Before an ack, which is all there is."""


def _told(task: asyncio.Task[None]) -> None:
    """Whatever went wrong there, its channel has been closed for it, or was closed before."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("a delivery came back with its channel: %s", error)
