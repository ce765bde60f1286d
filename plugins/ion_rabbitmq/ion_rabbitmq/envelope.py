"""What of a message travels in AMQP properties: our headers apart from others', so that they come back as given.

The header ``ion`` is a table of ours: ``attempt``, ``headers`` as given to ``publish`` (as JSON, since the names in a
table are cut at 128 characters) and, on dead letters, ``id``, ``reason``, ``log_tail`` and ``died_at``. Where others
have a header of that name ours is ``ion.1``, and so on. Beside it stand the attributes of CloudEvents' AMQP binding,
for others. RabbitMQ's own counters (``x-death``, ``x-delivery-count``) are never read: they restart, or do not exist.

What others wrote goes on as the bytes that it is, but for what RabbitMQ noted itself, or would be told to do twice.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from ion_core.contracts.messaging import DeadLetter, Message
from ion_core.errors import MessageRefused
from ion_rabbitmq import contents
from ion_rabbitmq.closed_frames import Incoming, Kept, opened
from ion_rabbitmq.properties import (
    Header,
    Properties,
    Unreadable,
    bytes_value,
    content,
    encoded,
    inner,
    number_value,
    short,
    shown,
    table,
    table_value,
    text_value,
    whole_number,
)

log = logging.getLogger(__name__)

OURS = "ion"
_OURS = re.compile(rb"ion(\.[1-9][0-9]?)?")
REASON_BYTES = 32_000
LOG_TAIL_BYTES = 64_000
"""Of a reason and a log in headers, if there is room."""
MOST_BYTES = 131_072 - 8 - 12
"""Of all properties: they have to fit into one frame of 128 KiB, beside its ends and the size of the body."""
SPARE_BYTES = 4_096
"""That reasons and logs leave free: RabbitMQ adds headers of its own where it moves a message."""
LEAST_REASON_BYTES = 512
MOST_ATTEMPTS = 2**31
MAX_PROPERTY_BYTES = 255
_WHY = {
    "rejected": "Ion could not write it again with its reason, which is in the log of `ion-core serve`",
    "expired": "its time to live ran out, which its publisher or a policy has set",
    "maxlen": "its queue was full, as a policy has set",
    "delivery_limit": (
        "it was delivered too often, for a delivery limit that a policy sets. `rabbitmqctl list_queues name "
        "effective_policy_definition` shows what is in force; `ion-core rabbitmq policies` prints what keeps it away"
    ),
}
TRACE = ("traceparent", "tracestate")
"""Headers of W3C Trace Context, which stand beside ours too, where tracers look for them."""

_JSON: Final = {"content_type": short("application/json"), "delivery_mode": bytes([aio_pika.DeliveryMode.PERSISTENT])}
"""Properties of whatever is ours."""

DONE_WITH = {b"CC", b"BCC", b"x-death", b"x-delivery-count", b"x-acquired-count"}
DONE_WITH_TOO = (b"x-first-death-", b"x-last-death-")
"""Headers that are not passed on: RabbitMQ's notes, and whom else it was to give the message to, which it has done."""
NOT_AGAIN = {"expiration", "user_id"}
"""Properties that are not passed on: a dead letter must not expire, and RabbitMQ takes no other user's name from us."""


@dataclass(frozen=True, kw_only=True)
class _Ours:
    """What the table of ours says; what is said here where there is none."""

    attempt: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)
    id: str = ""
    reason: str = ""
    log_tail: Sequence[str] = ()
    died_at: datetime | None = None
    left_out: Sequence[str] = ()
    look: str = ""
    """Who wrote it anew as it was looked at: unlike any other look."""
    properties: bytes = b""
    """All that others wrote, where that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """A message as it came: ``theirs`` without the table of ``ours``; why it cannot be read, or nothing."""

    raw_body: bytes
    theirs: Properties
    ours: _Ours
    unreadable: str = ""

    @classmethod
    def of(cls, message: AbstractIncomingMessage | Incoming) -> Envelope:
        raw = opened(message)
        try:
            properties = Properties.parsed(raw)
        except Unreadable as error:
            why = f"the properties of its message cannot be read: {error}"
            return cls(raw_body=message.body, theirs=Properties({}), ours=_Ours(properties=raw), unreadable=why)
        headers, ours = list[Header](), None
        for name, value in properties.headers:
            found = _read(value) if ours is None and _OURS.fullmatch(name) else None
            if found is None:
                headers.append((name, value))
            else:
                ours = found
        ours = ours or _Ours()
        why = ""
        if ours.properties:
            why = "the properties that its message had at first cannot be read"
        return cls(
            raw_body=message.body,
            theirs=Properties(properties.values, tuple(headers)),
            ours=ours,
            unreadable=why or contents.problem(properties.text("content_encoding"), message.body),
        )

    @property
    def body(self) -> bytes:
        """Without its content encoding, where it can be read."""
        return self.raw_body if self.unreadable else contents.plain(self.encoding, self.raw_body)

    def packed(self) -> Envelope:
        """The same with a body that is compressed, where it has no content encoding yet."""
        if self.encoding is not None:
            return self
        values = {**self.theirs.values, "content_encoding": short(contents.GZIP[0])}
        return replace(self, raw_body=contents.packed(self.raw_body), theirs=replace(self.theirs, values=values))

    @property
    def encoding(self) -> str | None:
        return self.theirs.text("content_encoding")

    @property
    def message_id(self) -> str:
        return self.theirs.text("message_id") or ""

    @property
    def key(self) -> str:
        """What tells a message and its attempt from others."""
        return _key(self.message_id, self.ours.attempt)


def _key(message_id: str, attempt: int) -> str:
    return f"{message_id}/{attempt}"


def new(topic: str, body: bytes, headers: Mapping[str, str]) -> Kept:
    """A message as it is first published. Raises MessageRefused if its headers fit into no frame."""
    context = _context(body)
    about = _cloud_event(topic, context) | {name: headers[name] for name in TRACE if name in headers}
    ours = _json(dict(headers))
    if len(ours.encode()) > MOST_BYTES - 16_384:
        raise MessageRefused(f"topic {topic!r}: its headers are larger than a frame of AMQP. Pass less in headers.")
    words = table_value([(b"attempt", number_value(1)), (b"headers", text_value(ours))])
    texts = [(name.encode(), text_value(text)) for name, text in about.items()]
    values = {"headers": table([*texts, (OURS.encode(), words)]), "type": short(topic)}
    if (correlation_id := _property(context.get("correlationId"))) is not None:
        values["correlation_id"] = short(correlation_id)
    return _fresh(body, _message_id(context.get("eventId")), values)


def letter(dead: DeadLetter) -> tuple[str, Kept]:
    """A dead letter that was kept elsewhere, and the id that it has from now on."""
    event_id = _message_id(_context(dead.body).get("eventId"))
    theirs = Properties({**_JSON, "message_id": short(event_id)})
    envelope = Envelope(
        raw_body=dead.body, theirs=theirs, ours=_Ours(attempt=max(dead.attempts, 1), headers=dead.headers)
    )
    words = death(dead.reason, dead.log_tail) | {"died_at": dead.died_at.astimezone(UTC).isoformat()}
    return words["id"], written(envelope, **words)


def record(body: bytes, message_id: str) -> Kept:
    """A message of ours that is no event."""
    return _fresh(body, message_id, {})


def _fresh(body: bytes, message_id: str, values: Mapping[str, bytes]) -> Kept:
    """Persistent JSON, with ``values`` beside."""
    raw = encoded({**values, **_JSON, "message_id": short(message_id)})
    return Kept(body, lambda most: raw, most=MOST_BYTES, key=_key(message_id, 1), message_id=message_id)


def again(message: AbstractIncomingMessage, **changes: Any) -> Kept:
    """The same message, published once more with other words of ours; without what RabbitMQ added.

    ``changes`` are the words of ``death``, ``attempt`` and ``look``.
    """
    return written(Envelope.of(message), **changes)


def moved(message: AbstractIncomingMessage, **changes: Any) -> Kept:
    """The same message for another queue, with all that is ours on it but for the ``changes``."""
    envelope = Envelope.of(message)
    return written(envelope, **_words(envelope.ours), **changes)


def written(envelope: Envelope, **changes: Any) -> Kept:
    """See ``again``."""
    ours = envelope.ours
    kept = {name: value for name, value in envelope.theirs.values.items() if name not in NOT_AGAIN}
    kept["delivery_mode"] = bytes([aio_pika.DeliveryMode.PERSISTENT])
    theirs = [header for header in envelope.theirs.headers if not _is_done_with(header[0])]
    words = {"attempt": ours.attempt, "headers": _json(dict(ours.headers)), **changes}
    key = _key(envelope.message_id, words["attempt"])
    if ours.properties:
        words["properties"] = ours.properties
    return Kept(envelope.raw_body, lambda most: _Table(kept, theirs, words, most).encoded(), most=MOST_BYTES, key=key)


class _Table:
    """Properties of others and words of ours, of which the longest give way where both fit into no frame."""

    def __init__(self, values: Mapping[str, bytes], theirs: list[Header], words: dict[str, Any], most: int) -> None:
        self._values, self._theirs, self._words, self._most = values, list(theirs), words, most

    def encoded(self) -> bytes:
        words = dict(self._words)
        reason, tail = words.pop("reason", None), words.pop("log_tail", None)
        room = self._make_room(words, LEAST_REASON_BYTES if reason is not None else 0)
        if reason is not None:
            words["reason"] = _shortened(reason, min(REASON_BYTES, max(room - SPARE_BYTES, LEAST_REASON_BYTES - 64)))
            room = self._room(words)
            words["log_tail"] = _last_lines(tail or (), min(LOG_TAIL_BYTES, room - SPARE_BYTES))
        return self._properties(words).encoded()

    def _make_room(self, words: dict[str, Any], least: int) -> int:
        """How many bytes are left beside ``words``. The largest headers of others go where that is less than needed."""
        gone: list[str] = list(words.get("left_out", ()))
        while (room := self._room(words)) < least and self._theirs:
            largest = max(self._theirs, key=lambda header: len(header[1]))
            self._theirs.remove(largest)
            gone.append(shown(largest[0]))
            words["left_out"] = gone
            log.warning(
                "a header of %s bytes was left out of a message: beside it nothing of ours fits into a frame",
                f"{len(largest[1]):,}",
                extra={"header": gone[-1]},
            )
        return room

    def _room(self, words: Mapping[str, Any]) -> int:
        return self._most - len(self._properties(words).encoded()) - 32  # names of the words that may follow

    def _properties(self, words: Mapping[str, Any]) -> Properties:
        taken = {name for name, _ in self._theirs}
        names = itertools.chain([b"ion"], (b"ion.%d" % n for n in itertools.count(1)))
        name = next(name for name in names if name not in taken)
        ours = table_value((key.encode(), _value(word)) for key, word in words.items())
        return Properties(self._values, (*self._theirs, (name, ours)))


def _value(word: Any) -> bytes:
    if isinstance(word, int):
        return number_value(min(word, MOST_ATTEMPTS))
    if isinstance(word, bytes):
        return bytes_value(word)
    return text_value(word if isinstance(word, str) else _json(word))


def _is_done_with(name: bytes) -> bool:
    return name in DONE_WITH or name.startswith(DONE_WITH_TOO)


def _read(value: bytes) -> _Ours | None:
    """The table of ours, whole; None for one that only has its name."""
    try:
        words = inner(value)
        attempt = whole_number(words.get(b"attempt", b""))
        headers = json.loads(_text(words, b"headers"))
        log_tail = json.loads(_text(words, b"log_tail")) if b"log_tail" in words else []
        left_out = json.loads(_text(words, b"left_out")) if b"left_out" in words else []
        died_at = _text(words, b"died_at", "")
        found = _Ours(
            attempt=attempt or 0,
            headers=headers,
            id=_text(words, b"id", ""),
            reason=_text(words, b"reason", ""),
            log_tail=tuple(log_tail),
            died_at=datetime.fromisoformat(died_at) if died_at else None,
            left_out=tuple(left_out),
            look=_text(words, b"look", ""),
            properties=content(words.get(b"properties")) or b"",
        )
    except (ValueError, TypeError, RecursionError):  # not JSON, no UTF-8, no date, no such table
        return None
    texts = [*found.log_tail, *found.left_out]
    fits = isinstance(headers, dict) and isinstance(log_tail, list) and isinstance(left_out, list)
    if not fits or found.attempt < 1 or (found.died_at is not None and found.died_at.tzinfo is None):
        return None
    return found if all(isinstance(it, str) for it in (*texts, *headers, *headers.values())) else None


def _text(words: Mapping[bytes, bytes], name: bytes, without: str | None = None) -> str:
    """Raises ValueError for what is no text, or not there."""
    found = content(words.get(name))
    if found is None:
        if name in words or without is None:
            raise ValueError(f"{name!r} is no text")
        return without
    return found.decode()


def _words(ours: _Ours) -> dict[str, Any]:
    """As they were written."""
    words: dict[str, Any] = {}
    if ours.id:
        words = {"id": ours.id, "reason": ours.reason, "log_tail": ours.log_tail}
    if ours.died_at is not None:
        words["died_at"] = ours.died_at.isoformat()
    if ours.left_out:
        words["left_out"] = ours.left_out
    return words


def deliveries(message: AbstractIncomingMessage | Incoming) -> int:
    """How often RabbitMQ has counted that it was given back, where it counts."""
    return whole_number(Envelope.of(message).theirs.header(b"x-delivery-count") or b"") or 0


def peeked(message: AbstractIncomingMessage) -> Message:
    envelope = Envelope.of(message)
    return Message(body=envelope.body, headers=envelope.ours.headers, attempt=envelope.ours.attempt)


def death(reason: str, log_tail: Sequence[str]) -> dict[str, Any]:
    """What a dead letter says of itself."""
    return {
        "id": uuid.uuid4().hex,
        "died_at": datetime.now(UTC).isoformat(),
        "reason": reason,
        "log_tail": log_tail,
    }


def _shortened(text: str, most: int) -> str:
    raw = text.encode("utf-8", "backslashreplace")
    return text if len(raw) <= most else f"{raw[:most].decode(errors='ignore')} […]"


def _last_lines(lines: Sequence[str], most: int) -> list[str]:
    """As many as fit, in JSON."""
    tail = list(lines)
    while tail and len(_json(tail).encode("utf-8", "backslashreplace")) > most:
        del tail[: len(tail) // 10 + 1]
    return tail


def dead_letter(message: AbstractIncomingMessage, queue: str) -> DeadLetter:
    """Also of what RabbitMQ dead-lettered by itself, beyond its delivery limit."""
    envelope = Envelope.of(message)
    ours = envelope.ours
    reason = ours.reason or _reason_of_rabbitmq(envelope.theirs)
    if ours.left_out:
        reason += f" (no room was left for the headers {', '.join(ours.left_out)} of its message)"
    return DeadLetter(
        id=letter_id(message),
        queue=queue,
        body=envelope.body,
        headers=ours.headers,
        reason=reason,
        attempts=ours.attempt,
        log_tail=ours.log_tail,
        died_at=ours.died_at or _time_of_rabbitmq(envelope.theirs),
    )


def _reason_of_rabbitmq(properties: Properties) -> str:
    """Why RabbitMQ made it a dead letter, by its newest note."""
    newest = _newest_death(properties)
    if not newest:
        return "put among the dead letters by somebody else than Ion, without a reason"
    why = (content(newest.get(b"reason")) or b"").decode(errors="replace")
    return f"dead-lettered by RabbitMQ: {_WHY.get(why, 'delivered too often, or by a policy')}"


def _time_of_rabbitmq(properties: Properties) -> datetime:
    """When it did, by its clock, in full seconds; now, where it does not say."""
    time = _newest_death(properties).get(b"time", b"")
    seconds = int.from_bytes(time[1:]) if time[:1] == b"T" else 0
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds else datetime.now(UTC)
    except (ValueError, OverflowError, OSError):  # somebody else's note
        return datetime.now(UTC)


def _newest_death(properties: Properties) -> Mapping[bytes, bytes]:
    """The first of RabbitMQ's notes, if there is any."""
    found = properties.header(b"x-death") or b""
    try:
        return inner(found[5:]) if found[:1] == b"A" else {}
    except Unreadable:
        return {}


def is_letter(message: AbstractIncomingMessage) -> bool:
    """Whether Ion made it a dead letter, or has adopted it."""
    return bool(Envelope.of(message).ours.id)


def look_of(message: AbstractIncomingMessage) -> str:
    """The look that has written it anew; '' for none."""
    return Envelope.of(message).ours.look


def adoption(message: AbstractIncomingMessage) -> dict[str, Any]:
    """The words of ours for what RabbitMQ dead-lettered: an id that no other one has, its reason and its time."""
    theirs = Envelope.of(message).theirs
    return {
        "id": uuid.uuid4().hex,
        "reason": _reason_of_rabbitmq(theirs),
        "log_tail": (),
        "died_at": _time_of_rabbitmq(theirs).isoformat(),
    }


def letter_id(message: AbstractIncomingMessage) -> str:
    """Of one that is not adopted yet, the message's own, or one that its body gives."""
    envelope = Envelope.of(message)
    return envelope.ours.id or envelope.message_id or hashlib.sha256(message.body).hexdigest()[:32]


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
