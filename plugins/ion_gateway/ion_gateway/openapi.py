"""What a gateway answers, as OpenAPI 3.1 has it: made of its settings, and of the types that modules take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ion_core.events import MAX_TYPE_LENGTH
from ion_core.listening.settings import is_loopback
from ion_core.words import counted
from ion_gateway.cloud_events import BATCH, MOST, STRUCTURED
from ion_gateway.contents import FORM, JSON
from ion_gateway.front_api import NAME
from ion_gateway.gateway_settings import ANY, DOCUMENT, NEW_LINK, Auth, GatewaySettings, Route

Json = dict[str, Any]

PROBLEM = "application/problem+json"
REFUSED = {
    400: "No HTTP; no form; a body that ends early; a key that is none; a header that is there twice and may not.",
    401: "Who sent it may not, as far as the request shows.",
    403: "It comes from a page of another host, or with a certificate of nobody who may.",
    404: "No module takes the type.",
    408: "The body came too slowly.",
    409: "The key, or the source and id, is that of another event.",
    413: "It is larger than may be.",
    415: "The body is of another kind, or packed.",
    417: "Something else is expected than 100-continue.",
    422: "The event is not as it must be.",
    429: "Too much waits for those who take the type.",
    500: "It failed here.",
    501: "A Transfer-Encoding that is not understood.",
    503: "A store or the broker is away, or there are too many requests. Whether the event was taken is unknown.",
}
"""What each status means, wherever it is answered."""
ANYWHERE = (400, 417, 500, 501, 503)
OF_A_BODY = (408, 409, 413, 415, 422, 429)

_TEXT: Json = {"type": "string"}
_SOME: Json = {"type": "string", "minLength": 1}
_COUNT: Json = {"type": "integer", "minimum": 0}
_OUTCOME: Json = {
    "outcome": {"enum": ["dead", "failed", "running", "done"]},
    "over": {"type": "boolean"},
    "events": _COUNT,
    "jobs": {"type": "object", "additionalProperties": _COUNT},
    "failing": {"type": "array", "items": _TEXT},
}
_IDS: Json = {"eventId": _TEXT, "correlationId": _TEXT}


def document(settings: GatewaySettings, types: Sequence[str]) -> Json:
    """``types`` are those that some module takes. No secret is in it."""
    own = _Guarded(settings, settings.auth)
    paths = {
        "/events/{name}": {"post": _post_event(settings, own), "get": (get := _get_event(own)), "head": _headed(get)},
        "/events": {"post": _post_cloud_events(settings, own)},
        DOCUMENT: {"get": (get := _get_document(own)), "head": _headed(get)},
        **{it.path: {"post": _post_route(settings, name, it)} for name, it in settings.routes.items()},
    }
    if settings.front_api:
        paths["/"] = {"post": _post_link(settings, own)}
    schemes = dict(own.schemes)
    for route in settings.routes.values():
        schemes |= _Guarded(settings, route.auth or settings.auth).schemes
    responses = {f"refused-{status}": _problem(status) for status in REFUSED}
    return {
        "openapi": "3.1.1",
        "info": {"title": "Ion gateway", "description": "Events by HTTP.", "version": "1"},
        "paths": paths,
        "components": {"schemas": _schemas(types), "responses": responses, "securitySchemes": schemes},
    }


class _Guarded:
    """What ``auth`` asks of a request, and answers to others."""

    def __init__(self, settings: GatewaySettings, auth: Auth) -> None:
        self._auth = auth
        alone = is_loopback(settings.listen) and not settings.exposed
        named = [it for it in auth.certificate if it != ANY]
        self.statuses = [403] if named or (auth.anybody and alone) else []
        if not auth.anybody and not auth.certificate:
            self.statuses.append(401)
        self.schemes: Json = {"certificate": {"type": "mutualTLS"}} if settings.client_ca_file is not None else {}
        if auth.bearer:
            self.schemes["bearer"] = {"type": "http", "scheme": "bearer"}
        names = ["X-Hub-Signature-256"] if auth.github else []
        names += ["Stripe-Signature"] if auth.stripe else []
        if auth.standard_webhooks:
            names += ["webhook-id", "webhook-timestamp", "webhook-signature"]
        self.schemes |= {name: {"type": "apiKey", "in": "header", "name": name} for name in names}

    @property
    def signed(self) -> bool:
        return bool(self._auth.github or self._auth.standard_webhooks or self._auth.stripe)

    @property
    def whole(self) -> bool:
        return bool(self._auth.standard_webhooks)

    @property
    def key(self) -> list[Json]:
        """The header that makes what is sent again the same event, where the signature has none."""
        if self.whole:
            return []
        what = "What is sent again with the same key is the same event, once."
        if self._auth.github:
            what += " Without it X-GitHub-Delivery is the key."
        return [_header("Idempotency-Key", what, schema={"type": "string", "pattern": "^[!-~]{1,255}$"})]

    def operation(
        self, summary: str, answers: Mapping[int, Json], refused: Iterable[int], *parameters: Json, **more: Any
    ) -> Json:
        statuses = sorted({*ANYWHERE, *self.statuses, *refused})
        return {
            "summary": summary,
            "parameters": [*parameters],
            **more,
            "security": [{name: [] for name in self.schemes}] if self.schemes else [],
            "responses": {
                **{str(status): it for status, it in answers.items()},
                **{str(it): {"$ref": f"#/components/responses/refused-{it}"} for it in statuses},
            },
        }


def _post_event(settings: GatewaySettings, guarded: _Guarded) -> Json:
    content: Json = {
        JSON: {"schema": _pairs(settings)},
        STRUCTURED: {"schema": _ref("CloudEvent")},
    }
    if not guarded.whole:
        content[FORM] = {"schema": {"type": "object"}}
    most = settings.max_signed if guarded.signed else settings.max_body
    limits = (
        f"At most {counted(most, 'byte')}, of JSON {counted(min(most, settings.max_json), 'byte')}; "
        f"{counted(settings.max_files, 'file')} and {counted(settings.max_pairs, 'pair')}."
    )
    return guarded.operation(
        "Publish an event of this type",
        _taken(),
        (404, *OF_A_BODY),
        _path("The event's type.", _ref("Type")),
        *guarded.key,
        _PREFER,
        requestBody={"description": limits, "required": False, "content": content},
    )


def _get_event(guarded: _Guarded) -> Json:
    there = {"description": "How its flow stands.", "headers": _APPLIED, "content": _json(_ref("Outcome"))}
    what = _path("The event's id.", _SOME)
    found = guarded.operation("What became of an event", {200: there}, (), what, _PREFER)
    found["responses"]["404"] = _problem(404) | {"description": "No event of this id came in here, or it is removed."}
    return found


def _post_cloud_events(settings: GatewaySettings, guarded: _Guarded) -> Json:
    content: Json = {
        STRUCTURED: {"schema": _ref("CloudEvent")},
        BATCH: {"schema": {"type": "array", "items": _ref("CloudEvent"), "maxItems": MOST}},
        "*/*": {},
    }
    answers = {"type": "object", "required": ["events"], "additionalProperties": False}
    answers["properties"] = {"events": {"type": "array", "items": _ref("Taken")}}
    there = {"description": "Each is stored durably.", "content": _json(answers)}
    headers = [
        _header(f"ce-{name}", "Of a CloudEvent in binary mode, whose body is its data.", schema=_SOME)
        for name in ("id", "source", "type", "specversion")
    ]
    return guarded.operation(
        "Publish CloudEvents, structured, binary or batched",
        {202: there},
        (404, *OF_A_BODY),
        *headers,
        requestBody={"description": _json_limit(settings, guarded), "required": False, "content": content},
    )


def _post_route(settings: GatewaySettings, name: str, route: Route) -> Json:
    guarded = _Guarded(settings, route.auth or settings.auth)
    answers = _taken()
    if route.when:
        passed: Json = {"type": "object", "required": ["published", "detail"], "additionalProperties": False}
        passed["properties"] = {"published": {"const": False}, "detail": _TEXT}
        over = answers[200]["content"][JSON]["schema"]
        answers[200] |= {
            "description": f"{answers[200]['description']} Or it is not what the route is for, and is passed over.",
            "headers": _APPLIED,
            "content": _json({"anyOf": [over, passed]}),
        }
    key = guarded.key if route.id is None else []
    if route.id and not route.id.startswith("/"):
        key = [_header(route.id, "Says which event it is.", schema=_SOME)]
    return guarded.operation(
        f"Publish {route.type}, by the route {name}",
        answers,
        (404, *OF_A_BODY),
        *key,
        _PREFER,
        requestBody={
            "description": f"JSON, whatever its Content-Type says. {_json_limit(settings, guarded)}",
            "required": True,
            "content": {JSON: {"schema": _pairs(settings)} if route.pairs is None else {}},
        },
    )


def _post_link(settings: GatewaySettings, guarded: _Guarded) -> Json:
    link = {"type": "object", "required": ["url"], "properties": {"url": _SOME}}
    return guarded.operation(
        f"Publish {NEW_LINK}",
        {200: {"description": "It is stored durably.", "content": _json(_link())}},
        (404, *OF_A_BODY),
        *guarded.key,
        requestBody={
            "description": f"JSON, whatever its Content-Type says. {_json_limit(settings, guarded)}",
            "required": True,
            "content": {JSON: {"schema": link}},
        },
    )


def _get_document(guarded: _Guarded) -> Json:
    there = {"description": "OpenAPI 3.1.", "content": _json({"type": "object"})}
    return guarded.operation("This document", {200: there}, ())


def _taken() -> dict[int, Json]:
    """What is answered to one event."""
    located = {"Location": {"description": "Where to ask what became of it.", "required": True, "schema": _TEXT}}
    over = {"allOf": [_ref("Taken"), {"required": [*_OUTCOME]}]}
    return {
        200: {
            "description": "As is preferred: its flow is over.",
            "headers": {**located, **_APPLIED},
            "content": _json(over),
        },
        202: {
            "description": "It is stored durably, with its files and its message.",
            "headers": {**located, **_APPLIED},
            "content": _json(_ref("Taken")),
        },
    }


def _headed(get: Json) -> Json:
    """The same without a body."""
    described = {
        status: {"description": REFUSED[int(status)] if "$ref" in it else it["description"]}
        for status, it in get["responses"].items()
    }
    return get | {"summary": f"{get['summary']}: whether there is an answer", "responses": described}


def _schemas(types: Sequence[str]) -> Json:
    taken: Json = {**_IDS, "type": _ref("Type")}
    return {
        "Type": {"enum": [*types]} if types else {"type": "string", "maxLength": MAX_TYPE_LENGTH},
        "Pair": _object({"key": _TEXT, "value": _TEXT}),
        "CloudEvent": {
            "type": "object",
            "required": ["id", "source", "specversion", "type"],
            "properties": {
                "id": _SOME,
                "source": _SOME,
                "specversion": {"const": "1.0"},
                "type": _ref("Type"),
            },
        },
        "Taken": _object({**taken, **_OUTCOME}, required=taken),
        "Outcome": _object({**_IDS, **_OUTCOME}),
        "Problem": _object(
            {
                "title": _TEXT,
                "status": {"type": "integer"},
                "detail": _TEXT,
                "problems": {"type": "array", "items": _TEXT},
                "error": _TEXT,
            },
            required=("title", "status", "detail"),
        ),
    }


def _link() -> Json:
    """What is answered to a link."""
    context = {"name": NAME, "parentEventId": NAME, "documentType": "eventMeta"}
    return _object(
        {
            "context": _object({**_IDS, **{name: {"const": value} for name, value in context.items()}}),
            "type": {"const": NEW_LINK},
            "data": {"type": "array", "items": _ref("Pair"), "minItems": 1, "maxItems": 1},
        }
    )


def _problem(status: int) -> Json:
    found: Json = {"description": REFUSED[status], "content": {PROBLEM: {"schema": _ref("Problem")}}}
    named = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}.get(status)
    if named is not None:
        found["headers"] = {named: {"required": True, "schema": _TEXT}}
    return found


def _json_limit(settings: GatewaySettings, guarded: _Guarded) -> str:
    most = min(settings.max_json, settings.max_signed) if guarded.signed else settings.max_json
    return f"At most {counted(most, 'byte')}."


def _pairs(settings: GatewaySettings) -> Json:
    """An object, which is flattened, or pairs as they are."""
    return {"anyOf": [{"type": "object"}, {"type": "array", "items": _ref("Pair"), "maxItems": settings.max_pairs}]}


def _object(properties: Json, *, required: Iterable[str] | None = None) -> Json:
    """With these and no others; all of them are required unless it is said which."""
    names = [*(properties if required is None else required)]
    return {"type": "object", "required": names, "properties": properties, "additionalProperties": False}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Json) -> Json:
    return {JSON: {"schema": schema}}


def _path(what: str, schema: Json) -> Json:
    return {"name": "name", "in": "path", "required": True, "description": what, "schema": schema}


def _header(name: str, what: str, *, schema: Json) -> Json:
    return {"name": name, "in": "header", "required": False, "description": what, "schema": schema}


_PREFER = _header(
    "Prefer", "wait=N: to be answered once its flow is over, or after N seconds, 60 at most.", schema=_TEXT
)
_APPLIED: Json = {"Preference-Applied": {"description": "Where wait=N is preferred.", "schema": _TEXT}}
