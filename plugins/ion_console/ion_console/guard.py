"""Who may look and who may mend, told from the head of a request."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from ion_console.answers import Refused
from ion_core.listening.settings import is_loopback
from ion_core.listening.tokens import Tokens

if TYPE_CHECKING:
    from aiohttp import web

    from ion_console.routing import Role
    from ion_console.settings import ConsoleSettings
    from ion_core.listening.proxies import Proxies


class Guard:
    """By the settings that are in use."""

    def __init__(self, settings: ConsoleSettings, proxies: Proxies) -> None:
        tokens = settings.tokens
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
            return True
        given = request.headers.getall("Authorization", [])
        if len(given) > 1:
            raise Refused(HTTPStatus.BAD_REQUEST, "The header Authorization is there more than once.")
        header = given[0] if given else ""
        mends, looks = self._mend.has(header), self._look.has(header)  # both, whichever it is
        return mends or (looks and role == "look")

    def check(self, request: web.BaseRequest, role: Role) -> None:
        """Raises Refused (400, 401, 403)."""
        if self.may(request, role):
            return
        if self.may(request, "look"):
            raise Refused(HTTPStatus.FORBIDDEN, "This token may look, and not mend.")
        raise Refused(
            HTTPStatus.UNAUTHORIZED,
            "Give a token that is known here: Authorization: Bearer TOKEN.",
            headers={"WWW-Authenticate": "Bearer"},
        )
