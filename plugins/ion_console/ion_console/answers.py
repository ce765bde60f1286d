"""What the console answers: JSON, and problems as RFC 9457 has them. No version, directory or traceback is in any."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, TypeVar

from aiohttp import web

from ion_core.listening.refusals import PROBLEM, Refused

T = TypeVar("T")

JSON = "application/json"
BROKEN = (web.RequestPayloadError,)
"""What a body raises that does not come as a whole, beside ConnectionError."""

HEADERS: Mapping[str, str] = {
    "Server": "ion",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer: whatever it holds is shown by nobody as a page, and run by nobody."""


def refusal(refused: Refused) -> web.Response:
    found = answer(refused.body, refused.status, kind=PROBLEM, headers=refused.headers)
    if refused.closes:
        found.force_close()
    return found


def mistaken(*problems: str) -> Refused:
    """A request that is not as it must be."""
    return Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "It is not as it must be.", problems=problems)


class Aside:
    """What takes long to make of what the host told is made in a thread, one at a time: the event loop has the work."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def made(self, make: Callable[[], T]) -> T:
        async with self._turn:
            return await asyncio.to_thread(make)


def answer(
    body: Any, status: HTTPStatus = HTTPStatus.OK, *, kind: str = JSON, headers: Mapping[str, str] | None = None
) -> web.Response:
    """JSON, in ASCII: what came in may be half a surrogate pair."""
    text = json.dumps(body, ensure_ascii=True) + "\n"
    return web.Response(
        status=status, body=text.encode("ascii"), content_type=kind, headers={**HEADERS, **(headers or {})}
    )
