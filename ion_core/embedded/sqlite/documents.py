"""The embedded document store: JSON documents in one SQLite file, for all processes of one machine."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
import time
from bisect import bisect_left
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ion_core import strict_json
from ion_core.contracts.storage import Document
from ion_core.embedded.sqlite.database import Access, Database, open_database
from ion_core.embedded.sqlite.schema import Schema
from ion_core.errors import DocumentExists, DocumentNotFound, DocumentsDamaged, InvalidCursor

SCHEMA = Schema(
    name="document store",
    application_id=0x496F6E44,  # "IonD"
    migrations=[
        [
            """CREATE TABLE documents (
                seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, id TEXT NOT NULL, correlation_id TEXT NOT NULL,
                pending INTEGER NOT NULL, body TEXT NOT NULL, UNIQUE (kind, id))""",
            # The order of storing (seq) is the last column of every index, so that each condition is also in order.
            "CREATE INDEX documents_of_kind ON documents (kind)",
            "CREATE INDEX documents_of_correlation ON documents (correlation_id)",
            "CREATE INDEX documents_pending ON documents (pending) WHERE pending = 1",
        ],
        [
            # Microseconds since 1970, and 0 where it is not known. It never goes back from one seq to the next, so no
            # index is needed to find the first of a time.
            "ALTER TABLE documents ADD COLUMN stored_at INTEGER NOT NULL DEFAULT 0",
            # What was stored before says when an attempt ended, or a commit was made: no later than it was stored.
            """UPDATE documents SET stored_at = known.at FROM (
                SELECT seq, CAST(round((max(min(coalesce(julianday(told), 0), julianday('now'))) OVER (ORDER BY seq)
                        - 2440587.5) * 86400000) AS INTEGER) * 1000 AS at
                FROM (SELECT seq, CASE WHEN typeof(body) = 'text' THEN CASE WHEN json_valid(body) THEN coalesce(
                    json_extract(body, '$.finishedAt'), json_extract(body, '$.committedAt')) END END AS told
                    FROM documents)
            ) AS known WHERE documents.seq = known.seq AND known.at > 0""",
            # A seq is never given twice, as a cursor may stand for it: this is the last that was given to what is gone.
            "CREATE TABLE given (seq INTEGER NOT NULL)",
            "INSERT INTO given VALUES (0)",
            """CREATE TRIGGER documents_last_gone AFTER DELETE ON documents
                WHEN NOT EXISTS (SELECT 1 FROM documents WHERE seq > old.seq)
                BEGIN UPDATE given SET seq = max(seq, old.seq); END""",
        ],
    ],
)

_INSERT = """INSERT INTO documents (kind, id, correlation_id, pending, body, seq, stored_at) VALUES (?, ?, ?, ?, ?,
    (SELECT max(coalesce((SELECT max(seq) FROM documents), 0), seq) + 1 FROM given),
    max(?, coalesce((SELECT stored_at FROM documents ORDER BY seq DESC LIMIT 1), 0)))"""
_CREATE = _INSERT + " ON CONFLICT (kind, id) DO NOTHING"
_PUT = (
    _INSERT
    + """ ON CONFLICT (kind, id) DO UPDATE
    SET correlation_id = excluded.correlation_id, pending = excluded.pending, body = excluded.body"""
)
_BY_KIND_AND_ID = "sqlite_autoindex_documents_1"
"""That of UNIQUE (kind, id)."""
_COLUMNS = "seq, kind, id, correlation_id, pending, body, stored_at"
_PAGE = 100
_FEW = 10
"""Documents that are read where they are wanted, from an index: handing that to the thread would take longer."""
_SMALL = 64 * 1024
"""Characters of a body up to which storing it takes no longer than handing it over."""
_Row = tuple[int, str, str, str, int, str, int]
_Values = tuple[str, str, str, bool, str, int]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _values(document: Document) -> _Values:
    body = strict_json.dumps(document.body).decode()
    return (document.kind, document.id, document.correlation_id, document.pending, body, time.time_ns() // 1000)


def _document(row: _Row) -> Document:
    seq, kind, id, correlation_id, pending, body, stored_at = row
    return Document(
        kind=kind,
        id=id,
        correlation_id=correlation_id,
        body=_read(body, kind, id),
        pending=bool(pending),
        cursor=str(seq),
        stored_at=_EPOCH + timedelta(microseconds=stored_at) if stored_at else None,
    )


def _read(body: str, kind: str, id: str) -> Any:
    """Raises DocumentsDamaged for what is no JSON object: somebody else wrote there, or the disk lost something."""
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        where = f"{kind} {id[:80]!r}"
        raise DocumentsDamaged(f"{where}: is damaged, it is no document. Restore it, or remove it.")
    return value


def _canonical(value: Any) -> str:
    """One text for one value, whatever the order of its keys."""
    return json.dumps(value, sort_keys=True)


def _create(connection: sqlite3.Connection, values: _Values) -> None:
    if connection.execute(_CREATE, values).rowcount:
        return
    kind, id, _, _, body, _ = values
    (stored,) = connection.execute("SELECT body FROM documents WHERE kind = ? AND id = ?", (kind, id)).fetchone()
    if stored != body and _canonical(_read(stored, kind, id)) != _canonical(json.loads(body)):
        raise DocumentExists(
            f"{kind} {id[:80]!r}: is stored already, with other content. Read that, or use another id."
        )


def _put(connection: sqlite3.Connection, values: _Values) -> None:
    connection.execute(_PUT, values)


def _get(connection: sqlite3.Connection, kind: str, id: str) -> Document:
    row = connection.execute(f"SELECT {_COLUMNS} FROM documents WHERE kind = ? AND id = ?", (kind, id)).fetchone()
    if row is None:
        raise _missing(kind, id)
    return _document(row)


def _clear_pending(connection: sqlite3.Connection, kind: str, id: str) -> None:
    statement = "UPDATE documents SET pending = 0 WHERE kind = ? AND id = ?"
    if not connection.execute(statement, (kind, id)).rowcount:
        raise _missing(kind, id)


def _delete(connection: sqlite3.Connection, kind: str, id: str) -> None:
    connection.execute("DELETE FROM documents WHERE kind = ? AND id = ?", (kind, id))


def _missing(kind: str, id: str) -> DocumentNotFound:
    return DocumentNotFound(f"{kind} {id[:80]!r}: is not stored. List what there is.")


def find_statement(
    *,
    kind: str | None,
    correlation_id: str | None,
    pending: bool | None,
    id_begins: str | None = None,
    correlation_id_begins: str | None = None,
    newest_first: bool,
) -> tuple[str, dict[str, Any]]:
    """Some of a ``find``: needs ``low`` and ``high`` (exclusive bounds of seq) and ``most``.

    The index is named, since without statistics SQLite may well take the kind's, which has the most rows.
    """
    conditions = ["seq > :low AND seq < :high"]
    index = ""
    values: dict[str, Any] = {"kind": kind, "correlation_id": correlation_id}
    if kind is not None:
        conditions.append("kind = :kind")
        index = "INDEXED BY documents_of_kind"
    if correlation_id is not None:
        conditions.append("correlation_id = :correlation_id")
        index = "INDEXED BY documents_of_correlation"
    if pending is not None:
        conditions.append(f"pending = {pending:d}")
        index = "INDEXED BY documents_pending" if pending else index
    if correlation_id_begins:
        conditions.append(_begins("correlation_id", correlation_id_begins, values))
        if correlation_id is None and pending is not True:
            index = "INDEXED BY documents_of_correlation"
    if id_begins:
        conditions.append(_begins("id", id_begins, values))
        if kind is not None and correlation_id is None and pending is not True:
            index = f"INDEXED BY {_BY_KIND_AND_ID}"
    where, order = " AND ".join(conditions), "DESC" if newest_first else "ASC"
    statement = f"SELECT {_COLUMNS} FROM documents {index} WHERE {where} ORDER BY seq {order} LIMIT :most"
    return statement, values


def _begins(column: str, beginning: str, values: dict[str, Any]) -> str:
    """The condition, as bounds that an index has: SQLite compares texts byte by byte, as UTF-8."""
    values[f"{column}_begins"] = beginning
    behind = beginning.rstrip(chr(sys.maxunicode))
    if not behind:
        return f"{column} >= :{column}_begins"
    values[f"{column}_behind"] = behind[:-1] + _next(behind[-1])
    return f"{column} >= :{column}_begins AND {column} < :{column}_behind"


def _next(character: str) -> str:
    """The one behind it; surrogates are none that are stored."""
    number = ord(character) + 1
    return chr(number if not 0xD800 <= number <= 0xDFFF else 0xE000)


def _bounds(connection: sqlite3.Connection, since: datetime | None, until: datetime | None) -> tuple[int, int]:
    """Exclusive bounds of seq: what is there now, and was stored in that time."""
    (end,) = connection.execute("SELECT coalesce(max(seq), 0) + 1 FROM documents").fetchone()
    low = 0 if since is None else _first(connection, since, end) - 1
    return low, end if until is None else _first(connection, until, end)


def _first(connection: sqlite3.Connection, at: datetime, end: int) -> int:
    """A seq up to which, exclusively, all was stored before ``at``, and from which on nothing was."""

    def stored_at(seq: int) -> int:
        at_or_after = "SELECT stored_at FROM documents WHERE seq >= ? ORDER BY seq LIMIT 1"
        found: int = connection.execute(at_or_after, (seq,)).fetchone()[0]
        return found

    return 1 + bisect_left(range(1, end), (at - _EPOCH) // timedelta(microseconds=1), key=stored_at)


def _seq(cursor: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", cursor):
        raise InvalidCursor(f"cursor {cursor[:80]!r}: is none of this store. Give one that it has told.")
    return int(cursor)


class SqliteDocuments:
    """The contract's ``DocumentStore`` on a SQLite file. Made by ``open_sqlite_documents``."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def create(self, document: Document) -> None:
        values = _values(document)
        await self.database.call(partial(_create, values=values), Access.DURABLE, short=len(values[4]) <= _SMALL)

    async def put(self, document: Document) -> None:
        values = _values(document)
        await self.database.call(partial(_put, values=values), Access.DURABLE, short=len(values[4]) <= _SMALL)

    async def get(self, kind: str, id: str) -> Document:
        return await self.database.call(partial(_get, kind=kind, id=id), Access.READ, short=True)

    async def find(
        self,
        kind: str | None = None,
        *,
        correlation_id: str | None = None,
        pending: bool | None = None,
        id_begins: str | None = None,
        correlation_id_begins: str | None = None,
        newest_first: bool = False,
        after: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Document]:
        """Read some at a time, so that a long one holds nothing up; what is stored after it began is not in it."""
        start = None if after is None else _seq(after)
        statement, values = find_statement(
            kind=kind,
            correlation_id=correlation_id,
            pending=pending,
            id_begins=id_begins,
            correlation_id_begins=correlation_id_begins,
            newest_first=newest_first,
        )

        def begin(connection: sqlite3.Connection) -> tuple[int, int, list[_Row]]:
            low, high = _bounds(connection, since, until)
            if start is not None:
                low, high = (low, min(high, start)) if newest_first else (max(low, start), high)
            return low, high, some(connection, low, high)

        def some(connection: sqlite3.Connection, low: int, high: int) -> list[_Row]:
            return connection.execute(statement, {**values, "low": low, "high": high, "most": most}).fetchall()

        left = limit
        damaged: list[str] = []
        few = correlation_id is not None or (limit is not None and limit <= _FEW)
        most = _FEW if few else _PAGE
        most = most if left is None else min(most, left)
        low, high, rows = await self.database.call(begin, Access.READ, short=few)
        while left != 0:
            for row in rows:
                try:
                    document = _document(row)
                except DocumentsDamaged as error:
                    damaged += error.problems
                    continue
                yield document
                left = None if left is None else left - 1
            if len(rows) < most or left == 0:
                break
            low, high = (low, rows[-1][0]) if newest_first else (rows[-1][0], high)
            most = _PAGE if left is None else min(_PAGE, left)
            rows = await self.database.call(partial(some, low=low, high=high), Access.READ)
        if damaged:
            raise DocumentsDamaged(damaged)

    async def clear_pending(self, kind: str, id: str) -> None:
        """Not flushed by itself: lost in a power cut, what was owed is done again, under the same ids."""
        await self.database.call(partial(_clear_pending, kind=kind, id=id), Access.WRITE, short=True)

    async def delete(self, kind: str, id: str) -> None:
        await self.database.call(partial(_delete, kind=kind, id=id), Access.DURABLE)


class DocumentsSettings(Protocol):
    """What the store is opened with."""

    @property
    def path(self) -> Path: ...


@asynccontextmanager
async def open_sqlite_documents(settings: DocumentsSettings) -> AsyncIterator[SqliteDocuments]:
    """The store in ``settings.path``. Raises StateError when the file cannot be used, TransientError when locked."""
    async with open_database(settings.path.resolve(), SCHEMA) as database:
        yield SqliteDocuments(database)
