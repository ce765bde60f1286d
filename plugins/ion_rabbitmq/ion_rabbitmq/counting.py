"""What RabbitMQ counts: messages that were looked at or released go back so that no delivery limit is exceeded.

RabbitMQ shows a message only by delivering it, and a quorum queue counts what comes back: by the end of a channel
always, by ``nack`` up to 4.2. What exceeds the limit is dropped, or dead-lettered; the smallest limit holds, ours or
that of a policy, which no client is told of. So what RabbitMQ has counted is not given back: it is written anew,
confirmed, and only then acked. A new message begins at nothing.

A dead letter, which is dropped over the limit, is written anew once it was counted at all. An event, which over the
limit becomes a dead letter, and keeps its place when it is nacked, is nacked three times before.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from ion_core.errors import MessageRefused, TransientError
from ion_rabbitmq import envelope
from ion_rabbitmq.closed_frames import Incoming, Kept

log = logging.getLogger(__name__)

Send = Callable[[Kept, str], Awaitable[None]]
"""Puts a message into the queue of that name; returns once it is confirmed."""
AT_ONCE = 16
PUT_BACK_WITHIN = 1.0
"""Seconds for which no more may become ready of what was given back, before that is no longer waited for."""
ASKED_EVERY = 0.005
NACKS = 3
"""How often an event is given back before it is written anew: the smallest limit that a policy should set."""


def times_counted(message: AbstractIncomingMessage | Incoming) -> int:
    """How often RabbitMQ has counted that it was given back, where it counts."""
    return envelope.deliveries(message)


def is_worn(event: AbstractIncomingMessage | Incoming) -> bool:
    """Whether it may not be nacked once more."""
    return times_counted(event) >= NACKS


class Anew:
    """Writes messages of a queue anew, behind what is there. ``written`` is how many.

    Once RabbitMQ stops publishers, none is any more: they go back as they are, and that is counted.
    """

    def __init__(self, name: str, send: Send) -> None:
        self.written = 0
        self._name = name
        self._send = send
        self._stopped = False

    async def write(self, message: AbstractIncomingMessage, copy: Kept) -> bool:
        """Whether ``copy`` is there in the place of ``message``, which is acked then."""
        if self._stopped:
            return False
        try:
            await self._send(copy, self._name)
        except (TransientError, MessageRefused) as error:
            self._stopped = isinstance(error, TransientError)
            log.warning("RabbitMQ counts that its messages were looked at: %s", error, extra={"queue": self._name})
            return False
        self.written += 1
        await message.ack()
        return True


async def give_back(
    channel: AbstractChannel,
    name: str,
    held: Sequence[AbstractIncomingMessage],
    anew: Sequence[Kept | None],
    send: Send,
    *,
    within: float,
) -> Sequence[bool]:
    """Put ``held``, taken from the queue of that name, back in its order; returns of each whether it was written anew.

    ``anew`` has for each what takes its place, or None for what goes back as it is, which RabbitMQ puts first.
    Where nothing can be written, since RabbitMQ stops publishers, the rest goes back as it is, and is counted.
    """
    written: list[bool] = []
    writing, answers = Anew(name, send), Answers(channel, name, within=within)
    await answers.begin()
    for message, copy in zip(held, anew, strict=True):
        written.append(copy is not None and await writing.write(message, copy))
        if not written[-1]:
            await message.nack(requeue=True)
        await answers.given()
    await answers.taken_up()
    return written


async def nacked(
    channel: AbstractChannel, name: str, held: Sequence[AbstractIncomingMessage], *, within: float
) -> None:
    """Give back, in its order, what of ``held`` is not settled: the end of a channel always counts, this up to 4.2."""
    answers = Answers(channel, name, within=within)
    await answers.begin()
    for message in held:
        if not message.processed:
            await message.nack(requeue=True)
            await answers.given()
    await answers.taken_up()


class Answers:
    """Messages that are given back one after the other on a channel, never so many at once that a queue mixes them up.

    What a quorum queue has not written down yet a channel holds back from the 33rd on, and sends together: on a busy
    machine up to 40 of them were seen to come back in any order, on 3.10. So after each ``AT_ONCE`` the queue is asked
    how many are ready, until these are. Where somebody takes them at once nothing tells: once for all of them it is
    waited ``PUT_BACK_WITHIN`` for more.
    """

    def __init__(self, channel: AbstractChannel, name: str, *, within: float | None) -> None:
        self._channel, self._name, self._within = channel, name, within
        self._before = 0
        self._given = 0
        self._waits = True

    async def begin(self) -> None:
        """Before the first is given back."""
        self._before = await self._ready()

    async def given(self) -> None:
        """One more is given back, or written anew and confirmed."""
        self._given += 1
        if self._given % AT_ONCE == 0:
            await self._put_back()

    async def _put_back(self) -> None:
        most, since = 0, time.monotonic()
        while (ready := await self._ready()) < self._before + self._given and self._waits:
            if ready > most:
                most, since = ready, time.monotonic()
            self._waits = time.monotonic() - since < PUT_BACK_WITHIN
            await asyncio.sleep(ASKED_EVERY)

    async def _ready(self) -> int:
        queue = await self._channel.declare_queue(self._name, passive=True, timeout=self._within)
        return queue.declaration_result.message_count or 0

    async def taken_up(self) -> None:
        """Returns once the queue has them all."""
        await settled(self._channel, self._name, AT_ONCE, within=self._within)


async def settled(channel: AbstractChannel, name: str, count: int, *, within: float | None = None) -> None:
    """Returns once the queue has the ``count`` answers that were given on this channel, which may then be closed.

    The leader of a quorum queue puts answers aside and takes up ``AT_ONCE`` of them between two of its other messages;
    the end of a channel overtakes those that are left, and undoes them. A question is such a message. ``within``:
    seconds for the answer to each.
    """
    for _ in range(count // AT_ONCE + 2):
        await channel.declare_queue(name, passive=True, timeout=within)
