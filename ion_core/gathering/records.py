"""The documents of gathering: that a scope is waited for, what was decided, and what is not waited for any more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ion_core.contracts.storage import Document
from ion_core.events import (
    EVENT_META,
    GATHERED,
    GATHERING,
    GIVEN_UP,
    Context,
    Event,
    Pairs,
    event_meta,
    pairs_to_json,
    parse_context,
)
from ion_core.gathered import Given, Missing, Share, gathered_id, gathered_type, gathering_id
from ion_core.jobs import job_id


@dataclass(frozen=True, kw_only=True)
class Scope:
    """An event of which a gatherer has a job. ``first``: it is the first of its flow."""

    context: Context
    type: str
    first: bool

    @property
    def id(self) -> str:
        return self.context.event_id

    @property
    def flow(self) -> str:
        return self.context.correlation_id


def _context_of(scope: Context, module: str, kind: str) -> Context:
    return replace(scope, name=module, document_type=kind)


def waiting_document(scope: Scope, module: str) -> Document:
    """The document that says that the gatherer ``module`` has still to run for the scope."""
    id = gathering_id(scope.id, module)
    body = {
        "id": id,
        "context": _context_of(scope.context, module, GATHERING).to_json(),
        "type": scope.type,
        "first": scope.first,
    }
    return Document(kind=GATHERING, id=id, correlation_id=scope.flow, body=body, pending=True)


def waited_for(document: Document) -> tuple[Scope, str]:
    """The scope, and the name of the gatherer, of such a document."""
    body = document.body
    context = parse_context(body, what="gathering", problems=[])
    return Scope(context=context, type=body["type"], first=body["first"]), context.name


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a gatherer is given for a scope: decided once, and everything it has to do follows from it.

    ``data`` and ``traceparent`` are the scope's. ``hops`` is of the events that start the gatherer.
    """

    module: str
    scope: Scope
    by: str | None
    shares: tuple[Share, ...]
    missing: tuple[Missing, ...]
    hops: int
    data: Pairs = ()
    traceparent: str = ""

    @property
    def id(self) -> str:
        return gathering_id(self.scope.id, self.module)

    def to_document(self) -> Document:
        scope = self.scope
        body = {
            "id": self.id,
            "context": _context_of(scope.context, self.module, GATHERED).to_json(),
            "type": scope.type,
            "first": scope.first,
            "by": self.by,
            "shares": [it.to_json() for it in self.shares],
            "missing": [it.to_json() for it in self.missing],
            "hops": self.hops,
            "data": pairs_to_json(self.data),
            "traceparent": self.traceparent,
        }
        return Document(kind=GATHERED, id=self.id, correlation_id=scope.flow, body=body)

    @classmethod
    def from_document(cls, document: Document) -> Decision:
        body = document.body
        context = parse_context(body, what="gathered", problems=[])
        return cls(
            module=context.name,
            scope=Scope(context=context, type=body["type"], first=body["first"]),
            by=body["by"],
            shares=tuple(Share.from_json(it) for it in body["shares"]),
            missing=tuple(Missing.from_json(it) for it in body["missing"]),
            hops=body["hops"],
            data=tuple((it["key"], it["value"]) for it in body["data"]),
            traceparent=body["traceparent"],
        )

    def event_ids(self) -> Iterator[str]:
        """Of the events that start the gatherer."""
        return (gathered_id(self.scope.id, self.module, share.key) for share in self.shares)

    def events(self) -> Iterator[tuple[Event, Document]]:
        """The events that start the gatherer, each with its document."""
        for share in self.shares:
            context = Context(
                name=self.module,
                event_id=gathered_id(self.scope.id, self.module, share.key),
                correlation_id=self.scope.flow,
                parent_event_id=self.scope.id,
            )
            event = Event(
                context=context,
                type=gathered_type(self.module),
                data=self.data,
                hops=self.hops,
                documented=True,
                traceparent=self.traceparent,
            )
            given = Given(
                scope=self.scope.id, scope_type=self.scope.type, by=self.by, share=share, missing=self.missing
            )
            body = event_meta(event, ()) | {"gathered": given.to_json()}
            document = Document(kind=EVENT_META, id=context.event_id, correlation_id=self.scope.flow, body=body)
            yield event, document


DEAD, PURGED = "dead", "purged"
"""A job is a dead letter; that letter is purged."""


def given_up_document(
    event: Context, event_type: str, module: str, *, state: str, message: str, reason: str
) -> Document:
    """The document that says that a job is given up. Pending until it is as ``state`` says.

    ``message`` is the id of its message, '' where that has none.
    """
    id = job_id(event.event_id, module)
    body = {
        "id": id,
        "context": _context_of(event, module, GIVEN_UP).to_json(),
        "type": event_type,
        "state": state,
        "message": message,
        "reason": reason,
    }
    return Document(kind=GIVEN_UP, id=id, correlation_id=event.correlation_id, body=body, pending=True)
