"""What services are told of the process that they run in: what happens, and how it is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from ion_core.app import App
from ion_core.app.changes import HELD, Changes
from ion_core.app.process import DEAD_AFTER, STALLED_AFTER, TOLD_FOR, Pulse
from ion_core.contracts.looking import Change, HealthView, OutboxView, SlotsView
from ion_core.contracts.service import ServiceHost
from ion_core.jobs import Outcome, Verdict
from tests.support.worlds import Observed, attempt
from tests.unit.test_service_host import configured, host_of, idle, nothing, served


@pytest_asyncio.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    config, _ = configured(tmp_path, nothing)
    async with App.open(config) as app:
        yield app


async def test_what_happens_to_a_flow_is_told_as_it_happens(tmp_path: Path) -> None:
    async def listens(host: ServiceHost) -> tuple[str, list[Change]]:
        told: list[Change] = []
        async with host.changes() as changes:
            await host.publish("photo.received")
            broken = await host.publish("photo.broken")
            while sum(it.kind == "finished" for it in told) < 4:
                told.append(await anext(changes))
        return broken.context.correlation_id, told

    broken, told = await served(tmp_path, listens)
    kinds = [it.kind for it in told]
    assert (kinds.count("published"), kinds.count("started"), kinds.count("missed")) == (3, 4, 0)
    ends = sorted((it.module, it.outcome, bool(it.reason)) for it in told if it.kind == "finished")
    assert ends == [
        ("bad", "dead-lettered", True),
        ("first", "committed", False),
        ("second", "committed", False),
        ("second", "committed", False),
    ]
    [dead] = [it for it in told if it.outcome == "dead-lettered"]
    assert (dead.correlation_id, dead.type, dead.attempt) == (broken, "photo.broken", 1)
    assert told == sorted(told, key=lambda it: it.at)
    steps = [{*it.seconds} for it in told if it.outcome == "committed"]
    assert steps == [{"prepare", "module", "commit", "all"}] * 3


async def test_a_listener_hears_what_happens_while_it_looks_elsewhere_and_nothing_from_before() -> None:
    told = Observed()
    changes = Changes(told, hide=lambda reason: reason.replace("sesame", "***"))
    changes.job_started(attempt("before"))
    async with changes.listening() as first, changes.listening() as second:
        changes.job_started(attempt("e1"))
        changes.job_finished(attempt("e1"), Outcome(verdict=Verdict.RETRIED, reason="no sesame"))
        assert [(await anext(first)).kind for _ in range(2)] == ["started", "finished"]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(first), 0.01)
        changes.job_started(attempt("e2"))
        assert (await anext(first)).event_id == "e2", "waiting in vain has ended nothing"
        assert (await anext(second)).event_id == "e1"
        finished = await anext(second)
        assert (finished.outcome, finished.reason) == ("retried", "no ***")
    changes.job_started(attempt("after"))
    assert [it.event_id async for it in second] == ["e2"], "and after the end what was held"
    assert len(told.started) == 4, "others are told all the same"


async def test_a_listener_that_is_too_slow_is_told_that_it_missed_some_and_holds_up_nobody() -> None:
    changes = Changes(Observed(), hide=str)
    async with changes.listening() as slow:
        for n in range(HELD + 3):
            changes.job_started(attempt(f"{n}"))
        found = [await anext(slow) for _ in range(3)]
    assert [(it.kind, it.event_id) for it in found] == [
        ("missed", ""),
        ("started", f"{HELD + 1}"),
        ("started", f"{HELD + 2}"),
    ]


async def test_problems_say_where_what_since_when_and_what_would_do(app: App) -> None:
    process = idle()
    host = await host_of(app, process)
    before = datetime.now(UTC)
    process.health.red("queue bad", "amqp://host: is away. Is it running? Start it.")
    process.health.red("runtime far", "no room")
    view = host.health()
    assert (view.live, view.ready, view.draining) == (True, False, False)
    assert [(it.where, it.what, it.would_do) for it in view.problems] == [
        ("queue bad", "amqp://host: is away", "Is it running? Start it."),
        ("runtime far", "no room", "See what else its engine has to do. Work goes on by itself then."),
        ("storage", "no room", "Make some."),
    ]
    first = view.problems[0].since
    assert before <= first <= datetime.now(UTC)
    process.health.red("queue bad", "it is still away.")
    assert host.health().problems[0].since == first, "it has had one since then, though another"
    for part in ("queue bad", "runtime far", "storage"):
        process.health.green(part)
    assert host.health() == HealthView(live=True, ready=True, draining=False)
    process.draining.set()
    assert host.health() == HealthView(live=True, ready=False, draining=True)
    assert host.problems() == []


async def test_a_service_sees_that_the_process_is_ready_and_then_drains(tmp_path: Path) -> None:
    async def looks(host: ServiceHost) -> HealthView:
        return host.health()

    view: HealthView = await served(tmp_path, looks)
    assert (view.live, view.draining) == (True, False)


async def test_a_service_sees_slots_and_what_commits_owe(tmp_path: Path) -> None:
    async def looks(host: ServiceHost) -> tuple[Sequence[SlotsView], OutboxView]:
        return host.slots(), host.outbox()

    slots, outbox = await served(tmp_path, looks)
    assert [(it.warm, it.found, it.reused, it.made) for it in slots] == [(0, 0, 0, 0)] * len(slots)
    assert slots
    assert (outbox.owed, outbox.published) == (0, 0)
    assert outbox.looked_at is not None, "before it serves it looks"


async def test_an_event_loop_that_is_held_up_is_told_and_one_that_does_not_turn_is_not_live(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("ion_core.app.process.time", SimpleNamespace(monotonic=lambda: clock.now))
    process = idle()
    process.health.green("storage")
    host = await host_of(app, process)
    assert host.health().live, "where nobody keeps the pulse nothing is said of it"
    process.pulse._note(clock.now)
    clock.now += 1.0
    assert host.health().ready
    clock.now += STALLED_AFTER
    seen: list[Any] = []
    asking = threading.Thread(target=lambda: seen.append(host.health()))
    asking.start()
    asking.join()
    [view] = seen
    assert (view.live, view.ready) == (True, False)
    [problem] = view.problems
    assert (problem.where, problem.what) == ("event loop", "has been held up for 2 s")
    clock.now += DEAD_AFTER
    assert not host.health().live
    process.pulse._note(clock.now)  # it turns again
    view = host.health()
    assert (view.live, view.ready, view.problems[0].what) == (True, False, "was held up for 32 s")
    assert view.problems[0].would_do
    assert datetime.now(UTC) - view.problems[0].since > timedelta(seconds=30)
    for _ in range(int(TOLD_FOR)):
        clock.now += 1.0
        process.pulse._note(clock.now)
    assert host.health().ready


async def test_the_pulse_is_kept_until_it_is_cancelled() -> None:
    pulse = Pulse()
    keeping = asyncio.create_task(pulse.keep())
    await asyncio.sleep(0)
    assert pulse._beat is not None
    keeping.cancel()
    await asyncio.wait({keeping})
    assert pulse.late() == 0.0
