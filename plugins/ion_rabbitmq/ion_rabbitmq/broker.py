"""The message broker of Ion on RabbitMQ."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from itertools import takewhile
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.exceptions import (
    CONNECTION_EXCEPTIONS,
    ChannelInvalidStateError,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    DeliveryError,
    PublishError,
)

from ion_core.contracts.messaging import (
    MESSAGE_HEADER,
    DeadLetter,
    DeclaredQueue,
    Delivery,
    HoldLimit,
    Message,
    QueueStats,
    RetryPolicy,
)
from ion_core.errors import (
    DeadLetterNotFound,
    MessageRefused,
    ProviderError,
    QueueNotDeclared,
    TransientError,
    Unroutable,
)
from ion_core.words import counted
from ion_rabbitmq import envelope
from ion_rabbitmq.closed_frames import Kept
from ion_rabbitmq.counting import Anew, give_back, is_worn, nacked, times_counted
from ion_rabbitmq.delivery import Subscription
from ion_rabbitmq.link import Link, NotPermitted, closed, translated
from ion_rabbitmq.locks import locked
from ion_rabbitmq.looking import Parts, count, counts, counts_known, each_settled, taken
from ion_rabbitmq.publishing import LARGE, ConfirmChannel
from ion_rabbitmq.register import LOOKED_EVERY, Entry, Register
from ion_rabbitmq.sending import Outgoing, Sending
from ion_rabbitmq.settings import RabbitSettings
from ion_rabbitmq.topology import Topology, rungs_of

log = logging.getLogger(__name__)

TOO_LARGE = re.compile(r"larger than configured max size (\d+)")
BESIDE_PROPERTIES = 20
"""Bytes of a frame that holds properties: its ends, and the size of the body."""
BACK_WITHIN = 2.0
"""Seconds after its delay within which a retry is back, here or with another dispatcher."""

GIVEN_BACK_WITHIN = 75.0
"""Seconds within which RabbitMQ gives back what a consumer held whose node died: a minute, on a cluster."""

LETTERS_UNSEEN_FOR = timedelta(minutes=1)
"""In which a partition of ``net_ticktime`` (a minute by default) is noticed, and most lookers are done."""
OTHERS_END_WITHIN = 10.0
"""Seconds that who looks at dead letters waits for another who does."""
REFUSES_AFTER = 1.0
"""Seconds, at least, that a channel is published on though something was refused there: a full queue refuses all."""
SILENT_FOR = 2
"""Timeouts without one confirm, after which a connection is given up though its heartbeats come: a node that has lost
its cluster takes connections, answers most of what it is asked, and confirms nothing."""
SILENT = "it confirms nothing"
ASKED_AT_ONCE = 2
"""Queues, at most, that are asked whether a node reaches any."""


class RabbitBroker:
    """The contract's ``MessageBroker``. Two connections, so that a broker that stops publishers still takes acks, and a
    third once it is asked how much there is, which RabbitMQ may close instead of an answer.

    What it cannot know without RabbitMQ's management plugin: what other processes hold, so that ``unsettled`` is None
    while others consume; and queues that a version without a register declared, until they are declared again.
    """

    def __init__(self, settings: RabbitSettings) -> None:
        self.settings = settings
        self.topology = Topology.of(settings)
        self.consuming = Link(settings, "consume")
        self._publishing = Link(settings, "publish")
        self.looking = Link(settings, "look")
        self._channel: ConfirmChannel | None = None
        """The one that is published on."""
        self._channel_since = 0.0
        self._used: Counter[ConfirmChannel] = Counter()
        """How many messages are on their way on each channel."""
        self._opening: asyncio.Task[ConfirmChannel] | None = None
        self._letters = asyncio.Lock()
        self._register = Register(settings, self.topology, self.consuming, self._to_queue)
        self._subscriptions: set[Subscription] = set()
        self._returning: dict[str, dict[str, float]] = {}
        self._unseen: dict[str, dict[str, float]] = {}
        self._told_rungs: dict[str, set[int]] = {}
        self._under_way: dict[str, asyncio.Future[Any]] = {}
        """The answers that are to come, by the ids of their messages."""
        self._one_large = asyncio.Lock()
        self._outgoing = Outgoing()
        self._silent_since: float | None = None
        self._unproven = False
        """Whether a connection was given up for its silence, and nothing has been confirmed since."""
        self._timeout = settings.timeout.total_seconds()
        self._most: tuple[int, int] | None = None
        """Bytes of a body that RabbitMQ takes, once it has said so, and on which connection to publish by."""

    @property
    def max_hold(self) -> HoldLimit | None:
        """As far as we were told. The server's version decides what would change it."""
        return self.settings.max_hold_at(self.consuming.version)

    @property
    def letters_unseen_for(self) -> timedelta:
        """Who looks holds them, and a node that was cut off brings what it was given when it is back."""
        return LETTERS_UNSEEN_FOR

    async def declare(self, queue: str, *, topics: Sequence[str], retry: RetryPolicy) -> None:
        topology, wanted = self.topology, Entry(frozenset(topics), frozenset(rungs_of(retry)))
        known = await self._register.before_declaring(queue, wanted)
        if self._unproven:  # nobody should subscribe where nothing can be settled
            await self._register.add(queue, wanted)
        try:
            async with self.consuming.borrowed() as channel, asyncio.timeout(self._timeout):
                await self._declare_all(channel, queue, wanted)
        except NotPermitted as error:
            await self._require_all(queue, wanted, error)
        async with self.consuming.borrowed() as channel, asyncio.timeout(self._timeout):
            exchange = await channel.get_exchange(topology.exchange, ensure=False)
            main = await channel.get_queue(topology.queue(queue), ensure=False)
            for topic in topics:
                await main.bind(exchange, topic)
            for topic in known.topics - wanted.topics:
                await main.unbind(exchange, topic)
        if known.topics != wanted.topics:
            await self._register.replace(queue, Entry(wanted.topics, known.rungs))

    async def _declare_all(self, channel: AbstractChannel, queue: str, wanted: Entry) -> None:
        topology = self.topology
        await channel.declare_exchange(topology.exchange, aio_pika.ExchangeType.TOPIC, durable=True)
        await channel.declare_queue(topology.dead(queue), durable=True, arguments=topology.dead_arguments())
        await channel.declare_queue(topology.queue(queue), durable=True, arguments=topology.queue_arguments(queue))
        for rung in sorted(wanted.rungs):
            await self._declare_rung(channel, queue, rung)

    async def _require_all(self, queue: str, wanted: Entry, refused: NotPermitted) -> None:
        """Asking whether it is there needs no permission. Raises ``refused`` where anything is not."""
        topology = self.topology
        names = [topology.dead(queue), topology.queue(queue)]
        names += [topology.waiting(queue, rung) for rung in sorted(wanted.rungs)]
        try:
            async with self.consuming.borrowed() as channel, asyncio.timeout(self._timeout):
                await channel.get_exchange(topology.exchange, ensure=True)
                for name in names:
                    await self._count(channel, name)
        except ChannelNotFoundEntity as error:
            raise refused from error
        topology.rungs.setdefault(queue, set()).update(wanted.rungs)

    async def queues(self) -> Sequence[DeclaredQueue]:
        """Those of the register that are there: one may have been deleted by hand."""
        found = []
        for name, entry in sorted((await self._register.read()).items()):
            self._told_rungs[name] = set(entry.rungs)
            if await self._is_there(name):
                found.append(DeclaredQueue(name=name, topics=entry.topics))
        return found

    async def _is_there(self, queue: str) -> bool:
        try:
            async with self._declared(queue) as channel:
                await self._count(channel, self.topology.queue(queue))
        except QueueNotDeclared:
            return False
        return True

    async def move(self, queue: str, to: str) -> int:
        """One after the other: confirmed in ``to`` before it is acked. What waits goes first, since it comes back."""
        topology = self.topology
        for name in (queue, to):
            async with self._declared(name) as channel:
                await self._count(channel, topology.queue(name))
        rungs = self._rungs(queue, (await self._register.read()).get(queue))
        if rungs:
            await self._register.add(to, Entry(rungs=frozenset(rungs)))
            async with self.consuming.borrowed() as channel, asyncio.timeout(self._timeout):
                for rung in rungs:
                    await self._declare_rung(channel, to, rung)
        pairs = [(topology.waiting(queue, rung), topology.waiting(to, rung)) for rung in sorted(rungs)]
        pairs += [(topology.queue(queue), topology.queue(to))]

        async def put_there(letter: AbstractIncomingMessage) -> None:
            await self._to_queue(envelope.moved(letter), topology.dead(to))

        async with self._alone_with_letters(queue):
            moved = sum([await self._move_all(*pair) for pair in pairs])
            with suppress(QueueNotDeclared):  # one that is not there holds none
                moved += await self._taken_out(queue, None, put_there, "moved")
            moved += await self._move_all(topology.queue(queue), topology.queue(to))  # what came back meanwhile
        self._returning.pop(queue, None)
        return moved

    async def _move_all(self, name: str, to: str) -> int:
        """All that is there, some at a time. A queue that is not there holds nothing."""
        anew = Anew(name, self._to_queue)
        moved = 0

        async def put_there(message: AbstractIncomingMessage) -> None:
            await self._to_queue(envelope.moved(message), to)

        try:
            async with (
                self.consuming.borrowed() as channel,
                self._parts(channel, name, to_the_end=True) as parts,
            ):
                total = await self._count(channel, name)
                async for part in parts:
                    try:
                        await each_settled(part, put_there, "moved", done=moved, total=total)
                    except Exception:
                        for message in part:
                            if not message.processed and is_worn(message):
                                await anew.write(message, envelope.moved(message))
                        raise
                    moved += len(part)
        except ChannelNotFoundEntity:
            return 0
        return moved

    async def drop(self, queue: str) -> None:
        """What the register says goes last: cut short, it is still listed, and can be dropped again."""
        topology = self.topology
        entry = (await self._register.read()).get(queue)
        rungs = self._rungs(queue, entry)
        async with self.consuming.borrowed() as channel, asyncio.timeout(self._timeout):
            await channel.queue_delete(topology.queue(queue))
            for rung in sorted(rungs):
                await channel.queue_delete(topology.waiting(queue, rung))
            await channel.queue_delete(topology.dead(queue))
        for about in (topology.rungs, self._told_rungs):
            about.pop(queue, None)
        for due in (self._returning, self._unseen):
            due.pop(queue, None)
        await self._register.replace(queue, None)
        if entry is not None and await self._is_there(queue):  # who serves it has declared it anew meanwhile
            await self._register.add(queue, entry)

    def _rungs(self, queue: str, entry: Entry | None) -> set[int]:
        """The delays that it may have waiting queues for; of one that is not in the register the usual ones."""
        known = rungs_of(RetryPolicy()) if entry is None else entry.rungs
        return {*known, *self.topology.rungs.get(queue, ())}

    async def _declare_rung(self, channel: AbstractChannel, queue: str, rung: int) -> None:
        arguments = self.topology.waiting_arguments(queue, rung)
        await channel.declare_queue(self.topology.waiting(queue, rung), durable=True, arguments=arguments)
        self.topology.rungs.setdefault(queue, set()).add(rung)

    async def publish(self, topic: str, body: bytes, *, headers: Mapping[str, str]) -> None:
        message = envelope.new(topic, body, headers)
        key = (topic, body, *sorted(it for it in headers.items() if it[0] != MESSAGE_HEADER))
        way = self._outgoing.way_of(key)
        try:
            await self._send(message, to=topic, exchange=self.topology.exchange, way=way)
        except PublishError:
            raise Unroutable(f"topic {topic!r}: no queue takes it. Name a type that a module subscribes to.") from None
        finally:
            self._outgoing.left(key, way)

    def way(self) -> Sending:
        """For a delivery that goes on from here."""
        return self._outgoing.way()

    async def postpone(self, queue: str, message: Kept, delay: timedelta, way: Sending) -> None:
        """Put it into the queue where it waits for its delay, or at once into its own."""
        rung = self.topology.rung(queue, delay)
        if not rung:
            await self._to_queue(message, self.topology.queue(queue), way)
            return
        if rung not in self.topology.rungs.get(queue, ()):
            await self._register.add(queue, Entry(rungs=frozenset({rung})))
            async with self.consuming.borrowed() as channel:
                await self._declare_rung(channel, queue, rung)
        await self._to_queue(message, self.topology.waiting(queue, rung), way)
        due = asyncio.get_running_loop().time() + rung / 1000
        self._returning.setdefault(queue, {})[message.key] = due + BACK_WITHIN

    def gone(self) -> None:
        """A queue that somebody subscribed to was dropped, and will be declared anew."""
        self._register.forget()

    def arrived(self, queue: str, key: str) -> None:
        """A message that may have been on its way back from where it waited, or from a channel that was lost."""
        self._returning.get(queue, {}).pop(key, None)
        self._unseen.get(queue, {}).pop(key, None)

    def lost(self, queue: str, keys: Sequence[str]) -> None:
        """What arrived on a channel that was lost, and was handed out to nobody."""
        by = asyncio.get_running_loop().time() + GIVEN_BACK_WITHIN
        self._unseen.setdefault(queue, {}).update(dict.fromkeys(keys, by))

    async def bury(self, queue: str, message: Kept, way: Sending) -> None:
        """Put it among the dead letters of ``queue``."""
        await self._to_queue(message, self.topology.dead(queue), way)

    async def put_back(self, queue: str, message: Kept, way: Sending) -> None:
        """Put it into ``queue`` as a new message."""
        await self._to_queue(message, self.topology.queue(queue), way)

    async def _to_queue(self, message: Kept, name: str, way: Sending | None = None) -> None:
        try:
            await self._send(message, to=name, way=way or self.way())
        except PublishError as error:
            raise TransientError(
                f"{self.settings.place()}: the queue {name} is gone; it is declared anew soon"
            ) from error

    async def _send(self, message: Kept, *, to: str, exchange: str = "", way: Sending) -> None:
        """Returns once it is confirmed. Raises PublishError when nothing takes it.

        After TransientError ``way`` says whether its answer is still to come: then the next try waits for that one.
        """

        def send() -> asyncio.Future[Any]:
            if (answer := self._sent_at_once(message, exchange, to)) is not None:
                return answer
            return asyncio.create_task(self._sent(message, exchange, to), name="publish")

        with translated(self.settings):
            try:
                await way.through(send, within=self._timeout)
                self._silent_since, self._unproven = None, False
            except PublishError:
                raise
            except ChannelPreconditionFailed as error:
                self._check_size(message, to)
                raise TransientError(f"{self.settings.place()}: RabbitMQ closed the channel: {error}") from error
            except DeliveryError as error:
                raise TransientError(f"{self.settings.place()}: RabbitMQ refused a message: {error}") from error
            except TimeoutError as error:
                if (alarm := self._publishing.alarm) is not None:
                    raise TransientError(f"{self.settings.place()}: {alarm}") from error
                if way.unanswered:
                    self._unconfirmed()
                raise

    def _sent_at_once(self, message: Kept, exchange: str, to: str) -> asyncio.Future[Any] | None:
        """None where something has to be waited for before it is sent: as a rule nothing has. Raises MessageRefused."""
        channel = self._channel
        if channel is None or channel.is_closed or len(message.body) > LARGE or message.message_id in self._under_way:
            return None
        return self._publish_on(channel, message, exchange, to)

    async def _sent(self, message: Kept, exchange: str, to: str) -> None:
        """The same where it has to be waited: for a channel, for another message of that id, for the socket.

        Of large messages one is handed over at a time, so that they do not fill the memory.
        """
        async with self._one_large if len(message.body) > LARGE else nullcontext():
            channel = await self._publisher()
            while (other := self._under_way.get(message.message_id)) is not None:
                await asyncio.wait([other])
                channel = await self._publisher()
            answer = self._publish_on(channel, message, exchange, to)
            if len(message.body) > LARGE:
                await channel.drained()
        await answer

    def _publish_on(self, channel: ConfirmChannel, message: Kept, exchange: str, to: str) -> asyncio.Future[Any]:
        self._check_size(message, to)
        answer = channel.publish(message, exchange=exchange, to=to)
        self._used[channel] += 1
        self._under_way[message.message_id] = answer
        answer.add_done_callback(partial(self._answered, channel, message.message_id))
        return answer

    def _answered(self, channel: ConfirmChannel, message_id: str, answer: asyncio.Future[Any]) -> None:
        """One message less is on its way there. One that was refused is the last that takes this channel.

        RabbitMQ 3.10 asks the node that led a queue when it was first published to on that channel. If that node had
        just died, all that follows is refused until it is back; on another channel another leader is asked.
        """
        del self._under_way[message_id]
        error = None if answer.cancelled() else answer.exception()
        if isinstance(error, ChannelPreconditionFailed):
            self._note_limit(error)
        refused = isinstance(error, DeliveryError) and not isinstance(error, PublishError)
        now = asyncio.get_running_loop().time()
        if refused and channel is self._channel and now > self._channel_since + REFUSES_AFTER:
            self._channel = None
        self._used[channel] -= 1
        if not self._used[channel]:
            del self._used[channel]
            if channel is not self._channel:
                self._publishing.end(channel.channel)

    def _unconfirmed(self) -> None:
        """Something was not confirmed in time. Raises TransientError where nothing has been for too long."""
        now = asyncio.get_running_loop().time()
        if self._silent_since is None:
            self._silent_since = now - self._timeout
        silent = now - self._silent_since
        if self._channel is None or silent < SILENT_FOR * self._timeout:
            return
        self._silent_since, self._unproven, self._channel = None, True, None
        text = (
            f"RabbitMQ has confirmed nothing for {silent:.0f} s, though it lives: perhaps its node has lost its cluster"
        )
        trouble = TransientError(f"{self.settings.place()}: {text}. Another connection is made.")
        log.warning("%s", trouble)
        self._outgoing.abandon()
        self._publishing.give_up(SILENT)
        if len(self.settings.addresses()) > 1:
            self.consuming.give_up(SILENT)
        for subscription in self._subscriptions:
            subscription.fail(trouble)
        raise trouble

    def _note_limit(self, error: ChannelPreconditionFailed) -> None:
        """Where RabbitMQ has closed the channel because of a message that is too large: its limit.

        It does not tell that before. Once it has, no message that is larger costs the others their channel.
        """
        if (found := TOO_LARGE.search(str(error))) is not None:
            self._most = int(found[1]), self._publishing.connections

    def _check_size(self, message: Kept, to: str) -> None:
        """Raises MessageRefused for what RabbitMQ would close the channel, or the connection, for."""
        most, on = self._most or (0, 0)
        if len(message.body) > most and on == self._publishing.connections:  # on another the limit may be another
            raise MessageRefused(
                f"{self.settings.place()}: a message to {to} has {counted(len(message.body), 'byte')}, "
                "and RabbitMQ takes "
                f"{most:,} at most. Pass large data as files, or raise max_message_size in rabbitmq.conf."
            )
        if not message.fit(self._publishing.frame - BESIDE_PROPERTIES):
            raise MessageRefused(
                f"{self.settings.place()}: the properties of a message to {to} have "
                f"{counted(len(message.raw), 'byte')}, which "
                "fit into no frame of this server. Raise frame_max in rabbitmq.conf."
            )

    async def _publisher(self) -> ConfirmChannel:
        """The channel to publish on. Opened by a task of its own: others wait for it when one who does is cancelled."""
        if self._channel is not None and not self._channel.is_closed:
            return self._channel
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open_publisher(), name="open a channel to publish on")
            self._opening.add_done_callback(
                lambda task: task.cancelled() or task.exception()
            )  # looked at, if by nobody
        return await asyncio.shield(self._opening)

    async def _open_publisher(self) -> ConfirmChannel:
        confirming = await self._publishing.confirm_channel()
        # Publishing to an exchange that is not there closes the channel: it has to be there.
        try:
            with translated(self.settings):
                async with asyncio.timeout(self._timeout):
                    await confirming.channel.declare_exchange(
                        self.topology.exchange, aio_pika.ExchangeType.TOPIC, durable=True
                    )
        except NotPermitted as refused:
            confirming = await self._publishing.confirm_channel()
            try:
                async with asyncio.timeout(self._timeout):
                    await confirming.channel.get_exchange(self.topology.exchange, ensure=True)
            except ChannelNotFoundEntity as error:
                raise refused from error
        self._channel, self._channel_since = confirming, asyncio.get_running_loop().time()
        return confirming

    @asynccontextmanager
    async def subscribe(self, queue: str, *, prefetch: int) -> AsyncIterator[AsyncIterator[Delivery]]:
        subscription = Subscription(queue, max(prefetch, 1), self.settings, self.topology, self.consuming, self)
        await subscription.open()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            await subscription.close()

    async def stats(self, queue: str) -> QueueStats:
        """Counted in the order in which messages move: one that moves meanwhile is seen twice, never missed.

        What was given up while its retry or dead letter is on the way is delayed: it is pending, whoever else consumes.
        """
        topology = self.topology
        others = self._told_rungs.get(queue, set()) - topology.rungs.get(queue, set())
        told = [await self._count_told(queue, it) for it in sorted(others)]
        async with self._declared(queue, self.looking) as channel:
            rungs = sorted(topology.rungs.get(queue, ()))
            waiting = told + [await self._count_known(channel, topology.waiting(queue, it)) for it in rungs]
            ready, consumers = await self._counts_known(channel, topology.queue(queue))
            dead = await self._count_known(channel, topology.dead(queue))
        ours = [it for it in self._subscriptions if it.queue == queue]
        arrived, given_up = sum(it.arrived for it in ours), sum(it.given_up for it in ours)
        held = sum(len(it.held) for it in ours) - arrived - given_up
        all_are_ours = consumers <= sum(it.consumes for it in ours)
        return QueueStats(
            ready=max(ready, self._lost(queue)) + arrived,
            delayed=max(sum(waiting), self._on_their_way(queue)) + given_up,
            unsettled=held if all_are_ours else None,
            dead=dead,
        )

    async def _count_told(self, queue: str, rung: int) -> int:
        """What waits for a delay that another process declared, as far as the register says: it may never have."""
        try:
            async with self._declared(queue, self.looking) as channel:
                return await self._count_known(channel, self.topology.waiting(queue, rung))
        except QueueNotDeclared:
            self._told_rungs[queue].discard(rung)
            return 0

    def _on_their_way(self, queue: str) -> int:
        """Retries of ours that have not come back: between two queues RabbitMQ counts a message in neither."""
        return _left(self._returning, queue)

    def _lost(self, queue: str) -> int:
        """What had arrived here when its channel was lost, and was handed out to nobody: it is not back yet."""
        return _left(self._unseen, queue)

    @asynccontextmanager
    async def _declared(self, queue: str, link: Link | None = None) -> AsyncIterator[AbstractChannel]:
        """A channel to ask for it on: each answer gets the timeout, however many there are."""
        try:
            async with (link or self.consuming).borrowed() as channel:
                yield channel
        except ChannelNotFoundEntity as error:
            raise QueueNotDeclared(f"queue {queue!r}: is not declared on this broker. Declare it first.") from error

    async def _count(self, channel: AbstractChannel, name: str) -> int:
        return await count(channel, name, within=self._timeout)

    async def _count_known(self, channel: AbstractChannel, name: str) -> int:
        return (await self._counts_known(channel, name))[0]

    async def _counts_known(self, channel: AbstractChannel, name: str) -> tuple[int, int]:
        classic = self.settings.queue_type == "classic"  # has no leader that could be away while it is told of
        try:
            return await (counts if classic else counts_known)(channel, name, within=self._timeout)
        except TimeoutError as error:
            raise TransientError(
                f"{self.settings.place()}: queue {name!r} does not answer within {self._timeout:g} s"
            ) from error

    async def peek(self, queue: str, *, limit: int) -> Sequence[Message]:
        name = self.topology.queue(queue)
        async with self._declared(queue) as channel:
            found = await taken(channel, name, limit, within=self._timeout)
            anew = [envelope.again(it) if is_worn(it) else None for it in found]
            await give_back(channel, name, found, anew, self._to_queue, within=self._timeout)
            return [envelope.peeked(message) for message in found]

    @asynccontextmanager
    async def each_message(self, queue: str) -> AsyncIterator[AsyncIterator[Message]]:
        name = self.topology.queue(queue)
        async with self._declared(queue) as channel, self._parts(channel, name, to_the_end=False) as parts:
            yield self._messages_of(parts, name)

    async def _messages_of(self, parts: Parts, name: str) -> AsyncIterator[Message]:
        anew = Anew(name, self._to_queue)
        async for part in parts:
            for message in part:
                found = envelope.peeked(message)
                if is_worn(message):
                    await anew.write(message, envelope.again(message))
                yield found

    @asynccontextmanager
    async def _parts(self, channel: AbstractChannel, name: str, *, to_the_end: bool) -> AsyncIterator[Parts]:
        """Given back however this ends."""
        parts = Parts(channel, name, within=self._timeout, to_the_end=to_the_end)
        try:
            yield parts
        except BaseException:
            with suppress(*CONNECTION_EXCEPTIONS, ChannelInvalidStateError, TimeoutError):  # what went wrong says more
                await parts.give_back()
            raise
        await parts.give_back()

    async def dead_letters(self, queue: str, *, limit: int | None = None) -> Sequence[DeadLetter]:
        found: list[DeadLetter] = []
        async with self.each_dead_letter(queue) as letters:
            async for letter in letters:
                if len(found) == limit:
                    break
                found.append(letter)
        return found

    async def dead_letter(self, queue: str, id: str) -> DeadLetter:
        async with self.each_dead_letter(queue) as letters:
            async for letter in letters:
                if letter.id == id:
                    return letter
        raise DeadLetterNotFound(f"queue {queue!r}: keeps no dead letter {id[:80]!r}. List those there are.")

    @asynccontextmanager
    async def each_dead_letter(self, queue: str) -> AsyncIterator[AsyncIterator[DeadLetter]]:
        """Those that RabbitMQ made get an id of their own as they are first looked at, and keep it."""
        async with self._alone_with_letters(queue), self._each_letter(queue) as letters:
            yield letters

    @asynccontextmanager
    async def _each_letter(self, queue: str, named: Collection[str] = ()) -> AsyncIterator[AsyncIterator[DeadLetter]]:
        """Where nobody else looks. What RabbitMQ made and is ``named`` keeps that id."""
        name = self.topology.dead(queue)
        async with self._declared(queue) as channel, self._parts(channel, name, to_the_end=True) as parts:
            anew = Anew(name, self._to_queue)
            letters = self._letters_of(parts, queue, anew, named)
            yield letters
            if anew.written:  # what stands behind those has to follow them, read or not
                async for _ in letters:
                    pass

    @asynccontextmanager
    async def _alone_with_letters(self, queue: str) -> AsyncIterator[None]:
        """While nobody else, here or elsewhere, looks at its dead letters: who looks hides them from others.

        Others are waited for, within bounds. Where the user may not make locks, none is waited for.
        """
        async with self._letters, AsyncExitStack() as stack:
            lock = locked(
                self.consuming, self.topology.dead_lock(queue), within=OTHERS_END_WITHIN, timeout=self._timeout
            )
            with suppress(NotPermitted):
                if not await stack.enter_async_context(lock):
                    log.warning(
                        "dead letters are looked at, or moved, by somebody else as well: not all may be seen",
                        extra={"queue": queue, "seconds": OTHERS_END_WITHIN},
                    )
            yield

    async def _letters_of(
        self, parts: Parts, queue: str, anew: Anew, named: Collection[str]
    ) -> AsyncIterator[DeadLetter]:
        """Each once: one that was written anew and not acked is there twice.

        From the first that is written anew on, all are, so that they keep their order.
        """
        seen: set[str] = set()
        look = secrets.token_hex(8)
        async for part in parts:
            for message in part:
                if envelope.look_of(message) == look:  # all there was has been given
                    return
                letter = envelope.dead_letter(message, queue)
                if envelope.is_letter(message) and letter.id in seen:
                    await message.ack()
                    continue
                if (id := await _kept(message, anew, look, named)) != letter.id:
                    letter = replace(letter, id=id)
                seen.add(letter.id)
                yield letter

    async def add_dead_letters(self, queue: str, letters: Sequence[DeadLetter]) -> Sequence[str]:
        """One after the other, each confirmed: so those that are there after an error are the first ones."""
        name = self.topology.dead(queue)
        async with self._declared(queue) as channel:
            await self._count(channel, name)
        ids = []
        for letter in letters:
            id, message = envelope.letter(letter)
            await self._to_queue(message, name)
            ids.append(id)
        return ids

    async def redrive(self, queue: str, ids: Sequence[str]) -> int:
        async def put_back(message: AbstractIncomingMessage) -> None:
            await self._to_queue(envelope.again(message, attempt=1), self.topology.queue(queue))

        return await self._take_out(queue, ids, put_back, "put back")

    async def purge(self, queue: str, ids: Sequence[str]) -> int:
        return await self._take_out(queue, ids, _nothing, "deleted")

    async def _take_out(self, queue: str, ids: Sequence[str], before: Any, what: str) -> int:
        async with self._alone_with_letters(queue):
            return await self._taken_out(queue, ids, before, what)

    async def _taken_out(self, queue: str, ids: Sequence[str] | None, before: Any, what: str) -> int:
        """Those of ``ids``, or all, each after ``before``; the others are put back where they were.

        Some are here at a time, so it is looked first whether all are there. Then the broker is asked, also where it
        was cut short: of those that are done none is left.
        """
        if ids is not None and (missing := await self._missing(queue, ids)):
            named = ", ".join(repr(letter[:80]) for letter in sorted(missing)[:10])
            raise DeadLetterNotFound(f"queue {queue!r}: keeps no dead letter {named}; none was touched.")
        wanted = None if ids is None else set(ids)
        async with self._declared(queue) as channel:
            there = await self._count(channel, self.topology.dead(queue))
        out = _TakenOut()
        try:
            await self._take_out_of(queue, wanted, before, what, out, total=there if wanted is None else len(wanted))
        except TransientError:
            with suppress(TransientError):  # what cut it short says more
                await self._without(queue, out, there - out.gone, what)
            raise
        await self._without(queue, out, there - out.gone, what)
        return out.count

    async def _missing(self, queue: str, ids: Sequence[str]) -> set[str]:
        missing = set(ids)
        async with self._each_letter(queue, missing.copy()) as letters:
            async for letter in letters:
                missing.discard(letter.id)
                if not missing:
                    break
        return missing

    async def _without(self, queue: str, out: _TakenOut, others: int, what: str) -> None:
        """While more are left than the ``others``, those taken out that came back are taken out again."""
        name, more = self.topology.dead(queue), len(out.ids)
        while more and await self._left(queue, name, others) > others:
            again = _TakenOut()
            await self._take_out_of(queue, out.ids, _nothing, what, again, total=more)
            more = again.count

    async def _take_out_of(
        self, queue: str, wanted: Collection[str] | None, before: Any, what: str, out: _TakenOut, *, total: int
    ) -> None:
        """Go through the dead letters, a part at a time, until all ``wanted`` are out; all there are for None.

        Where one fails, none behind it is taken out, and all are where they were.
        """
        name = self.topology.dead(queue)
        anew, look = Anew(name, self._to_queue), secrets.token_hex(8)
        seen: set[str] = set()
        failure: Exception | None = None
        done: list[AbstractIncomingMessage] = []

        async def noted(message: AbstractIncomingMessage) -> None:
            await before(message)
            done.append(message)

        try:
            async with self._declared(queue) as channel, self._parts(channel, name, to_the_end=True) as parts:
                async for part in parts:
                    fresh = list(takewhile(lambda it: envelope.look_of(it) != look, part))
                    once = [it for it in fresh if not await self._is_double(it, seen, out)]
                    if failure is None:
                        chosen = [it for it in once if wanted is None or envelope.letter_id(it) in wanted]
                        try:
                            await each_settled(chosen, noted, what, done=out.count, total=total)
                            out.add(chosen, by_id=wanted is not None)
                        except Exception as error:
                            failure = error
                            out.add(done, by_id=wanted is not None)
                        done.clear()
                    for message in once:
                        if not message.processed:
                            await _kept(message, anew, look, wanted or ())
                    is_all = failure is not None or (wanted is not None and seen.issuperset(wanted))
                    if len(fresh) < len(part) or (is_all and not anew.written):
                        break
        except Exception as error:
            if failure is not None:
                raise failure from error
            raise
        if failure is not None:
            raise failure

    async def _is_double(self, message: AbstractIncomingMessage, seen: set[str], out: _TakenOut) -> bool:
        """One that was written anew and not acked is there twice: it is acked now."""
        id = envelope.letter_id(message)
        if envelope.is_letter(message) and id in seen:
            await message.ack()
            out.doubles += 1
            return True
        seen.add(id)
        return False

    async def _left(self, queue: str, name: str, expected: int) -> int:
        """How many there are once those that were held are back: with them comes what was acked in vain."""
        give_up = asyncio.get_running_loop().time() + self._timeout
        async with self._declared(queue) as channel:
            while (left := await self._count(channel, name)) < expected:
                if asyncio.get_running_loop().time() > give_up:  # somebody else takes some
                    break
                await asyncio.sleep(LOOKED_EVERY)
        return left

    async def watch(self) -> None:
        """For ever: look whether RabbitMQ still knows our consumers, which it may forget without a word."""
        while True:
            await asyncio.sleep(self.settings.watch.total_seconds())
            with _warned():
                await self._reach_a_queue()
            for subscription in list(self._subscriptions):
                with _warned():
                    await subscription.check(self.looking)

    async def _reach_a_queue(self) -> None:
        """Where nothing is held: ask for a message by the connection that consumes, and give that up if none answers.

        A node that has lost its cluster goes on with heartbeats, and sends nothing: who has nothing to confirm would
        not notice. Whoever holds deliveries will, and would lose them. One queue may be away for reasons of its own.
        """
        if self.settings.queue_type == "classic" or self._holds_something() or not self._subscriptions:
            return
        queues = [it.queue for it in self._subscriptions]
        asked = random.sample(queues, min(ASKED_AT_ONCE, len(queues)))
        found = await asyncio.gather(*map(self._out_of_reach, asked))
        errors = [it for it in found if it is not None]
        if len(errors) < len(found):
            for queue, error in zip(asked, found, strict=True):
                if error is not None:
                    log.warning("a queue does not answer, though another does: %s", error, extra={"queue": queue})
            return
        if not self._holds_something():  # else it has brought that meanwhile
            self.consuming.give_up("its node does not reach a queue: perhaps it has lost its cluster")
        raise errors[0]

    async def _out_of_reach(self, queue: str) -> TransientError | None:
        """Why it does not answer; None if it does."""
        try:
            with suppress(ChannelNotFoundEntity):
                async with self.consuming.borrowed() as channel:
                    await self._reach(channel, self.topology.queue(queue))
        except TransientError as error:
            return error
        return None

    async def _reach(self, channel: AbstractChannel, name: str) -> None:
        """A count says nothing: a leader that has lost the others tells what it last knew."""
        found = await (await channel.get_queue(name, ensure=False)).get(no_ack=False, fail=False, timeout=self._timeout)
        if found is not None:
            await nacked(channel, name, [found], within=self._timeout)

    def _holds_something(self) -> bool:
        return any(it.held for it in self._subscriptions)

    async def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        await self._outgoing.close()
        if self._channel is not None:
            await closed(self._channel.channel, self.settings)
        await asyncio.gather(self._publishing.close(), self.consuming.close(), self.looking.close())


@contextmanager
def _warned() -> Iterator[None]:
    """What cannot be asked for is asked for the next time."""
    try:
        yield
    except ProviderError as error:
        log.warning("RabbitMQ could not be asked for its consumers: %s", error)


def _left(due: dict[str, dict[str, float]], queue: str) -> int:
    """How many of ``queue`` are not due yet; the others are forgotten."""
    now = asyncio.get_running_loop().time()
    left = due[queue] = {key: by for key, by in due.get(queue, {}).items() if by > now}
    return len(left)


@dataclass
class _TakenOut:
    """Dead letters that were taken out, doubles that went with them, and the ids of those that may come back."""

    count: int = 0
    doubles: int = 0
    ids: set[str] = field(default_factory=set)

    @property
    def gone(self) -> int:
        return self.count + self.doubles

    def add(self, letters: Sequence[AbstractIncomingMessage], *, by_id: bool) -> None:
        """Those of RabbitMQ have no id of their own yet: two may look like one, where they are not meant ``by_id``."""
        self.count += len(letters)
        self.ids |= {envelope.letter_id(it) for it in letters if by_id or envelope.is_letter(it)}


async def _kept(message: AbstractIncomingMessage, anew: Anew, look: str, named: Collection[str]) -> str:
    """The id of a dead letter that stays; it is written anew where that is needed.

    From the first that is written anew on, all are, so that they keep their order. What RabbitMQ made gets an id of its
    own, unless it is ``named`` by the one that its message gives.
    """
    id = envelope.letter_id(message)
    if not envelope.is_letter(message):
        words = envelope.adoption(message)
        words["id"] = id if id in named else words["id"]
        if await anew.write(message, envelope.again(message, **words, look=look)):
            return str(words["id"])
    elif anew.written or times_counted(message):
        await anew.write(message, envelope.moved(message, look=look))
    return id


async def _nothing(message: AbstractIncomingMessage) -> None:
    """It is only acked."""


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
