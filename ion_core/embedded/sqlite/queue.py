"""The broker's tables and what is done to them: plain functions of a connection, each within one transaction.

A message is *ready* while ``due`` is null. Otherwise it becomes claimable at ``due`` (seconds since 1970): *delayed*
without an ``owner``, *held* with one, whose lease ends then. So one index finds the oldest ready one, another whatever
has fallen due, and both stay as fast with 100,000 messages as with ten. ``span`` is the whole delay or lease, which
bounds the wait when the clock is set back. ``owner`` and ``claim`` together are given out once only: a delivery whose
message was given away meanwhile finds them changed.
"""

from __future__ import annotations

import json
import sqlite3
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ion_core.contracts.messaging import DeadLetter, DeclaredQueue, Message, QueueStats
from ion_core.embedded.sqlite.schema import Schema
from ion_core.errors import DeadLetterNotFound, DeliveryLost, QueueNotDeclared, Unroutable

SCHEMA = Schema(
    name="message broker",
    application_id=0x496F6E42,  # "IonB"
    migrations=[
        [
            "CREATE TABLE queues (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
            """CREATE TABLE bindings (
                topic TEXT NOT NULL, queue INTEGER NOT NULL, PRIMARY KEY (topic, queue)) WITHOUT ROWID""",
            """CREATE TABLE messages (
                seq INTEGER PRIMARY KEY, queue INTEGER NOT NULL, due REAL, span REAL, owner TEXT, claim INTEGER,
                attempt INTEGER NOT NULL, topic TEXT NOT NULL, headers TEXT NOT NULL, body BLOB NOT NULL)""",
            "CREATE INDEX messages_ready ON messages (queue) WHERE due IS NULL",
            "CREATE INDEX messages_waiting ON messages (queue, due, owner) WHERE due IS NOT NULL",
            """CREATE TABLE dead_letters (
                id INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, died_at REAL NOT NULL,
                attempts INTEGER NOT NULL, reason TEXT NOT NULL, log_tail TEXT NOT NULL,
                topic TEXT NOT NULL, headers TEXT NOT NULL, body BLOB NOT NULL)""",
            "CREATE INDEX dead_letters_of ON dead_letters (queue)",
        ],
        [  # no number is given out twice: who still subscribes to a dropped queue is given nothing of another
            "CREATE TABLE kept_queues (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE)",
            "INSERT INTO kept_queues (id, name) SELECT id, name FROM queues",
            "DROP TABLE queues",
            "ALTER TABLE kept_queues RENAME TO queues",
        ],
    ],
)

_MAX_PROMOTED = 1_000
PAGE = 50
"""Messages or dead letters that are read at a time where there may be any number."""

PROMOTE = f"""
    UPDATE messages SET due = NULL, span = NULL, owner = NULL, claim = NULL WHERE seq IN (
        SELECT seq FROM messages WHERE queue = :queue AND due IS NOT NULL AND due <= :now
        ORDER BY due LIMIT {_MAX_PROMOTED})"""
CLAIM = """
    UPDATE messages SET due = :due, span = :lease, owner = :owner, claim = :claim WHERE seq IN (
        SELECT seq FROM messages WHERE queue = :queue AND due IS NULL ORDER BY seq LIMIT :limit)
    RETURNING seq, attempt, headers, body"""
NEXT_DUE = "SELECT due FROM messages WHERE queue = ? AND due IS NOT NULL ORDER BY due LIMIT 1"
LOOK = f"""
    SELECT asked.value,
        EXISTS (SELECT 1 FROM messages WHERE queue = asked.value AND due IS NULL),
        ({NEXT_DUE.replace("?", "asked.value")})
    FROM json_each(?) AS asked"""
HELD = """
    SELECT seq, claim FROM messages
    WHERE seq IN (SELECT value FROM json_each(:seqs)) AND owner = :owner AND due > :now"""
GONE = "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT id FROM queues)"
_HOLDER = "seq = :seq AND owner = :owner AND claim = :claim"
PUBLISH = """
    INSERT INTO messages (queue, attempt, topic, headers, body)
    SELECT queue, 1, topic, ?, ? FROM bindings WHERE topic = ? RETURNING queue"""
ACK = f"DELETE FROM messages WHERE {_HOLDER}"
RELEASE = f"UPDATE messages SET due = NULL, span = NULL, owner = NULL, claim = NULL WHERE {_HOLDER}"


@dataclass(frozen=True)
class Claim:
    """The right to a message: ``owner`` and ``claim`` are never given out twice."""

    seq: int
    owner: str
    claim: int

    def parameters(self, **more: object) -> dict[str, object]:
        return {"seq": self.seq, "owner": self.owner, "claim": self.claim, **more}


@dataclass(frozen=True)
class Claimed:
    """A message just claimed."""

    claim: Claim
    attempt: int
    headers: str
    body: bytes


@dataclass(frozen=True)
class Haul:
    """What a claim brought, oldest first; if less than it asked for, ``next_due`` is when there may be more."""

    messages: Sequence[Claimed]
    next_due: float | None


def queue_id(connection: sqlite3.Connection, name: str) -> int:
    row = connection.execute("SELECT id FROM queues WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise QueueNotDeclared(f"queue {name!r}: is not declared on this broker. Declare it before using it.")
    return int(row[0])


def declare(connection: sqlite3.Connection, name: str, topics: Sequence[str]) -> None:
    connection.execute("INSERT INTO queues (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
    queue = queue_id(connection, name)
    connection.execute("DELETE FROM bindings WHERE queue = ?", (queue,))
    connection.executemany(
        "INSERT INTO bindings (topic, queue) VALUES (?, ?) ON CONFLICT DO NOTHING", [(topic, queue) for topic in topics]
    )


def queues(connection: sqlite3.Connection) -> list[DeclaredQueue]:
    rows = connection.execute(
        """SELECT name, json_group_array(topic) FILTER (WHERE topic NOT NULL)
           FROM queues LEFT JOIN bindings ON queue = id GROUP BY id ORDER BY name"""
    ).fetchall()
    return [DeclaredQueue(name=name, topics=frozenset(json.loads(topics))) for name, topics in rows]


def move(connection: sqlite3.Connection, name: str, to: str, *, now: float) -> tuple[int, int]:
    """The queue they are in now, and how many were moved. A claim whose lease has ended holds nothing any more."""
    source, target = queue_id(connection, name), queue_id(connection, to)
    values = {"source": source, "target": target, "now": now}
    messages = connection.execute(
        """UPDATE messages SET queue = :target, owner = NULL, claim = NULL
           WHERE queue = :source AND (due IS NULL OR owner IS NULL OR due <= :now)""",
        values,
    )
    letters = connection.execute("UPDATE dead_letters SET queue = :target WHERE queue = :source", values)
    return target, messages.rowcount + letters.rowcount


def drop(connection: sqlite3.Connection, name: str) -> None:
    row = connection.execute("DELETE FROM queues WHERE name = ? RETURNING id", (name,)).fetchone()
    for table in ("bindings", "messages", "dead_letters") if row is not None else ():
        connection.execute(f"DELETE FROM {table} WHERE queue = ?", row)


def publish(connection: sqlite3.Connection, topic: str, headers: str, body: bytes) -> list[int]:
    """The queues that took it."""
    rows = connection.execute(PUBLISH, (headers, body, topic)).fetchall()
    if not rows:
        raise Unroutable(f"topic {topic!r}: no queue takes it. Name a type that a module subscribes to.")
    return [row[0] for row in rows]


def claim(
    connection: sqlite3.Connection, queue: int, *, limit: int, owner: str, claim: int, now: float, lease: float
) -> Haul:
    """Claim up to ``limit`` of the oldest ready messages, until ``now + lease``."""
    connection.execute(PROMOTE, {"queue": queue, "now": now})
    values = {"queue": queue, "limit": limit, "owner": owner, "claim": claim, "due": now + lease, "lease": lease}
    rows = connection.execute(CLAIM, values).fetchall()
    rows.sort()
    next_due = connection.execute(NEXT_DUE, (queue,)).fetchone() if len(rows) < limit else None
    return Haul(
        [Claimed(Claim(seq, owner, claim), attempt, headers, body) for seq, attempt, headers, body in rows],
        next_due[0] if next_due else None,
    )


def _held(changed: int, claim: Claim) -> None:
    if not changed:
        raise DeliveryLost(f"message {claim.seq}: its lease ended and it was given away. Renew leases in time.")


def ack(connection: sqlite3.Connection, claim: Claim) -> None:
    _held(connection.execute(ACK, claim.parameters()).rowcount, claim)


def release(connection: sqlite3.Connection, claim: Claim) -> None:
    _held(connection.execute(RELEASE, claim.parameters()).rowcount, claim)


def release_all(connection: sqlite3.Connection, claims: Sequence[Claim]) -> None:
    """Those of ``claims`` that still hold something."""
    connection.executemany(RELEASE, [claim.parameters() for claim in claims])


def release_owners(connection: sqlite3.Connection, owners: Sequence[str]) -> int:
    """Whatever dead owners hold. Looks at all that waits, which is fine for something this rare."""
    statement = """UPDATE messages SET due = NULL, span = NULL, owner = NULL, claim = NULL
        WHERE due IS NOT NULL AND owner IN (SELECT value FROM json_each(?))"""
    return connection.execute(statement, (json.dumps(owners),)).rowcount


def put_behind(connection: sqlite3.Connection, claim: Claim, *, now: float, delay: float, counts: bool) -> None:
    """Give it back for after ``delay``, behind what is there: with the number of one that is published now."""
    due = now + delay if delay > 0 else None
    statement = f"""UPDATE messages SET seq = (SELECT max(seq) + 1 FROM messages), attempt = attempt + :counts,
        due = :due, span = :delay, owner = NULL, claim = NULL WHERE {_HOLDER}"""
    values = claim.parameters(due=due, delay=max(delay, 0.0), counts=int(counts))
    _held(connection.execute(statement, values).rowcount, claim)


def renew(connection: sqlite3.Connection, claims: Sequence[Claim], *, now: float, lease: float) -> None:
    """Hold each for another ``lease``; DeliveryLost if one of them is gone, when the rest is not renewed either."""
    for claim in claims:
        statement = f"UPDATE messages SET due = :due, span = :lease WHERE {_HOLDER}"
        _held(connection.execute(statement, claim.parameters(due=now + lease, lease=lease)).rowcount, claim)


def dead_letter(connection: sqlite3.Connection, claim: Claim, *, now: float, reason: str, log_tail: str) -> None:
    statement = f"""INSERT INTO dead_letters (queue, died_at, attempts, reason, log_tail, topic, headers, body)
        SELECT queue, :now, attempt, :reason, :log_tail, topic, headers, body FROM messages WHERE {_HOLDER}"""
    values = claim.parameters(now=now, reason=reason, log_tail=log_tail)
    _held(connection.execute(statement, values).rowcount, claim)
    connection.execute("DELETE FROM messages WHERE seq = ?", (claim.seq,))


def clamp(connection: sqlite3.Connection, now: float) -> int:
    """After the clock was set back: nothing waits longer from now than it was to wait in all."""
    return connection.execute(
        "UPDATE messages SET due = :now + span WHERE due IS NOT NULL AND due > :now + span", {"now": now}
    ).rowcount


@dataclass(frozen=True)
class Look:
    """``ready`` queues with something to claim; ``next_due`` when one of the others will have; ``held`` still ours.

    ``gone`` queues were dropped.
    """

    gone: frozenset[int]
    ready: frozenset[int]
    next_due: float | None
    held: frozenset[tuple[int, int]]


def look(
    connection: sqlite3.Connection,
    queues: Sequence[int],
    *,
    subscribed: Sequence[int],
    owner: str,
    seqs: Sequence[int],
    now: float,
) -> Look:
    """What there is to claim in ``queues``, and which of ``seqs`` (with their claims) ``owner`` still holds.

    What was not renewed in time is not held any more, also if nobody else has claimed it yet.
    """
    gone = connection.execute(GONE, (json.dumps(subscribed),)).fetchall()
    ready, dues = set(), []
    for queue, any_ready, due in connection.execute(LOOK, (json.dumps(queues),)).fetchall() if queues else ():
        if any_ready or (due is not None and due <= now):
            ready.add(queue)
        elif due is not None:
            dues.append(due)
    held = connection.execute(HELD, {"seqs": json.dumps(seqs), "owner": owner, "now": now}).fetchall() if seqs else ()
    return Look(frozenset(row[0] for row in gone), frozenset(ready), min(dues, default=None), frozenset(held))


def stats(connection: sqlite3.Connection, name: str, now: float) -> QueueStats:
    queue = queue_id(connection, name)
    row = connection.execute(
        """SELECT
            (SELECT count(*) FROM messages WHERE queue = :queue AND due IS NULL),
            (SELECT count(*) FROM messages WHERE queue = :queue AND due IS NOT NULL AND due <= :now),
            (SELECT count(*) FROM messages WHERE queue = :queue AND due IS NOT NULL AND due > :now AND owner IS NULL),
            (SELECT count(*) FROM messages WHERE queue = :queue AND due IS NOT NULL AND due > :now AND owner NOT NULL),
            (SELECT count(*) FROM dead_letters WHERE queue = :queue)""",
        {"queue": queue, "now": now},
    ).fetchone()
    return QueueStats(ready=row[0] + row[1], delayed=row[2], unsettled=row[3], dead=row[4])


_READY = "seq, body, headers, attempt FROM messages WHERE queue = :queue"
_Ready = tuple[int, bytes, str, int]
_LETTER = "id, body, headers, reason, attempts, log_tail, died_at FROM dead_letters WHERE queue = :queue"
_Letter = tuple[int, bytes, str, str, int, str, float]


def peek(connection: sqlite3.Connection, name: str, *, limit: int, now: float) -> list[Message]:
    queue = queue_id(connection, name)
    rows = connection.execute(
        f"""SELECT * FROM (SELECT {_READY} AND due IS NULL ORDER BY seq LIMIT :limit)
            UNION ALL SELECT {_READY} AND due IS NOT NULL AND due <= :now ORDER BY seq LIMIT :limit""",
        {"queue": queue, "limit": max(limit, 0), "now": now},
    ).fetchall()
    return [_message(row) for row in rows]


def _message(row: _Ready) -> Message:
    _, body, headers, attempt = row
    return Message(body=body, headers=json.loads(headers), attempt=attempt)


class ReadyPages:
    """What is ready in a queue, a page at a time, as one ``peek`` would show it.

    The numbers of those that have fallen due, which stand in no order that an index has, are looked up once.
    """

    def __init__(self, connection: sqlite3.Connection, name: str, *, now: float) -> None:
        self._queue = queue_id(connection, name)
        self._now = now
        due = "SELECT seq FROM messages WHERE queue = ? AND due IS NOT NULL AND due <= ? ORDER BY seq"
        self._due = array("q", (row[0] for row in connection.execute(due, (self._queue, now))))
        self._last: int | None = 0

    def next(self, connection: sqlite3.Connection) -> list[Message] | None:
        """Some more, perhaps none; None after the last."""
        if self._last is None:
            return None
        start = bisect_right(self._due, self._last)
        due = self._due[start : start + PAGE]
        rows: list[_Ready] = connection.execute(
            f"""SELECT * FROM (SELECT {_READY} AND due IS NULL AND seq > :last ORDER BY seq LIMIT :page)
                UNION ALL SELECT {_READY} AND due <= :now AND seq IN (SELECT value FROM json_each(:due))
                ORDER BY seq LIMIT :page""",
            {"queue": self._queue, "last": self._last, "page": PAGE, "now": self._now, "due": json.dumps(list(due))},
        ).fetchall()
        if len(due) == PAGE:  # others that have fallen due may stand right behind these
            rows = [row for row in rows if row[0] <= due[-1]]
        if len(rows) == PAGE:
            self._last = rows[-1][0]
        else:
            self._last = due[-1] if len(due) == PAGE else None
        return [_message(row) for row in rows]


class LetterPages:
    """The dead letters of a queue, a page at a time, oldest first."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._name, self._queue = name, queue_id(connection, name)
        self._last: int | None = 0

    def next(self, connection: sqlite3.Connection) -> list[DeadLetter] | None:
        """Some more; None after the last."""
        if self._last is None:
            return None
        rows: list[_Letter] = connection.execute(
            f"SELECT {_LETTER} AND id > :last ORDER BY id LIMIT :page",
            {"queue": self._queue, "last": self._last, "page": PAGE},
        ).fetchall()
        self._last = rows[-1][0] if len(rows) == PAGE else None
        return [_letter(row, self._name) for row in rows]


def dead_letters(connection: sqlite3.Connection, name: str, *, limit: int | None) -> list[DeadLetter]:
    rows = connection.execute(
        f"SELECT {_LETTER} ORDER BY id LIMIT :limit",
        {"queue": queue_id(connection, name), "limit": -1 if limit is None else max(limit, 0)},
    ).fetchall()
    return [_letter(row, name) for row in rows]


def one_dead_letter(connection: sqlite3.Connection, name: str, id: str) -> DeadLetter:
    values = {"queue": queue_id(connection, name), "id": _letter_number(id)}
    row = connection.execute(f"SELECT {_LETTER} AND id = :id", values).fetchone()
    if row is None:
        raise DeadLetterNotFound(f"queue {name!r}: keeps no dead letter {id[:80]!r}. List those there are.")
    return _letter(row, name)


def _letter(row: _Letter, queue: str) -> DeadLetter:
    id, body, headers, reason, attempts, log_tail, died_at = row
    return DeadLetter(
        id=str(id),
        queue=queue,
        body=body,
        headers=json.loads(headers),
        reason=reason,
        attempts=attempts,
        log_tail=tuple(json.loads(log_tail)),
        died_at=datetime.fromtimestamp(died_at, UTC),
    )


def add_dead_letters(connection: sqlite3.Connection, name: str, letters: Sequence[DeadLetter]) -> list[str]:
    """The ids that they have from now on."""
    queue = queue_id(connection, name)
    statement = """INSERT INTO dead_letters (queue, died_at, attempts, reason, log_tail, topic, headers, body)
        VALUES (?, ?, ?, ?, ?, '', ?, ?) RETURNING id"""
    added = []
    for letter in letters:
        texts = [json.dumps(it, ensure_ascii=False) for it in (list(letter.log_tail), dict(letter.headers))]
        values = (queue, letter.died_at.timestamp(), letter.attempts, letter.reason, *texts, letter.body)
        added += connection.execute(statement, values).fetchall()
    return [str(id) for (id,) in added]


def redrive(connection: sqlite3.Connection, name: str, ids: Sequence[str]) -> tuple[int, int]:
    """The queue, and how many went back into it."""

    def put_back(queue: int, letters: str) -> None:
        connection.execute(
            """INSERT INTO messages (queue, attempt, topic, headers, body)
               SELECT queue, 1, topic, headers, body FROM dead_letters
               WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id""",
            (letters,),
        )

    return _take_out(connection, name, ids, put_back)


def purge(connection: sqlite3.Connection, name: str, ids: Sequence[str]) -> int:
    return _take_out(connection, name, ids, lambda queue, letters: None)[1]


def _take_out(
    connection: sqlite3.Connection, name: str, ids: Sequence[str], before: Callable[[int, str], None]
) -> tuple[int, int]:
    queue = queue_id(connection, name)
    wanted = {id: _letter_number(id) for id in ids}
    letters = json.dumps([number for number in wanted.values() if number is not None])
    rows = connection.execute(
        "SELECT id FROM dead_letters WHERE id IN (SELECT value FROM json_each(?)) AND queue = ?", (letters, queue)
    )
    found = {row[0] for row in rows.fetchall()}
    missing = [id for id, number in wanted.items() if number not in found]
    if missing:
        named = ", ".join(repr(id[:80]) for id in missing[:10]) + (
            f" and {len(missing) - 10} more" if missing[10:] else ""
        )
        raise DeadLetterNotFound(
            f"queue {name!r}: keeps no dead letter {named}. List those there are; none was touched."
        )
    before(queue, letters)
    connection.execute("DELETE FROM dead_letters WHERE id IN (SELECT value FROM json_each(?))", (letters,))
    return queue, len(found)


def _letter_number(id: str) -> int | None:
    """The number of a dead letter by its id; None for what cannot be one."""
    if len(id) > 18 or not (id.isascii() and id.isdigit()) or id != str(int(id)):
        return None
    return int(id)
