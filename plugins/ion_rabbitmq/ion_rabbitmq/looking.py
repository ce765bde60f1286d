"""Looking: messages of a queue, however many, held by RabbitMQ for a channel until they are given back.

RabbitMQ shows a message only by giving it out. Many are taken by a consumer, since asking for one at a time takes a
round trip each; the end is always asked for: whether a queue is empty, only an answer tells. Every answer has a time of
its own, and all of them together have none: a queue may hold any number.
"""

from __future__ import annotations

import asyncio
import logging
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress

from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelInvalidStateError

from ion_core.errors import TransientError
from ion_rabbitmq.consuming import consumed
from ion_rabbitmq.counting import Answers, nacked, settled

log = logging.getLogger(__name__)

FEW = 20
"""As many are asked for one by one."""
MOST_AT_ONCE = 60_000
"""A prefetch count has 16 bits. What several consumers held goes back one consumer's after the other's."""
PART = 250
"""Messages that are in our memory at a time where all of a queue are looked at."""
ON_THEIR_WAY = 100
"""How many are published at a time."""
TOLD_EVERY = 1_000


async def count(channel: AbstractChannel, name: str, *, within: float) -> int:
    """How many are ready."""
    ready, _ = await counts(channel, name, within=within)
    return ready


async def counts(channel: AbstractChannel, name: str, *, within: float) -> tuple[int, int]:
    """How many are ready, and how many consume: all that RabbitMQ tells a client of a queue."""
    async with asyncio.timeout(within):
        found = await channel.declare_queue(name, passive=True)
    return found.declaration_result.message_count or 0, found.declaration_result.consumer_count or 0


async def counts_known(channel: AbstractChannel, name: str, *, within: float) -> tuple[int, int]:
    """How many are ready in a quorum queue, and its consumers. Raises TimeoutError where that is not known.

    One whose leader does not answer, or has lost the others, is told as empty and without consumers: so what is told
    as empty is asked for a message, and only its leader can say that there is none. Where it cannot, RabbitMQ may close
    the connection: have one for that alone. A message that has come at this moment goes back, and that is counted.
    """
    ready, consumers = await counts(channel, name, within=within)
    if ready:
        return ready, consumers
    queue = await channel.get_queue(name, ensure=False)
    message = await queue.get(no_ack=False, fail=False, timeout=within)
    if message is None:
        return 0, consumers
    await message.nack(requeue=True)
    return 1, consumers


async def taken(
    channel: AbstractChannel, name: str, limit: int | None, *, within: float
) -> list[AbstractIncomingMessage]:
    """Up to ``limit``, oldest first, unsettled on this channel. ``within``: seconds for each answer."""
    there = await count(channel, name, within=within)
    queue = await channel.get_queue(name, ensure=False)
    found: list[AbstractIncomingMessage] = []
    try:
        while (left := (there if limit is None else min(limit, there)) - len(found)) > FEW:
            before = len(found)
            await _consumed(channel, queue, min(left, MOST_AT_ONCE), within, found)
            if len(found) - before < min(left, MOST_AT_ONCE):
                break  # somebody else takes some
        while limit is None or len(found) < limit:
            message = await queue.get(no_ack=False, fail=False, timeout=within)
            if message is None:
                break
            found.append(message)
    except BaseException:
        with suppress(*CONNECTION_EXCEPTIONS, ChannelInvalidStateError, TimeoutError):  # what went wrong says more
            await nacked(channel, name, found, within=within)
        raise
    return found


class Parts:
    """All that is ready in a queue when it is begun, oldest first, ``PART`` at a time, unsettled on this channel.

    With ``to_the_end`` what comes meanwhile too. Of what was given nothing stays here but its number, by which
    ``give_back`` has it go back to where it was. What is to be acked is acked before the next part is asked for.
    """

    def __init__(self, channel: AbstractChannel, name: str, *, within: float, to_the_end: bool) -> None:
        self._channel = channel
        self._name = name
        self._within = within
        self._to_the_end = to_the_end
        self._part: list[AbstractIncomingMessage] = []
        self._held = array("Q")
        self._acked = 0

    async def __aiter__(self) -> AsyncIterator[list[AbstractIncomingMessage]]:
        left = await count(self._channel, self._name, within=self._within)
        queue = await self._channel.get_queue(self._name, ensure=False)
        if not self._to_the_end:
            # What was given back a moment ago a quorum queue counts once it has written that down, and then answers.
            await _asked_for(queue, 1, self._within, self._part)
            left = len(self._part) and 1 + await count(self._channel, self._name, within=self._within)
        while left > 0 or self._to_the_end:
            wanted = min(left, PART)
            if wanted - len(self._part) > FEW:
                await _consumed(self._channel, queue, wanted - len(self._part), self._within, self._part)
            else:
                wanted = FEW if self._to_the_end else wanted
                await _asked_for(queue, wanted - len(self._part), self._within, self._part)
            part = self._part
            yield part
            if len(part) < wanted:  # there are no more, or somebody else takes some
                return
            left -= wanted
            self._put_aside()

    def _put_aside(self) -> None:
        self._held.extend(it.delivery_tag or 0 for it in self._part if not it.processed)
        self._acked += sum(it.processed for it in self._part)
        self._part = []

    async def give_back(self) -> None:
        """What is not acked, in its order."""
        self._put_aside()
        await settled(self._channel, self._name, self._acked, within=self._within)
        answers = Answers(self._channel, self._name, within=self._within)
        await answers.begin()
        channel = await self._channel.get_underlay_channel()
        for tag in self._held:
            await channel.basic_nack(tag, requeue=True)
            await answers.given()
        await answers.taken_up()


async def _asked_for(queue: AbstractQueue, wanted: int, within: float, found: list[AbstractIncomingMessage]) -> None:
    """Adds so many at most to ``found``; fewer where there are no more."""
    for _ in range(wanted):
        message = await queue.get(no_ack=False, fail=False, timeout=within)
        if message is None:
            return
        found.append(message)


async def _consumed(
    channel: AbstractChannel, queue: AbstractQueue, wanted: int, within: float, found: list[AbstractIncomingMessage]
) -> None:
    """Adds so many at most to ``found``; fewer where the next one does not come in time."""
    arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    most = len(found) + wanted
    async with asyncio.timeout(within):
        await channel.set_qos(prefetch_count=wanted)
    tag = await consumed(queue, arrived.put, within=within)
    try:
        while len(found) < most:
            async with asyncio.timeout(within):
                found.append(await arrived.get())
    except TimeoutError:
        log.debug("%d of %d messages came from %s", wanted - (most - len(found)), wanted, queue.name)
    async with asyncio.timeout(within):
        await queue.cancel(tag)
    while not arrived.empty():
        found.append(arrived.get_nowait())


async def each_settled(
    messages: Sequence[AbstractIncomingMessage],
    before: Callable[[AbstractIncomingMessage], Awaitable[None]],
    what: str,
    *,
    done: int,
    total: int,
) -> None:
    """``before`` of each, and only then its ack; some at a time, in their order. ``what`` is done to them, in a word.

    ``done`` are through before these, of a ``total``: for what is told. Cancelled, it ends with those that have begun.
    Raises what ``before`` raised, once the others that had begun are done; a TransientError says how many there are
    then.
    """
    for start in range(0, len(messages), ON_THEIR_WAY):
        batch = messages[start : start + ON_THEIR_WAY]
        begun = asyncio.ensure_future(_batch_settled(batch, before))
        try:
            results = await asyncio.shield(begun)
        except asyncio.CancelledError:
            await begun
            raise
        done += results.count(None)
        for error in results:
            if isinstance(error, TransientError):
                so_far = f"{done:,} of {total:,} were {what}, the rest is where it was: the same again does the rest"
                raise TransientError(f"{error}. {so_far}") from error
            if error is not None:
                raise error
        if done // TOLD_EVERY > (done - len(batch)) // TOLD_EVERY:
            log.info("%d of %d %s", done, total, what)


async def _batch_settled(
    batch: Sequence[AbstractIncomingMessage], before: Callable[[AbstractIncomingMessage], Awaitable[None]]
) -> list[BaseException | None]:
    """What went wrong with each."""
    results = await asyncio.gather(*map(before, batch), return_exceptions=True)
    for message, error in zip(batch, results, strict=True):
        if error is None:
            await message.ack()
    return results
