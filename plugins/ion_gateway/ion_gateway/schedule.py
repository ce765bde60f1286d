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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta

from ion_core.contracts.messaging import RetryPolicy
from ion_core.contracts.service import ServiceHost
from ion_core.errors import IonError, StorageFull, TransientError
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
TOLERANCE = timedelta(minutes=2)
"""Between two looks at the clock lies a minute or so. Where it is more than this nobody ran, though we were there; and
what fell due less than this before somebody does again is late, not missed."""
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


class _Awake:
    """The clock as one schedule sees it, and when nobody did, as on a machine that slept.

    ``seen`` is when it was looked at last.
    """

    def __init__(self, name: str, clock: Clock, seen: datetime) -> None:
        self._name = name
        self._clock = clock
        self.seen = seen
        self._gaps: deque[tuple[datetime, datetime]] = deque()

    def look(self) -> datetime:
        now = self._clock()
        if now > self.seen + TOLERANCE:
            log.info("schedule %s: nobody ran from %s to %s", self._name, _text(self.seen), _text(now))
            self._gaps.append((self.seen, now))
        elif now < self.seen:  # it was wrong, and so is what it made us think
            self._gaps = deque(gap for gap in self._gaps if gap[1] <= now)
        self.seen = now
        return now

    def gap_before(self, time: datetime) -> tuple[datetime, datetime] | None:
        """Where ``time``, or what comes before it, lies in one: the first, from and until, which is then done with."""
        if self._gaps and time > self._gaps[0][0]:
            return self._gaps.popleft()
        return None


class Schedule:
    """``clock`` and ``wait`` are for tests, who do not wait for midnight."""

    def __init__(self, settings: ScheduleSettings, noted: Noted, *, clock: Clock = _now, wait: Wait = _wait) -> None:
        self._service = settings.section.name or "schedule"
        self._schedules: Mapping[str, Planned] = settings.schedules
        self._noted = noted
        self._clock = clock
        self._wait = wait
        self._full = False

    async def run(self, host: ServiceHost, stop: asyncio.Event, ready: asyncio.Event) -> None:
        """Publish what is planned until ``stop``. Raises StateError where what was noted cannot be written."""
        started = self._clock()
        ready.set()
        failures: tuple[BaseException, ...] = ()
        try:
            async with asyncio.TaskGroup() as tasks:
                for name, planned in self._schedules.items():
                    awake = _Awake(name, self._clock, started)
                    tasks.create_task(self._keep(host, stop, name, planned, awake), name=f"schedule {name}")
        except* IonError as errors:
            failures = errors.exceptions
        if failures:
            raise failures[0]

    async def _keep(self, host: ServiceHost, stop: asyncio.Event, name: str, planned: Planned, awake: _Awake) -> None:
        """One schedule: what was missed, and each time as it comes. What falls due while we run is never missed."""
        started = awake.seen
        latest = self._noted.latest(name)
        if latest is None:
            latest = started
            self._note(name, latest)
        latest = self._not_ahead(name, latest, started)
        if not await self._make_up(host, stop, name, planned, latest, started, awake):
            return
        latest = max(latest, started)
        while not stop.is_set():
            self._write()
            now = awake.look()
            latest = self._not_ahead(name, latest, now)
            time = planned.plan.after(latest)
            if (gap := awake.gap_before(time)) is not None:
                slept, woke = gap
                until = woke - TOLERANCE if planned.missed == "skip" else woke
                if not await self._make_up(host, stop, name, planned, max(latest, slept), until, awake):
                    return
                latest = max(latest, until)
            elif time > now:
                if await self._wait(stop, min((time - now).total_seconds(), LOOK_EVERY)):
                    return
            elif await self._publish(host, stop, name, planned, time, awake):
                latest = time

    def _not_ahead(self, name: str, latest: datetime, now: datetime) -> datetime:
        """What is planned later than this is still to come, by a clock that may have been wrong until now."""
        noted = self._noted.latest(name) or latest
        if noted <= now + SET_BACK:
            return max(noted, min(latest, now))
        log.warning("schedule %s: %s was noted last, which is yet to come: it goes on from now", name, _text(noted))
        self._note(name, now, again=True)
        return now

    def _note(self, name: str, time: datetime, *, again: bool = False) -> None:
        with self._waited_out():
            self._noted.note(name, time, again=again)

    def _write(self) -> None:
        """What a full disk did not take."""
        if self._full:
            with self._waited_out():
                self._noted.write()

    @contextmanager
    def _waited_out(self) -> Iterator[None]:
        """A full disk holds nothing up: what is published and not noted is the same event where it comes again."""
        try:
            yield
        except StorageFull as error:
            if not self._full:
                log.warning("which planned times are done cannot be noted now: %s", error)
            self._full = True
            return
        if self._full:
            log.info("which planned times are done is noted again")
        self._full = False

    async def _make_up(
        self,
        host: ServiceHost,
        stop: asyncio.Event,
        name: str,
        planned: Planned,
        after: datetime,
        until: datetime,
        awake: _Awake,
    ) -> bool:
        """For what was missed, as ``missed`` has it. False if we are told to stop before."""
        # In a thread: of a year there may be half a million.
        for time in await asyncio.to_thread(self._missed, name, planned, after, until):
            if not await self._publish(host, stop, name, planned, time, awake):
                return False
        return True

    def _missed(self, name: str, planned: Planned, after: datetime, until: datetime) -> list[datetime]:
        """What fell due while nobody ran and is to be made up for."""
        due = between(planned.plan, after, until)
        if planned.missed == "skip":
            if first := next(due, None):
                since, to = _text(first), _text(until)
                log.info("schedule %s: what was planned from %s to %s was missed, and is skipped", name, since, to)
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
        self, host: ServiceHost, stop: asyncio.Event, name: str, planned: Planned, time: datetime, awake: _Awake
    ) -> bool:
        """Until it is published, or refused for good, and noted. False if we are told to stop before."""
        event_id = planned_id(self._service, name, time)
        data = [*planned.data.items(), ("plannedTime", _text(time))]
        for failures in itertools.count(1):
            if stop.is_set():
                return False
            awake.look()
            try:
                await host.publish(planned.type, data=data, event_id=event_id, correlation_id=event_id)
            except TransientError as error:
                log.warning("schedule %s: %s cannot be published now: %s", name, event_id, error)
                awake.look()
                if await self._wait(stop, AGAIN.delay(failures, random.uniform(-1, 1)).total_seconds()):
                    return False
            except IonError as error:
                log.error("schedule %s: %s was refused: %s", name, event_id, error)
                break
            else:
                break
        self._note(name, time)
        return True


@asynccontextmanager
async def open_schedule(settings: ScheduleSettings) -> AsyncIterator[Schedule]:
    """The service. Raises StateError where what earlier processes noted cannot be read."""
    yield Schedule(settings, Noted(settings.path))
