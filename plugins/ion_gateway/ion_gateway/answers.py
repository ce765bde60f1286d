"""What the gateway answers: JSON, and problems as RFC 9457 has them. No version, directory or traceback is in any."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import web

log = logging.getLogger(__name__)

RETRY_AFTER = 5
"""Seconds after which a client is asked to come again."""


class Refused(Exception):
    """A request that is answered with an error.

    ``detail`` says what would do, ``problems`` each mistake with its path.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        problems: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.problems = problems
        self.headers = dict(headers or {})

    def answer(self) -> web.Response:
        body: dict[str, Any] = {"title": self.status.phrase, "status": int(self.status), "detail": self.detail}
        if self.problems:
            body["problems"] = [*self.problems]
        answer = _json(self.status, body, self.headers, content_type="application/problem+json")
        if self.headers.get("Connection") == "close":
            answer.force_close()  # the header alone says so, and does nothing
        return answer


def no_room(error: OSError) -> Refused:
    """Where a file cannot be written on its way in; the log says which and why."""
    log.error("a file on its way in cannot be written: %s", error)
    return later(HTTPStatus.SERVICE_UNAVAILABLE, "There is no room for files at this moment.")


def later(status: HTTPStatus, detail: str, *, close: bool = False) -> Refused:
    """For what may be had later; ``close``: on another connection."""
    closing = {"Connection": "close"} if close else {}
    return Refused(status, detail, headers={"Retry-After": str(RETRY_AFTER), **closing})


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
