"""Commit records: what one job made, visible as a whole. The record is fence and outbox at once.

Its exclusive creation decides which attempt of a job counts; from it alone everything the job made can be published,
again and again, with the same ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ion_core.contracts.storage import Document
from ion_core.events import (
    COMMIT,
    EVENT_META,
    INSIGHT,
    Context,
    Event,
    Pairs,
    StoredFile,
    event_meta,
    pairs_to_json,
)
from ion_core.jobs import Attempt


@dataclass(frozen=True, kw_only=True)
class Commit:
    """What an attempt leaves behind. ``events`` are complete: ids, types, pairs, names of their ``files``.

    ``context.name`` is the module; its ``event_id`` the event the job was for, of type ``cause_type``, '' where that is
    not told. ``evaluates``: a gatherer may have waited for it. Times are ISO 8601 in UTC.
    """

    job_id: str
    context: Context
    attempt: int
    token: str
    image: str | None
    started_at: str
    committed_at: str
    files: tuple[StoredFile, ...] = ()
    insights: Pairs = ()
    events: tuple[Event, ...] = ()
    cause_type: str = ""
    evaluates: bool = False

    @property
    def owes(self) -> bool:
        """Whether there is anything to do after the record is there."""
        return bool(self.events or self.insights or self.evaluates)

    def to_document(self) -> Document:
        body: dict[str, Any] = {
            "id": self.job_id,
            "context": self.context.to_json(),
            "attempt": self.attempt,
            "token": self.token,
            "image": self.image,
            "startedAt": self.started_at,
            "committedAt": self.committed_at,
            "outputs": [file.to_json() for file in self.files],
            "insights": pairs_to_json(self.insights),
            "events": [
                {
                    "id": event.context.event_id,
                    "type": event.type,
                    "data": pairs_to_json(event.data),
                    "files": list(event.files),
                    "hops": event.hops,
                }
                for event in self.events
            ],
        }
        if found := next((event.traceparent for event in self.events if event.traceparent), ""):
            body["traceparent"] = found
        if self.evaluates:
            body |= {"eventType": self.cause_type, "evaluates": True}
        return Document(
            kind=COMMIT, id=self.job_id, correlation_id=self.context.correlation_id, body=body, pending=self.owes
        )

    @classmethod
    def from_document(cls, document: Document) -> Commit:
        body = document.body
        where = body["context"]
        context = Context(
            name=where["name"],
            event_id=where["eventId"],
            correlation_id=where["correlationId"],
            parent_event_id=where["parentEventId"],
            document_type=COMMIT,
        )
        return cls(
            job_id=document.id,
            context=context,
            attempt=body["attempt"],
            token=body["token"],
            image=body["image"],
            started_at=body["startedAt"],
            committed_at=body["committedAt"],
            files=tuple(StoredFile.from_json(item) for item in body["outputs"]),
            insights=_pairs(body["insights"]),
            events=tuple(
                Event(
                    context=_child_context(context, item["id"]),
                    type=item["type"],
                    data=_pairs(item["data"]),
                    files=tuple(item["files"]),
                    hops=item["hops"],
                    traceparent=body.get("traceparent", ""),
                )
                for item in body["events"]
            ),
            cause_type=body.get("eventType", ""),
            evaluates=body.get("evaluates") is True,
        )

    def documents(self) -> list[Document]:
        """The documents that tell of this commit: one ``eventMeta`` for each event, one ``insight`` if there is any."""
        stored = {file.name: file for file in self.files}
        correlation_id = self.context.correlation_id
        found = [
            Document(
                kind=EVENT_META,
                id=event.context.event_id,
                correlation_id=correlation_id,
                body=event_meta(event, (stored[name] for name in event.files)),
            )
            for event in self.events
        ]
        if self.insights:
            context = {**self.context.to_json(), "documentType": INSIGHT}
            body = {"id": self.job_id, "context": context, "data": pairs_to_json(self.insights)}
            found.append(Document(kind=INSIGHT, id=self.job_id, correlation_id=correlation_id, body=body))
        return found


def child_event(attempt: Attempt, file: str, *, event_type: str, data: Pairs, files: tuple[str, ...]) -> Event:
    """The event that ``out/events/<file>`` of this attempt stands for; the same for every attempt of the job."""
    cause = attempt.job.event
    context = Context(
        name=attempt.job.module,
        event_id=attempt.job.child_id(file),
        correlation_id=cause.context.correlation_id,
        parent_event_id=cause.context.event_id,
    )
    return Event(
        context=context, type=event_type, data=data, files=files, hops=cause.hops + 1, traceparent=cause.traceparent
    )


def _child_context(job: Context, event_id: str) -> Context:
    return Context(name=job.name, event_id=event_id, correlation_id=job.correlation_id, parent_event_id=job.event_id)


def _pairs(value: list[Mapping[str, str]]) -> Pairs:
    return tuple((pair["key"], pair["value"]) for pair in value)
