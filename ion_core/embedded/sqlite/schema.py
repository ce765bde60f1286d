"""What a database file holds, of which version, and how it gets to the next one. Forward only."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ion_core.errors import StateError


class Schema(NamedTuple):
    """What a file holds. ``migrations[n]`` has the statements that lead from version n to n + 1; only ever append.

    ``application_id`` tells one kind of file from another, and from a database that is none of ours.
    """

    name: str
    application_id: int
    migrations: Sequence[Sequence[str]]

    @property
    def version(self) -> int:
        return len(self.migrations)


def migrate(connection: sqlite3.Connection, schema: Schema, path: Path) -> None:
    """Bring the file to the schema's version, in one transaction; refuse what is not ours or newer than we are."""
    if _version(connection, schema, path) == schema.version:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statements in schema.migrations[_version(connection, schema, path) :]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {schema.application_id}")
        connection.execute(f"PRAGMA user_version = {schema.version}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection, schema: Schema, path: Path) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    tables: int = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application != schema.application_id and (application or version or tables):
        raise StateError(f"{path}: is a database, but not an Ion {schema.name}. Name another path, or move it aside.")
    if version > schema.version:
        raise StateError(
            f"{path}: is an Ion {schema.name} of version {version}; this Ion knows up to {schema.version}. "
            "Use the newer Ion that made it, or name another path."
        )
    return version
