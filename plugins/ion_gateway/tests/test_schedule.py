"""The service ``schedule``, by a clock that tests set: what is published, once, and what of that which was missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ion_core.contracts.looking import PlannedView
from ion_core.contracts.settings import Section
from ion_core.errors import InvalidEvent, IonError, StateError, TransientError
from ion_core.events import Context, Event
from ion_core.testing import ServiceConformance
from ion_gateway.noted import Noted
from ion_gateway.plans import Every, between
from ion_gateway.schedule import MOST_MISSED, TOLERANCE, Schedule, open_schedule, planned_id
from ion_gateway.settings import ScheduleSettings

STEP = timedelta(seconds=30)
START = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


class Clock:
    """Stands still until a test sets it forward; whoever waits is woken then."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now
        self._set = asyncio.Condition()
        self._passed = timedelta(0)
        """Of what waits, which no clock that is set back makes longer."""
        self._awaited: list[timedelta] = []

    def __call__(self) -> datetime:
        return self.now

    async def forward(self, by: timedelta) -> None:
        async with self._set:
            self.now += by
            self._passed += max(by, timedelta(0))
            self._set.notify_all()

    async def go_on(self, by: timedelta) -> None:
        """As time does while somebody runs: in steps, each of which is seen."""
        await self.seen()
        for _ in range(by // STEP):
            await self.forward(STEP)
            await self.seen()

    async def seen(self) -> None:
        """Until the one who looks at it waits for what is yet to come."""
        async with asyncio.timeout(60), self._set:
            await self._set.wait_for(lambda: self._awaited and min(self._awaited) > self._passed)

    async def wait(self, stop: asyncio.Event, seconds: float) -> bool:
        until = self._passed + timedelta(seconds=seconds)

        async def passed() -> None:
            async with self._set:
                self._awaited.append(until)
                self._set.notify_all()
                try:
                    await self._set.wait_for(lambda: self._passed >= until)
                finally:
                    self._awaited.remove(until)

        waiting = {asyncio.create_task(passed()), asyncio.create_task(stop.wait())}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        return stop.is_set()


class Host:
    """Takes events, or raises what it is to raise first."""

    def __init__(self, *raising: IonError) -> None:
        self.raising = list(raising)
        self.away = False
        self.asked: asyncio.Queue[str] = asyncio.Queue()
        self.taken: list[str] = []
        self.data: list[dict[str, str]] = []

    def times(self) -> list[str]:
        """Of the events that were taken."""
        return [it.partition("T")[2].removesuffix(":00Z") for it in self.taken]

    async def publish(self, event_type: str, **given: Any) -> Event:
        self.asked.put_nowait(given["event_id"])
        if self.raising:
            raise self.raising.pop(0)
        if self.away:
            raise TransientError("the broker is away")
        self.taken.append(given["event_id"])
        self.data.append(dict(given["data"]))
        context = Context(name="schedule", event_id=given["event_id"], correlation_id=given["correlation_id"])
        return Event(context=context, type=event_type)

    def problems(self) -> list[str]:
        return []


def settings(directory: Path, **schedules: dict[str, Any]) -> ScheduleSettings:
    return ScheduleSettings.model_validate(
        {"schedules": schedules, "path": directory / "planned.json"},
        context={"section": Section(key="services.schedule"), "state": directory},
    )


class Serving:
    """A service that runs."""

    def __init__(self, made: ScheduleSettings, clock: Clock, host: Host) -> None:
        self.clock, self.host, self.stop = clock, host, asyncio.Event()
        self.service = Schedule(made, Noted(made.path), clock=clock, wait=clock.wait)

    async def __aenter__(self) -> Serving:
        ready = asyncio.Event()
        self.running = asyncio.create_task(self.service.run(self.host, self.stop, ready))
        async with asyncio.timeout(60):
            await ready.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop.set()
        async with asyncio.timeout(60):
            await self.running

    async def asked(self) -> str:
        async with asyncio.timeout(60):
            return await self.host.asked.get()


TEN = Every(timedelta(minutes=10))
MISSED = pytest.mark.parametrize("missed", ["skip", "last", "all"])
HALF = {"cron": "*/30 * * * *", "type": "report.asked", "data": {"kind": "short"}}


async def test_each_planned_time_is_one_event_with_an_id_of_its_own(tmp_path: Path) -> None:
    async with Serving(settings(tmp_path, half=HALF), Clock(), Host()) as serving:
        for minute in ("12:30", "13:00", "13:30"):
            await serving.clock.forward(timedelta(minutes=30))
            assert await serving.asked() == f"schedule.half.2026-11-29T{minute}:00Z"
    assert serving.host.data[0] == {"kind": "short", "plannedTime": "2026-11-29T12:30:00Z"}


async def test_a_clock_that_was_years_ahead_keeps_nothing_from_being_published(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = settings(tmp_path, half=HALF)
    async with Serving(made, Clock(START + timedelta(days=4000)), Host()):
        pass
    async with Serving(made, Clock(), Host()) as serving:
        await serving.clock.forward(timedelta(minutes=31))
        assert await serving.asked() == "schedule.half.2026-11-29T12:30:00Z"
    assert Noted(made.path).latest("half") == START + timedelta(minutes=30)
    assert "which is yet to come" in caplog.text


async def test_a_clock_that_is_set_back_while_we_serve_keeps_nothing_from_being_published(tmp_path: Path) -> None:
    ahead, now = START + timedelta(days=4000), START
    clocks = iter([ahead, ahead, ahead, now, now, now + timedelta(minutes=30), now + timedelta(minutes=30)])
    latest = [ahead]

    def clock() -> datetime:
        latest[0] = next(clocks, latest[0])
        return latest[0]

    async def wait(stop: asyncio.Event, seconds: float) -> bool:
        await asyncio.sleep(0)
        return stop.is_set()

    made, host, stop = settings(tmp_path, half=HALF), Host(), asyncio.Event()
    running = asyncio.create_task(
        Schedule(made, Noted(made.path), clock=clock, wait=wait).run(host, stop, asyncio.Event())
    )
    async with asyncio.timeout(60):
        assert await host.asked.get() == "schedule.half.2026-11-29T12:30:00Z"
        stop.set()
        await running


async def test_two_processes_name_the_same_events(tmp_path: Path) -> None:
    for place in ("one", "other"):
        (tmp_path / place).mkdir()
        async with Serving(settings(tmp_path / place, half=HALF), Clock(), Host()) as serving:
            await serving.clock.forward(timedelta(minutes=31))
            assert await serving.asked() == "schedule.half.2026-11-29T12:30:00Z"


@pytest.mark.parametrize(
    ("missed", "made_up_for"),
    [
        ("skip", []),
        ("last", ["2026-11-29T14:00:00Z"]),
        ("all", ["2026-11-29T12:30:00Z", "2026-11-29T13:00:00Z", "2026-11-29T13:30:00Z", "2026-11-29T14:00:00Z"]),
    ],
)
async def test_what_fell_due_while_nobody_ran(tmp_path: Path, missed: str, made_up_for: list[str]) -> None:
    made = settings(tmp_path, half={**HALF, "missed": missed})
    async with Serving(made, Clock(), Host()):
        pass
    later = Clock(START + timedelta(hours=2, minutes=10))
    async with Serving(made, later, Host()) as serving:
        await later.forward(timedelta(minutes=20))
        found = [await serving.asked() for _ in range(len(made_up_for) + 1)]
    assert found == [f"schedule.half.{time}" for time in (*made_up_for, "2026-11-29T14:30:00Z")]


async def test_more_than_the_most_that_is_made_up_for_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = settings(tmp_path, often={"every": "1m", "type": "report.asked", "missed": "all"})
    async with Serving(made, Clock(), Host()):
        pass
    later = Clock(START + timedelta(minutes=MOST_MISSED + 5))
    async with Serving(made, later, Host()) as serving:
        found = [await serving.asked() for _ in range(MOST_MISSED)]
    assert found[0] == "schedule.often.2026-11-29T12:06:00Z"
    assert "those before 2026-11-29T12:06:00Z are left out" in caplog.text


@MISSED
async def test_what_falls_due_while_the_broker_is_away_is_published_later_and_none_is_left_out(
    tmp_path: Path, missed: str
) -> None:
    host = Host()
    async with Serving(settings(tmp_path, half={**HALF, "missed": missed}), Clock(), host) as serving:
        host.away = True
        await serving.clock.go_on(timedelta(minutes=100))
        host.away = False
        await serving.clock.go_on(timedelta(minutes=2))
    assert host.times() == ["12:30", "13:00", "13:30"]


@pytest.mark.parametrize(
    ("missed", "made_up_for"),
    [("skip", []), ("last", ["14:00"]), ("all", ["12:30", "13:00", "13:30", "14:00"])],
)
async def test_what_fell_due_while_the_machine_slept(
    tmp_path: Path, missed: str, made_up_for: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    host = Host()
    async with Serving(settings(tmp_path, half={**HALF, "missed": missed}), Clock(), host) as serving:
        await serving.clock.seen()
        await serving.clock.forward(timedelta(hours=2, minutes=10))
        await serving.clock.go_on(timedelta(minutes=21))
    assert host.times() == [*made_up_for, "14:30"]
    assert "nobody ran from 2026-11-29T12:00:00Z to 2026-11-29T14:10:00Z" in caplog.text


@pytest.mark.parametrize(
    ("missed", "published"),
    [("skip", ["14:00"]), ("last", ["14:00"]), ("all", ["12:30", "13:00", "13:30", "14:00"])],
)
async def test_what_is_due_as_the_machine_wakes_is_late_and_not_missed(
    tmp_path: Path, missed: str, published: list[str]
) -> None:
    host = Host()
    async with Serving(settings(tmp_path, half={**HALF, "missed": missed}), Clock(), host) as serving:
        await serving.clock.seen()
        await serving.clock.forward(timedelta(hours=2) + TOLERANCE - STEP)
        await serving.clock.go_on(timedelta(minutes=5))
    assert host.times() == published


@MISSED
async def test_a_process_that_was_held_up_for_a_minute_leaves_nothing_out(tmp_path: Path, missed: str) -> None:
    host = Host()
    async with Serving(settings(tmp_path, half={**HALF, "missed": missed}), Clock(), host) as serving:
        await serving.clock.go_on(timedelta(minutes=29, seconds=30))
        await serving.clock.forward(TOLERANCE)
        await serving.clock.go_on(timedelta(minutes=1))
    assert host.times() == ["12:30"]


@pytest.mark.parametrize(
    ("missed", "made_up_for"),
    [("skip", []), ("last", ["14:30"]), ("all", ["13:00", "13:30", "14:00", "14:30"])],
)
async def test_what_fell_due_before_the_machine_slept_is_published_though_the_broker_was_away(
    tmp_path: Path, missed: str, made_up_for: list[str]
) -> None:
    host = Host()
    async with Serving(settings(tmp_path, half={**HALF, "missed": missed}), Clock(), host) as serving:
        host.away = True
        await serving.clock.go_on(timedelta(minutes=35))
        await serving.clock.forward(timedelta(hours=2))
        await serving.clock.go_on(timedelta(minutes=2))
        host.away = False
        await serving.clock.go_on(timedelta(minutes=2))
    assert host.times() == ["12:30", *made_up_for]


@MISSED
async def test_a_clock_that_is_set_back_by_an_hour_makes_nothing_twice_and_goes_on(tmp_path: Path, missed: str) -> None:
    host = Host()
    async with Serving(settings(tmp_path, half={**HALF, "missed": missed}), Clock(), host) as serving:
        await serving.clock.go_on(timedelta(minutes=65))
        await serving.clock.forward(timedelta(hours=-1))
        await serving.clock.go_on(timedelta(hours=2))
    assert host.times() == ["12:30", "13:00", "13:30", "14:00"]


async def test_a_clock_that_was_ahead_for_a_moment_skips_nothing(tmp_path: Path) -> None:
    host = Host()
    async with Serving(settings(tmp_path, half=HALF), Clock(), host) as serving:
        await serving.clock.go_on(timedelta(minutes=5))
        await serving.clock.forward(timedelta(hours=1))
        await serving.clock.go_on(timedelta(minutes=1))
        await serving.clock.forward(timedelta(hours=-1))
        await serving.clock.go_on(timedelta(hours=1))
    assert host.times() == ["12:30", "13:00"]


class What(Enum):
    """May happen to a clock, or to what it is looked at for."""

    GOES_ON = auto()
    SLEEPS = auto()
    IS_SET_BACK = auto()
    BROKER_GOES = auto()
    BROKER_COMES = auto()


@given(
    missed=st.sampled_from(["skip", "last", "all"]),
    happening=st.lists(st.tuples(st.sampled_from(What), st.integers(1, 59)), max_size=6),
)
@hypothesis_settings(max_examples=40, deadline=None)
def test_whatever_becomes_of_the_clock_nothing_is_twice_and_what_was_not_slept_through_is_there(
    missed: str, happening: list[tuple[What, int]]
) -> None:
    due: set[datetime] = set()

    async def live(clock: Clock, host: Host) -> None:
        furthest = clock.now
        for what, minutes in happening:
            by = timedelta(minutes=minutes)
            if what is What.GOES_ON:
                due.update(between(TEN, furthest, clock.now + by))
                await clock.go_on(by)
            elif what is What.SLEEPS:
                await clock.forward(by)
                await clock.seen()
            elif what is What.IS_SET_BACK:
                await clock.forward(-min(by, timedelta(hours=1) + clock.now - furthest))
            else:
                host.away = what is What.BROKER_GOES
            furthest = max(furthest, clock.now)
        host.away = False
        await clock.go_on(max(furthest - clock.now, timedelta()) + timedelta(minutes=3))
        due.update(between(TEN, furthest, clock.now))
        if missed == "all":
            due.update(between(TEN, START, clock.now))

    async def serve(directory: Path) -> None:
        host = Host()
        made = settings(directory, ten={"every": "10m", "type": "report.asked", "missed": missed})
        async with Serving(made, Clock(), host) as serving:
            await live(serving.clock, host)
        assert len(host.taken) == len(set(host.taken))
        assert {planned_id("schedule", "ten", time) for time in due} <= set(host.taken)

    with TemporaryDirectory() as directory:
        asyncio.run(serve(Path(directory)))


async def test_an_event_that_is_refused_is_said_and_the_next_is_published(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Serving(settings(tmp_path, half=HALF), Clock(), Host(InvalidEvent("no such thing"))) as serving:
        for _ in range(2):
            await serving.clock.forward(timedelta(minutes=30))
            await serving.asked()
    assert serving.host.taken == ["schedule.half.2026-11-29T13:00:00Z"]
    assert "schedule.half.2026-11-29T12:30:00Z was refused: no such thing" in caplog.text


async def test_what_was_published_before_a_crash_is_not_missed_after_it(tmp_path: Path) -> None:
    made = settings(tmp_path, half={**HALF, "missed": "all"})
    async with Serving(made, Clock(), Host()) as serving:
        await serving.clock.forward(timedelta(minutes=30))
        await serving.asked()
    async with Serving(made, Clock(START + timedelta(minutes=35)), Host()) as again:
        await again.clock.forward(timedelta(minutes=25))
        assert await again.asked() == "schedule.half.2026-11-29T13:00:00Z"


async def test_a_clock_that_is_set_back_makes_nothing_twice(tmp_path: Path) -> None:
    async with Serving(settings(tmp_path, half=HALF), Clock(), Host()) as serving:
        await serving.clock.forward(timedelta(minutes=30))
        await serving.asked()
        await serving.clock.forward(timedelta(hours=-1))
        await serving.clock.forward(timedelta(hours=1, minutes=30))
        assert await serving.asked() == "schedule.half.2026-11-29T13:00:00Z"


@pytest.mark.parametrize("text", ["{", "[]", '{"half": "yesterday"}', '{"half": "2026-11-29T12:00:00"}', '{"half": 1}'])
async def test_a_file_that_is_none_of_ours_is_named_with_what_would_do(tmp_path: Path, text: str) -> None:
    made = settings(tmp_path, half=HALF)
    made.path.write_text(text)
    with pytest.raises(StateError, match=r"planned\.json: .* Remove it"):
        async with open_schedule(made):
            pass


async def test_a_place_that_cannot_be_written_ends_the_service_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made = settings(tmp_path, half=HALF)
    service = Schedule(made, Noted(tmp_path / "planned.json"), clock=Clock(), wait=Clock().wait)
    service._noted._path = tmp_path / "file" / "planned.json"
    with pytest.raises(StateError, match="cannot be written"):
        await service.run(Host(), asyncio.Event(), asyncio.Event())


async def test_a_full_disk_is_waited_out_while_events_are_published(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    made = settings(tmp_path, half=HALF)
    full = made.path.with_suffix(".new")
    full.symlink_to("/dev/full")
    async with Serving(made, Clock(), Host()) as serving:
        for minute in ("12:30", "13:00"):
            await serving.clock.go_on(timedelta(minutes=30))
            assert await serving.asked() == f"schedule.half.2026-11-29T{minute}:00Z"
        assert not made.path.exists()
        assert caplog.text.count("planned.json: no space left") == 1
        full.unlink()
        await serving.clock.go_on(STEP)
        assert Noted(made.path).latest("half") == START + timedelta(hours=1)
    assert caplog.text.count("is noted again") == 1


class TestScheduleIsAService(ServiceConformance):
    clock: Clock
    cause_look = None

    @pytest_asyncio.fixture
    async def service(self, tmp_path: Path) -> AsyncIterator[Schedule]:
        self.clock = Clock()
        made = settings(tmp_path, half=HALF)
        yield Schedule(made, Noted(made.path), clock=self.clock, wait=self.clock.wait)

    async def cause_event(self, service: Schedule) -> str:
        """The next time; or, where the last event could not be taken, the moment of the next try."""
        await self.clock.forward(timedelta(minutes=30))
        return "report.asked"

    unservable = None
    reloads = send = None


def test_settings_tell_what_is_planned() -> None:
    nightly = {"cron": "0 2 * * *", "zone": "Europe/Berlin", "type": "report.due"}
    settings = ScheduleSettings.model_validate(
        {"schedules": {"nightly": nightly}}, context={"section": Section(key="services.clock")}
    )
    times = [datetime(2026, 11, 30, 1, 0, tzinfo=UTC), datetime(2026, 12, 1, 1, 0, tzinfo=UTC)]
    assert settings.planned(START, 2) == [PlannedView(service="clock", name="nightly", type="report.due", times=times)]
