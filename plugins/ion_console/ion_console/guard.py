"""Who may look and who may mend, told from the head of a request."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ion_console.sessions import Sessions
from ion_core.listening.refusals import Refused
from ion_core.listening.settings import is_loopback
from ion_core.listening.tokens import Tokens

if TYPE_CHECKING:
    from aiohttp import web
    from pydantic import SecretStr

    from ion_console.routing import Role
    from ion_console.settings import ConsoleSettings
    from ion_core.listening.proxies import Proxies


READING = ("GET", "HEAD")


class Guard:
    """By the settings that are in use. ``cookie`` is the name of that of a browser's session."""

    def __init__(self, settings: ConsoleSettings, proxies: Proxies) -> None:
        tokens = settings.tokens
        roles: list[tuple[Role, list[SecretStr]]] = (
            [] if tokens is None else [("look", tokens.look), ("mend", tokens.mend)]
        )
        self.sessions = Sessions(roles)
        self.cookie = f"ion-{settings.address[1]}"  # browsers give a cookie to all ports of a host
        self._look = Tokens([] if tokens is None else tokens.look)
        self._mend = Tokens([] if tokens is None else tokens.mend)
        self._anybody = tokens is None
        self._alone = self._anybody and is_loopback(settings.listen) and not settings.exposed
        self._proxies = proxies

    def may(self, request: web.BaseRequest, role: Role) -> bool:
        """Raises Refused (400, 403) for what nobody may."""
        if self._anybody:
            if self._alone and self._proxies.is_page_of_another_host(request):
                raise Refused(
                    HTTPStatus.FORBIDDEN, "Pages of other hosts may not ask here. Ask for localhost, without an Origin."
                )
            if request.method not in READING and self._is_page_of_others(request):
                raise Refused(HTTPStatus.FORBIDDEN, "Pages of other hosts may change nothing here.")
            return True
        given = request.headers.getall("Authorization", [])
        if len(given) > 1:
            raise Refused(HTTPStatus.BAD_REQUEST, "The header Authorization is there more than once.")
        if not given:
            return self._browser_may(request, role)
        header = given[0]
        mends, looks = self._mend.has(header), self._look.has(header)  # both, whichever it is
        return mends or (looks and role == "look")

    def _browser_may(self, request: web.BaseRequest, role: Role) -> bool:
        """By its session. Raises Refused (403) where a page of another host would change something by it."""
        allowed = self.sessions.role(request.cookies.get(self.cookie, ""), time.time())
        if allowed is not None and request.method not in READING and not self.is_own_page(request):
            raise Refused(HTTPStatus.FORBIDDEN, "It comes from a page of another host. Open the console's own.")
        return allowed is not None and (allowed == "mend" or role == "look")

    def is_own_page(self, request: web.BaseRequest) -> bool:
        """Whether a page of ours sent it, as far as browsers tell, which a page cannot change."""
        if request.headers.get("Sec-Fetch-Site") == "same-origin":
            return True
        origin = urlsplit(request.headers.get("Origin", ""))
        return bool(origin.netloc) and origin.netloc in self._proxies.hosts(request)

    def _is_page_of_others(self, request: web.BaseRequest) -> bool:
        """Programs say neither of these; whoever types an address comes from no page."""
        said = "Origin" in request.headers or request.headers.get("Sec-Fetch-Site", "none") != "none"
        return said and not self.is_own_page(request)

    def check(self, request: web.BaseRequest, role: Role) -> None:
        """Raises Refused (400, 401, 403)."""
        if self.may(request, role):
            return
        if self.may(request, "look"):
            raise Refused(HTTPStatus.FORBIDDEN, "This token may look, and not mend.")
        raise Refused(
            HTTPStatus.UNAUTHORIZED,
            "Give a token that is known here: Authorization: Bearer TOKEN, or sign in at /sign-in.",
            headers={"WWW-Authenticate": "Bearer"},
        )
