"""Observers are told what happens on threads of their own; whatever they do, nobody waits for them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pluggy
import pytest

from ion_core import hookspecs
from ion_core.events import Context, Event
from ion_core.hookspecs import hookimpl
from ion_core.jobs import Attempt, Job, Outcome, Verdict
from ion_core.registry import Observers, Observing, load_plugins

EVENT = Event(context=Context(name="m", event_id="e", correlation_id="c"), type="a.b")
ATTEMPT = Attempt(job=Job(event=EVENT, module="m"), number=1, token="t")
OUTCOME = Outcome(verdict=Verdict.COMMITTED)


def manager(plugin: object, settings: object = None) -> Observing:
    hooks = pluggy.PluginManager(hookspecs.PROJECT)
    hooks.add_hookspecs(hookspecs)
    hooks.register(plugin)
    return Observing(hooks=hooks, settings=settings)


def until(condition: Callable[[], bool]) -> None:
    """Waits for the condition, on a clock that is only for giving up."""
    giving_up = time.monotonic() + 20
    tick = threading.Event()
    while not condition():
        assert time.monotonic() < giving_up, "it does not happen"
        tick.wait(0.005)


class Recorder:
    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.threads: set[str] = set()

    @hookimpl
    def ion_job_started(self, attempt: Attempt) -> None:
        self.seen.append(("started", attempt))
        self.threads.add(threading.current_thread().name)

    @hookimpl
    def ion_job_finished(self, attempt: Attempt, outcome: Outcome) -> None:
        self.seen.append(("finished", attempt, outcome))

    @hookimpl
    def ion_event_published(self, event: Event) -> None:
        self.seen.append(("published", event))


class Stuck:
    """Hangs in its first call until told to go on."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()
        self.calls = 0

    @hookimpl
    def ion_event_published(self, event: Event) -> None:
        self.calls += 1
        self.entered.set()
        self.release.wait(60)


class Raising:
    def __init__(self) -> None:
        self.calls = 0

    @hookimpl
    def ion_job_started(self, attempt: Attempt) -> None:
        self.calls += 1
        raise SystemExit("no") if self.calls == 1 else RuntimeError("no")


def test_each_plugin_is_told_in_order_on_a_thread_of_its_own() -> None:
    one, two = Recorder(), Recorder()
    observers = Observers({"one": manager(one), "two": manager(two)})
    observers.job_started(ATTEMPT)
    observers.event_published(EVENT)
    observers.job_finished(ATTEMPT, OUTCOME)
    observers.close()
    assert one.seen == [("started", ATTEMPT), ("published", EVENT), ("finished", ATTEMPT, OUTCOME)]
    assert two.seen == one.seen
    assert (one.threads, two.threads) == ({"observer-one"}, {"observer-two"})


class Late:
    """Names when things happened, and no more; is told late."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()
        self.seen: list[datetime] = []

    @hookimpl
    def ion_job_started(self, at: datetime) -> None:
        self.entered.set()
        self.release.wait(60)
        self.seen.append(at)

    @hookimpl
    def ion_job_finished(self, outcome: Outcome, at: datetime) -> None:
        self.seen.append(at)

    @hookimpl
    def ion_event_published(self, at: datetime) -> None:
        self.seen.append(at)


def test_when_it_happened_is_told_also_to_who_is_told_late() -> None:
    late = Late()
    observers = Observers({"late": manager(late)})
    before = datetime.now(UTC)
    observers.job_started(ATTEMPT)
    observers.job_finished(ATTEMPT, OUTCOME)
    observers.event_published(EVENT)
    after = datetime.now(UTC)
    assert late.entered.wait(20)
    late.release.set()
    observers.close()
    assert len(late.seen) == 3
    assert before <= late.seen[0] <= late.seen[1] <= late.seen[2] <= after


def test_without_observers_there_are_no_threads() -> None:
    before = set(threading.enumerate())
    registry = load_plugins(entry_points=False)
    assert registry.observing == {}
    observers = Observers(registry.observing)
    observers.job_started(ATTEMPT)
    assert set(threading.enumerate()) <= before
    observers.close()


def test_plugins_that_observe_are_found_by_the_registry() -> None:
    recorder = Recorder()
    observers = Observers(load_plugins(extra=[recorder], entry_points=False).observing)
    observers.event_published(EVENT)
    observers.close()
    assert recorder.seen == [("published", EVENT)]


def test_what_a_hook_raises_is_logged_with_the_plugins_name_and_swallowed(caplog: pytest.LogCaptureFixture) -> None:
    raising, recorder = Raising(), Recorder()
    observers = Observers({"raising": manager(raising), "recorder": manager(recorder)})
    with caplog.at_level(logging.WARNING, logger="ion_core.registry"):
        for _ in range(3):
            observers.job_started(ATTEMPT)
        observers.close()
    assert (raising.calls, len(recorder.seen)) == (3, 3)
    named = [(record.levelname, record.__dict__["plugin"], bool(record.exc_info)) for record in caplog.records]
    assert named == [("WARNING", "raising", True)] * 3


def test_a_hook_that_hangs_is_named_once_and_its_plugin_dropped_until_it_returns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stuck, recorder = Stuck(), Recorder()
    observers = Observers({"stuck": manager(stuck), "recorder": manager(recorder)}, hang_after=0.05)

    def said(text: str) -> int:
        return sum(text in record.message and record.__dict__["plugin"] == "stuck" for record in caplog.records)

    with caplog.at_level(logging.WARNING, logger="ion_core.registry"):
        observers.event_published(EVENT)
        assert stuck.entered.wait(20)
        until(lambda: said("observer hangs") == 1)
        for _ in range(5):
            observers.event_published(EVENT)
        assert observers.dropped == {"stuck": 5, "recorder": 0}
        until(lambda: len(recorder.seen) == 6)
        stuck.release.set()
        until(lambda: said("observer returned") == 1)
        observers.event_published(EVENT)
        observers.close()
    assert stuck.calls == 2
    assert said("observer hangs") == 1
    (returned,) = [record for record in caplog.records if record.message == "observer returned"]
    assert returned.__dict__["dropped"] == 5


def test_a_full_queue_drops_and_counts_instead_of_blocking(caplog: pytest.LogCaptureFixture) -> None:
    stuck = Stuck()
    observers = Observers({"stuck": manager(stuck)}, queue_size=3)
    with caplog.at_level(logging.WARNING, logger="ion_core.registry"):
        observers.event_published(EVENT)
        assert stuck.entered.wait(20)
        for _ in range(10):
            observers.event_published(EVENT)
        assert observers.dropped == {"stuck": 7}
        stuck.release.set()
        observers.close()
    assert stuck.calls == 4
    assert [record.message for record in caplog.records] == ["observer is too slow, calls are dropped"]


def test_hooks_that_a_plugin_does_not_have_are_not_queued() -> None:
    stuck = Stuck()
    observers = Observers({"stuck": manager(stuck)}, queue_size=1)
    for _ in range(10):
        observers.job_started(ATTEMPT)
    assert observers.dropped == {"stuck": 0}
    observers.close()


def test_close_is_bounded_and_calls_after_it_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    stuck, recorder = Stuck(), Recorder()
    observers = Observers({"recorder": manager(recorder), "stuck": manager(stuck)})
    observers.event_published(EVENT)
    assert stuck.entered.wait(20)
    with caplog.at_level(logging.WARNING, logger="ion_core.registry"):
        observers.close(timeout=0.2)
    observers.event_published(EVENT)
    stuck.release.set()
    assert recorder.seen == [("published", EVENT)]
    assert [(it.message, it.__dict__["plugin"]) for it in caplog.records] == [("observer did not end in time", "stuck")]


class Serves:
    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    @hookimpl
    def ion_serve_started(self, state: Path, modules: Sequence[str], at: datetime) -> None:
        self.seen.append(("started", state, modules))

    @hookimpl
    def ion_serve_stopped(self) -> None:
        self.seen.append(("stopped",))

    @hookimpl
    def ion_job_finished(self, outcome: Outcome) -> None:
        self.seen.append(("finished", outcome.verdict))

    @hookimpl
    def ion_job_dead_lettered(self, attempt: Attempt, outcome: Outcome) -> None:
        self.seen.append(("dead", attempt, outcome.reason))


def test_who_observes_is_told_of_dead_letters_and_of_the_beginning_and_the_end_of_serve() -> None:
    serves = Serves()
    observers = Observers({"serves": manager(serves)})
    observers.serve_started(Path("state"), ["m"])
    observers.job_finished(ATTEMPT, OUTCOME)
    observers.job_finished(ATTEMPT, Outcome(verdict=Verdict.DEAD_LETTERED, reason="why"))
    observers.serve_stopped()
    observers.serve_stopped()
    observers.close()
    assert serves.seen == [
        ("started", Path("state"), ["m"]),
        ("finished", Verdict.COMMITTED),
        ("finished", Verdict.DEAD_LETTERED),
        ("dead", ATTEMPT, "why"),
        ("stopped",),
    ]


def test_what_never_served_does_not_stop() -> None:
    serves = Serves()
    observers = Observers({"serves": manager(serves)})
    observers.serve_stopped()
    observers.close()
    assert serves.seen == []


class Set:
    """What it was set to at each call."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    @hookimpl
    def ion_event_published(self, event: Event, settings: object) -> None:
        self.seen.append(settings)


def test_one_plugin_is_told_for_each_of_its_sections_with_the_settings_of_that() -> None:
    it = Set()
    observers = Observers({"one": manager(it, "first"), "two": manager(it, "second"), "none": manager(Recorder())})
    observers.event_published(EVENT)
    observers.close()
    assert sorted(map(str, it.seen)) == ["first", "second"]


def test_settings_that_were_read_again_are_given_from_the_next_call_on() -> None:
    one, two = Set(), Set()
    plugins = {"one": manager(one, "old"), "two": manager(two, "kept")}
    observers = Observers(plugins)
    observers.event_published(EVENT)
    until(lambda: bool(one.seen and two.seen))
    observers.reload({"one": manager(one, "new"), "three": manager(Set(), "another")})
    observers.event_published(EVENT)
    observers.close()
    assert (one.seen, two.seen) == (["old", "new"], ["kept", "kept"])
