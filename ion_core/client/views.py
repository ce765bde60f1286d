"""What a console answers, as the values of ``ion_core.contracts.looking`` that it was made of.

Each raises KeyError, TypeError, ValueError or AttributeError for what is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ion_core.contracts.looking import AttemptView, EventView, FlowSummary, FlowView, JobView
from ion_core.contracts.storage import Document
from ion_core.events import Pairs, StoredFile
from ion_core.flows import DONE, RUNNING, FileOfFlow

Json = Mapping[str, Any]


def summary(it: Json) -> FlowSummary:
    """A flow that is not over is running, though nothing of it be in a queue at this moment."""
    return FlowSummary(
        correlation_id=it["correlationId"],
        outcome=RUNNING if it["outcome"] == DONE and not it["over"] else it["outcome"],
        over=it["over"],
        events=it["events"],
        jobs=dict(it["jobs"]),
        failing=tuple(it["failing"]),
        event_id=it["eventId"],
        type=it["type"],
        data=_pairs(it["data"]),
        files=tuple(it["files"]),
        started_at=_time(it["startedAt"]),
        finished_at=_time(it["finishedAt"]),
    )


def flow(it: Json) -> FlowView:
    return FlowView(
        summary=summary(it["summary"]),
        events=[_event(event) for event in it["events"]],
        jobs=[_job(job) for job in it["jobs"]],
        damaged=[*it["damaged"]],
    )


def file(it: Json) -> FileOfFlow:
    return FileOfFlow(file=StoredFile.from_json(it), module=it["module"], event_id=it["eventId"], came_in=it["cameIn"])


def document(it: Json) -> Document:
    return Document(
        kind=it["kind"],
        id=it["id"],
        correlation_id=it["correlationId"],
        body=dict(it["body"]),
        stored_at=_time(it["storedAt"]),
    )


def _event(it: Json) -> EventView:
    return EventView(
        event_id=it["eventId"],
        type=it["type"],
        name=it["name"],
        parent_event_id=it["parentEventId"],
        data=_pairs(it["data"]),
        files=tuple(it["files"]),
        gathered=tuple(it.get("gathered", ())),
    )


def _job(it: Json) -> JobView:
    committed = it["committedBy"]
    return JobView(
        event_id=it["eventId"],
        module=it["module"],
        state=it["state"],
        attempts=[_attempt(attempt) for attempt in it["attempts"]],
        committed_by=None if committed is None else (committed["attempt"], committed["token"]),
        insights=_pairs(it["insights"]),
        events=[*it["events"]],
        formerly=tuple(it["formerly"]),
    )


def _attempt(it: Json) -> AttemptView:
    return AttemptView(
        number=it["number"],
        token=it["token"],
        outcome=it["outcome"],
        reason=it["reason"],
        started_at=_time(it["startedAt"]),
        finished_at=_time(it["finishedAt"]),
        seconds=dict(it["seconds"]),
    )


def _pairs(given: list[Json]) -> Pairs:
    return tuple((it["key"], it["value"]) for it in given)


def _time(given: str | None) -> datetime | None:
    return None if given is None else datetime.fromisoformat(given)
