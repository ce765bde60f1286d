"""What the console answers, as OpenAPI 3.1 has it: made of the table that answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ion_console.answers import JSON, PROBLEM
from ion_console.routing import LONGEST, MOST, OPERATIONS, Operation

Json = dict[str, Any]

REFUSED = {
    400: "No HTTP, a header that is there twice, or a body that ends early.",
    401: "No token, or none that is known here.",
    403: "The token may look and not mend, or it comes from a page of another host.",
    404: "There is none of that.",
    413: "The body is larger than may be.",
    415: "The body is of another kind, or packed.",
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
_CONDITION: Json = {"type": "string", "minLength": 1, "maxLength": LONGEST}


def document(*, guarded: bool) -> Json:
    """``guarded``: whether tokens are asked for."""
    paths: Json = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, guarded)
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


def _operation(it: Operation, guarded: bool) -> Json:
    names = [{"name": name, "in": "path", "required": True, "schema": {**_TEXT, "minLength": 1}} for name in it.names]
    asked = [
        {"name": one.name, "in": "query", "required": one.required, "description": one.what, "schema": one.schema}
        for one in it.parameters
    ]
    statuses = {400, 403, 422, 500, 503} | ({401} if it.role and guarded else set())
    statuses |= {404} if it.may_miss else set()
    statuses |= {413, 415} if it.takes else set()
    statuses |= {429} if it.kind == "text/event-stream" else set()
    given: Json = {"description": it.what, "content": {it.kind: {"schema": _ref(it.gives)}}}
    answers: Json = {"200": given, **{str(one): _refused(one) for one in sorted(statuses)}}
    if it.role is None:
        unready = {JSON: {"schema": _ref(it.gives)}, PROBLEM: {"schema": _ref("Problem")}}
        answers["503"] = {"description": "It does not, or there are too many requests.", "content": unready}
    found: Json = {
        "operationId": it.name,
        "summary": it.what,
        "parameters": [*names, *asked],
        "security": [{"bearer": []}] if it.role and guarded else [],
        "responses": answers,
    }
    if it.takes:
        found["requestBody"] = {"required": True, "content": {JSON: {"schema": _ref(it.takes)}}}
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
        **_object({"title": _TEXT, "status": {"type": "integer"}, "detail": _TEXT}, {"problems": _list(_TEXT)}),
        "additionalProperties": False,
    },
    "Live": _object({"live": {"type": "boolean"}}),
    "Ready": _object(
        {"ready": {"type": "boolean"}, "draining": {"type": "boolean"}},
        {"problems": _list(_some("where what wouldDo since"))},
    ),
    "Flows": _page(_some(_OUTCOME)),
    "Flow": _object({"summary": _some(_OUTCOME), "events": _list({}), "jobs": _list({}), "damaged": _list(_TEXT)}),
    "Documents": _page(_some("kind id correlationId storedAt body")),
    "Files": _list(_some("name key size sha256 executable module eventId cameIn")),
    "Logs": _list(_some("eventId module attempt text")),
    "Queues": _list(_some("name topics taken stats oldest")),
    "Running": _list(_some("eventId correlationId type module attempt token since")),
    "Letters": _page(_some("queue id reason attempts diedAt logTail taken unreadable eventId correlationId type")),
    "Groups": _list(_some("key count oldest newest")),
    "Pipeline": _object({"modules": _list({}), "links": _list(_some("source type target"))}),
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
