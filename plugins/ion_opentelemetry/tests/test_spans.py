"""A flow of faces as spans in memory: parents, times, status and attributes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pluggy
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from ion_core import hookspecs
from ion_core.events import Context, Event
from ion_core.jobs import Attempt, Job, Outcome, StepTime, Verdict
from ion_core.registry import Observers, load_plugins
from ion_core.testing import ObserverConformance
from ion_opentelemetry import ids, plugin

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
PHOTO = Event(context=Context(name="gateway", event_id="photo", correlation_id="flow"), type="photo.received")
STEPS = (StepTime(name="prepare", begun=0.5, seconds=0.25), StepTime(name="module", begun=1.0, seconds=2.0))
COMMITTED = Outcome(
    verdict=Verdict.COMMITTED, seconds=4.0, children=1, steps=(*STEPS, StepTime(name="commit", begun=3.0, seconds=0.5))
)


FAILED = Outcome(verdict=Verdict.RETRIED, reason="exit code 3", seconds=4.0, steps=STEPS)


def attempt(event: Event, module: str, number: int = 1) -> Attempt:
    return Attempt(job=Job(event=event, module=module), number=number)


def child(of: Attempt, event_type: str) -> Event:
    cause = of.job.event
    context = Context(
        name=of.job.module,
        event_id=of.job.child_id("0.json"),
        correlation_id=cause.context.correlation_id,
        parent_event_id=cause.context.event_id,
    )
    return Event(context=context, type=event_type, hops=cause.hops + 1)


class Process:
    """One process: a tracer provider with an exporter in memory, and the plugin that is told what happens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, sampler: Sampler | None = None) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: self.provider)  # set_… works once in a process

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def named(self, *names: str) -> list[ReadableSpan]:
        found = [span for span in self.spans if span.name in names]
        assert found, names
        return found


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    found = Process(monkeypatch)
    yield found
    found.provider.shutdown()


def faces() -> tuple[Attempt, Attempt, Event, Attempt]:
    """A photo whose faces are found at the second attempt, and whose crop is a dead letter; told to the plugin."""
    first, second = attempt(PHOTO, "detect"), attempt(PHOTO, "detect", 2)
    found = child(second, "face.detected")
    crop = attempt(found, "crop")
    plugin.ion_event_published(PHOTO, NOON)
    retried = Outcome(verdict=Verdict.RETRIED, reason="exit code 3", rule="failed", seconds=4.0, steps=STEPS)
    plugin.ion_job_finished(first, retried, NOON + timedelta(seconds=5))
    plugin.ion_event_published(found, NOON + timedelta(seconds=9))
    plugin.ion_job_finished(second, COMMITTED, NOON + timedelta(seconds=10))
    dead = Outcome(verdict=Verdict.DEAD_LETTERED, reason="exit code 4", rule="failed", seconds=4.0, steps=STEPS)
    plugin.ion_job_finished(crop, dead, NOON + timedelta(seconds=15))
    return first, second, found, crop


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def parent_of(span: ReadableSpan) -> int:
    return 0 if span.parent is None else span.parent.span_id


def nanoseconds(seconds: float) -> int:
    return round((NOON.timestamp() + seconds) * 1000) * 1_000_000


def test_a_flow_is_one_trace_whose_parents_are_what_caused_each_span(process: Process) -> None:
    faces()
    assert {span.context.trace_id for span in process.spans if span.context} == {ids.trace_of(PHOTO)}
    [photo], [face] = process.named("publish photo.received"), process.named("publish face.detected")
    failed, committed = process.named("job detect")
    [crop] = process.named("job crop")
    assert photo.parent is None
    assert parent_of(failed) == parent_of(committed) == id_of(photo)
    assert parent_of(face) == id_of(committed)
    assert parent_of(crop) == id_of(face)
    for job, steps in ((failed, 2), (committed, 3), (crop, 2)):
        inner = [span.name for span in process.spans if parent_of(span) == id_of(job) and span is not face]
        assert inner == ["prepare", "module", "commit"][:steps]
    assert len({id_of(span) for span in process.spans}) == len(process.spans) == 12


def test_spans_have_the_times_of_what_they_stand_for(process: Process) -> None:
    faces()
    [photo] = process.named("publish photo.received")
    assert (photo.start_time, photo.end_time) == (nanoseconds(0), nanoseconds(0))
    _, committed = process.named("job detect")
    assert (committed.start_time, committed.end_time) == (nanoseconds(6), nanoseconds(10))
    inner = [span for span in process.spans if parent_of(span) == id_of(committed) and span.kind is SpanKind.INTERNAL]
    assert [(it.start_time, it.end_time) for it in inner] == [
        (nanoseconds(6.5), nanoseconds(6.75)),
        (nanoseconds(7), nanoseconds(9)),
        (nanoseconds(9), nanoseconds(9.5)),
    ]


def test_status_kind_and_attributes_say_what_became_of_it(process: Process) -> None:
    _, second, found, _ = faces()
    failed, committed = process.named("job detect")
    [crop] = process.named("job crop")
    said = [(it.status.status_code, it.status.description) for it in (failed, committed, crop)]
    assert said == [(StatusCode.ERROR, "exit code 3"), (StatusCode.UNSET, None), (StatusCode.ERROR, "exit code 4")]
    assert [it.status.status_code for it in process.spans if parent_of(it) == id_of(crop)] == [
        StatusCode.UNSET,
        StatusCode.ERROR,
    ]
    assert (committed.kind, process.named("publish face.detected")[0].kind) == (SpanKind.CONSUMER, SpanKind.PRODUCER)
    assert committed.attributes == {
        "ion.correlation_id": "flow",
        "ion.event.id": "photo",
        "ion.event.type": "photo.received",
        "ion.module": "detect",
        "ion.job.id": second.job.id,
        "ion.attempt": 2,
        "ion.outcome": "committed",
        "ion.children": 1,
    }
    assert crop.attributes is not None
    assert (crop.attributes["ion.outcome"], crop.attributes["ion.rule"]) == ("dead-lettered", "failed")
    assert crop.attributes["ion.event.id"] == found.context.event_id


def test_another_process_goes_on_with_the_same_trace(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is killed after its commit, before its span was made; the second is told of a commit that it found."""
    plugin.ion_event_published(PHOTO, NOON)
    second = Process(monkeypatch)
    again = attempt(PHOTO, "detect")
    plugin.ion_event_published(child(again, "face.detected"), NOON)
    plugin.ion_job_finished(again, Outcome(verdict=Verdict.ALREADY_COMMITTED, children=1, seconds=0.1), NOON)
    [face], [job] = second.named("publish face.detected"), second.named("job detect")
    assert job.context is not None
    assert job.context.trace_id == ids.trace_of(PHOTO)
    assert parent_of(job) == id_of(process.spans[0])
    assert parent_of(face) == id_of(job)


def test_a_duplicate_of_a_job_that_was_told_has_no_span_of_its_own(process: Process) -> None:
    job = attempt(PHOTO, "detect")
    plugin.ion_job_finished(job, COMMITTED, NOON)
    before = len(process.spans)
    plugin.ion_job_finished(replace(job, token="other"), Outcome(verdict=Verdict.ALREADY_COMMITTED), NOON)
    plugin.ion_job_finished(replace(job, token="third"), Outcome(verdict=Verdict.DUPLICATE, reason="done"), NOON)
    assert len(process.spans) == before


@pytest.mark.parametrize("verdict", [Verdict.RELEASED, Verdict.DUPLICATE, Verdict.LOST])
def test_an_attempt_that_came_to_nothing_has_no_span_unless_something_ran(process: Process, verdict: Verdict) -> None:
    plugin.ion_job_finished(attempt(PHOTO, "detect"), Outcome(verdict=verdict), NOON)
    assert process.spans == ()
    plugin.ion_job_finished(attempt(PHOTO, "detect"), Outcome(verdict=verdict, steps=STEPS, seconds=4.0), NOON)
    assert [span.name for span in process.spans] == ["prepare", "module", "job detect"]
    assert {span.status.status_code for span in process.spans} == {StatusCode.UNSET}


def test_a_sampler_takes_a_flow_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(monkeypatch, ParentBased(TraceIdRatioBased(0.5)))
    for n in range(200):
        event = replace(PHOTO, context=replace(PHOTO.context, correlation_id=f"flow {n}", event_id=f"photo {n}"))
        plugin.ion_event_published(event, NOON)
        plugin.ion_job_finished(attempt(event, "detect"), COMMITTED, NOON)
    traces: dict[int, int] = {}
    for span in process.spans:
        assert span.context is not None
        traces[span.context.trace_id] = traces.get(span.context.trace_id, 0) + 1
    assert set(traces.values()) == {5}
    assert 60 < len(traces) < 140


OUTSIDE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_flow_that_came_with_a_trace_is_part_of_it(process: Process) -> None:
    photo = replace(PHOTO, traceparent=OUTSIDE, documented=True)
    job = attempt(photo, "detect")
    face = replace(child(job, "face.detected"), traceparent=OUTSIDE)
    plugin.ion_event_published(photo, NOON)
    plugin.ion_job_finished(job, COMMITTED, NOON)
    plugin.ion_event_published(face, NOON)
    assert {f"{span.context.trace_id:032x}" for span in process.spans if span.context} == {OUTSIDE.split("-")[1]}
    [first], [inner] = process.named("publish photo.received"), process.named("job detect")
    [last] = process.named("publish face.detected")
    assert f"{parent_of(first):016x}" == OUTSIDE.split("-")[2]
    assert (parent_of(inner), parent_of(last)) == (id_of(first), id_of(inner))


def test_a_job_of_a_message_from_others_is_below_the_span_that_it_names(process: Process) -> None:
    plugin.ion_job_finished(attempt(replace(PHOTO, traceparent=OUTSIDE), "detect"), COMMITTED, NOON)
    [job] = process.named("job detect")
    assert f"{parent_of(job):016x}" == OUTSIDE.split("-")[2]


def test_a_trace_that_is_not_sampled_outside_is_not_here(process: Process) -> None:
    photo = replace(PHOTO, traceparent=OUTSIDE.removesuffix("1") + "0", documented=True)
    plugin.ion_event_published(photo, NOON)
    plugin.ion_job_finished(attempt(photo, "detect"), COMMITTED, NOON)
    assert process.spans == ()


def test_a_module_is_told_its_own_step_however_the_attempt_ends(process: Process) -> None:
    for n, outcome in enumerate((COMMITTED, FAILED)):
        job = attempt(replace(PHOTO, context=replace(PHOTO.context, event_id=f"photo {n}")), "detect")
        told = plugin.ion_traceparent(job)
        plugin.ion_job_finished(job, outcome, NOON)
        step = process.named("module")[-1]
        assert step.context is not None
        assert told == f"00-{step.context.trace_id:032x}-{step.context.span_id:016x}-01"


@pytest.mark.parametrize(
    "sampler", [ParentBased(TraceIdRatioBased(0.5)), TraceIdRatioBased(0.5), ALWAYS_ON, ALWAYS_OFF]
)
@pytest.mark.parametrize("outside", ["", OUTSIDE, OUTSIDE.removesuffix("1") + "0"])
def test_a_module_is_told_whether_its_step_is_sampled(
    monkeypatch: pytest.MonkeyPatch, sampler: Sampler, outside: str
) -> None:
    process = Process(monkeypatch, sampler)
    told = {}
    for n in range(40):
        context = replace(PHOTO.context, correlation_id=f"flow {n}", event_id=f"photo {n}")
        job = attempt(replace(PHOTO, context=context, traceparent=outside), "detect")
        said = plugin.ion_traceparent(job)
        assert said is not None
        told[said.split("-")[2]] = said.split("-")[3]
        plugin.ion_job_finished(job, COMMITTED, NOON)
    made = {f"{it.context.span_id:016x}" for it in process.spans if it.name == "module" and it.context}
    assert made == {span for span, flags in told.items() if flags == "01"}
    assert {*told.values()} <= {"00", "01"}


def test_without_an_sdk_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from ion_opentelemetry.spans import current

    monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
    assert current() is None
    faces()
    assert plugin.ion_traceparent(attempt(PHOTO, "detect")) is None
    monkeypatch.setattr(trace, "get_tracer_provider", trace.NoOpTracerProvider)
    assert current() is None


def test_a_provider_whose_tracers_take_no_ids_is_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Tracer(trace.Tracer):
        def start_span(self, *arguments: object, **more: object) -> trace.Span:
            raise AssertionError

        start_as_current_span = start_span  # type: ignore[assignment]

    class Provider(trace.TracerProvider):
        def get_tracer(self, *arguments: object, **more: object) -> trace.Tracer:
            return Tracer()

    found = Provider()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: found)
    faces()
    [line] = caplog.records
    assert "cannot be given ids of spans" in line.getMessage()


def test_the_ids_are_those_of_every_version() -> None:
    """Dispatchers of two versions may serve one flow."""
    it = Attempt(job=Job(event=PHOTO, module="detect"), number=1, token="token")
    assert f"{ids.trace_of(PHOTO):032x}" == "aa1dd2cecdc355da23bd6c186beef827"
    assert f"{ids.span_of_event('photo'):016x}" == "0a31daefe516a6c9"
    assert ids.span_of_attempt(it, Verdict.COMMITTED) == ids.span_of_job("photo", "detect")
    assert f"{ids.span_of_job('photo', 'detect'):016x}" == "5e3c701965355340"
    assert f"{ids.span_of_attempt(it, Verdict.RETRIED):016x}" == "d0a937f061071173"
    assert f"{ids.span_of_step(it, 'module'):016x}" == "d276e1ac6137e69c"


class TestObserver(ObserverConformance):
    section = None  # what there is to say of spans is in OTEL_…

    @pytest.fixture
    def observer(self, process: Process) -> object:
        return plugin


def test_ion_finds_the_plugin_and_tells_it(process: Process) -> None:
    observing = load_plugins(allow=["ion-opentelemetry"]).observing
    assert [*observing] == ["ion-opentelemetry (opentelemetry)"]
    observers = Observers(observing)
    observers.event_published(PHOTO)
    observers.job_finished(attempt(PHOTO, "detect"), COMMITTED)
    observers.close()
    assert [span.name for span in process.spans] == [
        "publish photo.received",
        "prepare",
        "module",
        "commit",
        "job detect",
    ]


def test_the_hooks_are_those_of_ion() -> None:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    manager.check_pending()
