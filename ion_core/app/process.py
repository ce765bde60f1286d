"""The process that serves, as services are shown it: what runs, how it is, what happens."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from ion_core.app.changes import Changes
from ion_core.contracts.looking import HealthView, OutboxView, Problem, SlotsView
from ion_core.dispatcher.health import Health, Red
from ion_core.dispatcher.running import RunningAttempts

BEAT_EVERY = 0.5
"""Seconds from one sign of life of the event loop to the next."""

STALLED_AFTER = 2.0
"""Seconds without one after which the event loop is said to have been held up."""

TOLD_FOR = 60.0
"""Seconds for which it is told that it was, once it turns again."""

DEAD_AFTER = 30.0
"""Seconds after which it is not thought to turn again."""


class Pulse:
    """Whether the event loop turns. What tells may be asked from any thread."""

    def __init__(self) -> None:
        self._beat: float | None = None
        self._stalled: tuple[float, float] | None = None
        """How long it was held up the last time, and until when."""

    async def keep(self) -> None:
        """Note that it turns, until cancelled."""
        try:
            while True:
                self._note(time.monotonic())
                await asyncio.sleep(BEAT_EVERY)
        finally:
            self._beat = None

    def late(self) -> float:
        """Seconds for which there has been no sign of life that should have been; 0.0 where nobody keeps it."""
        beat = self._beat
        return 0.0 if beat is None else max(0.0, time.monotonic() - beat - BEAT_EVERY)

    def problem(self) -> Problem | None:
        """That it is held up, or was a short while ago."""
        now, late, stalled = time.monotonic(), self.late(), self._stalled
        if late >= STALLED_AFTER:
            return _problem(f"has been held up for {late:.0f} s", late)
        if stalled is not None and now - stalled[1] < TOLD_FOR:
            return _problem(f"was held up for {stalled[0]:.0f} s", now - stalled[1] + stalled[0])
        return None

    def _note(self, now: float) -> None:
        late = self.late()
        if late >= STALLED_AFTER:
            self._stalled = (late, now)
        self._beat = now


@dataclass(frozen=True, kw_only=True)
class Process:
    """``draining`` is set once nothing new is taken."""

    attempts: RunningAttempts
    health: Health
    changes: Changes
    slots: Callable[[], Sequence[SlotsView]]
    outbox: Callable[[], OutboxView]
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    pulse: Pulse = field(default_factory=Pulse)

    def view(self) -> HealthView:
        """How it is. May be called from any thread."""
        problems = [_told(red) for red in self.health.reds()]
        if (held_up := self.pulse.problem()) is not None:
            problems.append(held_up)
        live, draining = self.pulse.late() < DEAD_AFTER, self.draining.is_set()
        ready = live and not problems and not draining
        return HealthView(live=live, ready=ready, draining=draining, problems=tuple(problems))


_BY_ITSELF = "Work goes on by itself then."
_WOULD_DO = {
    "queue": f"See whether the broker runs and can be reached from here. {_BY_ITSELF}",
    "runtimes": f"See whether what runs its modules is up and can be reached from here. {_BY_ITSELF}",
    "storage": f"See whether the store is up, has room, and can be reached from here. {_BY_ITSELF}",
    "runtime": f"See what else its engine has to do. {_BY_ITSELF}",
    "worker": "The log says how it ended. If it does so again and again, see what it was doing: `ion-core why`.",
}
"""What would do, by the first word of the part, where who found the problem says nothing of it."""


def _told(red: Red) -> Problem:
    """Messages say what is wrong in their first sentence, and then what would do."""
    what, _, would_do = red.problem.partition(". ")
    would_do = would_do or _WOULD_DO.get(re.split("[ .]", red.part)[0], "The log of this process has more.")
    return Problem(where=red.part, what=what.removesuffix("."), would_do=would_do, since=red.since)


def _problem(what: str, seconds: float) -> Problem:
    would_do = "Give this machine less to do, or find the plugin that computes on the event loop."
    since = datetime.now(UTC) - timedelta(seconds=seconds)
    return Problem(where="event loop", what=what, would_do=would_do, since=since)
