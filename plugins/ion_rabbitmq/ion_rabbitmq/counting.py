"""What RabbitMQ counts: messages that were looked at or released go back so that no delivery limit is exceeded.

RabbitMQ shows a message only by delivering it, and a quorum queue counts what comes back: by the end of a channel
always, by ``nack`` up to 4.2. What exceeds the limit is dropped, or dead-lettered; the smallest limit holds, ours or
that of a policy, which no client is told of. So what RabbitMQ has counted is not given back: it is written anew,
confirmed, and only then acked. A new message begins at nothing.

A dead letter, which is dropped over the limit, is written anew once it was counted at all. An event, which over the
limit becomes a dead letter, and keeps its place when it is nacked, is nacked three times before.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from ion_core.errors import MessageRefused, TransientError
from ion_rabbitmq import envelope
from ion_rabbitmq.closed_frames import Kept

log = logging.getLogger(__name__)

Send = Callable[[Kept, str], Awaitable[None]]
"""Puts a message into the queue of that name; returns once it is confirmed."""
AT_ONCE = 16
NACKS = 3
"""How often an event is given back before it is written anew: the smallest limit that a policy should set."""


def times_counted(message: AbstractIncomingMessage) -> int:
    """How often RabbitMQ has counted that it was given back, where it counts."""
    return envelope.deliveries(message)


def is_worn(event: AbstractIncomingMessage) -> bool:
    """Whether it may not be nacked once more."""
    return times_counted(event) >= NACKS


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
    stopped = False
    for message, copy in zip(held, anew, strict=True):
        if copy is not None and not stopped:
            try:
                await send(copy, name)
            except (TransientError, MessageRefused) as error:
                stopped = isinstance(error, TransientError)
                log.warning("RabbitMQ counts that its messages were looked at: %s", error, extra={"queue": name})
            else:
                await message.ack()
                written.append(True)
                continue
        await message.nack(requeue=True)
        written.append(False)
    await settled(channel, name, len(held), within=within)
    return written


async def nacked(
    channel: AbstractChannel, name: str, held: Sequence[AbstractIncomingMessage], *, within: float
) -> None:
    """Give back, in its order, what of ``held`` is not settled: the end of a channel always counts, this up to 4.2."""
    for message in held:
        if not message.processed:
            await message.nack(requeue=True)
    await settled(channel, name, len(held), within=within)


async def settled(channel: AbstractChannel, name: str, count: int, *, within: float | None = None) -> None:
    """Returns once the queue has the ``count`` answers that were given on this channel, which may then be closed.

    The leader of a quorum queue puts answers aside and takes up ``AT_ONCE`` of them between two of its other messages;
    the end of a channel overtakes those that are left, and undoes them. A question is such a message. ``within``:
    seconds for the answer to each.
    """
    for _ in range(count // AT_ONCE + 2):
        await channel.declare_queue(name, passive=True, timeout=within)
