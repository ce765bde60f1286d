"""A SQLite database on a thread of its own, for asyncio: group commit, bounded waits, errors translated.

One thread owns the connection. It takes everything that is queued, runs the writes in one transaction (each in a
savepoint, so that one that fails does not undo the others), commits once, and answers all of them with one wake-up of
the event loop. So a lone call waits for nobody, and a thousand concurrent ones cost one flush of the disk.

**What a commit survives.** In WAL mode the death of a process loses nothing that was committed, whatever
``synchronous`` says. A power cut can lose commits that were not flushed, which ``FULL`` does and ``NORMAL`` does not,
and never damages the file. So a batch is flushed when any call in it is ``DURABLE``: something that a caller was
promised to be stored. A ``WRITE`` is one whose loss only means that work is offered again (a claim, a renewal, an
acknowledgement of work whose commit record is durable); the next flush covers it too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import Enum
from pathlib import Path
from typing import Any, Generic, TypeVar

from ion_core.builtin.sqlite_files import prepare_file, translate
from ion_core.builtin.sqlite_schema import Schema, migrate
from ion_core.errors import StateError, TransientError

log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

BUSY_SECONDS = 10.0
"""How long to wait for other processes before a call fails with TransientError."""
MAX_BATCH = 1_000
"""Calls in one transaction: bounds how long other processes wait for the lock."""
_ORPHAN_SECONDS = 5.0
_OLDEST_SQLITE = (3, 35, 0)


class Access(Enum):
    """What a call does: look, change, or change something that must survive a power cut once it has returned."""

    READ = "read"
    WRITE = "write"
    DURABLE = "durable"


class _Call(Generic[T]):
    __slots__ = ("access", "error", "future", "result", "work")

    def __init__(self, work: Work[T], access: Access, future: asyncio.Future[T]) -> None:
        self.work = work
        self.access = access
        self.future = future
        self.result: T | None = None
        self.error: Exception | None = None


class Database:
    """A database that calls are sent to. Made by ``open_database``; belongs to the event loop that opened it."""

    def __init__(self, path: Path, schema: Schema, *, busy: float) -> None:
        self.path = path
        self._schema = schema
        self._busy = busy
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Call[Any] | None] = queue.SimpleQueue()
        self._closed = False
        self._synchronous = Access.DURABLE
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._serve, name=f"sqlite {path.name}")

    async def call(self, work: Work[T], access: Access) -> T:
        """Run ``work`` with the connection on the database's thread and return what it returns.

        What it changed is committed by then, or undone when it raised. ``work`` must fetch all its rows, begin no
        transaction, and change nothing when ``access`` is READ. Raises what ``work`` raises, TransientError
        (StorageFull) when it could not be stored now, StateError when the file cannot be used.
        """
        return await self.submit(work, access)

    def submit(self, work: Work[T], access: Access) -> asyncio.Future[T]:
        """As ``call``, without waiting. Cancelling the future drops the answer; the work is done all the same."""
        if self._closed or not self._thread.is_alive():
            raise TransientError(f"{self.path}: is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Call(work, access, future))
        return future

    def start(self) -> None:
        """Start the thread; ``opened`` ends once the file is open."""
        self._thread.start()

    async def opened(self) -> None:
        await asyncio.shield(self._opened)

    async def close(self) -> None:
        """Finish what is queued, close the file and end the thread. Takes at most a few times the busy bound."""
        self._closed = True
        self._queue.put(None)
        done, _ = await asyncio.wait([self._ended], timeout=3 * self._busy + 5)
        if not done:
            log.error("the database thread does not end", extra={"path": str(self.path)})
            return
        self._thread.join()

    # Everything below runs on the thread.

    def _serve(self) -> None:
        try:
            connection = self._connect()
        except Exception as error:
            self._post(self._settle_future, self._opened, self._translated(error, opening=True))
        else:
            self._post(self._settle_future, self._opened, None)
            try:
                self._answer(connection)
            finally:
                with contextlib.suppress(sqlite3.Error):  # a checkpoint on a full disk; the WAL keeps it all
                    connection.close()
        finally:
            self._post(self._settle_future, self._ended, None)

    @staticmethod
    def _settle_future(future: asyncio.Future[None], error: Exception | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
            future.exception()  # whoever waits raises it; nobody may wait any more

    def _post(self, callback: Callable[..., None], *args: Any) -> bool:
        """Have the event loop call; False when it is closed, which leaves nobody to answer to."""
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            return False
        return True

    def _connect(self) -> sqlite3.Connection:
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise StateError(
                f"{self.path}: this Python has SQLite {sqlite3.sqlite_version}, 3.35 is needed. Use a newer one."
            )
        prepare_file(self.path)
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=self._busy, cached_statements=256)
        try:
            if self._switch_to_wal(connection) != "wal":
                raise StateError(
                    f"{self.path}: its file system offers no shared memory (WAL). Keep it on a local disk."
                )
            connection.execute("PRAGMA synchronous = FULL")
            # In KiB. What it keeps is in the system's page cache too; 8 MiB were not faster with 100,000 documents.
            connection.execute("PRAGMA cache_size = -2048")
            connection.execute("PRAGMA journal_size_limit = 67108864")
            migrate(connection, self._schema, self.path)
        except BaseException:
            connection.close()
            raise
        return connection

    def _switch_to_wal(self, connection: sqlite3.Connection) -> str:
        """The journal mode it is in then. SQLite does not wait by itself when two processes do this at once."""
        until = time.monotonic() + self._busy
        while True:
            try:
                mode: str = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
                return mode
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(0.005)

    def _answer(self, connection: sqlite3.Connection) -> None:
        going = True
        while going:
            batch, going = self._take()
            if batch:
                self._run(connection, batch)
                going = self._post(self._resolve, batch) and going
            elif self._loop.is_closed():  # abandoned without close(): do not keep the interpreter from ending
                going = False

    def _take(self) -> tuple[list[_Call[Any]], bool]:
        """Everything queued, and whether to go on after it."""
        batch: list[_Call[Any]] = []
        try:
            call = self._queue.get(timeout=_ORPHAN_SECONDS)
            while call is not None:
                batch.append(call)
                if len(batch) == MAX_BATCH:
                    return batch, True
                call = self._queue.get_nowait()
        except queue.Empty:
            return batch, True
        return batch, False

    @staticmethod
    def _resolve(batch: list[_Call[Any]]) -> None:
        for call in batch:
            if call.future.done():
                continue
            if call.error is None:
                call.future.set_result(call.result)
            else:
                call.future.set_exception(call.error)

    def _run(self, connection: sqlite3.Connection, batch: list[_Call[Any]]) -> None:
        writes = [call for call in batch if call.access is not Access.READ]
        if writes:
            self._commit(connection, writes)
        for call in batch:
            if call.access is Access.READ:
                try:
                    call.result = call.work(connection)
                except Exception as error:
                    call.error = self._translated(error)

    def _commit(self, connection: sqlite3.Connection, calls: list[_Call[Any]]) -> None:
        try:
            self._set_synchronous(connection, calls)
            connection.execute("BEGIN IMMEDIATE")
            if len(calls) == 1:
                calls[0].result = calls[0].work(connection)
            else:
                for call in calls:
                    self._in_savepoint(connection, call)
            connection.execute("COMMIT")
        except Exception as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            for call in calls:
                call.error = call.error or self._translated(error)

    def _in_savepoint(self, connection: sqlite3.Connection, call: _Call[Any]) -> None:
        connection.execute("SAVEPOINT one_call")
        try:
            call.result = call.work(connection)
        except Exception as error:
            call.error = self._translated(error)
            if not connection.in_transaction:  # SQLite has undone the whole batch by itself, as it may when full
                raise
            connection.execute("ROLLBACK TO one_call")
        connection.execute("RELEASE one_call")

    def _set_synchronous(self, connection: sqlite3.Connection, calls: list[_Call[Any]]) -> None:
        wanted = Access.DURABLE if any(call.access is Access.DURABLE for call in calls) else Access.WRITE
        if wanted is not self._synchronous:
            connection.execute(f"PRAGMA synchronous = {'FULL' if wanted is Access.DURABLE else 'NORMAL'}")
            self._synchronous = wanted

    def _translated(self, error: Exception, *, opening: bool = False) -> Exception:
        return translate(error, self.path, busy=self._busy, opening=opening)


@asynccontextmanager
async def open_database(path: Path, schema: Schema, *, busy: float = BUSY_SECONDS) -> AsyncIterator[Database]:
    """The database in ``path``, made when missing and migrated when old; closed when the context is left.

    Waits at most ``busy`` seconds for other processes. Raises StateError when the file is damaged, of a newer
    version, something else, or on a network file system; TransientError when it stays locked.
    """
    database = Database(path, schema, busy=busy)
    database.start()
    try:
        await database.opened()
        yield database
    finally:
        await database.close()
