"""Crash points for the fault tests: ``ION_CRASH_AT=S5`` ends the process right after step S5, as kill -9 would.

Steps are those of the commit protocol (``docs/delivery.md``). S4 and S8 are in the middle: after the first file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ion_core.errors import UsageError

STEPS = tuple(f"S{n}" for n in range(13))
FAILED = "failed"
"""A failed attempt is recorded, and its delivery not settled yet."""
DIED = "died"
"""A dead letter is kept, and counted."""
WAITING, DECIDED, STARTED = "waiting", "decided", "started"
"""Of a gatherer: it is known to wait; what it is given is decided; its events are published, and still owed."""
GIVEN_UP, PURGED = "given-up", "purged"
"""A dead letter is about to be purged, and is; who waits for its job has not been told."""
_POINTS = (*STEPS, FAILED, DIED, WAITING, DECIDED, STARTED, GIVEN_UP, PURGED)
_armed: str | None = None


def arm(environ: Mapping[str, str]) -> None:
    """Read once at the start of ``serve`` or ``handler``.

    Raises UsageError for an unknown step, or without ``ION_TESTING=1``.
    """
    global _armed
    step = environ.get("ION_CRASH_AT") or None
    if step is not None and environ.get("ION_TESTING") != "1":
        raise UsageError("ION_CRASH_AT: crashes on purpose, for tests. Unset it, or set ION_TESTING=1 as well.")
    if step is not None and step not in _POINTS:
        raise UsageError(f"ION_CRASH_AT: no step {step!r}. Steps are {', '.join(_POINTS[:-1])} and {_POINTS[-1]}.")
    _armed = step


def reached(step: str) -> None:
    """End the process here if this is the armed step: no clean-up, no buffers flushed, as a crash does."""
    if step == _armed:
        os._exit(137)
