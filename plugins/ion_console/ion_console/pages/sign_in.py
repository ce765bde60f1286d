"""Signing in by a token, and out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web

from ion_console.pages.shell import Shell, form, to
from ion_console.routing import Operation
from ion_console.sessions import LIFE


class SignIn:
    source = ""
    operations = (
        Operation(name="ask", path="/sign-in", role=None, gives="", what="Asks for a token"),
        Operation(name="sign_in", path="/sign-in", method="POST", role=None, gives="", what="Begins a session"),
        Operation(name="sign_out", path="/sign-out", method="POST", role=None, gives="", what="Ends it"),
    )

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    async def ask(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        return await self._shell.page(request, "sign_in.html", then="/flows", wrong=False)

    async def sign_in(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        given = await form(request)
        then = own(next(iter(given.get("then", [])), ""))
        token = next(iter(given.get("token", [])), "").strip()
        cookie = self._shell.guard.sessions.begin(token, time.time())
        if cookie is None:
            return await self._shell.page(
                request, "sign_in.html", status=HTTPStatus.UNAUTHORIZED, then=then, wrong=True
            )
        answer = to(then)
        self._set(request, answer, cookie, LIFE)
        return answer

    async def sign_out(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        answer = to("/sign-in")
        self._set(request, answer, "", 0)
        return answer

    def _set(self, request: web.BaseRequest, answer: web.Response, cookie: str, life: int) -> None:
        """No script sees it, and no page of others sends it with a form."""
        answer.set_cookie(
            self._shell.guard.cookie,
            cookie,
            max_age=life,
            path="/",
            httponly=True,
            samesite="Lax",
            secure=request.secure or request.headers.get("Origin", "").startswith("https://"),  # TLS may end before us
        )


def own(place: str, instead: str = "/flows") -> str:
    """A path of ours, whatever was sent, or ``instead``: not `//host`, nor what a browser takes for that."""
    return place if place.startswith("/") and place[1:2] not in ("/", "\\") and place.isprintable() else instead
