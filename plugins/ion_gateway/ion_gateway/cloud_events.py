"""CloudEvents 1.0 over HTTP, structured, binary and batched: each becomes an event of its own type.

The SDK says what an event must be. It is not given what it would complete: to an event without an id it gives another
one at each parse, so that each retry would be an event of its own.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import multipart
from cloudevents.core.bindings.common import decode_header_value
from cloudevents.core.exceptions import CloudEventValidationError
from cloudevents.core.v1.event import CloudEvent

from ion_core import strict_json
from ion_core.errors import InvalidEvent
from ion_core.listening.bodies import Body
from ion_core.listening.refusals import Refused
from ion_core.words import counted
from ion_gateway.answers import BROKEN
from ion_gateway.contents import FORM
from ion_gateway.pairs import flattened

if TYPE_CHECKING:
    from aiohttp import web

    from ion_gateway.gateway_settings import GatewaySettings

STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
DATA = "data"
"""Name of the file that data is which is no JSON; and key of data that is JSON and no object."""
MOST = 1_000
"""Events of one batch."""

_JSON = re.compile(r"(application|text)/([a-z0-9.-]+\+)?json")
_OF_TRACES = ("traceparent", "tracestate")
"""Attributes that say how an event came about, and not what it is: who sends it again may say something else."""
_FIRST = ("id", "source", "type", "specversion", "subject", "time", "dataschema", "datacontenttype")


@dataclass(frozen=True, kw_only=True)
class Told:
    """A CloudEvent: the type of the event it becomes, its id, what it brings. ``content`` is the file ``data``.

    ``traceparent`` is its attribute of that name, whatever that says: the span outside that it began with.
    """

    type: str
    event_id: str
    pairs: Sequence[tuple[str, str]]
    content: bytes | None
    traceparent: str = ""


def is_cloud_event(request: web.BaseRequest) -> bool:
    """Whether its head says so: by its content type, or by headers ``ce-id`` and its like."""
    return _kind(request) in (STRUCTURED, BATCH) or any(name.lower().startswith("ce-") for name in request.headers)


def is_batch(request: web.BaseRequest) -> bool:
    return _kind(request) == BATCH


def which(request: web.BaseRequest, raw: bytes, settings: GatewaySettings) -> str:
    """Source and id of one that is not read as a CloudEvent otherwise, as a key of its own.

    Raises InvalidEvent; Refused (400) where it has none.
    """
    where = "/" if _kind(request) == STRUCTURED else "header ce-"
    texts = _attributes(request, raw, settings, "source", "id")
    for name, found in texts.items():
        if not found:
            raise Refused(
                HTTPStatus.BAD_REQUEST,
                f"{where}{name}: is missing. Without it a CloudEvent that is sent again would be another one.",
            )
    return _key(texts)


def traceparent_of(request: web.BaseRequest, raw: bytes, settings: GatewaySettings) -> str:
    """The attribute of one that is not read as a CloudEvent otherwise; '' where there is none. Raises InvalidEvent."""
    return _attributes(request, raw, settings, "traceparent")["traceparent"]


def _attributes(request: web.BaseRequest, raw: bytes, settings: GatewaySettings, *names: str) -> dict[str, str]:
    """Those attributes as they are said, '' where one is missing or no text. Raises InvalidEvent."""
    structured = _kind(request) == STRUCTURED
    value = strict_json.loads(raw, what="body", limit=settings.max_json) if structured else request.headers
    texts = {}
    for name in names:
        found = value.get(name if structured else f"ce-{name}") if isinstance(value, Mapping) else None
        said = found if isinstance(found, str) else ""
        texts[name] = said if structured else str(decode_header_value(name, said))
    return texts


async def read_cloud_events(
    request: web.BaseRequest, settings: GatewaySettings, *, also: Callable[[bytes], None] | None, one: bool = False
) -> Callable[[], list[Told]]:
    """Read the body. What is returned says which events it has, or raises InvalidEvent, and Refused without an id.

    ``one``: it has one, and is no batch, nor a form, which would have a meaning of its own. Raises Refused (413, 415),
    Gone.
    """
    packed = request.headers.get("Content-Encoding", "identity").strip().lower()
    given = request.headers.get("Content-Type", "")
    kind, options = multipart.parse_options_header(given)
    is_binary = kind not in (STRUCTURED, BATCH)
    if packed != "identity" or options.get("charset", "utf-8").lower() != "utf-8":
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "CloudEvents are taken in UTF-8, and not compressed.")
    if one and kind in (BATCH, FORM):
        raise Refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"{kind} is taken as CloudEvents by POST /events alone. Send it there, or without headers ce-….",
        )
    if not is_cloud_event(request):
        raise Refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"POST /events takes CloudEvents: {STRUCTURED}, {BATCH}, or headers ce-id and its like. Send anything else "
            "to POST /events/TYPE.",
        )
    limit = settings.max_json if also is None else min(settings.max_json, settings.max_signed)
    raw = await Body(request, limit=limit, what="JSON", also=also, broken=BROKEN).read()
    if is_binary:
        return lambda: [_binary(request, given, raw, settings)]
    return lambda: _structured(raw, settings, batch=kind == BATCH)


def _structured(raw: bytes, settings: GatewaySettings, *, batch: bool) -> list[Told]:
    value = strict_json.loads(raw, what="body", limit=settings.max_json)
    if not batch:
        return [_of_json(value, "body", settings)]
    if not isinstance(value, list):
        raise InvalidEvent("body: must be an array of CloudEvents")
    if len(value) > MOST:
        raise Refused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A batch has {counted(MOST, 'event')} at most. Send several."
        )
    found: list[Told] = []
    problems: list[str] = []
    for n, item in enumerate(value):
        try:
            found.append(_of_json(item, f"body[{n}]", settings))
        except InvalidEvent as error:
            problems += error.problems
    if problems:
        raise InvalidEvent(problems)
    return found


def _of_json(value: Any, what: str, settings: GatewaySettings) -> Told:
    if not isinstance(value, dict):
        raise InvalidEvent(f"{what}: must be a CloudEvent, an object")
    attributes = {name: it for name, it in value.items() if name not in ("data", "data_base64") and it is not None}
    wrong = [
        f"{what}.{name}: must be text, a number or a boolean" for name, it in attributes.items() if _text(it) is None
    ]
    if wrong:
        raise InvalidEvent(wrong)
    texts = {name: _text(it) or "" for name, it in attributes.items()}
    for name in ("id", "source", "type", "specversion"):
        if name in attributes and not isinstance(attributes[name], str):
            wrong.append(f"{what}.{name}: must be text")
    if value.get("data") is not None and value.get("data_base64") is not None:
        wrong.append(f"{what}: has data and data_base64. Leave one of them out.")
    if wrong:
        raise InvalidEvent(wrong)
    packed, data = value.get("data_base64"), value.get("data")
    content: bytes | None = None
    if packed is not None:
        try:
            content = base64.b64decode(packed, validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise InvalidEvent(f"{what}.data_base64: is no base64") from None
    elif isinstance(data, str) and not _is_json(texts.get("datacontenttype", "")):
        content, data = data.encode("utf-8"), None
    return _told(texts, what, data, content, settings)


def _binary(request: web.BaseRequest, given: str, raw: bytes, settings: GatewaySettings) -> Told:
    texts: dict[str, str] = {}
    problems: list[str] = []
    for name, value in request.headers.items():
        attribute = name.lower().removeprefix("ce-")
        if attribute == name.lower():
            continue
        if attribute in texts:
            problems.append(f"header {name[:80]}: is there twice")
        # Time as it came, not as the SDK reads it: it cuts nanoseconds
        texts[attribute] = str(decode_header_value("" if attribute == "time" else attribute, value))
    if problems:
        raise InvalidEvent(problems)
    if given:
        texts["datacontenttype"] = given
    data, content = None, None
    if raw and _is_json(given):
        data = strict_json.loads(raw, what="body", limit=settings.max_json)
    elif raw:
        content = raw
    return _told(texts, "header ce-", data, content, settings)


def _told(texts: dict[str, str], what: str, data: Any, content: bytes | None, settings: GatewaySettings) -> Told:
    """``what`` names the place of an attribute. Raises InvalidEvent; Refused (400) where there is no id."""
    where = what if what.endswith("-") else f"{what}."
    if not texts.get("id"):
        raise Refused(
            HTTPStatus.BAD_REQUEST,
            f"{where}id: is missing. Without it a CloudEvent that is sent again would be another one.",
        )
    if problems := [f"{where}{problem}" for problem in _problems(texts)]:
        raise InvalidEvent(problems)
    if _is_json(texts.get("datacontenttype", "")):
        texts.pop("datacontenttype", None)  # what JSON is without it, too: so all modes say the same
    traceparent, _ = (texts.pop(name, "") for name in _OF_TRACES)
    order = [*(name for name in _FIRST if name in texts), *sorted(texts.keys() - {*_FIRST})]
    pairs = [(f"ce.{name}", texts[name]) for name in order]
    brought = flattened(data) if isinstance(data, dict) else [] if data is None else flattened({DATA: data})
    twice = {key for key, _ in pairs} & {key for key, _ in brought}
    if twice:
        raise InvalidEvent([f"{where}data: has the key {key[:80]!r}, which an attribute has" for key in sorted(twice)])
    pairs += brought
    if len(pairs) > settings.max_pairs:
        raise InvalidEvent(f"{where}data: comes to {counted(len(pairs), 'pair')}, {settings.max_pairs:,} are allowed")
    return Told(type=texts["type"], event_id=_event_id(texts), pairs=pairs, content=content, traceparent=traceparent)


def _problems(texts: Mapping[str, str]) -> list[str]:
    """What the specification does not allow, by the SDK."""
    attributes: dict[str, Any] = dict(texts)
    found = [f"{name}: is missing" for name in ("source", "type", "specversion") if not texts.get(name)]
    if "time" in texts:
        try:
            attributes["time"] = decode_header_value("time", texts["time"].replace("%", "%25"))
        except ValueError:
            found.append("time: must be a time of RFC 3339, such as 2026-11-29T12:00:00Z")
    if found:
        return found
    try:
        CloudEvent(attributes)
    except CloudEventValidationError as error:
        return [f"{name}: {problems[0]}" for name, problems in error.errors.items() if problems]
    return []


def _event_id(texts: Mapping[str, str]) -> str:
    """Source and id say which event it is, in whatever mode and from whichever gateway."""
    return hashlib.sha256(_key(texts).encode("ascii")).hexdigest()[:32]


def _key(texts: Mapping[str, str]) -> str:
    return json.dumps(["cloudevent", texts["source"], texts["id"]])


def _text(value: Any) -> str | None:
    """An attribute as it is in a header; None for what may be none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int) else None


def _kind(request: web.BaseRequest) -> str:
    kind, _ = multipart.parse_options_header(request.headers.get("Content-Type", ""))
    return str(kind)


def _is_json(content_type: str) -> bool:
    """What says nothing is JSON."""
    kind, _ = multipart.parse_options_header(content_type)
    return not kind or _JSON.fullmatch(kind) is not None
