"""Messages that wait, and dead letters, moved from one broker's queue to another's: each is stored there first.

Cut short, a message may be in both. The next call moves it again, and whoever takes it knows it for a double.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from ion_core.backfill import own_queue
from ion_core.contracts.messaging import DeadLetter, Delivery, MessageBroker
from ion_core.errors import DeliveryLost, MessageRefused, PermanentError
from ion_core.letters import mark_of
from ion_core.stores import for_each

_AT_ONCE = 100
_LOOK = 1.0
"""Seconds without a message after which the queue is asked whether there will be more."""
_AT_ONCE_WITHIN = 0.05
_MOST_HELD = 10_000
"""Messages that may stay, and be held meanwhile, while those behind them move."""

_Mark = tuple[str, str, datetime]
"""What ``mark_of`` tells of a dead letter."""


# Dead letters


async def move_letters(
    source: MessageBroker,
    target: MessageBroker,
    queue: str,
    *,
    unmoved: list[str],
    done: Callable[[int], object] = lambda count: None,
) -> int:
    """Move the dead letters of ``queue``, with all that they keep, oldest first; returns how many.

    ``queue`` must exist in both. What an earlier call has added, and could not remove, is not added again. What the
    other broker refuses is noted in ``unmoved`` and stays.
    """
    there = await _marks(target, queue)
    moved = 0
    refused: set[str] = set()
    while True:
        found = await source.dead_letters(queue, limit=_AT_ONCE + len(refused))
        letters = [it for it in found if it.id not in refused]
        if not letters:
            return moved
        added = await _added(letters, target, queue, there, unmoved)
        refused |= {it.id for it in letters} - {it.id for it in added}
        await source.purge(queue, [it.id for it in added])
        moved += len(added)
        done(len(added))


async def _added(
    letters: Sequence[DeadLetter], target: MessageBroker, queue: str, there: set[_Mark], unmoved: list[str]
) -> Sequence[DeadLetter]:
    """Those that the other broker has now."""
    try:
        await target.add_dead_letters(queue, [it for it in letters if mark_of(it) not in there])
    except MessageRefused as error:
        if len(letters) == 1:
            unmoved.append(f"{queue}: dead letter {letters[0].id} stays where it is: {error}")
            return ()
        there |= await _marks(target, queue)  # some of them may have been added
        return [it for one in letters for it in await _added([one], target, queue, there, unmoved)]
    return letters


async def _marks(broker: MessageBroker, queue: str) -> set[_Mark]:
    async with broker.each_dead_letter(queue) as letters:
        return {mark_of(letter) async for letter in letters}


# Messages that wait


async def move_waiting(
    source: MessageBroker,
    target: MessageBroker,
    queue: str,
    *,
    state_id: str,
    unmoved: list[str],
    done: Callable[[int], object] = lambda count: None,
) -> int:
    """Move what is ready in ``queue``, or waits for a retry's delay, with body, headers and attempt; returns how many.

    ``queue`` must exist in both. What is delayed is waited for. ``state_id`` marks the queues that are made on the way
    (``backfill.remove_left``). What cannot be read, or the other broker refuses, is noted in ``unmoved`` and stays.
    """
    moved, room = 0, _AT_ONCE
    while True:
        refused: list[str] = []

        async def hand_over(deliveries: Sequence[Delivery], refused: list[str] = refused) -> None:
            nonlocal moved
            count = await _hand_over(deliveries, target, queue, state_id=state_id, unmoved=refused)
            moved += count
            done(count)

        behind = await _pass_on(source, queue, hand_over, refused, room=room)
        if not behind or room == _MOST_HELD:
            unmoved += refused
            if behind:
                unmoved.append(f"{queue}: {behind:,} more stand behind these, and stay, too.")
            return moved
        room = min(10 * room, _MOST_HELD)


async def _pass_on(
    source: MessageBroker,
    queue: str,
    hand_over: Callable[[Sequence[Delivery]], Awaitable[None]],
    refused: Sequence[str],
    *,
    room: int,
) -> int:
    """Give what comes to ``hand_over`` until no more does, or ``room`` are ``refused``; how many stand behind those.

    What is refused is held until we leave, and comes again then.
    """
    async with source.subscribe(queue, prefetch=room) as deliveries:
        arriving = _Arriving(deliveries)
        try:
            while len(refused) < room:
                if some := await arriving.some():
                    await hand_over(some)
                elif not await _waiting(source, queue):
                    return 0
            return await _waiting(source, queue)
        finally:
            await arriving.end()


async def _waiting(broker: MessageBroker, queue: str) -> int:
    stats = await broker.stats(queue)
    return stats.ready + stats.delayed


class _Arriving:
    """Deliveries as they come, some at a time."""

    def __init__(self, deliveries: AsyncIterator[Delivery]) -> None:
        self._deliveries = deliveries
        self._next: asyncio.Task[Delivery] | None = None

    async def some(self) -> list[Delivery]:
        """Those that are there; none where none came within ``_LOOK``."""
        found: list[Delivery] = []
        while len(found) < _AT_ONCE:
            if self._next is None:
                self._next = asyncio.create_task(self._take())
            done, _ = await asyncio.wait({self._next}, timeout=_AT_ONCE_WITHIN if found else _LOOK)
            if not done:
                break
            taken, self._next = self._next, None
            found.append(taken.result())
        return found

    async def _take(self) -> Delivery:
        return await anext(self._deliveries)

    async def end(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait({self._next})


async def _hand_over(
    deliveries: Sequence[Delivery], target: MessageBroker, queue: str, *, state_id: str, unmoved: list[str]
) -> int:
    by_attempt: dict[int, list[Delivery]] = {}
    for delivery in deliveries:
        by_attempt.setdefault(delivery.attempt, []).append(delivery)
    moved = 0
    for attempt, some in sorted(by_attempt.items()):
        async with own_queue(target, state_id) as name:
            refused: list[str] = []
            stored = await _published(some, target, name, refused)
            unmoved += [f"{queue}: a message stays where it is: {problem}" for problem in refused]
            for _ in range(attempt - 1):
                await _one_attempt_older(target, name, len(stored))
            await target.move(name, queue)
        await for_each(_settle, stored)
        moved += len(stored)
    return moved


async def _published(
    deliveries: Sequence[Delivery], target: MessageBroker, topic: str, unmoved: list[str]
) -> list[Delivery]:
    """Those that the other broker has now, in order."""

    async def publish(delivery: Delivery) -> Delivery | None:
        try:
            body, headers = delivery.body, delivery.headers
            await target.publish(topic, body, headers=headers)
        except PermanentError as error:  # it stays ours until we leave, and is there again then
            unmoved.append(str(error))
            return None
        return delivery

    stored = [await publish(it) for it in deliveries]  # one after the other: their order counts
    return [it for it in stored if it is not None]


async def _one_attempt_older(broker: MessageBroker, queue: str, count: int) -> None:
    """``attempt`` of a message is counted by ``retry`` alone."""
    async with broker.subscribe(queue, prefetch=count) as deliveries:
        for _ in range(count):
            delivery = await anext(deliveries)
            await delivery.retry(delay=timedelta(0))


async def _settle(delivery: Delivery) -> None:
    with suppress(DeliveryLost):  # it comes again, and is a double there
        await delivery.ack()
