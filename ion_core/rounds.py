"""Round records: of several messages of one event, the one whose failed attempts count.

A publish whose answer was lost is made again, so a queue may hold an event more than once. As the commit record decides
which attempt counts, the round record decides which message goes on being tried and becomes the dead letter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from ion_core.contracts.storage import Document
from ion_core.events import ROUND, Context, parse_context
from ion_core.jobs import Attempt

RETRYING, DEAD = "retrying", "dead"


@dataclass(frozen=True, kw_only=True)
class Round:
    """Which ``message`` of a job has failed, at which ``attempt`` last, and when it is tried again: None if it is dead.

    ``context.name`` is the module; its ``event_id`` the event the job is for. Times know their zone.
    """

    job_id: str
    context: Context
    message: str
    attempt: int
    reason: str
    failed_at: datetime
    next_at: datetime | None

    @classmethod
    def of(cls, attempt: Attempt, *, reason: str, failed_at: datetime, next_at: datetime | None) -> Round:
        job = attempt.job
        return cls(
            job_id=job.id,
            context=replace(job.event.context, name=job.module, document_type=ROUND),
            message=attempt.message,
            attempt=attempt.number,
            reason=reason,
            failed_at=failed_at,
            next_at=next_at,
        )

    def to_document(self) -> Document:
        """Without a time that ``gc`` goes by: it is replaced, and stays where it was first stored."""
        body = {
            "id": self.job_id,
            "context": self.context.to_json(),
            "message": self.message,
            "attempt": self.attempt,
            "state": DEAD if self.next_at is None else RETRYING,
            "reason": self.reason,
            "failedAt": self.failed_at.isoformat(timespec="milliseconds"),
            "nextAttemptAt": "" if self.next_at is None else self.next_at.isoformat(timespec="milliseconds"),
        }
        return Document(kind=ROUND, id=self.job_id, correlation_id=self.context.correlation_id, body=body)

    @classmethod
    def from_document(cls, document: Document) -> Round:
        body = document.body
        return cls(
            job_id=document.id,
            context=parse_context(body, what="round record", problems=[]),
            message=body["message"],
            attempt=body["attempt"],
            reason=body["reason"],
            failed_at=datetime.fromisoformat(body["failedAt"]),
            next_at=datetime.fromisoformat(body["nextAttemptAt"]) if body["nextAttemptAt"] else None,
        )
