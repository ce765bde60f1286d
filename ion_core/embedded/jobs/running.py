"""One step of a job: a process from its start until nothing of it runs."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ion_core.embedded.jobs.printed import Printed
from ion_core.embedded.programs import spawning, table

_READ = 1 << 18
_DRAIN = 1.0
"""Seconds for output to reach its end once nothing is left that could write to it."""
_AGAIN = 0.05
"""Seconds between looks for what was killed and has not ended yet."""
_PR_SET_CHILD_SUBREAPER = 36
_OURSELVES = ctypes.CDLL(None) if sys.platform == "linux" else None
"""Found once, for all that are forked."""
_NOT_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)
"""By programs, though Python ignores them."""


def adopt_orphans() -> bool:
    """From now on whatever a step leaves behind becomes our child, and is found; False where the system has no such."""
    if _OURSELVES is None:
        return False
    return bool(_OURSELVES.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


class Signals:
    """Wakes whoever polls ``fd`` when a child has ended or we are told to stop; ``told`` counts the latter.

    ``adopts`` says whether the orphans of our children become children of ours.
    """

    def __init__(self) -> None:
        self.fd, write = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(write, False)
        self.told = 0
        self.adopts = adopt_orphans()
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._tell)
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def _tell(self, *_: object) -> None:
        self.told += 1

    def clear(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self.fd, 512):
                pass


@dataclass(frozen=True, kw_only=True)
class Program:
    """What a step runs. ``mark`` is in the variable ``by`` of all of it; ``isolated`` if it is bubblewrap.

    ``memory`` is the limit that it sets itself, to be named where that ends it.

    ``timeout`` in seconds, None for none; ``grace`` between SIGTERM and SIGKILL then.
    """

    argv: Sequence[str]
    program: str
    cwd: str
    env: Mapping[str, str]
    mark: str
    by: str
    isolated: bool = False
    memory: int | None = None
    cores: Sequence[int] | None = None
    timeout: float | None = None
    grace: float = 10.0


@dataclass(frozen=True, kw_only=True)
class Ended:
    """``code`` as a shell gives it. ``timed_out`` and ``stopped`` say that it was told to end before it did."""

    code: int
    signal: int | None
    limit: str | None
    timed_out: bool
    stopped: bool


def run(program: Program, printed: Printed, signals: Signals, grace: Callable[[], float]) -> Ended:
    """Run it, and end whatever it leaves behind. Raises OSError when it cannot be executed.

    ``grace`` is asked for when we are told to stop: how many seconds it is given.
    """
    pid, *outputs = _begin(program)
    begun = time.monotonic()
    streams = dict(zip(outputs, ("stdout", "stderr"), strict=True))
    poll = select.poll()
    for fd in (signals.fd, *outputs):
        poll.register(fd, select.POLLIN)
    ends_at = None if program.timeout is None else begun + program.timeout
    kill_at: float | None = None
    timed_out = stopped = False
    heard = 0  # who was told before has not begun this step
    while table.identify(pid) is not None:
        now = time.monotonic()
        if heard != signals.told:
            heard, stopped = signals.told, True
            kill_at = _earliest(kill_at, now + _ask(pid, program.isolated, grace()))
        if ends_at is not None and now >= ends_at:
            ends_at, timed_out = None, True
            kill_at = _earliest(kill_at, now + _ask(pid, program.isolated, program.grace))
        if kill_at is not None and now >= kill_at:
            kill_at = None
            table.signal_group(pid, signal.SIGKILL)
        _pass_on(poll, streams, printed, until=_earliest(ends_at, kill_at))
        signals.clear()
    table.signal_group(pid, signal.SIGKILL)  # which is its own until it is waited for
    _, status, usage = os.wait4(pid, 0)
    _end_what_is_left(program, signals)
    until = time.monotonic() + _DRAIN
    while streams and time.monotonic() < until:
        _pass_on(poll, streams, printed, until=until)
        signals.clear()
    for fd in streams:
        os.close(fd)
    printed.close()
    code = os.waitstatus_to_exitcode(status)
    number = -code if code < 0 else None
    if number is not None:
        code = 128 + number
    elif program.isolated and 128 < code <= 128 + signal.NSIG:
        number = code - 128
    limit = spawning.suspected_limit(program.memory, code, usage.ru_maxrss * 1024, printed.last())
    return Ended(code=code, signal=number, limit=limit, timed_out=timed_out, stopped=stopped)


def _begin(program: Program) -> tuple[int, int, int]:
    """A process that leads its own session and group, and our ends of its output. OSError when it cannot be had.

    Our working directory is ours alone to change: nobody here but us.

    Until it is that program it has what we have, closed by nothing but becoming it: so the lock of its job is held,
    and nobody takes the job to be over while something of it has no mark yet.
    """
    stdout, theirs = os.pipe()
    stderr, theirs_too = os.pipe()
    try:
        os.chdir(program.cwd)
        with spawning.on(None if program.cores is None else set(program.cores)):
            pid = os.posix_spawn(
                program.program,
                list(program.argv),
                program.env,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, theirs, 1),
                    (os.POSIX_SPAWN_DUP2, theirs_too, 2),
                ],
                setsid=True,
                setsigdef=_NOT_IGNORED,
            )
    except BaseException:
        os.close(stdout)
        os.close(stderr)
        raise
    finally:
        os.chdir("/")
        os.close(theirs)
        os.close(theirs_too)
    os.set_blocking(stdout, False)
    os.set_blocking(stderr, False)
    return pid, stdout, stderr


def _end_what_is_left(program: Program, signals: Signals) -> None:
    """Whatever it left, in whatever session: it is our child by now, or the child of one. Waits for all of it."""
    if not signals.adopts:
        table.kill_marked(program.mark, by=program.by)
        return
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for pid in table.descendants(os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        select.select([signals.fd], [], [], _AGAIN)
        signals.clear()


def _ask(pid: int, isolated: bool, grace: float) -> float:
    """Ask it to end, if there is time for that; the time."""
    if grace > 0:
        if isolated:
            table.signal_inside(pid, signal.SIGTERM)
        else:
            table.signal_group(pid, signal.SIGTERM)
    return grace


def _pass_on(poll: select.poll, streams: dict[int, str], printed: Printed, *, until: float | None) -> None:
    """Wait for output or a signal, and keep the output."""
    wait = None if until is None else max(0.0, until - time.monotonic()) * 1000
    for fd, _ in poll.poll(wait):
        if fd not in streams:
            continue
        try:
            data = os.read(fd, _READ)
        except BlockingIOError:
            continue
        except OSError:
            data = b""
        if data:
            printed.add(streams[fd], data, time.time())
        else:
            poll.unregister(fd)
            os.close(fd)
            del streams[fd]


def _earliest(*times: float | None) -> float | None:
    return min((time for time in times if time is not None), default=None)
