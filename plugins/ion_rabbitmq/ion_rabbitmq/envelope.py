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

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from ion_core.contracts.messaging import DeadLetter, Message

OURS = "ion"
REASON_BYTES = 32_000
"""Of a reason in a header: all headers of a message have to fit into one frame of 128 KiB."""


def new(topic: str, body: bytes, headers: Mapping[str, str]) -> aio_pika.Message:
    """A message as it is first published."""
    about = _cloud_event(topic, body)
    return aio_pika.Message(
        body,
        headers=_table(about, attempt=1, headers=json.dumps(dict(headers))),
        message_id=about.get("cloudEvents:id") or str(uuid.uuid4()),
        correlation_id=_correlation_id(body) or None,
        type=topic,
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


def again(message: AbstractIncomingMessage, **changes: Any) -> aio_pika.Message:
    """The same message, published once more with other words of ours; without what RabbitMQ added."""
    kept = {name: value for name, value in message.headers.items() if not name.startswith("x-") and name != OURS}
    return aio_pika.Message(
        message.body,
        headers=_table(kept, **{"attempt": attempt(message), "headers": json.dumps(headers(message)), **changes}),
        message_id=message.message_id,
        correlation_id=message.correlation_id,
        type=message.type,
        content_type=message.content_type,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


def _table(beside: Mapping[str, Any], **ours: Any) -> dict[str, Any]:
    return {**beside, OURS: ours}


def attempt(message: AbstractIncomingMessage) -> int:
    """1 for what somebody else published."""
    found = _ours(message).get("attempt", 1)
    return found if isinstance(found, int) and found > 0 else 1


def headers(message: AbstractIncomingMessage) -> dict[str, str]:
    """As given to ``publish``."""
    found: dict[str, str] = json.loads(_text(_ours(message).get("headers", "{}")))
    return found


def peeked(message: AbstractIncomingMessage) -> Message:
    return Message(body=message.body, headers=headers(message), attempt=attempt(message))


def death(reason: str, log_tail: Sequence[str]) -> dict[str, Any]:
    """What a dead letter says of itself."""
    shortened = reason.encode()[:REASON_BYTES].decode(errors="ignore")
    return {
        "id": uuid.uuid4().hex,
        "reason": shortened if shortened == reason else f"{shortened} […]",
        "log_tail": json.dumps(list(log_tail)),
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


def _ours(message: AbstractIncomingMessage) -> Mapping[str, Any]:
    found = message.headers.get(OURS)
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _event(body: bytes) -> Mapping[str, Any]:
    """The context of one of our events; empty for anything else."""
    try:
        context = json.loads(body)["context"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return {}
    return context if isinstance(context, dict) else {}


def _cloud_event(topic: str, body: bytes) -> dict[str, str]:
    context = _event(body)
    event_id, source = context.get("eventId"), context.get("name")
    if not isinstance(event_id, str) or not isinstance(source, str):
        return {}
    return {
        "cloudEvents:specversion": "1.0",
        "cloudEvents:id": event_id[:255],
        "cloudEvents:source": f"/ion/{source[:240]}",
        "cloudEvents:type": topic,
    }


def _correlation_id(body: bytes) -> str:
    found = _event(body).get("correlationId")
    return found[:60] if isinstance(found, str) and found.isascii() else ""
