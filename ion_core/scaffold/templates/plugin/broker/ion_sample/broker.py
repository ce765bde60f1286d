"""A MessageBroker in one SQLite file, for the processes of one machine.

A message is a row, and its ``place`` where it stands in its queue. Who holds it has put a token and a time into it;
once that time has passed it is ready again, so that nobody needs to notice that a holder has died. Whatever is done is
one transaction, which is what makes verbs whole and lets any number of processes share the file.
"""

import asyncio
import contextlib
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from ion_core.contracts.messaging import (
    DeadLetter,
    DeclaredQueue,
    HoldLimit,
    Message,
    MessageBroker,
    QueueStats,
    RetryPolicy,
)
from ion_core.errors import (
    AlreadySettled,
    ConfigError,
    DeadLetterNotFound,
    DeliveryLost,
    IonError,
    QueueNotDeclared,
    TransientError,
    Unroutable,
)
from ion_sample.settings import SampleSettings

T = TypeVar("T")
Database = sqlite3.Connection

SCHEMA = """
CREATE TABLE IF NOT EXISTS queues (name TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS topics (topic TEXT, queue TEXT, PRIMARY KEY (topic, queue));
CREATE TABLE IF NOT EXISTS messages (
    place INTEGER PRIMARY KEY, queue TEXT, body BLOB, headers TEXT, attempt INTEGER,
    due REAL DEFAULT 0, token TEXT, held_until REAL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS by_queue ON messages (queue, place);
CREATE TABLE IF NOT EXISTS letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT, body BLOB, headers TEXT, reason TEXT, attempts INTEGER,
    log_tail TEXT, died_at TEXT
);
"""
READY = "queue = :queue AND held_until <= :now AND due <= :now"
LAST = "(SELECT coalesce(max(place), 0) + 1 FROM messages)"


class SampleDelivery:
    """A message that is ours until its lease ends, which ``renew`` puts off."""

    def __init__(self, broker: "SampleBroker", queue: str, token: str, row: Sequence[Any]) -> None:
        self.body, headers, self.attempt = row
        self.headers: Mapping[str, str] = json.loads(headers)
        self.lease = broker.lease
        self.lost = asyncio.Event()
        self.settled = False
        self.token = token
        self._broker, self._queue = broker, queue
        self._ending = asyncio.get_running_loop().call_later(self.lease.total_seconds(), self.lost.set)

    async def ack(self) -> None:
        await self._settle("DELETE FROM messages WHERE token = :token")

    async def retry(self, *, delay: timedelta) -> None:
        await self._put_behind(self.attempt + 1, delay)

    async def postpone(self, *, delay: timedelta) -> None:
        await self._put_behind(self.attempt, delay)

    async def release(self) -> None:
        await self._settle("UPDATE messages SET token = NULL, held_until = 0 WHERE token = :token")

    async def dead_letter(self, reason: str, *, log_tail: Sequence[str] = ()) -> None:
        letter = DeadLetter(
            id="",
            queue=self._queue,
            body=self.body,
            headers=self.headers,
            reason=reason,
            attempts=self.attempt,
            log_tail=log_tail,
            died_at=datetime.now(UTC),
        )
        await self._settle("DELETE FROM messages WHERE token = :token", letter)

    async def renew(self) -> None:
        self._check()

        def renew(database: Database) -> bool:
            until = time.time() + self.lease.total_seconds()
            return changed(database, "UPDATE messages SET held_until = ? WHERE token = ?", (until, self.token))

        if not await self._broker.call(renew):
            raise self._is_lost()
        self._ending.cancel()
        self._ending = asyncio.get_running_loop().call_later(self.lease.total_seconds(), self.lost.set)

    def left(self) -> None:
        """Its subscription was left: what is not settled is not ours any more."""
        self._ending.cancel()
        if not self.settled:
            self.lost.set()

    async def _put_behind(self, attempt: int, delay: timedelta) -> None:
        await self._settle(
            f"UPDATE messages SET place = {LAST}, attempt = :attempt, due = :due, token = NULL, held_until = 0 "
            "WHERE token = :token",
            attempt=attempt,
            due=time.time() + delay.total_seconds(),
        )

    async def _settle(self, statement: str, letter: DeadLetter | None = None, **values: Any) -> None:
        """In the thread it is decided, so that a caller who is cancelled finds out by the next verb."""
        self._check()

        def settle(database: Database) -> bool:
            if not changed(database, statement, {"token": self.token, **values}):
                return False
            if letter is not None:
                bury(database, self._queue, letter)
            return True

        def is_settled() -> None:
            self.settled = True

        if not await self._broker.call(settle, then=is_settled):
            self._check()
            raise self._is_lost()
        self._ending.cancel()

    def _check(self) -> None:
        if self.settled:
            raise AlreadySettled(f"queue {self._queue}: the delivery is settled. Settle each delivery once.")
        if self.lost.is_set():
            raise self._is_lost()

    def _is_lost(self) -> DeliveryLost:
        self.lost.set()
        return DeliveryLost(f"queue {self._queue}: the delivery was taken back. It will be delivered again.")


class Subscription:
    """What was claimed for an iteration that was cancelled is given to the next one."""

    def __init__(self, broker: "SampleBroker", queue: str, prefetch: int) -> None:
        self._broker, self._queue, self._prefetch = broker, queue, prefetch
        self._mine: list[SampleDelivery] = []
        self._claiming: asyncio.Task[tuple[str, Sequence[Any]] | None] | None = None

    def __aiter__(self) -> AsyncIterator[SampleDelivery]:
        return self

    async def __anext__(self) -> SampleDelivery:
        while True:
            self._mine = [it for it in self._mine if not it.settled and not it.lost.is_set()]
            if len(self._mine) < self._prefetch:
                self._claiming = self._claiming or asyncio.create_task(self._broker.claim(self._queue))
                claiming = self._claiming
                try:
                    found = await asyncio.shield(claiming)
                finally:
                    if claiming.done():
                        self._claiming = None
                if found is not None:
                    self._mine.append(SampleDelivery(self._broker, self._queue, *found))
                    return self._mine[-1]
            await asyncio.sleep(self._broker.poll)

    async def leave(self) -> None:
        for delivery in self._mine:
            delivery.left()
        with contextlib.suppress(IonError):  # then their leases end, and they come back all the same
            if self._claiming is not None and (found := await self._claiming) is not None:
                self._mine.append(SampleDelivery(self._broker, self._queue, *found))
                self._mine[-1].left()
            tokens = [(it.token,) for it in self._mine if not it.settled]
            await self._broker.call(
                lambda database: database.executemany(
                    "UPDATE messages SET token = NULL, held_until = 0 WHERE token = ?", tokens
                )
            )


class SampleBroker:
    max_hold: HoldLimit | None = None
    letters_unseen_for = timedelta(0)

    def __init__(self, settings: SampleSettings) -> None:
        self.path = settings.path.absolute()
        self.lease, self.poll = settings.lease, settings.poll.total_seconds()
        self._one_at_a_time = threading.Lock()

    async def call(self, work: Callable[[Database], T], *, then: Callable[[], None] | None = None) -> T:
        """``work`` as one transaction, on a thread; ``then`` is called once it is durable and has not returned False.

        Who is cancelled meanwhile does not wait for it; it is done, or not done, all the same.
        """

        def run() -> T:
            with self._one_at_a_time:  # so that who comes next finds out what ``then`` has noted
                with transaction(self.path) as database:
                    done = work(database)
                if then is not None and done is not False:
                    then()
            return done

        return await asyncio.to_thread(run)

    async def declare(self, queue: str, *, topics: Sequence[str], retry: RetryPolicy) -> None:
        def declare(database: Database) -> None:
            database.execute("INSERT OR IGNORE INTO queues VALUES (?)", (queue,))
            database.execute("DELETE FROM topics WHERE queue = ?", (queue,))
            database.executemany("INSERT OR IGNORE INTO topics VALUES (?, ?)", [(topic, queue) for topic in topics])

        await self.call(declare)

    async def queues(self) -> Sequence[DeclaredQueue]:
        def queues(database: Database) -> list[DeclaredQueue]:
            bound = database.execute("SELECT queue, topic FROM topics").fetchall()
            return [
                DeclaredQueue(name=name, topics=frozenset(topic for queue, topic in bound if queue == name))
                for (name,) in database.execute("SELECT name FROM queues ORDER BY name")
            ]

        return await self.call(queues)

    async def move(self, queue: str, to: str) -> int:
        def move(database: Database) -> int:
            check(database, queue, to)
            free = "UPDATE messages SET queue = ? WHERE queue = ? AND held_until <= ?"
            messages = database.execute(free, (to, queue, time.time())).rowcount
            return messages + database.execute("UPDATE letters SET queue = ? WHERE queue = ?", (to, queue)).rowcount

        return await self.call(move)

    async def drop(self, queue: str) -> None:
        def drop(database: Database) -> None:
            for table in ("messages", "letters", "topics"):
                database.execute(f"DELETE FROM {table} WHERE queue = ?", (queue,))
            database.execute("DELETE FROM queues WHERE name = ?", (queue,))

        await self.call(drop)

    async def publish(self, topic: str, body: bytes, *, headers: Mapping[str, str]) -> None:
        said = json.dumps(dict(headers))

        def publish(database: Database) -> None:
            bound = database.execute("SELECT queue FROM topics WHERE topic = ?", (topic,)).fetchall()
            if not bound:
                raise Unroutable(f"topic {topic}: no queue takes it. Declare a queue for it first.")
            for (queue,) in bound:
                put(database, queue, body, said)

        await self.call(publish)

    @asynccontextmanager
    async def subscribe(self, queue: str, *, prefetch: int) -> AsyncIterator[AsyncIterator[SampleDelivery]]:
        await self.call(lambda database: check(database, queue))
        subscription = Subscription(self, queue, prefetch)
        try:
            yield subscription
        finally:
            await subscription.leave()

    async def claim(self, queue: str) -> tuple[str, Sequence[Any]] | None:
        """The token and the row of the oldest message that is ready, which is ours from then on; None if none is."""
        token = uuid.uuid4().hex

        def claim(database: Database) -> tuple[str, Sequence[Any]] | None:
            if not database.execute("SELECT 1 FROM queues WHERE name = ?", (queue,)).fetchone():
                raise TransientError(f"queue {queue}: was dropped while we subscribed to it. Declare it anew.")
            now = time.time()
            oldest = f"SELECT place, body, headers, attempt FROM messages WHERE {READY} ORDER BY place LIMIT 1"
            found = database.execute(oldest, {"queue": queue, "now": now}).fetchone()
            if found is None:
                return None
            hold = "UPDATE messages SET token = ?, held_until = ? WHERE place = ?"
            database.execute(hold, (token, now + self.lease.total_seconds(), found[0]))
            return token, found[1:]

        return await self.call(claim)

    async def stats(self, queue: str) -> QueueStats:
        def stats(database: Database) -> QueueStats:
            check(database, queue)

            def count(condition: str, table: str = "messages") -> int:
                values = {"queue": queue, "now": time.time()}
                (found,) = database.execute(f"SELECT count(*) FROM {table} WHERE {condition}", values).fetchone()
                return int(found)

            return QueueStats(
                ready=count(READY),
                delayed=count("queue = :queue AND held_until <= :now AND due > :now"),
                unsettled=count("queue = :queue AND held_until > :now"),
                dead=count("queue = :queue", "letters"),
            )

        return await self.call(stats)

    async def peek(self, queue: str, *, limit: int) -> Sequence[Message]:
        def peek(database: Database) -> list[Message]:
            check(database, queue)
            oldest = f"SELECT body, headers, attempt FROM messages WHERE {READY} ORDER BY place LIMIT :limit"
            found = database.execute(oldest, {"queue": queue, "now": time.time(), "limit": limit})
            return [Message(body=body, headers=json.loads(it), attempt=attempt) for body, it, attempt in found]

        return await self.call(peek)

    @asynccontextmanager
    async def each_message(self, queue: str) -> AsyncIterator[AsyncIterator[Message]]:
        await self.call(lambda database: check(database, queue))
        yield self._each_message(queue)

    async def _each_message(self, queue: str) -> AsyncIterator[Message]:
        columns = "place, body, headers, attempt"
        some = f"SELECT {columns} FROM messages WHERE {READY} AND place > :last ORDER BY place LIMIT 50"
        last = 0
        while found := await self._rows(some, {"queue": queue, "now": time.time(), "last": last}):
            for place, body, headers, attempt in found:
                last = place
                yield Message(body=body, headers=json.loads(headers), attempt=attempt)

    async def dead_letters(self, queue: str, *, limit: int | None = None) -> Sequence[DeadLetter]:
        def dead_letters(database: Database) -> list[DeadLetter]:
            check(database, queue)
            oldest = "SELECT * FROM letters WHERE queue = ? ORDER BY id LIMIT ?"
            return [letter(row) for row in database.execute(oldest, (queue, -1 if limit is None else limit))]

        return await self.call(dead_letters)

    @asynccontextmanager
    async def each_dead_letter(self, queue: str) -> AsyncIterator[AsyncIterator[DeadLetter]]:
        await self.call(lambda database: check(database, queue))
        yield self._each_dead_letter(queue)

    async def _each_dead_letter(self, queue: str) -> AsyncIterator[DeadLetter]:
        some = "SELECT * FROM letters WHERE queue = :queue AND id > :last ORDER BY id LIMIT 50"
        last = 0
        while found := await self._rows(some, {"queue": queue, "last": last}):
            for row in found:
                last = row[0]
                yield letter(row)

    async def dead_letter(self, queue: str, id: str) -> DeadLetter:
        def dead_letter(database: Database) -> DeadLetter:
            check(database, queue)
            found = database.execute("SELECT * FROM letters WHERE queue = ? AND CAST(id AS TEXT) = ?", (queue, id))
            for row in found:
                return letter(row)
            raise DeadLetterNotFound(f"queue {queue}: no dead letter {id}. List them for their ids.")

        return await self.call(dead_letter)

    async def _rows(self, query: str, values: Mapping[str, Any]) -> list[Any]:
        return await self.call(lambda database: database.execute(query, values).fetchall())

    async def add_dead_letters(self, queue: str, letters: Sequence[DeadLetter]) -> Sequence[str]:
        def add(database: Database) -> list[str]:
            check(database, queue)
            return [bury(database, queue, it) for it in letters]

        return await self.call(add)

    async def redrive(self, queue: str, ids: Sequence[str]) -> int:
        def redrive(database: Database) -> int:
            taken = taken_out(database, queue, ids)
            for it in taken:
                put(database, queue, it.body, json.dumps(dict(it.headers)))
            return len(taken)

        return await self.call(redrive)

    async def purge(self, queue: str, ids: Sequence[str]) -> int:
        return await self.call(lambda database: len(taken_out(database, queue, ids)))


def check(database: Database, *queues: str) -> None:
    for queue in queues:
        if not database.execute("SELECT 1 FROM queues WHERE name = ?", (queue,)).fetchone():
            raise QueueNotDeclared(f"queue {queue}: was never declared. Declare it before using it.")


def put(database: Database, queue: str, body: bytes, headers: str) -> None:
    """Behind all that is there."""
    columns = "(place, queue, body, headers, attempt)"
    database.execute(f"INSERT INTO messages {columns} VALUES ({LAST}, ?, ?, ?, 1)", (queue, bytes(body), headers))


def bury(database: Database, queue: str, it: DeadLetter) -> str:
    """Keep it aside; its new id."""
    row = (queue, it.body, json.dumps(dict(it.headers)), it.reason, it.attempts, json.dumps(list(it.log_tail)))
    return str(
        database.execute(
            "INSERT INTO letters (queue, body, headers, reason, attempts, log_tail, died_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*row, it.died_at.isoformat()),
        ).lastrowid
    )


def letter(row: Sequence[Any]) -> DeadLetter:
    id, queue, body, headers, reason, attempts, log_tail, died_at = row
    return DeadLetter(
        id=str(id),
        queue=queue,
        body=body,
        headers=json.loads(headers),
        reason=reason,
        attempts=attempts,
        log_tail=tuple(json.loads(log_tail)),
        died_at=datetime.fromisoformat(died_at),
    )


def taken_out(database: Database, queue: str, ids: Sequence[str]) -> list[DeadLetter]:
    """These dead letters, which are no more; DeadLetterNotFound if one is not there."""
    check(database, queue)
    there = {str(row[0]): letter(row) for row in database.execute("SELECT * FROM letters WHERE queue = ?", (queue,))}
    if unknown := [id for id in ids if id not in there]:
        raise DeadLetterNotFound(f"queue {queue}: no dead letter {', '.join(unknown)}. List them for their ids.")
    taken = [there[id] for id in dict.fromkeys(ids)]
    database.executemany("DELETE FROM letters WHERE id = ?", [(int(it.id),) for it in taken])
    return taken


def changed(database: Database, statement: str, values: Any) -> bool:
    return database.execute(statement, values).rowcount > 0


@contextmanager
def transaction(path: Path) -> Iterator[Database]:
    """Durable once it is left, and nothing of it where it raises."""
    there = f"{path.as_uri()}?mode=rw"  # one that was moved away is not made anew: its log would go with the empty one
    try:
        with contextlib.closing(sqlite3.connect(there, timeout=20, isolation_level=None, uri=True)) as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            finally:
                if database.in_transaction:
                    database.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise TransientError(f"{path}: {error}. Is the disk all right?") from error


@asynccontextmanager
async def open_sample(settings: SampleSettings) -> AsyncIterator[MessageBroker]:
    try:
        settings.path.parent.mkdir(parents=True, exist_ok=True)
        kept_open = sqlite3.connect(settings.path, timeout=20)  # whoever closes it last has to tidy up
        kept_open.execute("PRAGMA journal_mode = WAL")
        kept_open.executescript(SCHEMA)
    except (OSError, sqlite3.Error) as error:
        where = settings.section.where("path")
        raise ConfigError(f"{where}: {settings.path} cannot be opened: {error}. Name another file.") from error
    with contextlib.closing(kept_open):
        yield SampleBroker(settings)
