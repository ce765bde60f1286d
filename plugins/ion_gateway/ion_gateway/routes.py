"""Routes: paths of their own, for webhooks whose form cannot be changed. Where in a request is what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from jsonpointer import EndOfList, JsonPointer

from ion_core import strict_json
from ion_core.listening.refusals import Refused
from ion_gateway.gateway_settings import GatewaySettings, Route
from ion_gateway.pairs import pairs_of

_NOTHING = object()


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a request of a route brings; ``key`` says which event it is, None where that is not known."""

    key: str | None
    pairs: Sequence[tuple[str, str]]


def found(route: Route, raw: bytes, headers: Mapping[str, str], settings: GatewaySettings) -> Found | None:
    """None for what is not meant, by ``when``. Raises InvalidEvent; Refused (400) where it does not say which event."""
    value = strict_json.loads(raw, what="body", limit=settings.max_json)
    for source, texts in route.when.items():
        if _text(_at(source, value, headers)) not in texts:
            return None
    key = None
    if route.id is not None:
        at = _at(route.id, value, headers)
        key = None if at is None else _text(at)  # null is that of any other that has none
        if not key:
            raise Refused(
                HTTPStatus.BAD_REQUEST, f"{route.id}: is missing. Without it what is sent again would be another event."
            )
    if route.pairs is None:
        return Found(key=key, pairs=pairs_of(value, max_pairs=settings.max_pairs))
    there = [(name, _text(_at(source, value, headers))) for name, source in route.pairs.items()]
    return Found(key=key, pairs=[(name, text) for name, text in there if text is not None])


def _at(source: str, value: Any, headers: Mapping[str, str]) -> Any:
    """What is at a JSON Pointer, or in a header; ``_NOTHING`` where nothing is."""
    if source and not source.startswith("/"):
        return headers.get(source, _NOTHING)
    there = JsonPointer(source).resolve(value, _NOTHING)
    return _NOTHING if isinstance(there, EndOfList) else there


def _text(value: Any) -> str | None:
    """Text as it is, other values as JSON writes them."""
    if value is _NOTHING:
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
