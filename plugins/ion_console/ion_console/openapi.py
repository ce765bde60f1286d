"""What the console answers, as OpenAPI 3.1 has it: made of the table that answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ion_console.answers import JSON
from ion_console.publishing import FORM
from ion_console.routing import LONGEST, MOST, OPERATIONS, WITHIN, Operation
from ion_core.listening.refusals import PROBLEM

Json = dict[str, Any]

REFUSED = {
    400: "No HTTP, a header that is there twice, or a body that ends early.",
    401: "No token, or none that is known here.",
    403: "The token may look and not mend, or it comes from a page of another host.",
    404: "There is none of that.",
    408: "The body came too slowly.",
    409: "The id is that of another event.",
    412: "It is not the file that was meant.",
    413: "The body is larger than may be.",
    415: "The body is of another kind, or packed.",
    416: "It has none of the bytes that are asked for.",
    422: "What is asked for is not as it must be.",
    429: "There are too many streams.",
    500: "It failed here.",
    503: "A store or the broker is away, or there are too many requests.",
}
"""What each status means, wherever it is answered."""
_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_LETTER_ID: Json = {
    "type": "object",
    "required": ["queue", "id"],
    "additionalProperties": False,
    "properties": {"queue": {**_TEXT, "maxLength": LONGEST}, "id": {**_TEXT, "maxLength": LONGEST}},
}
_PAIR: Json = {
    "type": "object",
    "required": ["key", "value"],
    "additionalProperties": False,
    "properties": {"key": _TEXT, "value": _TEXT},
}
_CONDITIONS = [
    {"name": name, "in": "header", "required": False, "description": what, "schema": _TEXT}
    for name, what in {
        "Range": "One range of bytes: bytes=0-99, bytes=100-, bytes=-100.",
        "If-Range": "The ETag that the range is of; of another file all is given.",
        "If-Match": "The ETag that it must have.",
        "If-None-Match": "The ETag of what is there already.",
    }.items()
]
_KNOWN = "It is what If-None-Match names."
_CONDITION: Json = {"type": "string", "minLength": 1, "maxLength": LONGEST}


def document(*, guarded: bool) -> Json:
    """``guarded``: whether tokens are asked for."""
    paths: Json = {}
    for operation in OPERATIONS:
        for method in operation.methods:
            paths.setdefault(operation.path, {})[method.lower()] = _operation(operation, method, guarded)
    return {
        "openapi": "3.1.1",
        "info": {"title": "Ion console", "description": "Health, metrics and what Ion does.", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "responses": {f"refused-{status}": _problem(status) for status in REFUSED},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}} if guarded else {},
        },
    }


def _operation(it: Operation, method: str, guarded: bool) -> Json:
    names = [{"name": name, "in": "path", "required": True, "schema": {**_TEXT, "minLength": 1}} for name in it.names]
    asked = [
        {"name": one.name, "in": "query", "required": one.required, "description": one.what, "schema": one.schema}
        for one in it.parameters
    ]
    statuses = {400, 403, 422, 500, 503} | ({401} if it.role and guarded else set())
    statuses |= {404} if it.may_miss else set()
    statuses |= {413, 415} if it.takes else set()
    statuses |= {408, 409} if it.form else set()
    statuses |= {429} if it.kind == "text/event-stream" or WITHIN in it.parameters else set()
    statuses |= {412, 416} if it.parts else set()
    given: Json = {"description": it.what, "content": {it.kind: {"schema": _ref(it.gives)}}}
    answers: Json = {"200": given, **{str(one): _refused(one) for one in sorted(statuses)}}
    if it.parts:
        asked += _CONDITIONS
        answers |= {"206": {**given, "description": "The part that was asked for."}, "304": {"description": _KNOWN}}
    if it.role is None:
        unready = {JSON: {"schema": _ref(it.gives)}, PROBLEM: {"schema": _ref("Problem")}}
        answers["503"] = {"description": "It does not, or there are too many requests.", "content": unready}
    found: Json = {
        "operationId": it.name if method == it.method else f"{it.name}{method.capitalize()}",
        "summary": it.what,
        "parameters": [*names, *asked],
        "security": [{"bearer": []}] if it.role and guarded else [],
        "responses": answers,
    }
    if it.takes:
        taken = {JSON: {"schema": _ref(it.takes)}}
        if it.form:
            taken[FORM] = {"schema": _ref(it.form)}
        found["requestBody"] = {"required": True, "content": taken}
    return found


def _refused(status: int) -> Json:
    return {"$ref": f"#/components/responses/refused-{status}"}


def _problem(status: int) -> Json:
    found: Json = {"description": REFUSED[status], "content": {PROBLEM: {"schema": _ref("Problem")}}}
    named = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}.get(status)
    if named is not None:
        found["headers"] = {named: {"required": True, "schema": _TEXT}}
    return found


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: Mapping[str, Json], optional: Mapping[str, Json] | None = None) -> Json:
    return {"type": "object", "required": [*required], "properties": {**required, **(optional or {})}}


def _some(names: str) -> Json:
    """An object that has these, whatever they hold."""
    return _object({name: {} for name in names.split()})


def _list(of: Json) -> Json:
    return {"type": "array", "items": of}


def _page(of: Iterable[str] | Json) -> Json:
    items = of if isinstance(of, dict) else _some(" ".join(of))
    return _object(
        {"items": {**_list(items), "maxItems": MOST}, "cursor": {"type": ["string", "null"]}, "damaged": _list(_TEXT)}
    )


_OUTCOME = "correlationId outcome over events jobs failing eventId type data files startedAt finishedAt"
SCHEMAS: Json = {
    "Any": {"type": "object"},
    "Text": _TEXT,
    "Bytes": {},
    "Problem": {
        **_object(
            {"title": _TEXT, "status": {"type": "integer"}, "detail": _TEXT}, {"problems": _list(_TEXT), "error": _TEXT}
        ),
        "additionalProperties": False,
    },
    "Live": _object({"live": {"type": "boolean"}}),
    "Ready": _object(
        {"ready": {"type": "boolean"}, "draining": {"type": "boolean"}},
        {"problems": _list(_some("where what wouldDo since"))},
    ),
    "Flows": _page(_some(_OUTCOME)),
    "Flow": _object({"summary": _some(_OUTCOME), "events": _list({}), "jobs": _list({}), "damaged": _list(_TEXT)}),
    "Outcome": _some(_OUTCOME),
    "Event": {
        **_object(
            {"type": _TEXT},
            {
                "id": _TEXT,
                "name": _TEXT,
                "data": {
                    "oneOf": [_list(_PAIR), {"type": "object", "additionalProperties": _TEXT}],
                },
            },
        ),
        "additionalProperties": False,
    },
    "EventWithFiles": {
        "description": "event is JSON, each file a part with a file name; files, behind them, says what they are.",
        **_object({"event": _ref("Event")}, {"files": {"type": "object"}}),
    },
    "Published": _object({"eventId": _TEXT, "correlationId": _TEXT, "type": _TEXT}),
    "Documents": _page(_some("kind id correlationId storedAt body")),
    "Files": _list(_some("name key size sha256 executable module eventId cameIn")),
    "Logs": _list(_some("eventId module attempt text")),
    "Why": _list(_some("module taken state since until rule reason attempt ahead letter next")),
    "Queues": _list(_some("name topics taken stats oldest")),
    "Running": _list(_some("eventId correlationId type module attempt token since")),
    "Letters": _page(_some("queue id reason attempts diedAt logTail taken unreadable eventId correlationId type")),
    "Groups": _list(_some("key count oldest newest")),
    "Pipeline": _object({"modules": _list({}), "links": _list(_some("source type target"))}),
    "Planned": _list(_some("service name type times")),
    "Redriven": _object({"redriven": _COUNT}),
    "Purged": _object({"purged": _COUNT}),
    "Which": {
        "description": "Those named; those that meet every condition; or all of them.",
        "oneOf": [
            {**_object({"ids": {**_list(_LETTER_ID), "minItems": 1, "maxItems": MOST}}), "additionalProperties": False},
            {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": False,
                "properties": dict.fromkeys(("module", "type", "reason", "containing"), _CONDITION),
            },
            {**_object({"all": {"const": True}}), "additionalProperties": False},
        ],
    },
}
