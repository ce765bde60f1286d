"""Process 1 of a container: it reaps whoever is orphaned there, while a child of it does the work.

Orphans of modules become children of process 1, and stay as zombies until it waits for them. Who else has children of
his own cannot wait for any: he would take the exit codes of those from whoever waits for them.
"""

from __future__ import annotations

import os
import signal

_PASSED_ON = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}


def is_wanted() -> bool:
    """Whether we are process 1."""
    return os.getpid() == 1


def stand_by() -> int | None:
    """Go on in a child, where this returns None; here it returns that child's exit code once it has ended.

    Until then signals are passed on to it and orphans reaped. Call it before there are threads.
    """
    awaited = _PASSED_ON | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return None
    while True:
        told = signal.sigwaitinfo(awaited)
        if told.si_signo == signal.SIGCHLD:
            if (status := _reap(child)) is not None:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
        elif told.si_code <= 0:  # sent by a process; what a terminal sends the child has been sent too
            os.kill(child, told.si_signo)


def _reap(child: int) -> int | None:
    """Wait for all that have ended; the status of ``child`` if it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = status
