"""A flow in short: how it stands, what it began with, and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ion_core.contracts.looking import FlowState
from ion_core.events import pairs_to_json
from ion_core.flows.flow import COMMITTED, DEAD_LETTERED, GONE, PENDING, Flow

Outcome = FlowState
DEAD: Outcome = "dead"
FAILED: Outcome = "failed"
RUNNING: Outcome = "running"
DONE: Outcome = "done"


@dataclass(kw_only=True)
class FlowInShort:
    """``jobs`` counts them by state; times are ISO 8601, '' where no job has begun.

    ``waits`` names the modules of jobs that have not begun: whether their queues have anything is for ``settle`` to
    say, which takes those out that wait for nothing, such as a module that came later than the event.
    """

    correlation_id: str
    event_id: str
    type: str
    data: Sequence[tuple[str, str]] = ()
    files: Sequence[str] = ()
    events: int = 0
    jobs: Mapping[str, int] = field(default_factory=dict)
    modules: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    failing: Sequence[str] = ()
    waits: frozenset[str] = frozenset()
    begun: int = 0
    started_at: str = ""
    finished_at: str = ""

    @classmethod
    def of(cls, flow: Flow) -> FlowInShort:
        events, jobs = list(flow.events()), list(flow.jobs())
        attempts = [attempt for job in jobs for attempt in job.attempts]
        first = flow.roots[0]
        pending = [job for job in jobs if job.state == PENDING]
        bad = [job.module for job in jobs if job.state not in (COMMITTED, PENDING)]
        return cls(
            correlation_id=flow.correlation_id,
            event_id=first.id,
            type=first.type,
            data=first.pairs,
            files=first.files,
            events=len(events),
            jobs=Counter(job.state for job in jobs),
            modules=frozenset(job.module for job in jobs),
            types=frozenset(event.type for event in events),
            failing=list(dict.fromkeys(bad)),
            waits=frozenset(job.module for job in pending if not job.attempts),
            begun=sum(1 for job in pending if job.attempts),
            started_at=min((it.started_at for it in attempts if it.started_at), default=""),
            finished_at=max((it.finished_at for it in attempts if it.finished_at), default=""),
        )

    @property
    def over(self) -> bool:
        """Whether each of its jobs has committed, or was given up. What waits in no queue any more is not over."""
        return self.jobs.keys() <= {COMMITTED, DEAD_LETTERED, GONE}

    @property
    def outcome(self) -> Outcome:
        """The worst of its jobs: ``dead`` was given up, ``failed`` failed and is to be tried again; then ``running``.

        ``done`` is what has nothing of these.
        """
        if self.jobs.get(DEAD_LETTERED):
            return DEAD
        if self.failing:
            return FAILED
        return RUNNING if self.begun or self.waits else DONE

    def is_since(self, then: datetime) -> bool:
        ended = parsed(self.finished_at)
        return ended is None or ended >= then

    def to_json(self) -> dict[str, Any]:
        return {
            "correlationId": self.correlation_id,
            "eventId": self.event_id,
            "type": self.type,
            "outcome": self.outcome,
            "events": self.events,
            "jobs": dict(self.jobs),
            "failing": list(self.failing),
            "data": pairs_to_json(self.data),
            "files": list(self.files),
            "startedAt": self.started_at or None,
            "finishedAt": self.finished_at or None,
        }


def parsed(time: Any) -> datetime | None:
    """A time of a document; None for what is none, such as one of another making."""
    try:
        return datetime.fromisoformat(time).astimezone(UTC) if isinstance(time, str) else None
    except ValueError:
        return None
