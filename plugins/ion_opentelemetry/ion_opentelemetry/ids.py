"""The ids of traces and spans: worked out from Ion's own, so that every process has the same without being told."""

from __future__ import annotations

import hashlib

from ion_core.events import Event
from ion_core.jobs import Attempt, Verdict, job_id


def trace_of(event: Event) -> int:
    """The id of its flow's trace: that which it came with from outside, else one of the flow's own.

    That is a digest also where the correlation id is a UUID: samplers take the low 64 bits for random.
    """
    if event.traceparent:
        return int(event.traceparent.split("-")[1], 16)
    return _digest(16, "trace", event.context.correlation_id)


def outside(event: Event) -> int:
    """The span outside that the flow came with; 0 where there is none."""
    return int(event.traceparent.split("-")[2], 16) if event.traceparent else 0


def is_sampled_outside(event: Event) -> bool | None:
    """Whether the trace that the flow came with is sampled; None where there is none."""
    return bool(int(event.traceparent.split("-")[3], 16) & 1) if event.traceparent else None


def span_that_brought(event: Event) -> int:
    """What a job for the event is below: its publishing, or where others did that, the span which they name."""
    from_others = not event.documented and not event.hops
    return (outside(event) if from_others else 0) or span_of_event(event.context.event_id)


def span_of_event(event_id: str) -> int:
    """That of an event being published, however often that is."""
    return _digest(8, "event", event_id)


def span_of_job(event_id: str, module: str) -> int:
    """That of the attempt of a job which committed: there is one, and an event of it knows no more than whose it is."""
    return _digest(8, "job", job_id(event_id, module))


def span_of_attempt(attempt: Attempt, verdict: Verdict) -> int:
    """That of an attempt which ended so."""
    if verdict is Verdict.COMMITTED:
        return span_of_job(attempt.job.event.context.event_id, attempt.job.module)
    return _digest(8, "attempt", attempt.job.id, attempt.token)


def span_of_step(attempt: Attempt, step: str) -> int:
    """That of a step of an attempt: known before it runs, however it ends, since a module makes spans below its own."""
    return _digest(8, "step", attempt.job.id, attempt.token, step)


def _digest(size: int, *parts: str) -> int:
    """So many bytes as a number that is not 0, which is no id."""
    digest = hashlib.blake2b("\0".join(parts).encode(errors="surrogatepass"), digest_size=size).digest()
    return int.from_bytes(digest, "big") or 1
