"""Plugins are asked which span a module is below; whatever they do, the attempt goes on."""

from __future__ import annotations

from dataclasses import replace

import pluggy
import pytest

from ion_core import hookspecs
from ion_core.events import Context, Event
from ion_core.hookspecs import hookimpl
from ion_core.jobs import Attempt, Job
from ion_core.registry import Observing, Tracing

EVENT = Event(context=Context(name="m", event_id="e", correlation_id="c"), type="a.b")
ATTEMPT = Attempt(job=Job(event=EVENT, module="m"), number=1, token="t")
SPAN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = SPAN.replace("b7ad", "0000")
OUTSIDE = SPAN.replace("0af7", "ffff")


class Says:
    def __init__(self, said: object) -> None:
        self._said = said

    @hookimpl
    def ion_traceparent(self, attempt: Attempt) -> object:
        if isinstance(self._said, BaseException):
            raise self._said
        assert attempt.token == "t"
        return self._said


class Observes:
    @hookimpl
    def ion_job_started(self, attempt: Attempt) -> None:
        raise AssertionError


def tracing(**plugins: object) -> Tracing:
    return Tracing({name: observing(plugin) for name, plugin in plugins.items()})


def observing(plugin: object, settings: object = None) -> Observing:
    hooks = pluggy.PluginManager(hookspecs.PROJECT)
    hooks.add_hookspecs(hookspecs)
    hooks.register(plugin)
    return Observing(hooks=hooks, settings=settings)


def from_outside() -> Attempt:
    return replace(ATTEMPT, job=Job(event=replace(EVENT, traceparent=OUTSIDE), module="m"))


def test_without_a_plugin_it_is_the_trace_that_the_flow_came_with() -> None:
    assert tracing().traceparent(ATTEMPT) == ""
    assert tracing().traceparent(from_outside()) == OUTSIDE
    assert tracing(one=Observes(), two=Says(None)).traceparent(from_outside()) == OUTSIDE


def test_what_a_plugin_says_comes_first() -> None:
    assert tracing(one=Says(SPAN)).traceparent(ATTEMPT) == SPAN
    assert tracing(one=Says(SPAN)).traceparent(from_outside()) == SPAN


def test_of_several_the_first_by_name_that_says_something_counts() -> None:
    assert tracing(b=Says(SPAN), a=Says(OTHER)).traceparent(ATTEMPT) == OTHER
    assert tracing(b=Says(SPAN), a=Says(None)).traceparent(ATTEMPT) == SPAN


@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit("broken")])
def test_what_a_plugin_raises_is_logged_and_the_next_is_asked(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    assert tracing(a=Says(error), b=Says(SPAN)).traceparent(ATTEMPT) == SPAN
    [record] = caplog.records
    assert (record.getMessage(), vars(record)["plugin"]) == ("tracing failed", "a")
    assert record.exc_info


@pytest.mark.parametrize("said", ["", "00-0-0-01", "\n../etc", 17, b"00"])
def test_what_is_no_traceparent_is_said_to_be_none(said: object, caplog: pytest.LogCaptureFixture) -> None:
    assert tracing(a=Says(said)).traceparent(from_outside()) == OUTSIDE
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert vars(record)["plugin"] == "a"


class Traces:
    @hookimpl
    def ion_traceparent(self, attempt: Attempt, settings: str | None) -> str | None:
        return settings


def test_it_is_asked_with_the_settings_of_each_section_in_their_order() -> None:
    plugin = Traces()
    it = Tracing({"b": observing(plugin, OTHER), "a": observing(plugin, None), "c": observing(plugin, SPAN)})
    assert it.traceparent(ATTEMPT) == OTHER
    it.reload({"a": observing(plugin, SPAN), "another": observing(plugin, OTHER)})
    assert it.traceparent(ATTEMPT) == SPAN
