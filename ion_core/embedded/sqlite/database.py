"""A SQLite database with a thread of its own, for asyncio: group commit, bounded waits, errors translated.

Writes that wait are taken all together, run in one transaction, committed once, and answered together. So a lone call
waits for nobody, and a thousand concurrent ones cost one flush of the disk.

**Who does it.** Whatever may take long is the thread's: large work, waiting for other processes, and flushes. To hand
something over costs many times what looking up a row does, so *short* calls run on the event loop, and of a short
call that must be flushed the thread only does the commit (docs/decisions/0019).

**What a commit survives.** In WAL mode the death of a process loses nothing that was committed, whatever
``synchronous`` says. A power cut can lose commits that were not flushed, which ``FULL`` does and ``NORMAL`` does not,
and never damages the file. So a batch is flushed when any call in it is ``DURABLE``: something that a caller was
promised to be stored. A ``WRITE`` is one whose loss only means that work is offered again (a claim, a renewal, an
acknowledgement of work whose commit record is durable); the next flush covers it too (docs/decisions/0003).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from ion_core.embedded.sqlite.connect import connect, connect_again, is_busy
from ion_core.embedded.sqlite.files import translate
from ion_core.embedded.sqlite.schema import Schema
from ion_core.errors import TransientError

log = logging.getLogger(__name__)
T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
_Translate = Callable[[Exception], Exception]

BUSY_SECONDS = 10.0
"""How long to wait for other processes before a call fails with TransientError."""
MAX_BATCH = 1_000
"""Calls in one transaction: bounds how long other processes wait for the lock."""
MAX_SHORT = 32
"""Short calls in one transaction on the event loop: bounds how long everything else waits for it."""
MAX_UNFLUSHED = 500
"""Commits in a row that leave it to others to write the write-ahead log back."""
QUIET_TURNS = 4
"""Turns of the event loop without a further call, after which a flush that may be shared is made."""
_ORPHAN_SECONDS = 5.0

_Errand = Callable[[], Callable[[], None]]
"""Something for the thread to do; what it returns is then done by the event loop."""


class Access(Enum):
    """What a call does: look, change, or change something that must survive a power cut once it has returned."""

    READ = "read"
    WRITE = "write"
    DURABLE = "durable"


class _Call(Generic[T]):
    """One call, and its result or error once it has been made."""

    __slots__ = ("access", "error", "future", "result", "short", "work")

    def __init__(self, work: Work[T], access: Access, future: asyncio.Future[T], short: bool) -> None:
        self.work = work
        self.access = access
        self.future = future
        self.short = short
        self.result: T | None = None
        self.error: Exception | None = None


class Database:
    """A database that calls are sent to. Made by ``open_database``; belongs to the event loop that opened it.

    There are three connections: ``_slow`` belongs to the thread and may wait; ``_quick`` belongs to the event loop, for
    short calls that need no flush; ``_durable`` is the event loop's too, until a transaction is to be flushed, which
    the thread does. Writes of this process are in one transaction at a time, whichever connection it is on.
    """

    _slow: sqlite3.Connection
    _quick: sqlite3.Connection
    _durable: sqlite3.Connection

    def __init__(self, path: Path, schema: Schema, *, busy: float) -> None:
        self.path = path
        self._schema = schema
        self._busy = busy
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Errand | None] = queue.SimpleQueue()
        self._writes: deque[_Call[Any]] = deque()
        self._writing = False
        """A transaction is under way, or about to be."""
        self._shared = False
        """Whether the last flush was for several calls: then the next may be, too."""
        self._unflushed = 0
        self._closed = False
        self._synchronous = Access.DURABLE
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._serve, name=f"sqlite {path.name}")

    async def call(self, work: Work[T], access: Access, *, short: bool = False) -> T:
        """Run ``work`` with a connection, on the database's thread, and return what it returns.

        ``short`` says that it looks up and changes a few small rows by an index: then it is run on the event loop,
        where that takes a few microseconds, and only a flush is left to the thread. If another process holds the
        file it is the thread that waits, all the same.

        What it changed is committed by then, or undone when it raised. ``work`` must fetch all its rows, begin no
        transaction, and change nothing when ``access`` is READ. Raises what ``work`` raises, TransientError
        (StorageFull) when it could not be stored now, StateError when the file cannot be used.
        """
        if short and access is Access.READ:
            self._check_open()
            try:
                return work(self._quick)
            except Exception as error:
                if not is_busy(error):
                    raise self._translated(error)  # noqa: B904 - whatever caused it says so itself
        return await self.submit(work, access, short=short)

    def submit(self, work: Work[T], access: Access, *, short: bool = False) -> asyncio.Future[T]:
        """As ``call``, without waiting. Cancelling the future drops the answer; the work is done all the same."""
        self._check_open()
        future: asyncio.Future[T] = self._loop.create_future()
        call = _Call(work, access, future, short)
        if access is Access.READ:
            self._queue.put(partial(self._read_slowly, call))
        else:
            self._writes.append(call)
            if not self._writing:
                self._writing = True
                if short and access is Access.WRITE:
                    self._write()
                else:  # a flush is worth waiting a moment for others who need one
                    self._loop.call_soon(self._gather)
        return future

    def _check_open(self) -> None:
        if self._closed or not self._thread.is_alive():
            raise TransientError(f"{self.path}: is closed")

    def start(self) -> None:
        """Start the thread; ``opened`` ends once the file is open."""
        self._thread.start()

    async def opened(self) -> None:
        await asyncio.shield(self._opened)

    async def close(self) -> None:
        """Finish what is queued, close the file and end the thread. Takes at most a few times the busy bound."""
        self._closed = True
        while self._writes:
            self._queue.put(partial(self._write_slowly, self._take()))
        self._queue.put(None)
        done, _ = await asyncio.wait([self._ended], timeout=3 * self._busy + 5)
        if not done:
            log.error("the database thread does not end", extra={"path": str(self.path)})
            return
        self._thread.join()

    def _take(self) -> list[_Call[Any]]:
        return [self._writes.popleft() for _ in range(min(len(self._writes), MAX_BATCH))]

    def _gather(self, calls: int = 0, quiet: int = 0) -> None:
        """Wait for those who are about to call, if several did before: each turn that brings a call may bring more.

        A flush costs more than some turns, and each of those who share it is spared one.
        """
        if not self._shared or quiet == QUIET_TURNS or len(self._writes) >= MAX_SHORT:
            self._write()
        else:
            quiet = quiet + 1 if len(self._writes) == calls else 0
            self._loop.call_soon(self._gather, len(self._writes), quiet)

    def _write(self) -> None:
        """One transaction for all the writes that wait: here as far as it can be, else on the thread."""
        if not (batch := self._take()):
            self._writing = False
        elif len(batch) > MAX_SHORT or not all(call.short for call in batch):
            self._queue.put(partial(self._write_slowly, batch))
        elif any(call.access is Access.DURABLE for call in batch):
            self._write_quickly(self._durable, batch)
        elif self._unflushed < MAX_UNFLUSHED:
            self._write_quickly(self._quick, batch)
        else:
            self._unflushed = 0
            self._queue.put(partial(self._write_slowly, batch))

    def _write_quickly(self, connection: sqlite3.Connection, batch: list[_Call[Any]]) -> None:
        """Up to the commit if that is to be flushed. What is not plain success of all of them is done slowly."""
        try:
            connection.execute("BEGIN IMMEDIATE")
            for call in batch:
                call.result = call.work(connection)
        except Exception as error:
            if is_busy(error) or len(batch) > 1:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                self._queue.put(partial(self._write_slowly, batch))
                return
            _undo(connection, batch, error, self._translated)
            self._written(batch)
            return
        if connection is self._durable:
            self._unflushed = 0
            self._queue.put(partial(self._flush, batch))
        else:
            self._unflushed += 1
            self._commit(connection, batch)
            self._written(batch)

    def _written(self, batch: list[_Call[Any]]) -> None:
        _answer(batch)
        self._shared = len(batch) > 1
        if self._writes:
            self._loop.call_soon(self._gather)
        else:
            self._writing = False

    # Everything below runs on the thread, or on both.

    def _serve(self) -> None:
        try:
            self._connect_all()
        except Exception as error:
            self._post(self._settle_future, self._opened, self._translated(error, opening=True))
        else:
            self._post(self._settle_future, self._opened, None)
            try:
                self._run_errands()
            finally:
                self._disconnect_all()
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

    def _connect_all(self) -> None:
        with contextlib.ExitStack() as opened:
            self._slow = opened.enter_context(contextlib.closing(connect(self.path, self._schema, busy=self._busy)))
            self._quick = opened.enter_context(contextlib.closing(connect_again(self.path, durable=False)))
            self._durable = opened.enter_context(contextlib.closing(connect_again(self.path, durable=True)))
            opened.pop_all()

    def _disconnect_all(self) -> None:
        for connection in (self._durable, self._quick, self._slow):
            with contextlib.suppress(sqlite3.Error):  # written back on a full disk; the log keeps it all
                connection.close()

    def _run_errands(self) -> None:
        while True:
            try:
                errand = self._queue.get(timeout=_ORPHAN_SECONDS)
            except queue.Empty:
                if self._loop.is_closed():  # abandoned without close(): do not keep the interpreter from ending
                    return
                continue
            if errand is None or not self._post(errand()):
                return

    def _read_slowly(self, call: _Call[Any]) -> Callable[[], None]:
        try:
            call.result = call.work(self._slow)
        except Exception as error:
            call.error = self._translated(error)
        return partial(_answer, [call])

    def _write_slowly(self, batch: list[_Call[Any]]) -> Callable[[], None]:
        """The whole transaction, each call in a savepoint, so that one that fails does not undo the others."""
        connection = self._slow
        try:
            self._set_synchronous(connection, batch)
            connection.execute("BEGIN IMMEDIATE")
            if len(batch) == 1:
                batch[0].result = batch[0].work(connection)
            else:
                for call in batch:
                    _in_savepoint(connection, call, self._translated)
        except Exception as error:
            _undo(connection, batch, error, self._translated)
        else:
            self._commit(connection, batch)
        return partial(self._written, batch)

    def _flush(self, batch: list[_Call[Any]]) -> Callable[[], None]:
        self._commit(self._durable, batch)
        return partial(self._written, batch)

    def _commit(self, connection: sqlite3.Connection, batch: list[_Call[Any]]) -> None:
        try:
            connection.execute("COMMIT")
        except Exception as error:
            _undo(connection, batch, error, self._translated)

    def _set_synchronous(self, connection: sqlite3.Connection, calls: list[_Call[Any]]) -> None:
        wanted = Access.DURABLE if any(call.access is Access.DURABLE for call in calls) else Access.WRITE
        if wanted is not self._synchronous:
            connection.execute(f"PRAGMA synchronous = {'FULL' if wanted is Access.DURABLE else 'NORMAL'}")
            self._synchronous = wanted

    def _translated(self, error: Exception, *, opening: bool = False) -> Exception:
        return translate(error, self.path, busy=self._busy, opening=opening)


def _answer(calls: Sequence[_Call[Any]]) -> None:
    """Tell whoever still waits. On the event loop."""
    for call in calls:
        if call.future.done():
            continue
        if call.error is None:
            call.future.set_result(call.result)
        else:
            call.future.set_exception(call.error)


def _in_savepoint(connection: sqlite3.Connection, call: _Call[Any], translate: _Translate) -> None:
    """Make the call so that, should it fail, it alone is undone."""
    connection.execute("SAVEPOINT one_call")
    try:
        call.result = call.work(connection)
    except Exception as error:
        call.error = translate(error)
        if not connection.in_transaction:  # SQLite has undone the whole batch by itself, as it may when full
            raise
        connection.execute("ROLLBACK TO one_call")
    connection.execute("RELEASE one_call")


def _undo(connection: sqlite3.Connection, calls: Sequence[_Call[Any]], error: Exception, translate: _Translate) -> None:
    """End the transaction because of ``error``, with nothing done; it is the error of every call that has none."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    for call in calls:
        call.error = call.error or translate(error)


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
