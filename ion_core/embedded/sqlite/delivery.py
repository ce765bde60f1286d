"""What a subscriber holds: the subscription that claims messages, and its deliveries."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Protocol, Self, TypeVar

from ion_core.embedded.sqlite import queue as sql
from ion_core.embedded.sqlite.database import Access, Database
from ion_core.errors import AlreadySettled, DeliveryLost

T = TypeVar("T")

FEW = 32
"""Messages up to which claiming or renewing them takes no longer than handing that over."""
SMALL = 64 * 1024
"""Bytes of a message, or characters of a reason, up to which storing it takes no longer than that."""


class Claims(Protocol):
    """What a subscription and its deliveries need of their broker."""

    database: Database
    lease: timedelta
    clock: Callable[[], float]

    def claim(self, queue: int, limit: int) -> asyncio.Future[sql.Haul]: ...

    def claiming(self, queue: int, limit: int) -> Callable[[sqlite3.Connection], sql.Haul]: ...

    async def renew(self, claims: Sequence[sql.Claim]) -> None: ...

    async def release_all(self, queue: int, claims: Sequence[sql.Claim]) -> None: ...

    def announce(self, queues: Iterable[int], delay: float = 0.0) -> None: ...

    def expect(self, due: float | None) -> None: ...


class SqliteDelivery:
    """One claimed message. The verbs and attributes are those of the contract's ``Delivery``."""

    __slots__ = ("_headers", "_message", "_settled", "_subscription", "lost")

    def __init__(self, message: sql.Claimed, subscription: Subscription) -> None:
        self._message = message
        self._subscription = subscription
        self._headers: Mapping[str, str] | None = None
        self._settled = False
        self.lost = asyncio.Event()

    @property
    def body(self) -> bytes:
        return self._message.body

    @property
    def headers(self) -> Mapping[str, str]:
        if self._headers is None:
            self._headers = json.loads(self._message.headers)
        return self._headers

    @property
    def attempt(self) -> int:
        return self._message.attempt

    @property
    def lease(self) -> timedelta:
        return self._subscription.broker.lease

    @property
    def claim(self) -> sql.Claim:
        return self._message.claim

    async def ack(self) -> None:
        self._check()
        ack = partial(sql.ack, claim=self.claim)
        await self._settled_by(self._subscription.claim_after(ack) or self._submit(ack, Access.WRITE))

    async def retry(self, *, delay: timedelta) -> None:
        await self._put_behind(delay.total_seconds(), counts=True)

    async def release(self) -> None:
        await self._settle(partial(sql.release, claim=self.claim), Access.WRITE)
        self._subscription.broker.announce([self._subscription.queue])

    async def postpone(self, *, delay: timedelta) -> None:
        await self._put_behind(delay.total_seconds(), counts=False)

    async def _put_behind(self, delay: float, *, counts: bool) -> None:
        broker = self._subscription.broker

        def work(connection: sqlite3.Connection) -> None:
            sql.put_behind(connection, self.claim, now=broker.clock(), delay=delay, counts=counts)

        await self._settle(work, Access.DURABLE)
        broker.announce([self._subscription.queue], delay)

    async def dead_letter(self, reason: str, *, log_tail: Sequence[str] = ()) -> None:
        clock, tail = self._subscription.broker.clock, json.dumps(list(log_tail))
        await self._settle(
            lambda connection: sql.dead_letter(connection, self.claim, now=clock(), reason=reason, log_tail=tail),
            Access.DURABLE,
            short=len(reason) + len(tail) <= SMALL,
        )

    async def renew(self) -> None:
        self._check()
        try:
            await self._subscription.broker.renew([self.claim])
        except DeliveryLost:
            self._subscription.drop(self, lost=not self._settled)
            self._check()
            raise

    def _check(self) -> None:
        if self._settled:
            raise AlreadySettled(f"message {self.claim.seq}: was settled before. Settle each delivery once.")
        if self.lost.is_set():
            raise DeliveryLost(f"message {self.claim.seq}: was taken back by the broker; it is delivered again.")

    async def _settle(self, work: Callable[[sqlite3.Connection], None], access: Access, *, short: bool = True) -> None:
        self._check()
        await self._settled_by(self._submit(work, access, short=short))

    def _submit(
        self, work: Callable[[sqlite3.Connection], None], access: Access, *, short: bool = True
    ) -> asyncio.Future[None]:
        return self._subscription.broker.database.submit(work, access, short=short)

    async def _settled_by(self, future: asyncio.Future[Any]) -> None:
        """It is once ``future`` is. A caller that is cancelled meanwhile does not know whether it was; we do."""
        self._settled = True
        when_done(future, self._on_answer)
        await asyncio.shield(future)

    def _on_answer(self, future: asyncio.Future[Any]) -> None:
        error = future.exception()
        self._settled = error is None
        if error is None or isinstance(error, DeliveryLost) or self._subscription.is_closed:
            self._subscription.drop(self, lost=error is not None)

    @property
    def settled(self) -> bool:
        """Whether a verb has settled it or is about to."""
        return self._settled


def when_done(future: asyncio.Future[T], call: Callable[[asyncio.Future[T]], None]) -> None:
    """Call it with the future, at once if that is done already."""
    if future.done():
        call(future)
    else:
        future.add_done_callback(call)


class Subscription:
    """Iterates over the deliveries of one queue, claiming as many at a time as ``prefetch`` leaves free.

    An error of the broker comes out of the iteration, which may then be continued: nothing is lost by it.
    """

    def __init__(self, broker: Claims, queue: int, prefetch: int) -> None:
        self.broker = broker
        self.queue = queue
        self.dry = False
        """The last claim found no more than it took: only look again when something was announced."""
        self._prefetch = prefetch
        self._held: dict[sql.Claim, SqliteDelivery] = {}
        self._buffer: deque[SqliteDelivery] = deque()
        self._claiming: asyncio.Future[sql.Haul] | None = None
        self._error: BaseException | None = None
        self._announced = 0
        self._changed = asyncio.Event()
        self._awaited = False
        """Somebody waits for the next delivery."""
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SqliteDelivery:
        while True:
            while self._buffer:
                delivery = self._buffer.popleft()
                if not delivery.lost.is_set():
                    return delivery
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            if self._claiming is None and not self.dry and len(self._held) < self._prefetch:
                self._start_claim()
            self._awaited = True
            try:
                await self._changed.wait()
            finally:
                self._awaited = False

    def _start_claim(self) -> None:
        """Claim without being awaited, so that cancelling whoever iterates loses no message."""
        limit = self._prefetch - len(self._held)
        self._claiming = self.broker.claim(self.queue, limit)
        when_done(self._claiming, partial(self._on_claimed, limit, self._announced))

    def claim_after(self, settle: Callable[[sqlite3.Connection], None]) -> asyncio.Future[sql.Haul] | None:
        """Do ``settle``, of one of ours, and claim in the same transaction: both happen, or neither.

        None where there is nothing to claim, or nobody who waits for it.
        """
        if not self._awaited or self._claiming is not None or self._buffer or self.dry or self._closed:
            return None
        limit = self._prefetch - len(self._held) + 1
        claim = self.broker.claiming(self.queue, limit)

        def both(connection: sqlite3.Connection) -> sql.Haul:
            settle(connection)
            return claim(connection)

        self._claiming = future = self.broker.database.submit(both, Access.WRITE, short=limit <= FEW)
        when_done(future, partial(self._on_claimed, limit, self._announced, settling=True))
        return future

    def _on_claimed(
        self, limit: int, announced: int, future: asyncio.Future[sql.Haul], *, settling: bool = False
    ) -> None:
        self._claiming = None
        error = future.exception()
        if error is not None:
            if not settling:  # else that is told who settles; the claim is tried again
                self._error = error
        else:
            haul = future.result()
            for message in haul.messages:
                delivery = SqliteDelivery(message, self)
                self._held[message.claim] = delivery
                self._buffer.append(delivery)
            self.dry = len(haul.messages) < limit and announced == self._announced
            if self.dry:
                self.broker.expect(haul.next_due)
        self._changed.set()

    def announce(self) -> None:
        """There may be something to claim."""
        self._announced += 1
        self.dry = False
        self._changed.set()

    def fail(self, error: BaseException) -> None:
        """Have the iteration raise ``error``, once."""
        self._error = error
        self._changed.set()

    @property
    def is_closed(self) -> bool:
        """It was left: what is not settled by now comes back when its lease ends."""
        return self._closed

    @property
    def claims(self) -> list[sql.Claim]:
        """What is held and not being settled."""
        return [claim for claim, delivery in self._held.items() if not delivery.settled]

    @property
    def waiting(self) -> list[sql.Claim]:
        """What is held and was given to nobody yet, who could renew it."""
        return [delivery.claim for delivery in self._buffer if not delivery.lost.is_set()]

    def forfeit(self, claims: Sequence[sql.Claim]) -> None:
        """These were given away by the broker meanwhile."""
        for claim in claims:
            delivery = self._held.get(claim)
            if delivery is not None and not delivery.settled:
                self.drop(delivery, lost=True)

    def drop(self, delivery: SqliteDelivery, *, lost: bool) -> None:
        """It is held no longer."""
        if lost:
            delivery.lost.set()
        if self._held.pop(delivery.claim, None) is not None:
            self._changed.set()

    async def close(self) -> None:
        """Release what is unsettled. Bounded by the database's own bounds."""
        self._closed = True
        self._changed.set()
        if self._claiming is not None:
            await asyncio.wait([self._claiming])
        left = list(self._held.values())
        if not left:
            return
        claims = self.claims
        for delivery in left:
            if not delivery.settled:
                self.drop(delivery, lost=True)
        await self.broker.release_all(self.queue, claims)
