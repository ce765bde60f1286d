"""The embedded durable broker: one SQLite file for all processes of a machine, on nothing but Python.

How things find each other: a publish wakes the subscribers of its own process at once, and every broker looks into the
file each ``poll`` for what other processes did, for delays that ended, for claims that were given away and for
processes that died. The look is one indexed query, whatever the queues hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from ion_core.contracts.messaging import (
    DeadLetter,
    DeclaredQueue,
    Delivery,
    HoldLimit,
    Message,
    QueueStats,
    RetryPolicy,
)
from ion_core.embedded.settings import SqliteBrokerSettings
from ion_core.embedded.sqlite import queue as sql
from ion_core.embedded.sqlite.database import Access, Database, open_database
from ion_core.embedded.sqlite.delivery import FEW, SMALL, Subscription
from ion_core.embedded.sqlite.owners import Owner, dead_owners, forget
from ion_core.errors import DeliveryLost, IonError, TransientError

log = logging.getLogger(__name__)

_CLOCK_SET_BACK = 0.5
"""Seconds of the wall clock behind the monotonic one that count as the clock having been set back."""

T = TypeVar("T")


class _Pages(Protocol[T]):
    def next(self, connection: sqlite3.Connection) -> list[T] | None: ...


class SqliteBroker:
    """The contract's ``MessageBroker`` on a SQLite file. Made by ``open_sqlite_broker``."""

    max_hold: HoldLimit | None = None
    letters_unseen_for = timedelta(0)

    def __init__(
        self, database: Database, *, lease: timedelta, poll: timedelta, clock: Callable[[], float] = time.time
    ) -> None:
        self.database = database
        self.lease = lease
        self.clock = clock
        self._poll = poll.total_seconds()
        self._lease = lease.total_seconds()
        self._loop = asyncio.get_running_loop()
        self._directory = database.path.with_name(database.path.name + ".owners")
        self._owner: Owner | None = None
        self._claims = 0
        self._subscriptions: set[Subscription] = set()
        self._watch: asyncio.Task[None] | None = None
        self._next_due: float | None = None
        self._sooner = asyncio.Event()
        self._renewed = 0.0
        self._clock_offset = clock() - time.monotonic()

    # What the contract asks for.

    async def declare(self, queue: str, *, topics: Sequence[str], retry: RetryPolicy) -> None:
        """``retry`` is not needed ahead of time here: each retry brings its own delay."""
        topics = list(topics)
        await self.database.call(lambda connection: sql.declare(connection, queue, topics), Access.DURABLE)

    async def queues(self) -> Sequence[DeclaredQueue]:
        return await self.database.call(sql.queues, Access.READ)

    async def move(self, queue: str, to: str) -> int:
        work = partial(sql.move, name=queue, to=to)
        target, moved = await self.database.call(lambda it: work(it, now=self.clock()), Access.DURABLE)
        self.announce([target])
        return moved

    async def drop(self, queue: str) -> None:
        """Who subscribes to it learns of it at the next look."""
        await self.database.call(partial(sql.drop, name=queue), Access.DURABLE)

    async def publish(self, topic: str, body: bytes, *, headers: Mapping[str, str]) -> None:
        text = json.dumps(dict(headers), ensure_ascii=False)
        work = partial(sql.publish, topic=topic, headers=text, body=body)
        queues = await self.database.call(work, Access.DURABLE, short=len(body) <= SMALL)
        self.announce(queues)

    @asynccontextmanager
    async def subscribe(self, queue: str, *, prefetch: int) -> AsyncIterator[AsyncIterator[Delivery]]:
        number = await self.database.call(partial(sql.queue_id, name=queue), Access.READ)
        await self._bury(await self.database.call(self._come_alive, Access.READ))
        subscription = Subscription(self, number, max(prefetch, 1))
        self._subscriptions.add(subscription)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._keep_watch(), name=f"watch {self.database.path.name}")
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            await subscription.close()

    async def stats(self, queue: str) -> QueueStats:
        return await self.database.call(lambda connection: sql.stats(connection, queue, self.clock()), Access.READ)

    async def peek(self, queue: str, *, limit: int) -> Sequence[Message]:
        return await self.database.call(
            lambda connection: sql.peek(connection, queue, limit=limit, now=self.clock()), Access.READ
        )

    @asynccontextmanager
    async def each_message(self, queue: str) -> AsyncIterator[AsyncIterator[Message]]:
        begin = partial(sql.ReadyPages, name=queue, now=self.clock())
        yield self._each(await self.database.call(begin, Access.READ))

    async def dead_letters(self, queue: str, *, limit: int | None = None) -> Sequence[DeadLetter]:
        return await self.database.call(
            lambda connection: sql.dead_letters(connection, queue, limit=limit), Access.READ
        )

    @asynccontextmanager
    async def each_dead_letter(self, queue: str) -> AsyncIterator[AsyncIterator[DeadLetter]]:
        yield self._each(await self.database.call(partial(sql.LetterPages, name=queue), Access.READ))

    async def _each(self, pages: _Pages[T]) -> AsyncIterator[T]:
        while (page := await self.database.call(pages.next, Access.READ)) is not None:
            for one in page:
                yield one

    async def dead_letter(self, queue: str, id: str) -> DeadLetter:
        return await self.database.call(partial(sql.one_dead_letter, name=queue, id=id), Access.READ)

    async def add_dead_letters(self, queue: str, letters: Sequence[DeadLetter]) -> Sequence[str]:
        letters = list(letters)
        return await self.database.call(
            lambda connection: sql.add_dead_letters(connection, queue, letters), Access.DURABLE
        )

    async def redrive(self, queue: str, ids: Sequence[str]) -> int:
        ids = list(ids)
        number, moved = await self.database.call(lambda connection: sql.redrive(connection, queue, ids), Access.DURABLE)
        self.announce([number])
        return moved

    async def purge(self, queue: str, ids: Sequence[str]) -> int:
        ids = list(ids)
        return await self.database.call(lambda connection: sql.purge(connection, queue, ids), Access.DURABLE)

    # What its subscriptions and deliveries ask for: ``delivery.Claims``.

    def claim(self, queue: int, limit: int) -> asyncio.Future[sql.Haul]:
        """Claim up to ``limit``; the future is the caller's alone."""
        return self.database.submit(self.claiming(queue, limit), Access.WRITE, short=limit <= FEW)

    def claiming(self, queue: int, limit: int) -> Callable[[sqlite3.Connection], sql.Haul]:
        """What claims up to ``limit``, for one use."""
        assert self._owner is not None, "made on entering the first subscription"
        self._claims += 1
        how = partial(sql.claim, queue=queue, limit=limit, owner=self._owner.id, claim=self._claims, lease=self._lease)
        return lambda connection: how(connection, now=self.clock())

    async def renew(self, claims: Sequence[sql.Claim]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            sql.renew(connection, claims, now=self.clock(), lease=self._lease)

        await self.database.call(work, Access.WRITE, short=len(claims) <= FEW)

    async def release_all(self, queue: int, claims: Sequence[sql.Claim]) -> None:
        try:
            await self.database.call(lambda connection: sql.release_all(connection, claims), Access.WRITE)
        except IonError as error:  # they come back all the same, when the lease ends or this broker is closed
            log.warning("could not release what a subscriber held", extra={"error": str(error)})
        else:
            self.announce([queue])

    def announce(self, queues: Iterable[int], delay: float = 0.0) -> None:
        """Tell every broker of this process that uses the file what will be ready in ``queues`` after ``delay``."""
        with _open_brokers_lock:
            brokers = list(_open_brokers.get(self.database.path, ()))
        for broker in brokers:
            if broker._loop is self._loop:
                broker._hear(queues, delay)
            else:
                with contextlib.suppress(RuntimeError):  # its loop has just ended
                    broker._loop.call_soon_threadsafe(broker._hear, queues, delay)

    def _hear(self, queues: Iterable[int], delay: float) -> None:
        if delay > 0:
            self.expect(self.clock() + delay)
            return
        for subscription in self._subscriptions:
            if subscription.queue in queues:
                subscription.announce()

    def expect(self, due: float | None) -> None:
        """Look at the latest when it is ``due``."""
        if due is not None and (self._next_due is None or due < self._next_due):
            self._next_due = due
            self._sooner.set()

    # Watching the file for what others did.

    async def _until_next_look(self) -> None:
        """A ``poll``, or less if something is expected sooner."""
        until = self._loop.time() + self._poll
        while True:
            wait = until - self._loop.time()
            if self._next_due is not None:
                wait = min(wait, self._next_due - self.clock())
            self._sooner.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._sooner.wait()
            except TimeoutError:
                self._next_due = None
                return

    async def _keep_watch(self) -> None:
        failing = False
        while True:
            await self._until_next_look()
            try:
                await self._heed_the_clock()
                await self._look()
                await self._renew_buffered()
                failing = False
            except Exception as error:
                if not failing:  # once for each time it starts to fail
                    log.warning("the broker's file cannot be used for now", extra={"error": str(error)})
                failing = True
                if not isinstance(error, TransientError):  # nothing that waiting would mend
                    for subscription in self._subscriptions:
                        subscription.fail(error)

    async def _look(self) -> None:
        """Wake those who can claim something; tell those who hold something that was given away."""
        assert self._owner is not None
        owner = self._owner.id
        before = {subscription: subscription.claims for subscription in self._subscriptions}
        queues = sorted({subscription.queue for subscription in before if subscription.dry})
        subscribed = sorted({subscription.queue for subscription in before})
        seqs = [claim.seq for claims in before.values() for claim in claims]

        def see(connection: sqlite3.Connection) -> tuple[sql.Look, list[str]]:
            seen = sql.look(connection, queues, subscribed=subscribed, owner=owner, seqs=seqs, now=self.clock())
            return seen, dead_owners(self._directory)

        seen, dead = await self.database.call(see, Access.READ)
        for subscription, claims in before.items():
            subscription.forfeit([claim for claim in claims if (claim.seq, claim.claim) not in seen.held])
            if subscription.queue in seen.gone:
                subscription.fail(
                    TransientError(f"{self.database.path}: the queue was dropped while we subscribed to it")
                )
            elif subscription.queue in seen.ready:
                subscription.announce()
        self.expect(seen.next_due)
        await self._bury(dead)

    async def _renew_buffered(self) -> None:
        """Nobody else can renew what was claimed ahead and not been given out."""
        if time.monotonic() - self._renewed < self._lease / 4:
            return
        self._renewed = time.monotonic()
        for subscription in list(self._subscriptions):
            if claims := subscription.waiting:
                with contextlib.suppress(DeliveryLost):  # the next look says which
                    await self.renew(claims)

    def _come_alive(self, connection: sqlite3.Connection) -> list[str]:
        """Have an owner from now on; returns the dead ones. On the database thread: it opens files."""
        if self._owner is None:
            self._owner = Owner(self._directory)
        return dead_owners(self._directory)

    async def _bury(self, dead: Sequence[str]) -> None:
        """Give away what owners hold whose process has died, then remove their files."""
        if not dead:
            return
        given = await self.database.call(lambda connection: sql.release_owners(connection, dead), Access.WRITE)
        await self.database.call(lambda connection: forget(self._directory, dead), Access.READ)
        if given:
            log.warning("took back what a process held that died", extra={"messages": given, "owners": len(dead)})
            self._hear({subscription.queue for subscription in self._subscriptions}, 0.0)

    async def _heed_the_clock(self) -> None:
        """Delays and leases are in wall clock time, the only one processes share over a restart of the machine."""
        offset = self.clock() - time.monotonic()
        if offset < self._clock_offset - _CLOCK_SET_BACK:
            changed = await self.database.call(lambda connection: sql.clamp(connection, self.clock()), Access.WRITE)
            if changed:
                log.warning(
                    "the clock was set back", extra={"seconds": self._clock_offset - offset, "messages": changed}
                )
        self._clock_offset = offset

    async def start(self) -> None:
        """Take part in this process's wake-ups. The clock may have been set back while nobody looked."""
        await self.database.call(lambda connection: sql.clamp(connection, self.clock()), Access.WRITE)
        with _open_brokers_lock:
            _open_brokers.setdefault(self.database.path, set()).add(self)

    async def stop(self) -> None:
        """End the watch and the owner, giving away what is still held."""
        with _open_brokers_lock:
            brokers = _open_brokers.get(self.database.path, set())
            brokers.discard(self)
            if not brokers:
                _open_brokers.pop(self.database.path, None)
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        owner = self._owner
        if owner is None:
            return
        try:
            await self.database.call(lambda connection: sql.release_owners(connection, [owner.id]), Access.WRITE)
        except IonError as error:
            log.warning("what is still held comes back later", extra={"error": str(error)})
            owner.abandon()
        else:
            owner.remove()


_open_brokers: dict[Path, set[SqliteBroker]] = {}
"""Brokers open in this process by their file, so that a publish through one wakes subscribers of another."""
_open_brokers_lock = threading.Lock()
os.register_at_fork(after_in_child=_open_brokers.clear)


@asynccontextmanager
async def open_sqlite_broker(settings: SqliteBrokerSettings) -> AsyncIterator[SqliteBroker]:
    """The broker in ``settings.path``. Raises StateError when the file cannot be used, TransientError when locked."""
    async with open_database(settings.path.resolve(), sql.SCHEMA) as database:
        broker = SqliteBroker(database, lease=settings.lease, poll=settings.poll)
        try:
            await broker.start()
            yield broker
        finally:
            await broker.stop()
