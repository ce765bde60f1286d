"""Calls to a database: what each is, and how several share a transaction.

**What a commit survives.** In WAL mode the death of a process loses nothing that was committed, whatever
``synchronous`` says. A power cut can lose commits that were not flushed, which ``FULL`` does and ``NORMAL`` does not,
and never damages the file. So a batch is flushed when any call in it is ``DURABLE``: something that a caller was
promised to be stored. A ``WRITE`` is one whose loss only means that work is offered again (a claim, a renewal, an
acknowledgement of work whose commit record is durable); the next flush covers it too.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
Translate = Callable[[Exception], Exception]


class Access(Enum):
    """What a call does: look, change, or change something that must survive a power cut once it has returned."""

    READ = "read"
    WRITE = "write"
    DURABLE = "durable"


class Call(Generic[T]):
    """One call, and its result or error once it has been made."""

    __slots__ = ("access", "error", "future", "result", "short", "work")

    def __init__(self, work: Work[T], access: Access, future: asyncio.Future[T], short: bool) -> None:
        self.work = work
        self.access = access
        self.future = future
        self.short = short
        self.result: T | None = None
        self.error: Exception | None = None


def answer(calls: Sequence[Call[Any]]) -> None:
    """Tell whoever still waits. On the event loop."""
    for call in calls:
        if call.future.done():
            continue
        if call.error is None:
            call.future.set_result(call.result)
        else:
            call.future.set_exception(call.error)


def in_savepoint(connection: sqlite3.Connection, call: Call[Any], translate: Translate) -> None:
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


def undo(connection: sqlite3.Connection, calls: Sequence[Call[Any]], error: Exception, translate: Translate) -> None:
    """End the transaction because of ``error``, with nothing done; it is the error of every call that has none."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    for call in calls:
        call.error = call.error or translate(error)
