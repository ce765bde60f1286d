"""What the host shows, as JSON: names in camelCase, times in UTC as ISO 8601, durations in seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ion_core.contracts.looking import Change, DeadLetterView, FileView, JobView, LetterId, Page
from ion_core.contracts.storage import Document

Json = Any
_PAIRS = ("data", "insights")


def shown(value: Any) -> Json:
    """A value of ``ion_core.contracts.looking``, or what is in one."""
    match value:
        case None | str() | bool() | int() | float():
            return value
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case timedelta():
            return value.total_seconds()
        case DeadLetterView():
            return _letter(value)
        case LetterId():
            return value._asdict()
        case Document():
            return {
                "kind": value.kind,
                "id": value.id,
                "correlationId": value.correlation_id,
                "storedAt": shown(value.stored_at),
                "body": dict(value.body),
            }
        case FileView():
            about = {"module": value.module, "eventId": value.event_id, "cameIn": value.came_in}
            return {**shown(value.file), **about}
        case Mapping():
            return {str(key): shown(it) for key, it in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        found = {_camel(it.name): _field(it.name, getattr(value, it.name)) for it in fields(value)}
        if isinstance(value, JobView):
            committed = value.committed_by
            found["committedBy"] = None if committed is None else {"attempt": committed[0], "token": committed[1]}
        return found
    assert isinstance(value, Sequence | AbstractSet), type(value)
    return [shown(it) for it in value]


def page(found: Page[Any]) -> Json:
    """``cursor`` is null where there is no further page."""
    return {"items": shown(found.items), "cursor": found.cursor, "damaged": [*found.damaged]}


def change(told: Change) -> Json:
    """Without what is not known of its kind."""
    return {key: it for key, it in shown(told).items() if it not in ("", 0, {})}


def _field(name: str, value: Any) -> Json:
    if name in _PAIRS:
        return [{"key": key, "value": text} for key, text in value]
    return shown(value)


def _letter(view: DeadLetterView) -> Json:
    letter, event = view.letter, view.event
    return {
        "queue": letter.queue,
        "id": letter.id,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "diedAt": shown(letter.died_at),
        "logTail": [*letter.log_tail],
        "taken": view.taken,
        "unreadable": view.unreadable,
        "eventId": "" if event is None else event.context.event_id,
        "correlationId": "" if event is None else event.context.correlation_id,
        "type": "" if event is None else event.type,
    }


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(it.capitalize() for it in rest)
