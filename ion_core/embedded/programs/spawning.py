"""Processes of modules: made on their cores and under their limits, and what may have ended one."""

from __future__ import annotations

import math
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count

HAS_LIMITS = sys.platform == "linux"

_OUT_OF_MEMORY = re.compile(
    rb"MemoryError|cannot allocate memory|bad_alloc|out of memory|memory exhausted", re.IGNORECASE
)


class Cores:
    """Hands out cores in turn, of those that we may use."""

    def __init__(self) -> None:
        self._all = sorted(os.sched_getaffinity(0)) if HAS_LIMITS else []
        self._turn = count()

    def take(self, cpus: float | None) -> set[int] | None:
        """Cores for one that may use ``cpus``; None for all of them."""
        wanted = math.ceil(cpus or 0)
        if not 0 < wanted < len(self._all):
            return None
        return {self._all[next(self._turn) % len(self._all)] for _ in range(wanted)}


def spawn(
    argv: Sequence[str],
    *,
    program: str,
    cwd: str,
    env: Mapping[str, str],
    cores: set[int] | None,
) -> tuple[subprocess.Popen[bytes], int, int]:
    """A process leading its own session and group, and our ends of its output. OSError when it cannot be had."""
    stdout, theirs = os.pipe()
    try:
        stderr, theirs_too = os.pipe()
    except BaseException:
        os.close(stdout)
        os.close(theirs)
        raise
    try:
        with on(cores):
            process = subprocess.Popen(
                argv,
                executable=program,
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs_too,
                start_new_session=True,
            )
    except BaseException:
        os.close(stdout)
        os.close(stderr)
        raise
    finally:
        os.close(theirs)
        os.close(theirs_too)
    os.set_blocking(stdout, False)
    os.set_blocking(stderr, False)
    return process, stdout, stderr


@contextmanager
def on(cores: set[int] | None) -> Iterator[None]:
    """Children started within inherit these cores; only the calling thread is moved."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def suspected_limit(memory: int | None, code: int, peak: int, log: bytes) -> str | None:
    """What ended a process with ``code``, if it looks as if its limit did: a peak near it, or its own words.

    The kernel fails an allocation and leaves it to the program to say so. ``peak`` in bytes of resident memory.
    """
    if memory is None or code == 0 or not HAS_LIMITS:
        return None
    # A new process starts out with the peak of the one it was forked from.
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if peak > max(0.75 * memory, ours) or _OUT_OF_MEMORY.search(log):
        return f"memory {memory / 1024**2:.4g} MiB"
    return None
