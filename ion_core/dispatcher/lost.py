"""Lost events: their delivery was lost before it was decided what becomes of them. They are pending all the same.

No queue shows them: RabbitMQ gives back what a consumer held on a node that died after a minute, and somebody else may
be given it. Such an event is over once it comes to us again, or has committed, or is a dead letter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from ion_core.dataplane import DataPlane
from ion_core.errors import InvalidEvent, StillPending
from ion_core.jobs import Job

log = logging.getLogger(__name__)

LOOKED_EVERY = 1.0
"""Seconds between two looks for what became of them elsewhere."""
AWAITED_FOR = 300.0
"""Seconds after which an event that nobody has seen again is told of, instead of waited for: a broker gives back what
was held on a connection or node that died within about a minute."""

MOST = 10_000
"""Kept of one module. A ``serve`` that stays asks for none of them, and others take what it lost: they add up."""


@dataclass(frozen=True, kw_only=True)
class _Lost:
    """One of them. ``job_id`` is '' for what is no event; ``what`` names it, for such a one the reason of its death."""

    job_id: str
    what: str
    since: float


class LostEvents:
    """Those of one module. ``clock`` counts seconds, and is the running loop's by default."""

    def __init__(self, module: str, dataplane: DataPlane, *, clock: Callable[[], float] | None = None) -> None:
        self._module = module
        self._dataplane = dataplane
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._lost: dict[str, _Lost] = {}
        self._looked_at = float("-inf")
        self._dead_seen: int | None = None
        self.died = 0
        """How many turned out to be dead letters."""

    def add(self, job: Job) -> None:
        """Its delivery is gone, and it has neither committed nor died here."""
        self._add(job.id, _Lost(job_id=job.id, what=job.event.context.event_id, since=self._clock()))

    def add_unreadable(self, reason: str) -> None:
        """The same of what is no event. What comes again is refused for the same reason."""
        self._add(reason, _Lost(job_id="", what=reason, since=self._clock()))

    def _add(self, key: str, lost: _Lost) -> None:
        self._lost[key] = lost
        while len(self._lost) > MOST:
            del self._lost[next(iter(self._lost))]
        self._looked_at = float("-inf")
        self._dead_seen = None
        fields = {"eventId": lost.what, "moduleName": self._module}
        log.info("an event was lost before it was decided on; it is pending until it comes again", extra=fields)

    @property
    def any(self) -> bool:
        """Whether some are not known to be over."""
        return bool(self._lost)

    def seen(self, key: str) -> None:
        """A delivery of that job, or of what is refused for that reason, is here."""
        self._lost.pop(key, None)

    async def pending(self, dead: int) -> bool:
        """Whether any is still to come back; ``dead`` is how many dead letters the queue has, which is when to look.

        Raises what the providers raise.
        """
        now = self._clock()
        if self._lost and now - self._looked_at >= LOOKED_EVERY:
            self._looked_at = now  # also where the providers do not answer
            await self._look(dead)
        return bool(self._lost)

    def give_up(self) -> None:
        """Raises StillPending once the last of them has been awaited for longer than brokers take."""
        if all(self._clock() - lost.since > AWAITED_FOR for lost in self._lost.values()):
            raise StillPending(self._told())

    async def _look(self, dead: int) -> None:
        """What of them is over elsewhere. Looking at dead letters takes a while: only when their number is another."""
        for key, lost in list(self._lost.items()):
            if lost.job_id and await self._dataplane.committed(lost.job_id) is not None:
                self._lost.pop(key, None)
        if not self._lost or dead == self._dead_seen:
            return
        jobs, reasons = await self._dead() if dead else (set(), set())
        self._dead_seen = dead
        for key, lost in list(self._lost.items()):
            if lost.job_id in jobs if lost.job_id else lost.what in reasons:
                self._lost.pop(key, None)
                self.died += 1

    async def _dead(self) -> tuple[set[str], set[str]]:
        """The ids of the jobs that dead letters stand for, and their reasons."""
        jobs, reasons = set(), set()
        async with self._dataplane.broker.each_dead_letter(self._module) as letters:
            async for letter in letters:
                reasons.add(letter.reason)
                with suppress(InvalidEvent):
                    jobs.add(Job.of_message(letter.body, letter.queue).id)
                await asyncio.sleep(0)  # there may be thousands, and others have work
        return jobs, reasons

    def _told(self) -> str:
        some = ", ".join(lost.what[:80] for lost in list(self._lost.values())[:5])
        more = f" and {len(self._lost) - 5} more" if len(self._lost) > 5 else ""
        return (
            f"module {self._module}: the broker took back what was in work ({some}{more}) and has not given it out "
            f"again in {AWAITED_FOR:.0f} s; there is neither a commit nor a dead letter of it. The broker has it, or "
            "another dispatcher does. Run it again later; `ion-core module list` shows what waits"
        )
