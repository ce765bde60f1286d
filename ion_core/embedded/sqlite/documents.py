"""The embedded document store: JSON documents in one SQLite file, for all processes of one machine."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ion_core import strict_json
from ion_core.contracts.storage import Document
from ion_core.embedded.sqlite.database import Access, Database, open_database
from ion_core.embedded.sqlite.schema import Schema
from ion_core.errors import DocumentExists, DocumentNotFound, DocumentsDamaged

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
        ]
    ],
)

_INSERT = "INSERT INTO documents (kind, id, correlation_id, pending, body) VALUES (?, ?, ?, ?, ?)"
_CREATE = _INSERT + " ON CONFLICT (kind, id) DO NOTHING"
_PUT = (
    _INSERT
    + """ ON CONFLICT (kind, id) DO UPDATE
    SET correlation_id = excluded.correlation_id, pending = excluded.pending, body = excluded.body"""
)
_COLUMNS = "seq, kind, id, correlation_id, pending, body"
_PAGE = 100
_SMALL = 64 * 1024
"""Characters of a body up to which storing it takes no longer than handing it over."""
_Row = tuple[int, str, str, str, int, str]
_Values = tuple[str, str, str, bool, str]


def _values(document: Document) -> _Values:
    body = strict_json.dumps(document.body).decode()
    return (document.kind, document.id, document.correlation_id, document.pending, body)


def _document(row: _Row) -> Document:
    _, kind, id, correlation_id, pending, body = row
    value = _read(body, kind, id)
    return Document(kind=kind, id=id, correlation_id=correlation_id, body=value, pending=bool(pending))


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
    kind, id, *_, body = values
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
    *, kind: str | None, correlation_id: str | None, pending: bool | None, newest_first: bool
) -> tuple[str, dict[str, Any]]:
    """One page of a ``find``: needs ``after`` and ``last`` (exclusive and inclusive bounds of seq).

    The index is named, since without statistics SQLite may well take the kind's, which has the most rows.
    """
    conditions = ["seq < :after" if newest_first else "seq > :after AND seq <= :last"]
    index = ""
    if kind is not None:
        conditions.append("kind = :kind")
        index = "INDEXED BY documents_of_kind"
    if correlation_id is not None:
        conditions.append("correlation_id = :correlation_id")
        index = "INDEXED BY documents_of_correlation"
    if pending is not None:
        conditions.append(f"pending = {pending:d}")
        index = "INDEXED BY documents_pending" if pending else index
    where, order = " AND ".join(conditions), "DESC" if newest_first else "ASC"
    statement = f"SELECT {_COLUMNS} FROM documents {index} WHERE {where} ORDER BY seq {order} LIMIT {_PAGE}"
    return statement, {"kind": kind, "correlation_id": correlation_id}


class SqliteDocuments:
    """The contract's ``DocumentStore`` on a SQLite file. Made by ``open_sqlite_documents``."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def create(self, document: Document) -> None:
        values = _values(document)
        await self.database.call(partial(_create, values=values), Access.DURABLE, short=len(values[-1]) <= _SMALL)

    async def put(self, document: Document) -> None:
        values = _values(document)
        await self.database.call(partial(_put, values=values), Access.DURABLE, short=len(values[-1]) <= _SMALL)

    async def get(self, kind: str, id: str) -> Document:
        return await self.database.call(partial(_get, kind=kind, id=id), Access.READ, short=True)

    async def find(
        self,
        kind: str | None = None,
        *,
        correlation_id: str | None = None,
        pending: bool | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Document]:
        """Read in pages, so that a long one holds nothing up; what is stored after it began is not in it."""
        statement, values = find_statement(
            kind=kind, correlation_id=correlation_id, pending=pending, newest_first=newest_first
        )
        values["last"] = await self.database.call(
            lambda connection: connection.execute("SELECT coalesce(max(seq), 0) FROM documents").fetchone()[0],
            Access.READ,
        )
        values["after"] = values["last"] + 1 if newest_first else 0

        def page(connection: sqlite3.Connection) -> list[_Row]:
            return connection.execute(statement, values).fetchall()

        damaged: list[str] = []
        while rows := await self.database.call(page, Access.READ):
            for row in rows:
                try:
                    document = _document(row)
                except DocumentsDamaged as error:
                    damaged += error.problems
                else:
                    yield document
            if len(rows) < _PAGE:
                break
            values["after"] = rows[-1][0]
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
