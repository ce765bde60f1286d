"""Events and their documents: frozen data, parse and encode, no I/O.

Shapes and names are the module contract's (``docs/module-contract.md`` §2) and older than this code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ion_core import strict_json
from ion_core.errors import InvalidEvent
from ion_core.words import counted

MAX_EVENT_BYTES = 256 * 1024
"""Of an event as a module writes it."""
MAX_MESSAGE_BYTES = 2 * MAX_EVENT_BYTES
"""Of an event on the wire: the same pairs with a context around them."""
MAX_TYPE_LENGTH = 128
MAX_ID_LENGTH = 1024
MAX_HOPS = 64
"""An event that is this many modules away from the one that started its flow starts no further."""

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})(-.*)?")
_TYPE = r"[a-z0-9]+([._-][a-z0-9]+)*"

EVENT_META = "eventMeta"
INSIGHT = "insight"
MODULE_LOGS = "modulelogs"
COMMIT = "commit"
FAILURE = "failure"
"""Of a job whose last attempt failed; gone once it has committed, unless that was the first attempt after a redrive."""
ROUND = "round"
"""Which of the messages of an event has failed, and is tried again or is the dead letter."""

GATHERING = "gathering"
"""Of a scope and a gatherer: pending until all beneath the scope is done, and the gatherer's events are published."""
GATHERED = "gathered"
"""Which events a gatherer is given for a scope: decided once."""
GIVEN_UP = "givenUp"
"""Of a job whose dead letter was purged: no gatherer waits for it. Pending while it is being purged."""

GATHERED_TYPE = "ion.gathered."
"""Beginning of the types of events that start gatherers: Ion makes them, nobody else may."""

Pairs = tuple[tuple[str, str], ...]
"""Key and value, both text, order kept, a key may be there more than once; read as a map the last one wins."""


def type_problem(event_type: str) -> str | None:
    """What is wrong with an event type, or None."""
    if len(event_type) > MAX_TYPE_LENGTH:
        return f"event type is {counted(len(event_type), 'character')} long, {MAX_TYPE_LENGTH} are allowed"
    if not re.fullmatch(_TYPE, event_type):
        return (
            f"event type {event_type[:80]!r} must be lower-case letters and digits, parts joined by single "
            '".", "_" or "-", such as photo.received'
        )
    return None


def checked_traceparent(said: str) -> str:
    """A ``traceparent`` as W3C Trace Context has it, in the form of its version 00; '' for what is none.

    Of a later version what is as in that one is taken, as the standard says.
    """
    found = _TRACEPARENT.fullmatch(said.strip(" \t"))
    if found is None or found[1] == "ff" or (found[1] == "00" and found[3]):
        return ""
    trace_id, span_id, _ = found[2].split("-")
    return f"00-{found[2]}" if trace_id.strip("0") and span_id.strip("0") else ""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where a document belongs. ``name`` is the producing module; ``parent_event_id`` '' for what starts a flow."""

    name: str
    event_id: str
    correlation_id: str
    parent_event_id: str = ""
    document_type: str = EVENT_META

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "eventId": self.event_id,
            "correlationId": self.correlation_id,
            "parentEventId": self.parent_event_id,
            "documentType": self.document_type,
        }


@dataclass(frozen=True, kw_only=True)
class Event:
    """A fact: type, context and what is passed on with it. ``files`` are names in the next module's ``in/data``.

    ``hops`` counts the modules between the first event of the flow and this one. ``documented`` says that its document
    was stored before it was published; it says nothing of the event itself, so that equal events may differ in it.
    Nor does ``traceparent``: the trace that the flow came with from outside, as ``checked_traceparent`` has it, '' if
    none. All events of the flow have that one, with the span which caused the first.
    """

    context: Context
    type: str
    data: Pairs = ()
    files: tuple[str, ...] = field(default=())
    hops: int = 0
    documented: bool = field(default=False, compare=False)
    traceparent: str = field(default="", compare=False)

    def to_wire(self) -> dict[str, Any]:
        """The event as it travels: what happened and, of its data, what fits a message."""
        wire: dict[str, Any] = {"context": self.context.to_json(), "type": self.type}
        if self.data:
            wire["data"] = pairs_to_json(self.data)
        return wire


def file_name(entry: str) -> str:
    """The name that an entry of ``files`` means: no blanks around it, nor the ``./`` that ``find .`` puts first."""
    name = entry.strip()
    while name.startswith("./"):
        name = name[2:]
    return name


def pairs_to_json(pairs: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in pairs]


def parse_pairs(value: Any, *, what: str, problems: list[str]) -> Pairs:
    """``[{"key": …, "value": …}, …]`` as pairs; everything wrong is added to ``problems`` with its path."""
    if not isinstance(value, list):
        problems.append(f'{what}: must be an array of {{"key": "…", "value": "…"}} (got {_kind(value)})')
        return ()
    pairs: list[tuple[str, str]] = []
    for n, item in enumerate(value):
        if not isinstance(item, dict):
            problems.append(f'{what}[{n}]: must be an object {{"key": "…", "value": "…"}} (got {_kind(item)})')
            continue
        good = True
        for name in ("key", "value"):
            if not isinstance(item.get(name), str):
                given = f"got {_kind(item[name])}" if name in item else "it is missing"
                problems.append(f"{what}[{n}].{name}: must be a string ({given})")
                good = False
        for name in sorted(item.keys() - {"key", "value"}):
            problems.append(f'{what}[{n}].{name[:80]}: unknown; a pair has "key" and "value" only')
            good = False
        if good:
            pairs.append((item["key"], item["value"]))
    return tuple(pairs)


def read_pairs(raw: bytes, *, what: str, limit: int = MAX_EVENT_BYTES) -> Pairs:
    """The pairs in a file. Raises InvalidEvent with every problem and its path in the document."""
    problems: list[str] = []
    pairs = parse_pairs(strict_json.loads(raw, what=what, limit=limit), what=what, problems=problems)
    if problems:
        raise InvalidEvent(problems)
    return pairs


_CONTEXT = {
    "name": "name",
    "eventId": "event_id",
    "correlationId": "correlation_id",
    "parentEventId": "parent_event_id",
    "documentType": "document_type",
}
_REQUIRED = {"name", "eventId", "correlationId"}


def parse_context(value: Mapping[str, Any], *, what: str, problems: list[str]) -> Context:
    """The context of a document: nested under ``context``, or flat as the oldest documents have it."""
    nested = value.get("context", value)
    if not isinstance(nested, Mapping):
        problems.append(f"{what}.context: must be an object (got {_kind(nested)})")
        nested = dict.fromkeys(_REQUIRED, "-")
    found: dict[str, str] = {}
    for name, attribute in _CONTEXT.items():
        item = nested.get(name, "")
        if not isinstance(item, str):
            problems.append(f"{what}.context.{name}: must be a string (got {_kind(item)})")
        elif name in _REQUIRED and not item:
            problems.append(f"{what}.context.{name}: is required")
        elif len(item) > MAX_ID_LENGTH:
            problems.append(
                f"{what}.context.{name}: is {counted(len(item), 'character')} long, {MAX_ID_LENGTH:,} are allowed"
            )
        else:
            found[attribute] = item
    found.setdefault("name", "-")
    found.setdefault("event_id", "-")
    found.setdefault("correlation_id", "-")
    found["document_type"] = found.get("document_type") or EVENT_META
    return Context(**found)


def parse_event(
    raw: bytes, *, what: str = "event", hops: int = 0, documented: bool = False, traceparent: str = ""
) -> Event:
    """An event from the wire. Raises InvalidEvent with every problem and its path in the document.

    ``hops``, ``documented`` and ``traceparent`` are what its headers say: they travel beside it.
    """
    value = strict_json.loads(raw, what=what, limit=MAX_MESSAGE_BYTES)
    if not isinstance(value, dict):
        raise InvalidEvent(f'{what}: must be an object {{"context": …, "type": …}} (got {_kind(value)})')
    problems: list[str] = []
    context = parse_context(value, what=what, problems=problems)
    event_type = value.get("type")
    if not isinstance(event_type, str):
        problems.append(
            f"{what}.type: must be a string ({'it is missing' if event_type is None else 'got ' + _kind(event_type)})"
        )
        event_type = "-"
    elif problem := type_problem(event_type):
        problems.append(f"{what}.type: {problem}")
    data: Pairs = ()
    if value.get("data") is not None:
        data = parse_pairs(value["data"], what=f"{what}.data", problems=problems)
    if problems:
        raise InvalidEvent(problems)
    return Event(context=context, type=event_type, data=data, hops=hops, documented=documented, traceparent=traceparent)


def differences(stored: Event, other: Event) -> list[str]:
    """What ``other`` says otherwise of type and data than ``stored``, in words without any value; empty if nothing."""
    found = []
    if stored.type != other.type:
        found.append(f"its type is {stored.type[:80]!r}, not {other.type[:80]!r}")
    if stored.data != other.data:
        before, after = _by_key(stored.data), _by_key(other.data)
        for key in dict.fromkeys([*before, *after]):
            if key not in after:
                found.append(f"data {key[:80]!r} is missing")
            elif key not in before:
                found.append(f"data {key[:80]!r} is new")
            elif before[key] != after[key]:
                found.append(f"data {key[:80]!r} has another value")
        if before == after:
            found.append("its data is in another order")
    return found


def _by_key(pairs: Pairs) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def encode_event(event: Event) -> bytes:
    """The event as it travels. Raises InvalidEvent above the size limit."""
    raw = strict_json.dumps(event.to_wire())
    if len(raw) > MAX_MESSAGE_BYTES:
        size = f"is {counted(len(raw), 'byte')} long, the limit is {MAX_MESSAGE_BYTES:,}"
        raise InvalidEvent(f"event {event.type}: {size}. Pass large data as files.")
    return raw


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file in the blob store: its ``name`` as modules see it, its key, size in bytes and sha256 in hexadecimal.

    ``executable`` if whoever made it could execute it: so can whoever is given it.
    """

    name: str
    key: str
    size: int
    sha256: str
    executable: bool = False

    @property
    def mode(self) -> int:
        """Of a copy of it: any user may read it, and execute it if it is for that."""
        return 0o755 if self.executable else 0o644

    def to_json(self) -> dict[str, Any]:
        said = {"name": self.name, "key": self.key, "size": self.size, "sha256": self.sha256}
        return said | {"executable": True} if self.executable else said

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StoredFile:
        return cls(
            name=value["name"],
            key=value["key"],
            size=value["size"],
            sha256=value["sha256"],
            executable=value.get("executable") is True,
        )


def event_meta(event: Event, blobs: Iterable[StoredFile]) -> dict[str, Any]:
    """The ``eventMeta`` document of an event; ``blobs`` says where each of its files lies."""
    meta = {
        "id": event.context.event_id,
        "context": event.context.to_json(),
        "type": event.type,
        "files": list(event.files),
        "data": pairs_to_json(event.data),
        "blobs": [blob.to_json() for blob in blobs],
    }
    return meta | {"traceparent": event.traceparent} if event.traceparent else meta


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "an array",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    return "null" if value is None else names.get(type(value), type(value).__name__)
