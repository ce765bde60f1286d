"""A flow as services are shown it: the contract's frozen values, made of what was read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from ion_core.contracts.looking import AttemptView, EventView, FlowSummary, FlowView, JobState, JobView
from ion_core.flows.flow import AttemptSeen, EventSeen, Flow, JobSeen
from ion_core.flows.short import FlowInShort, parsed


def summary_of(flow: FlowInShort) -> FlowSummary:
    return FlowSummary(
        correlation_id=flow.correlation_id,
        outcome=flow.outcome,
        over=flow.over,
        events=flow.events,
        jobs=dict(flow.jobs),
        failing=tuple(flow.failing),
        event_id=flow.event_id,
        type=flow.type,
        data=tuple(flow.data),
        files=tuple(flow.files),
        started_at=parsed(flow.started_at),
        finished_at=parsed(flow.finished_at),
    )


def view_of(flow: Flow, short: FlowInShort, damaged: Iterable[str]) -> FlowView:
    """All of it; ``short`` is the same in short, settled."""
    events = list(flow.events())
    return FlowView(
        summary=summary_of(short),
        events=[_event(it) for it in events],
        jobs=[_job(it.id, job) for it in events for job in it.jobs.values()],
        damaged=sorted(damaged),
    )


def _event(event: EventSeen) -> EventView:
    return EventView(
        event_id=event.id,
        type=event.type,
        name=event.name,
        parent_event_id=event.parent,
        data=tuple(event.pairs),
        files=tuple(event.files),
        gathered=tuple(event.gathered),
    )


def _job(event_id: str, job: JobSeen) -> JobView:
    return JobView(
        event_id=event_id,
        module=job.module,
        state=cast(JobState, job.state),
        attempts=[attempt_of(it) for it in sorted(job.attempts, key=lambda it: (it.finished_at, it.number))],
        committed_by=job.committed_by,
        insights=tuple(job.pairs),
        events=[it.id for it in job.events],
        formerly=tuple(job.then),
    )


def attempt_of(attempt: AttemptSeen) -> AttemptView:
    return AttemptView(
        number=attempt.number,
        token=attempt.token,
        outcome=attempt.outcome,
        reason=attempt.reason,
        started_at=parsed(attempt.started_at),
        finished_at=parsed(attempt.finished_at),
        seconds=dict(attempt.seconds),
    )
