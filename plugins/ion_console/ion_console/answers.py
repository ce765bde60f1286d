"""What the console answers: JSON, and problems as RFC 9457 has them. No version, directory or traceback is in any."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import web

JSON = "application/json"
PROBLEM = "application/problem+json"
RETRY_AFTER = "5"
"""Seconds after which a client is asked to come again."""

HEADERS: Mapping[str, str] = {
    "Server": "ion",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer: whatever it holds is shown by nobody as a page, and run by nobody."""


class Refused(Exception):
    """A request that is answered with an error: ``detail`` says what would do, ``problems`` each mistake."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        problems: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.problems, self.headers = status, detail, problems, dict(headers or {})

    def answer(self) -> web.Response:
        body: dict[str, Any] = {"title": self.status.phrase, "status": int(self.status), "detail": self.detail}
        if self.problems:
            body["problems"] = [*self.problems]
        return answer(body, self.status, kind=PROBLEM, headers=self.headers)


def later(status: HTTPStatus, detail: str) -> Refused:
    """For what may be had later."""
    return Refused(status, detail, headers={"Retry-After": RETRY_AFTER})


def mistaken(*problems: str) -> Refused:
    """A request that is not as it must be."""
    return Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "It is not as it must be.", problems=problems)


def answer(
    body: Any, status: HTTPStatus = HTTPStatus.OK, *, kind: str = JSON, headers: Mapping[str, str] | None = None
) -> web.Response:
    """JSON, in ASCII: what came in may be half a surrogate pair."""
    text = json.dumps(body, ensure_ascii=True) + "\n"
    return web.Response(
        status=status, body=text.encode("ascii"), content_type=kind, headers={**HEADERS, **(headers or {})}
    )
