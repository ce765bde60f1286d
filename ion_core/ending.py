"""How a process ends: on any signal that ends it, with what it started ended too, and in the end whatever hangs.

A thread cannot be stopped from outside, and an interpreter waits for its threads. So a call into a backend that never
returns would keep a process for ever that has nothing else left to do. From when it is to end it has a bound: what
hangs then is named and left, and the process ends as by kill -9, which everything that lasts is made for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any, TypeVar

from ion_core.signals import Interrupted, handled_by, heeded

log = logging.getLogger(__name__)
T = TypeVar("T")

CANCEL_WITHIN = 180.0
"""Seconds for work that was cancelled, to end what it started and give back what it held."""
CLOSE_WITHIN = 60.0
"""Seconds for closing, once the work is over."""
LAST_WITHIN = 5.0
"""Seconds, when a signal has come that would not wait for any of that."""
UNAVAILABLE = 69
"""The exit code where what hangs is all that was wrong."""


_calls: ContextVar[Callable[[int], None] | None] = ContextVar("_calls", default=None)
_apart: ContextVar[frozenset[int]] = ContextVar("_apart", default=frozenset())


@contextmanager
def on_signals(call: Callable[[int], None]) -> Iterator[None]:
    """Within, each signal that ends this process has the event loop ``call`` with its number, and nothing else.

    Afterwards it does what it did before.
    """
    numbers = [number for number in heeded() if number not in _apart.get()]
    with _called(numbers, call):
        token = _calls.set(call)
        try:
            yield
        finally:
            _calls.reset(token)


@contextmanager
def on_hangup(call: Callable[[], None]) -> Iterator[None]:
    """Within, SIGHUP has the event loop ``call`` and ends nothing, ``on_signals`` or not; unless it is ignored.

    One that ``hangup_held`` has held until now comes through.
    """
    numbers = [number for number in heeded() if number is signal.SIGHUP]
    with _called(numbers, lambda number: call()):
        token = _apart.set(frozenset(numbers))
        before = signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            _apart.reset(token)


@contextmanager
def _called(numbers: Sequence[int], call: Callable[[int], None]) -> Iterator[None]:
    loop, outer = asyncio.get_running_loop(), _calls.get()
    before = {number: signal.getsignal(number) for number in numbers}
    for number in before:
        loop.add_signal_handler(number, call, number)
    try:
        yield
    finally:
        for number, handler in before.items():
            if outer is not None:
                loop.add_signal_handler(number, outer, number)
            else:
                loop.remove_signal_handler(number)
                signal.signal(number, handler)


def run(work: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run``, ended by a signal: ``work`` is cancelled then, and Interrupted raised once it is over.

    From then on, and when it is over by itself, what is left to do has a bound.
    """
    if threading.current_thread() is not threading.main_thread():
        return asyncio.run(work)
    bound, received, cancelled = _Bound(), list[int](), False

    async def interruptible_work() -> T | None:
        nonlocal cancelled
        bound.loop = asyncio.get_running_loop()
        _bound.set(bound)
        task = asyncio.current_task()
        assert task is not None

        def on_signal(number: int) -> None:
            received.append(number)
            bound.within(CANCEL_WITHIN if len(received) == 1 else LAST_WITHIN, 128 + received[0])
            if len(received) == 1:
                task.cancel()

        try:
            with on_signals(on_signal):
                return await work
        except asyncio.CancelledError:
            if not received:
                raise
            cancelled = True
            return None
        finally:
            bound.within(CLOSE_WITHIN)

    def on_late_signal(number: int) -> None:
        bound.within(LAST_WITHIN, 128 + number)

    try:
        with handled_by(on_late_signal):  # where the event loop does it no more
            found = asyncio.run(interruptible_work())
    finally:
        bound.lift()
    if cancelled:
        raise Interrupted(received[0])
    return found  # type: ignore[return-value] # None only if it was cancelled


def within(seconds: float, code: int = UNAVAILABLE) -> None:
    """Have what ``run`` runs end within so many seconds from now, with exit code ``code`` if it has to be made to.

    Never later than was said before. Nothing where nobody runs it by ``run``.
    """
    if (bound := _bound.get()) is not None:
        bound.within(seconds, code)


def finish(code: int) -> None:
    """The last of a process that ends with ``code`` now: should a thread keep it from that, it has a bound."""
    if any(not it.daemon and it is not threading.main_thread() for it in threading.enumerate()):
        bound = _Bound()
        bound.within(CLOSE_WITHIN, code)
        for number in heeded():
            signal.signal(number, lambda number, frame: bound.within(LAST_WITHIN))


class _Bound:
    """A thread waits for it, once there is one."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._changed = threading.Condition()
        self._until: float | None = None
        self._code = UNAVAILABLE
        self._waits = False

    def within(self, seconds: float, code: int = UNAVAILABLE) -> None:
        with self._changed:
            until = time.monotonic() + seconds
            if code != UNAVAILABLE:
                self._code = code
            if self._until is None or until < self._until:
                self._until = until
            if not self._waits:
                self._waits = True
                threading.Thread(target=self._wait, name="bound of the end", daemon=True).start()
            self._changed.notify()

    def lift(self) -> None:
        with self._changed:
            self._until = None
            self._changed.notify()

    def _wait(self) -> None:
        with self._changed:
            while self._until is not None and (left := self._until - time.monotonic()) > 0:
                self._changed.wait(left)
            self._waits = False
            if self._until is None:
                return
        _leave(hanging(self.loop), self._code)


_bound: ContextVar[_Bound | None] = ContextVar("_bound", default=None)


def hanging(loop: asyncio.AbstractEventLoop | None = None) -> list[str]:
    """What keeps the process: threads and where they are; else tasks of ``loop``, else the main thread."""
    frames = sys._current_frames()
    threads = [it for it in threading.enumerate() if not it.daemon and it.ident in frames]
    others = [it for it in threads if it is not threading.main_thread() and not _is_idle(frames[it.ident or 0])]
    if found := [f"thread {it.name!r} in {_where(frames[it.ident or 0])}" for it in others]:
        return found
    if loop is not None and not loop.is_closed() and (tasks := asyncio.all_tasks(loop)):
        return [f"task {it.get_name()!r}" for it in tasks]
    return [f"the main thread in {_where(frames[it.ident or 0])}" for it in threads if it is threading.main_thread()]


def _is_idle(frame: FrameType) -> bool:
    """Of a pool, and waiting for work: that ends when the pool does."""
    return frame.f_code.co_name == "_worker" and frame.f_code.co_filename.endswith("concurrent/futures/thread.py")


def _where(frame: FrameType) -> str:
    """The innermost place outside of the standard library, which only waits for somebody."""
    import sysconfig  # of a process that hangs only

    standard = sysconfig.get_path("stdlib")
    there: FrameType | None = frame
    while there is not None and there.f_code.co_filename.startswith((standard, "<frozen")):
        if "site-packages" in there.f_code.co_filename:
            break
        there = there.f_back
    there = there or frame
    return f"{there.f_code.co_name} ({there.f_code.co_filename}:{there.f_lineno})"


def _leave(left: list[str], code: int) -> None:
    """Say it, write out what was printed, and go. Saying must not hang either, should a thread hold a stream."""

    def say() -> None:
        log.error("does not end, and is left: %s", "; ".join(left) or "nothing that can be named")
        sys.stdout.flush()
        sys.stderr.flush()

    saying = threading.Thread(target=say, name="last words", daemon=True)
    saying.start()
    saying.join(1.0)
    os._exit(code)
