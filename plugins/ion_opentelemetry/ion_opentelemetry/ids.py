"""The ids of traces and spans: worked out from Ion's own, so that every process has the same without being told."""

from __future__ import annotations

import hashlib

from ion_core.jobs import Attempt, Verdict, job_id


def trace_of(correlation_id: str) -> int:
    """The id of a flow's trace. A digest also where that is a UUID: samplers take the low 64 bits for random."""
    return _digest(16, "trace", correlation_id)


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


def span_of_step(attempt: int, step: str) -> int:
    """That of a step of the attempt whose span has that id."""
    return _digest(8, "step", f"{attempt:016x}", step)


def _digest(size: int, *parts: str) -> int:
    """So many bytes as a number that is not 0, which is no id."""
    digest = hashlib.blake2b("\0".join(parts).encode(errors="surrogatepass"), digest_size=size).digest()
    return int.from_bytes(digest, "big") or 1
