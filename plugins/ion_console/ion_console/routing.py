"""What the console answers, as a table: who may, what is asked, what is given. Requests and OpenAPI are read by it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import unquote

from yarl import URL

from ion_console.answers import mistaken

Schema = Mapping[str, Any]
Role = Literal["look", "mend"]
MOST = 1_000
"""Of what is had by page, so many at a time."""
WAITS = 60
"""Seconds that an answer is waited for at most."""
LONGEST = 1_024
"""Characters of anything that is asked for."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One of a query. ``read`` raises ValueError, saying what it must be."""

    name: str
    what: str
    schema: Schema
    read: Callable[[str], Any]
    many: bool = False
    required: bool = False


@dataclass(frozen=True, kw_only=True)
class Operation:
    """``name`` is the method that answers; ``path`` has names in braces, each of one segment.

    ``role``   who may; None: anybody.
    ``gives``  the name of the schema of what is given, in ``kind``.
    ``takes``  that of the body it takes, of JSON; ``form`` that of a form with files, which it takes, too.
    ``parts``  whether a range of its bytes may be asked for, and it is told by its hash.
    """

    name: str
    path: str
    what: str
    gives: str
    method: str = "GET"
    role: Role | None = "look"
    parameters: Sequence[Parameter] = ()
    kind: str = "application/json"
    takes: str | None = None
    form: str | None = None
    may_miss: bool = False
    parts: bool = False

    @property
    def methods(self) -> Sequence[str]:
        """By ``HEAD`` what is had by ``GET``, without its body."""
        return ("GET", "HEAD") if self.method == "GET" else (self.method,)

    @property
    def names(self) -> list[str]:
        return re.findall(r"\{(\w+)\}", self.path)

    def match(self, segments: Sequence[str]) -> dict[str, str] | None:
        """What stands in place of the names; None where that path is another."""
        wanted = self.path.split("/")
        if len(wanted) != len(segments):
            return None
        found: dict[str, str] = {}
        for ours, theirs in zip(wanted, segments, strict=True):
            if ours.startswith("{"):
                found[ours[1:-1]] = theirs
            elif ours != theirs:
                return None
        return found if all(found.values()) else None

    def query(self, url: URL) -> dict[str, Any]:
        """What is asked for, with None or an empty list where it is not. Raises Refused with all that is wrong."""
        wanted = {it.name: it for it in self.parameters}
        problems = [f"{name[:80]}: is not known here" for name in url.query if name not in wanted]
        found: dict[str, Any] = {}
        for name, parameter in wanted.items():
            given = url.query.getall(name, [])
            if parameter.required and not given:
                problems.append(f"{name}: is required")
            if len(given) > 1 and not parameter.many:
                problems.append(f"{name}: may be there once")
            values = []
            for text in given:
                try:
                    values.append(parameter.read(text))
                except ValueError as error:
                    problems.append(f"{name}: {error}")
            found[name] = values if parameter.many else next(iter(values), None)
        if problems:
            raise mistaken(*problems)
        return found


def segments(url: URL) -> list[str]:
    """Of a path, each without its escapes: a slash in a name is no slash of the path."""
    return [unquote(it, errors="replace") for it in url.raw_path.split("/")]


def text(name: str, what: str, *, required: bool = False) -> Parameter:
    schema = {"type": "string", "minLength": 1, "maxLength": LONGEST}
    return Parameter(name=name, what=what, schema=schema, read=_text, required=required)


def field(name: str, what: str) -> Parameter:
    """Text of a form, which sends its empty fields too: those are not asked for."""
    schema = {"type": "string", "maxLength": LONGEST}
    return Parameter(name=name, what=what, schema=schema, read=lambda given: _text(given) if given.strip() else None)


def one_of(name: str, what: str, values: Sequence[str], *, many: bool = False, required: bool = False) -> Parameter:
    def read(given: str) -> str:
        if given not in values:
            raise ValueError(f"must be one of {', '.join(values)}")
        return given

    one: Schema = {"enum": [*values]}
    schema = {"type": "array", "items": one} if many else one
    return Parameter(name=name, what=what, schema=schema, read=read, many=many, required=required)


def _text(given: str) -> str:
    if not 1 <= len(given) <= LONGEST:
        raise ValueError(f"must have 1 to {LONGEST:,} characters")
    return given


def number(name: str, what: str, most: int) -> Parameter:
    """A whole one, from 1 to ``most``."""

    def read(given: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", given, re.ASCII) or not 1 <= int(given) <= most:
            raise ValueError(f"must be a number from 1 to {most:,}")
        return int(given)

    return Parameter(name=name, what=what, schema={"type": "integer", "minimum": 1, "maximum": most}, read=read)


def moment(given: str) -> datetime:
    """In UTC, which those at either end of the calendar are not in all zones."""
    try:
        found = datetime.fromisoformat(given)
        if found.tzinfo is not None:
            return found.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError("must be a time with its zone, such as 2026-01-31T12:00:00Z")


def _seconds(given: str) -> timedelta:
    if not re.fullmatch("[0-9]{1,2}", given, re.ASCII) or int(given) > WAITS:
        raise ValueError(f"must be a number of seconds, {WAITS} at most")
    return timedelta(seconds=int(given))


LIMIT = number("limit", "So many at most; 50 unless given.", MOST)
AFTER = text("after", "The cursor of the page before.")
SINCE = Parameter(name="since", what="Since that time.", schema={"type": "string", "format": "date-time"}, read=moment)
WITHIN = Parameter(
    name="within",
    what="So many seconds are waited for it to be over.",
    schema={"type": "integer", "minimum": 0, "maximum": WAITS},
    read=_seconds,
)
PAGED = (AFTER, LIMIT)
LETTERS = (
    text("module", "Of this queue."),
    text("type", "Of this event type."),
    text("reason", "Of this reason, or of this group of reasons."),
    text("containing", "With this in their reason."),
)

OPERATIONS = (
    Operation(name="healthz", path="/healthz", role=None, gives="Live", what="Whether the process lives"),
    Operation(
        name="readyz",
        path="/readyz",
        role=None,
        gives="Ready",
        what="Whether it takes events; why not, for whoever may look",
    ),
    Operation(name="metrics", path="/metrics", gives="Text", kind="text/plain", what="Metrics, for Prometheus"),
    Operation(
        name="flows",
        path="/api/flows",
        gives="Flows",
        what="Flows, the newest first",
        parameters=(
            one_of("outcome", "How they stand.", ("dead", "failed", "running", "done"), many=True),
            text("module", "With a job of this module."),
            text("type", "With an event of this type."),
            SINCE,
            text("containing", "With this in their correlation id, or in their first event. In any case."),
            *PAGED,
        ),
    ),
    Operation(name="flow", path="/api/flows/{flow}", gives="Flow", what="All of a flow", may_miss=True),
    Operation(
        name="outcome",
        path="/api/flows/{flow}/outcome",
        gives="Outcome",
        what="How a flow stands, at once or when it is over",
        parameters=(WITHIN,),
        may_miss=True,
    ),
    Operation(
        name="documents",
        path="/api/flows/{flow}/documents",
        gives="Documents",
        what="The documents of a flow, as they are stored",
        parameters=(text("kind", "Of this kind."), *PAGED),
    ),
    Operation(
        name="files",
        path="/api/flows/{flow}/files",
        gives="Files",
        what="The files of a flow",
        parameters=(text("event", "That this event brings, or that were made of it."),),
    ),
    Operation(
        name="file",
        path="/api/flows/{flow}/file",
        gives="Bytes",
        kind="application/octet-stream",
        what="A file of a flow, to be saved",
        parameters=(text("key", "Its key.", required=True),),
        may_miss=True,
        parts=True,
    ),
    Operation(
        name="publish",
        path="/api/events",
        method="POST",
        role="mend",
        takes="Event",
        form="EventWithFiles",
        gives="Published",
        what="Publish an event",
        may_miss=True,
    ),
    Operation(
        name="report",
        path="/api/flows/{flow}/report",
        gives="Text",
        kind="text/html",
        what="A page about a flow, to be saved",
        may_miss=True,
    ),
    Operation(
        name="logs",
        path="/api/events/{event}/logs",
        gives="Logs",
        what="The logs of all attempts for an event that have ended",
        parameters=(text("flow", "The correlation id, for an event without a document."),),
    ),
    Operation(
        name="follow",
        path="/api/events/{event}/logs/follow",
        gives="Text",
        kind="text/event-stream",
        what="What its modules print that run now, as it comes",
    ),
    Operation(
        name="why",
        path="/api/events/{event}/why",
        gives="Why",
        what="How each module stands to an event, and why",
        parameters=(text("flow", "The correlation id, for an event without a document."),),
    ),
    Operation(name="queues", path="/api/queues", gives="Queues", what="Every queue with its counts"),
    Operation(name="running", path="/api/running", gives="Running", what="Attempts that this process runs"),
    Operation(
        name="letters",
        path="/api/dead-letters",
        gives="Letters",
        what="Dead letters, the newest first",
        parameters=(*LETTERS, *PAGED),
    ),
    Operation(
        name="groups",
        path="/api/dead-letters/groups",
        gives="Groups",
        what="How many dead letters there are of each reason, module or type",
        parameters=(one_of("by", "By what; the reason unless given.", ("reason", "module", "type")),),
    ),
    Operation(
        name="redrive",
        path="/api/dead-letters/redrive",
        method="POST",
        role="mend",
        takes="Which",
        gives="Redriven",
        what="Put dead letters back into their queues",
        may_miss=True,
    ),
    Operation(
        name="purge",
        path="/api/dead-letters/purge",
        method="POST",
        role="mend",
        takes="Which",
        gives="Purged",
        what="Delete dead letters for good",
        may_miss=True,
    ),
    Operation(
        name="modules", path="/api/modules", gives="Pipeline", what="The modules, and how events go between them"
    ),
    Operation(
        name="schedules",
        path="/api/schedules",
        gives="Planned",
        what="What is published by the clock, and when next",
    ),
    Operation(
        name="changes",
        path="/api/changes",
        gives="Text",
        kind="text/event-stream",
        what="What happens in this process, as it happens",
    ),
    Operation(
        name="digest",
        path="/api/changes/digest",
        gives="Text",
        kind="text/event-stream",
        what="Which flows changed in this process, and whether queues and dead letters did",
        parameters=(
            number("every", "Seconds from one event of the stream to the next, at least; 1 unless given.", 60),
        ),
    ),
    Operation(name="openapi", path="/api/openapi.json", gives="Any", what="This document"),
)
