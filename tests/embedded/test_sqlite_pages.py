"""What is read of a queue a page at a time is what one look at it shows, whatever has fallen due."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ion_core.contracts.messaging import Message
from ion_core.embedded.sqlite import queue as sql
from ion_core.embedded.sqlite.schema import migrate

NOW = 1_000.0


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    monkeypatch.setattr(sql, "PAGE", 3)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, sql.SCHEMA, Path("memory"))
        for name in ("work", "other"):
            sql.declare(connection, name, [name])
        yield connection


def fill(connection: sqlite3.Connection, chance: random.Random, count: int) -> None:
    """Messages that are ready, due, delayed or held, of two queues."""
    for n in range(count):
        sql.publish(connection, chance.choice(["work", "work", "other"]), "{}", b"%d" % n)
    for seq in range(1, count + 1):
        due = chance.choice([None, NOW - 1, NOW - 1, NOW + 1])
        owner = None if due is None else chance.choice([None, "somebody"])
        values = (due, owner, seq)
        connection.execute("UPDATE messages SET due = ?, span = 1, owner = ?, claim = 1 WHERE seq = ?", values)


def read(pages: sql.ReadyPages, connection: sqlite3.Connection, vanish: random.Random | None = None) -> list[Message]:
    found: list[Message] = []
    while (page := pages.next(connection)) is not None:
        assert len(page) <= sql.PAGE
        found += page
        if vanish is not None:
            gone = "DELETE FROM messages WHERE seq IN (SELECT seq FROM messages WHERE seq % 4 = 0 AND due < ? LIMIT ?)"
            connection.execute(gone, (NOW, vanish.randrange(4)))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_pages_are_what_peek_shows_whatever_has_fallen_due(connection: sqlite3.Connection, seed: int) -> None:
    chance = random.Random(seed)
    fill(connection, chance, chance.randrange(40))
    expected = sql.peek(connection, "work", limit=99, now=NOW)
    assert read(sql.ReadyPages(connection, "work", now=NOW), connection) == expected


@pytest.mark.parametrize("seed", range(20))
def test_what_stays_is_read_once_though_others_are_taken_meanwhile(connection: sqlite3.Connection, seed: int) -> None:
    chance = random.Random(seed)
    fill(connection, chance, 40)
    before = sql.peek(connection, "work", limit=99, now=NOW)
    found = read(sql.ReadyPages(connection, "work", now=NOW), connection, vanish=chance)
    bodies = [it.body for it in found]
    stayed = [it.body for it in sql.peek(connection, "work", limit=99, now=NOW)]
    assert [body for body in bodies if body in stayed] == stayed
    assert bodies == [it.body for it in before if it.body in bodies], "oldest first, each once"
