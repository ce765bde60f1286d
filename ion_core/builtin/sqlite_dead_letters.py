"""The broker's dead letters: listed, put back, deleted. Plain functions of a connection, as in ``sqlite_queue``."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from ion_core.builtin.sqlite_queue import queue_id
from ion_core.contracts.messaging import DeadLetter
from ion_core.errors import DeadLetterNotFound


def listed(connection: sqlite3.Connection, name: str, *, limit: int | None) -> list[DeadLetter]:
    rows = connection.execute(
        """SELECT id, body, headers, reason, attempts, log_tail, died_at FROM dead_letters
           WHERE queue = ? ORDER BY id LIMIT ?""",
        (queue_id(connection, name), -1 if limit is None else max(limit, 0)),
    ).fetchall()
    return [
        DeadLetter(
            id=str(id),
            queue=name,
            body=body,
            headers=json.loads(headers),
            reason=reason,
            attempts=attempts,
            log_tail=tuple(json.loads(log_tail)),
            died_at=datetime.fromtimestamp(died_at, UTC),
        )
        for id, body, headers, reason, attempts, log_tail, died_at in rows
    ]


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
