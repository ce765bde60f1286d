"""Spans of what observers are told: one for each event that is published, each attempt of a job and each of its steps.

They go to whatever tracer provider the process has set up. Their ids are worked out (``ids``), so that parents are
found also where another process, or an earlier one, made them.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from ion_core.events import Event
from ion_core.jobs import Attempt, Outcome, Verdict
from ion_opentelemetry import ids

log = logging.getLogger(__name__)

FAILED = (Verdict.RETRIED, Verdict.DEAD_LETTERED)
REMEMBERED = 10_000
"""Jobs whose spans are known to have been made by this process."""

_lock = threading.Lock()
_made: tuple[object, Spans | None] = (None, None)
"""The tracer provider that was seen last, and what makes spans for it."""


def current() -> Spans | None:
    """What makes spans for the tracer provider that this process has now; None where nobody has set one up."""
    global _made
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    with _lock:
        if _made[0] is not provider:
            _made = (provider, _spans_for(provider))
        return _made[1]


def _spans_for(provider: trace.TracerProvider) -> Spans | None:
    tracer = provider.get_tracer("ion_opentelemetry")
    if isinstance(tracer, trace.NoOpTracer):  # as with OTEL_SDK_DISABLED=true
        return None
    if not hasattr(tracer, "id_generator") or not hasattr(tracer, "sampler"):
        log.warning(
            "no spans: the tracers of %s.%s cannot be given ids of spans. Use OpenTelemetry's own SDK",
            type(provider).__module__,
            type(provider).__qualname__,
        )
        return None
    return Spans(tracer)


class _Given:
    """An id generator, as the SDK has them, that gives what it was given."""

    trace_id = span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id

    def is_trace_id_random(self) -> bool:
        return False


class Spans:
    """Makes spans with a tracer of the SDK, which is this object's alone: it is given its ids."""

    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer
        self._given = tracer.id_generator = _Given()
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, None] = OrderedDict()

    def published(self, event: Event, at: datetime) -> None:
        """An event, at the moment that the broker had it. Where it is published again the span has the same id."""
        context = event.context
        parent = ids.span_of_job(context.parent_event_id, context.name) if event.hops else ids.outside(event)
        span = self._start(
            f"publish {event.type}",
            event,
            ids.span_of_event(context.event_id),
            parent,
            _nanoseconds(at),
            kind=SpanKind.PRODUCER,
        )
        span.end(_nanoseconds(at))

    def finished(self, attempt: Attempt, outcome: Outcome, at: datetime) -> None:
        """An attempt and its steps. One that came to nothing, as no step ran, is none unless it failed."""
        job = attempt.job
        span_id = ids.span_of_attempt(attempt, outcome.verdict)
        if outcome.verdict is Verdict.ALREADY_COMMITTED and not outcome.steps and job.id not in self._jobs:
            # Who committed may have been killed before this could be told: what followed has a parent all the same.
            span_id = ids.span_of_job(job.event.context.event_id, job.module)
        elif not outcome.steps and outcome.verdict not in (Verdict.COMMITTED, *FAILED):
            return
        failed = outcome.verdict in FAILED
        end = _nanoseconds(at)
        start = end - round(outcome.seconds * 1e9)
        attributes: dict[str, AttributeValue] = {
            "ion.module": job.module,
            "ion.job.id": job.id,
            "ion.attempt": attempt.number,
            "ion.outcome": outcome.verdict.value,
            "ion.children": outcome.children,
        }
        if outcome.rule:
            attributes["ion.rule"] = outcome.rule
        span = self._start(
            f"job {job.module}",
            job.event,
            span_id,
            ids.span_that_brought(job.event),
            start,
            kind=SpanKind.CONSUMER,
            attributes=attributes,
        )
        for n, step in enumerate(outcome.steps):
            begun = start + round(step.begun * 1e9)
            inner = self._start(step.name, job.event, ids.span_of_step(attempt, step.name), span_id, begun)
            if failed and n == len(outcome.steps) - 1:
                inner.set_status(Status(StatusCode.ERROR))
            inner.end(min(end, begun + round(step.seconds * 1e9)))
        if failed:
            span.set_status(Status(StatusCode.ERROR, outcome.reason))
        span.end(end)
        if outcome.verdict in (Verdict.COMMITTED, Verdict.ALREADY_COMMITTED):
            self._jobs[job.id] = None
            if len(self._jobs) > REMEMBERED:
                self._jobs.popitem(last=False)

    def traceparent(self, attempt: Attempt) -> str:
        """That of its module's step, as W3C Trace Context writes it, before that has run.

        Which span the step will be below shows only as the attempt ends: samplers are asked with that of a commit.
        """
        event = attempt.job.event
        trace_id = ids.trace_of(event)
        parent = ids.span_of_job(event.context.event_id, attempt.job.module)
        result = self._tracer.sampler.should_sample(self._below(parent, event, "module"), trace_id, "module")
        flags = TraceFlags.SAMPLED if result.decision.is_sampled() else TraceFlags.DEFAULT
        return f"00-{trace_id:032x}-{ids.span_of_step(attempt, 'module'):016x}-{flags:02x}"

    def _start(
        self,
        name: str,
        event: Event,
        span_id: int,
        parent: int,
        start: int,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> trace.Span:
        """A span of the flow of ``event``, with these ids; ``parent`` is 0 for the first of the flow."""
        trace_id = ids.trace_of(event)
        about: dict[str, AttributeValue] = {
            "ion.correlation_id": event.context.correlation_id,
            "ion.event.id": event.context.event_id,
            "ion.event.type": event.type,
            **(attributes or {}),
        }
        context = self._below(parent, event, name) if parent else Context()
        with self._lock:
            self._given.trace_id, self._given.span_id = trace_id, span_id
            span: trace.Span = self._tracer.start_span(
                name, context=context, kind=kind, attributes=about, start_time=start
            )
        return span

    def _below(self, parent: int, event: Event, name: str) -> Context:
        """That of a span called so, of the flow of ``event``, below the one with the id ``parent``."""
        trace_id = ids.trace_of(event)
        sampled = ids.is_sampled_outside(event)
        if sampled is None:
            sampled = self._is_sampled(trace_id, name)
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        known = SpanContext(trace_id, parent, is_remote=True, trace_flags=flags)
        return trace.set_span_in_context(NonRecordingSpan(known), Context())

    def _is_sampled(self, trace_id: int, name: str) -> bool:
        """What is, or was, decided where the flow began: samplers go by the id of the trace."""
        result = self._tracer.sampler.should_sample(Context(), trace_id, name)
        return bool(result.decision.is_sampled())


def _nanoseconds(at: datetime) -> int:
    """Since the epoch, as spans have times."""
    return round(at.timestamp() * 1_000_000) * 1_000
