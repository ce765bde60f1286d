"""Filesystems to call: one that all threads share, or a connection of its own for each call under way."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from ion_fsspec_storage.errors import GaveUp

log = logging.getLogger(__name__)
T = TypeVar("T")

ANSWERS = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
"""What a connection that is well may say."""


class Filesystems(Protocol):
    def one(self) -> Any:
        """A context manager of a filesystem to make one call with. Whatever making one raises."""

    def close(self) -> None:
        """Of those that nobody uses. Raises nothing."""


class Shared:
    """One filesystem, which is safe for threads."""

    def __init__(self, filesystem: Any, close: Callable[[Any], None]) -> None:
        self.filesystem = filesystem
        self._close = close

    @contextmanager
    def one(self) -> Iterator[Any]:
        yield self.filesystem

    def close(self) -> None:
        _closed(self.filesystem, self._close)


class Pooled:
    """As many filesystems as there are calls at a time: made when one is needed, kept for the next call.

    One that failed is closed, and with it those that lie idle: what cut it off has cut them off, too.
    """

    def __init__(self, make: Callable[[], Any], close: Callable[[Any], None]) -> None:
        self._make = make
        self._close = close
        self._idle: list[Any] = []
        self._lock = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[Any]:
        with self._lock:
            filesystem = self._idle.pop() if self._idle else None
        if filesystem is None:
            filesystem = self._make()
        try:
            yield filesystem
        except ANSWERS:
            self._keep(filesystem)
            raise
        except GaveUp:  # somebody still waits in it: it is left to them
            self.close()
            raise
        except BaseException:
            _closed(filesystem, self._close)
            self.close()
            raise
        self._keep(filesystem)

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for filesystem in idle:
            _closed(filesystem, self._close)

    def _keep(self, filesystem: Any) -> None:
        with self._lock:
            self._idle.append(filesystem)


def _closed(filesystem: Any, close: Callable[[Any], None]) -> None:
    try:
        close(filesystem)
    except Exception as error:  # connections that are beyond closing are closed
        log.debug("closing a connection: %s", error)


def within(seconds: float, call: Callable[[], T], what: str) -> T:
    """Its result. Raises GaveUp when there is none in time: then it is left behind, in a thread of its own."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name=f"ion-fsspec-{what}", daemon=True).start()
    try:
        return outcome.result(timeout=seconds)
    except TimeoutError as error:
        if outcome.done():  # its own
            raise
        raise GaveUp(f"no answer within {seconds:g} s") from error
