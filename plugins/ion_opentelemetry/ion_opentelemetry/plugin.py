"""What ion-opentelemetry registers with Ion: observers that make spans of what they are told, and modules' parents."""

from __future__ import annotations

from datetime import datetime

from ion_core.events import Event
from ion_core.hookspecs import hookimpl
from ion_core.jobs import Attempt, Outcome


@hookimpl
def ion_event_published(event: Event, at: datetime) -> None:
    from ion_opentelemetry.spans import current

    if (spans := current()) is not None:
        spans.published(event, at)


@hookimpl
def ion_job_finished(attempt: Attempt, outcome: Outcome, at: datetime) -> None:
    from ion_opentelemetry.spans import current

    if (spans := current()) is not None:
        spans.finished(attempt, outcome, at)


@hookimpl
def ion_traceparent(attempt: Attempt) -> str | None:
    from ion_opentelemetry.spans import current

    return None if (spans := current()) is None else spans.traceparent(attempt)
