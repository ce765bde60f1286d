"""What the gateway answers: JSON, and problems as RFC 9457 has them. No version, directory or traceback is in any."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web

from ion_core.listening.refusals import PROBLEM, Refused

BROKEN = (web.RequestPayloadError,)
"""What a body raises that does not come as a whole, beside ConnectionError."""


def refusal(refused: Refused) -> web.Response:
    found = _json(refused.status, refused.body, refused.headers, content_type=PROBLEM)
    if refused.closes:
        found.force_close()
    return found


def answer(status: HTTPStatus, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> web.Response:
    return _json(status, body, headers or {}, content_type="application/json")


def _json(
    status: HTTPStatus, body: Mapping[str, Any], headers: Mapping[str, str], *, content_type: str
) -> web.Response:
    text = json.dumps(body, ensure_ascii=True, indent=None) + "\n"  # ASCII: what came in may be half a surrogate pair
    return web.Response(
        status=status,
        body=text.encode("ascii"),
        content_type=content_type,
        headers={"Server": "ion", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **headers},
    )
