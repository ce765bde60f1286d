"""Which version of each file was published, kept in a file: after a restart none is published again.

A process that is killed may lose nothing that is noted; a machine without power the latest, whose files are published
again then, as the same events.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ion_core.errors import IonError, StateError, StorageFull, TransientError
from ion_gateway.watching.entries import as_bytes, as_path

KEPT_FOR = 7 * 24 * 3600.0
"""Seconds for which a file that is gone is remembered: folders are unmounted, and come back."""
KEPT_AT_MOST = 100_000
"""Files of one folder that are gone and remembered."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS published (
    folder TEXT NOT NULL, path BLOB NOT NULL, version TEXT NOT NULL, gone REAL,
    PRIMARY KEY (folder, path)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS gone ON published (folder, gone) WHERE gone IS NOT NULL;
PRAGMA user_version = 1;
"""


class Notes:
    """One process writes it: the one ``serve`` of its state directory. Safe for threads, which it makes wait.

    Raises StateError where the file cannot be read or written; StorageFull and TransientError where it may be later.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version > 1:
                raise StateError(f"{path}: was written by a newer Ion. Use that one. {_REMEDY}")
            self._database.executescript(_SCHEMA)
        except sqlite3.Error as error:
            self.close()
            raise self._unusable(error) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Waits for calls under way, as of threads whose caller was cancelled; later ones raise StateError."""
        with self._turn:
            self._database.close()

    def published(self, folder: str) -> dict[str, str]:
        """The version of each file, by path."""
        rows = self._all("SELECT path, version FROM published WHERE folder = ?", (folder,))
        return {as_path(path): version for path, version in rows}

    def note(self, folder: str, path: str, version: str) -> None:
        """That this version was published. Idempotent."""
        self._change(
            "INSERT INTO published VALUES (?, ?, ?, NULL) "
            "ON CONFLICT DO UPDATE SET version = excluded.version, gone = NULL",
            [(folder, as_bytes(path), version)],
        )

    def forget(self, folder: str, path: str) -> None:
        """It was moved or deleted. Idempotent."""
        self._change("DELETE FROM published WHERE folder = ? AND path = ?", [(folder, as_bytes(path))])

    def seen(self, folder: str, paths: Iterable[str], now: float) -> list[str]:
        """That these are in the folder, and no others. Returns those that need not be remembered any more.

        ``now`` is in seconds since 1970.
        """
        here = {as_bytes(path) for path in paths}
        rows = self._all("SELECT path, gone FROM published WHERE folder = ?", (folder,))
        self._change(
            "UPDATE published SET gone = ? WHERE folder = ? AND path = ?",
            [
                (None if path in here else now, folder, path)
                for path, gone in rows
                if (path in here) == (gone is not None)
            ],
        )
        ended = self._all(
            "SELECT path FROM published WHERE folder = ?1 AND gone < ?2 UNION SELECT path FROM (SELECT path FROM "
            "published WHERE folder = ?1 AND gone IS NOT NULL ORDER BY gone DESC LIMIT -1 OFFSET ?3)",
            (folder, now - KEPT_FOR, KEPT_AT_MOST),
        )
        self._change("DELETE FROM published WHERE folder = ? AND path = ?", [(folder, path) for (path,) in ended])
        return [as_path(path) for (path,) in ended]

    def _all(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        with self._turn:
            try:
                return self._database.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                raise self._unusable(error) from error

    def _change(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        if not rows:
            return
        with self._turn:
            try:
                with self._database:  # commits, or rolls back
                    self._database.execute("BEGIN IMMEDIATE")
                    self._database.executemany(statement, rows)
            except sqlite3.Error as error:
                raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> IonError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or code == sqlite3.SQLITE_FULL or (code in _OF_THE_DISK and self._little_space()):
            return StorageFull(f"{self._path}: no space left. Free some; work goes on by itself then.")
        if code == sqlite3.SQLITE_BUSY:
            return TransientError(f"{self._path}: stays locked. Look for another process that holds it.")
        return StateError(f"{self._path}: cannot be used: {error}. {_REMEDY}")

    def _little_space(self) -> bool:
        """Where SQLite only says that it could not write."""
        try:
            space = os.statvfs(self._path.parent)
        except OSError:
            return False
        return space.f_bavail * space.f_frsize < _LITTLE_SPACE


_OF_THE_DISK = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
_LITTLE_SPACE = 256 * 1024
_REMEDY = "Remove it: then every file is published once more, as the event that it was."
