"""Connections to a database file: the first one makes or migrates it, further ones are for what never waits."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from ion_core.embedded.sqlite.files import prepare_file
from ion_core.embedded.sqlite.schema import Schema, migrate
from ion_core.errors import StateError

_OLDEST_SQLITE = (3, 35, 0)


def connect(path: Path, schema: Schema, *, busy: float) -> sqlite3.Connection:
    """The file, made when missing and migrated when old. Waits up to ``busy`` seconds for others, as do its calls.

    Raises StateError and sqlite3.Error.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise StateError(f"{path}: this Python has SQLite {sqlite3.sqlite_version}, 3.35 is needed. Use a newer one.")
    prepare_file(path)
    connection = sqlite3.connect(path, isolation_level=None, timeout=busy, cached_statements=256)
    try:
        if _switch_to_wal(connection, busy) != "wal":
            raise StateError(f"{path}: its file system offers no shared memory (WAL). Keep it on a local disk.")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -2048")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        migrate(connection, schema, path)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_again(path: Path, *, durable: bool) -> sqlite3.Connection:
    """One more to a file that ``connect`` has opened, for any one thread at a time. Its calls are SQLITE_BUSY at once.

    Commits of a ``durable`` one are flushed, and the write-ahead log is written back by some of them, which flushes
    too; those of another one do neither.
    """
    connection = sqlite3.connect(path, isolation_level=None, timeout=0, cached_statements=256, check_same_thread=False)
    try:
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        connection.execute("PRAGMA cache_size = -2048")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        if not durable:
            connection.execute("PRAGMA wal_autocheckpoint = 0")
    except BaseException:
        connection.close()
        raise
    return connection


def is_busy(error: Exception) -> bool:
    """Whether somebody else holds the file at this moment."""
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _switch_to_wal(connection: sqlite3.Connection, busy: float) -> str:
    """The journal mode it is in then. SQLite does not wait by itself when two processes do this at once."""
    until = time.monotonic() + busy
    while True:
        try:
            mode: str = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            return mode
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > until:
                raise
            time.sleep(0.005)
