"""What of a message travels in AMQP properties: our headers apart from others', so that they come back as given.

The header ``ion`` is a table of ours: ``attempt``, ``headers`` as given to ``publish`` (as JSON, since the names in a
table are cut at 128 characters) and, on dead letters, ``id``, ``reason``, ``log_tail`` and ``died_at``. Beside it stand
the attributes of CloudEvents' AMQP binding, for others. RabbitMQ's own counters (``x-death``, ``x-delivery-count``) are
never read: they restart, or do not exist.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import aio_pika
from aio_pika.abc import AbstractIncomingMessage, AbstractMessage

from ion_core.contracts.messaging import DeadLetter, Message

OURS = "ion"
REASON_BYTES = 32_000
LOG_TAIL_BYTES = 64_000
"""Of a reason and a log in headers: all headers of a message have to fit into one frame of 128 KiB."""
MAX_PROPERTY_BYTES = 255
TRACE = ("traceparent", "tracestate")
"""Headers of W3C Trace Context, which stand beside ours too, where tracers look for them."""


def new(topic: str, body: bytes, headers: Mapping[str, str]) -> aio_pika.Message:
    """A message as it is first published."""
    context = _context(body)
    about = _cloud_event(topic, context) | {name: headers[name] for name in TRACE if name in headers}
    return aio_pika.Message(
        body,
        headers=_table(about, attempt=1, headers=_json(dict(headers))),
        message_id=_message_id(context.get("eventId")),
        correlation_id=_property(context.get("correlationId")),
        type=topic,
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


def again(message: AbstractIncomingMessage, **changes: Any) -> aio_pika.Message:
    """The same message, published once more with other words of ours; without what RabbitMQ added."""
    kept = {name: value for name, value in message.headers.items() if not name.startswith("x-") and name != OURS}
    return aio_pika.Message(
        message.body,
        headers=_table(kept, **{"attempt": attempt(message), "headers": _json(headers(message)), **changes}),
        message_id=message.message_id,
        correlation_id=message.correlation_id,
        type=message.type,
        content_type=message.content_type,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


def _table(beside: Mapping[str, Any], **ours: Any) -> dict[str, Any]:
    return {**beside, OURS: ours}


def attempt(message: AbstractMessage) -> int:
    """1 for what somebody else published."""
    found = _ours(message).get("attempt", 1)
    return found if isinstance(found, int) and found > 0 else 1


def headers(message: AbstractIncomingMessage) -> dict[str, str]:
    """As given to ``publish``."""
    found: dict[str, str] = json.loads(_text(_ours(message).get("headers", "{}")))
    return found


def key(message: AbstractMessage) -> str:
    """What tells a message and its attempt from others."""
    return f"{message.message_id}/{attempt(message)}"


def peeked(message: AbstractIncomingMessage) -> Message:
    return Message(body=message.body, headers=headers(message), attempt=attempt(message))


def death(reason: str, log_tail: Sequence[str]) -> dict[str, Any]:
    """What a dead letter says of itself."""
    shortened = reason.encode()[:REASON_BYTES].decode(errors="ignore")
    tail = list(log_tail)
    while len(_json(tail).encode()) > LOG_TAIL_BYTES:
        del tail[: len(tail) // 10 + 1]
    return {
        "id": uuid.uuid4().hex,
        "reason": shortened if shortened == reason else f"{shortened} […]",
        "log_tail": _json(tail),
        "died_at": datetime.now(UTC).isoformat(),
    }


def dead_letter(message: AbstractIncomingMessage, queue: str) -> DeadLetter:
    """Also of what RabbitMQ dead-lettered by itself, beyond its delivery limit."""
    ours = _ours(message)
    died_at = ours.get("died_at")
    return DeadLetter(
        id=letter_id(message),
        queue=queue,
        body=message.body,
        headers=headers(message),
        reason=_text(ours.get("reason", "dead-lettered by RabbitMQ: delivered too often, or by a policy")),
        attempts=attempt(message),
        log_tail=tuple(json.loads(_text(ours.get("log_tail", "[]")))),
        died_at=datetime.fromisoformat(_text(died_at)) if died_at else datetime.now(UTC),
    )


def letter_id(message: AbstractIncomingMessage) -> str:
    return _text(_ours(message).get("id") or message.message_id or "")


def _ours(message: AbstractMessage) -> Mapping[str, Any]:
    found = message.headers.get(OURS)
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _context(body: bytes) -> Mapping[str, Any]:
    """That of one of our events; empty for anything else."""
    try:
        context = json.loads(body)["context"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return {}
    return context if isinstance(context, dict) else {}


def _cloud_event(topic: str, context: Mapping[str, Any]) -> dict[str, str]:
    event_id, source = context.get("eventId"), context.get("name")
    if not isinstance(event_id, str) or not isinstance(source, str):
        return {}
    return {
        "cloudEvents:specversion": "1.0",
        "cloudEvents:id": event_id,
        "cloudEvents:source": f"/ion/{quote(source)}",
        "cloudEvents:type": topic,
    }


def _message_id(event_id: object) -> str:
    """The event's own, or where that is too long for a property always the same one; a new one for what is no event."""
    if not isinstance(event_id, str) or not event_id:
        return str(uuid.uuid4())
    return _property(event_id) or str(uuid.uuid5(uuid.NAMESPACE_OID, event_id))


def _property(text: object) -> str | None:
    """As a property of AMQP, if it can be one: a longer one is left out, never cut to look like another."""
    return text if isinstance(text, str) and 0 < len(text.encode()) <= MAX_PROPERTY_BYTES else None
