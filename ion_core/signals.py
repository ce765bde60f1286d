"""The signals that end a process, and how they interrupt it while it does not wait for them: as Ctrl-C does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Interrupted(KeyboardInterrupt):
    """A signal has come that ends this process: its ``number``."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def interruptible() -> Iterator[None]:
    """Within, the others interrupt the main thread as SIGINT does: by Interrupted. Nothing in other threads."""

    def interrupt(number: int) -> None:
        raise Interrupted(number)

    with handled_by(interrupt):
        yield


@contextmanager
def handled_by(call: Callable[[int], None]) -> Iterator[None]:
    """Within, ``call`` is given the number of each such signal, by the main thread. Nothing in other threads."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in heeded()}
    for number in before:
        signal.signal(number, lambda number, frame: call(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def heeded() -> tuple[signal.Signals, ...]:
    """Those that end this process: not SIGHUP where somebody has it ignored, as nohup does."""
    return tuple(it for it in SIGNALS if it is not signal.SIGHUP or signal.getsignal(it) is not signal.SIG_IGN)


@contextmanager
def hangup_held() -> Iterator[None]:
    """Within, SIGHUP waits until somebody in there lets it through; afterwards one that still waits is dropped."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        if signal.SIGHUP in signal.sigpending():
            signal.sigwait({signal.SIGHUP})
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def has_terminal() -> bool:
    """Whether this process has a terminal that may be closed, which SIGHUP then tells; whatever its streams are."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
