"""An executor as all its modules share it: what its engine has of ours already, and what nobody fetches any more."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from ion_core.contracts.executor import Executor, JobRef, JobState, JobStatus, Ticket
from ion_core.dispatcher.bounded import wait_for_any
from ion_core.dispatcher.slots import LABEL_MODULE
from ion_core.errors import ProviderError

log = logging.getLogger(__name__)

LABEL_INSTALLATION = "ion.installation"

TIDY_EVERY = 600.0
"""Seconds between looks for jobs that nobody waits for."""
FETCHED_WITHIN = 3600.0
"""Seconds that a job which has ended, or was never started, stays for whoever may be about to fetch or to start it."""

IsPutAway = Callable[[Ticket], Awaitable[bool]]
"""Whether nobody will come for a job any more: it has committed, all that it owes is paid, and its log is kept."""


class Engine:
    """``installation`` is what all dispatchers have in common that may fetch each other's jobs.

    ``alone``: there is no other dispatcher of this installation.
    """

    def __init__(self, executor: Executor, *, name: str, installation: str, alone: bool) -> None:
        self.executor = executor
        self.name = name
        self.installation = installation
        self._alone = alone
        self._turn = asyncio.Lock()
        self._asked = itertools.count(1)
        self._found_at = 0
        self._found: Sequence[JobStatus] = ()
        self._ours: set[str] = set()
        self._idle_since: dict[str, float] = {}

    def labels(self, module: str) -> Mapping[str, str]:
        """What a job of that module is found by."""
        return {LABEL_INSTALLATION: self.installation, LABEL_MODULE: module}

    async def started(self, module: str, event_id: str) -> Sequence[JobStatus]:
        """Jobs of that module and event that were started before this was called, by whomever.

        Whoever asks while somebody does shares the next answer: however many ask, the engine is asked by one at a time.
        """
        now = next(self._asked)
        async with self._turn:
            if self._found_at <= now:
                asked = next(self._asked)
                self._found = await self.executor.find({LABEL_INSTALLATION: self.installation})
                self._found_at = asked
            return [
                it
                for it in self._found
                if it.ticket is not None and (it.ticket.module, it.ticket.event_id) == (module, event_id)
            ]

    def fetches(self, ref: JobRef) -> None:
        """This process sees to that job: nobody else here removes it."""
        self._ours.add(ref.id)

    def leaves(self, ref: JobRef) -> None:
        """It does no longer."""
        self._ours.discard(ref.id)

    async def recover(self, is_put_away: IsPutAway) -> None:
        """At the start: remove what an earlier life made ahead and never started, or has put away and not removed.

        What it started is fetched by its event. Raises what the executor and ``is_put_away`` raise.
        """
        for status in await self.executor.find({LABEL_INSTALLATION: self.installation}):
            if status.state is JobState.CREATED and self._alone:
                about = {"job": status.ref.name, "runtime": self.name}
                log.warning("removing a job that was never started", extra=about)
                await self.executor.remove(status.ref)
            elif status.state is JobState.ENDED and status.ticket is not None and await is_put_away(status.ticket):
                await self.executor.remove(status.ref)
            elif status.state is not JobState.CREATED:
                log.info(
                    "a job of an earlier life is with its engine; its event fetches it",
                    extra={"job": status.ref.name, "state": status.state.value, "runtime": self.name},
                )

    async def keep(self, stop: asyncio.Event) -> None:
        """Until ``stop``, or until cancelled: remove jobs that nobody has fetched or started for long."""
        while not await wait_for_any(stop, timeout=TIDY_EVERY):
            try:
                await self.tidy(now=time.monotonic())
            except ProviderError as error:
                log.warning("jobs that nobody fetches are left for now: %s", error, extra={"runtime": self.name})

    async def tidy(self, *, now: float) -> None:
        """Remove what was idle at every look for long enough. By our clock alone: the engine's may be another."""
        idle = {
            status.ref.id: status.ref
            for status in await self.executor.find({LABEL_INSTALLATION: self.installation})
            if status.state is not JobState.STARTED and status.ref.id not in self._ours
        }
        self._idle_since = {id: self._idle_since.get(id, now) for id in idle}
        for id, since in self._idle_since.items():
            if now - since >= FETCHED_WITHIN:
                log.warning("removing a job that nobody fetched", extra={"job": idle[id].name, "runtime": self.name})
                await self.executor.remove(idle[id])
