"""The service ``schedule``: one event for each planned time, however many processes serve.

An event's id follows from the service, the schedule and the planned time, so whoever publishes it, and however often,
it is one event.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from ion_core.contracts.messaging import RetryPolicy
from ion_core.contracts.service import ServiceHost
from ion_core.errors import IonError, TransientError
from ion_gateway.noted import Noted
from ion_gateway.plans import between
from ion_gateway.settings import Planned, ScheduleSettings

log = logging.getLogger(__name__)

MOST_MISSED = 1_000
"""Planned times that ``missed: all`` makes up for, of each schedule: the latest ones."""
SET_BACK = timedelta(hours=1)
"""A time noted that is so far ahead was noted by a clock that was wrong. What is nearer is waited for."""
LOOK_EVERY = 30.0
"""Seconds after which the clock is looked at again: it may be set, and machines sleep."""
AGAIN = RetryPolicy(initial=timedelta(seconds=1), maximum=timedelta(minutes=1))
"""How long to wait where an event cannot be published now."""

Clock = Callable[[], datetime]
Wait = Callable[[asyncio.Event, float], Awaitable[bool]]
"""Until the event is set, at most so many seconds: whether it is."""


def planned_id(service: str, name: str, time: datetime) -> str:
    """The event id of what is planned at ``time``, in UTC. The same in every process."""
    return f"{service}.{name}.{_text(time)}"


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _now() -> datetime:
    return datetime.now(UTC)


async def _wait(stop: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return stop.is_set()
    return True


class Schedule:
    """``clock`` and ``wait`` are for tests, who do not wait for midnight."""

    def __init__(self, settings: ScheduleSettings, noted: Noted, *, clock: Clock = _now, wait: Wait = _wait) -> None:
        self._service = settings.section.name or "schedule"
        self._schedules: Mapping[str, Planned] = settings.schedules
        self._noted = noted
        self._clock = clock
        self._wait = wait

    async def run(self, host: ServiceHost, stop: asyncio.Event, ready: asyncio.Event) -> None:
        """Publish what is planned until ``stop``. Raises StateError where what was noted cannot be written."""
        started = self._clock()
        ready.set()
        failures: tuple[BaseException, ...] = ()
        try:
            async with asyncio.TaskGroup() as tasks:
                for name, planned in self._schedules.items():
                    tasks.create_task(self._keep(host, stop, name, planned, started), name=f"schedule {name}")
        except* IonError as errors:
            failures = errors.exceptions
        if failures:
            raise failures[0]

    async def _keep(
        self, host: ServiceHost, stop: asyncio.Event, name: str, planned: Planned, started: datetime
    ) -> None:
        """One schedule: what was missed, then each time as it comes. What falls due while we serve is never missed."""
        plan = planned.plan
        latest = self._noted.latest(name)
        if latest is None:
            latest = started
            self._noted.note(name, latest)
        latest = self._not_ahead(name, latest, started)
        # In a thread: of a year there may be half a million.
        for time in await asyncio.to_thread(self._missed, name, planned, latest, started):
            if not await self._publish(host, stop, name, planned, time):
                return
        latest = max(latest, started)
        while not stop.is_set():
            latest = self._not_ahead(name, latest, self._clock())
            time = plan.after(latest)
            if (seconds := (time - self._clock()).total_seconds()) > 0:
                if await self._wait(stop, min(seconds, LOOK_EVERY)):
                    return
                continue
            if not await self._publish(host, stop, name, planned, time):
                return
            latest = time

    def _not_ahead(self, name: str, latest: datetime, now: datetime) -> datetime:
        """``latest``, or now where a clock that was wrong noted what is yet to come."""
        if latest <= now + SET_BACK:
            return latest
        log.warning("schedule %s: %s was noted last, which is yet to come: it goes on from now", name, _text(latest))
        self._noted.note(name, now, again=True)
        return now

    def _missed(self, name: str, planned: Planned, latest: datetime, started: datetime) -> list[datetime]:
        """What fell due while nobody ran and is to be made up for."""
        due = between(planned.plan, latest, started)
        if planned.missed == "skip":
            if first := next(due, None):
                log.info("schedule %s: what was planned from %s to now was missed, and is skipped", name, _text(first))
            return []
        most = 1 if planned.missed == "last" else MOST_MISSED
        times = deque(due, maxlen=most + 1)
        if planned.missed == "all" and len(times) > most:
            log.warning(
                "schedule %s: more than %d planned times were missed; those before %s are left out",
                name,
                most,
                _text(times[1]),
            )
        return list(times)[-most:]

    async def _publish(
        self, host: ServiceHost, stop: asyncio.Event, name: str, planned: Planned, time: datetime
    ) -> bool:
        """Until it is published, or refused for good, and noted. False if we are told to stop before."""
        event_id = planned_id(self._service, name, time)
        data = [*planned.data.items(), ("plannedTime", _text(time))]
        for failures in itertools.count(1):
            if stop.is_set():
                return False
            try:
                await host.publish(planned.type, data=data, event_id=event_id, correlation_id=event_id)
            except TransientError as error:
                log.warning("schedule %s: %s cannot be published now: %s", name, event_id, error)
                if await self._wait(stop, AGAIN.delay(failures, random.uniform(-1, 1)).total_seconds()):
                    return False
            except IonError as error:
                log.error("schedule %s: %s was refused: %s", name, event_id, error)
                break
            else:
                break
        self._noted.note(name, time)
        return True


@asynccontextmanager
async def open_schedule(settings: ScheduleSettings) -> AsyncIterator[Schedule]:
    """The service. Raises StateError where what earlier processes noted cannot be read."""
    yield Schedule(settings, Noted(settings.path))
