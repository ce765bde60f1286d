"""Which page answers which path."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Protocol

from aiohttp import web

from ion_console.pages.files import Files
from ion_console.pages.flows import Flows
from ion_console.pages.letters import Letters
from ion_console.pages.shell import Shell
from ion_console.pages.sign_in import SignIn
from ion_console.pages.work import Work
from ion_console.routing import LONGEST, Operation, segments
from ion_core.errors import BlobNotFound, DeadLetterNotFound, InvalidCursor, TransientError
from ion_core.listening.refusals import Refused, later

log = logging.getLogger(__name__)

PROGRAMS = ("api", "healthz", "readyz", "metrics")
"""What paths begin with that are answered to programs."""


class Part(Protocol):
    """Some pages: each of ``operations`` is answered by the method of its name, and read from ``source``."""

    source: str

    @property
    def operations(self) -> Sequence[Operation]: ...


class Pages:
    """All that is there for people. A service's other paths, such as ``/api``, are not its own."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        parts: list[Part] = [Flows(shell), Files(shell), Letters(shell), Work(shell), SignIn(shell)]
        self._answers = [(it, part) for part in parts for it in part.operations]

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Also of what is refused, which is a page that says why. Raises what else the host raises."""
        try:
            return await self._answer(request)
        except Refused as error:
            return await self.shell.refused(request, error)
        except InvalidCursor:
            return await self._missing(request, "The list has no such page. Begin with its first.")
        except BlobNotFound:
            return await self._missing(request, "There is no such file any more.")
        except DeadLetterNotFound:
            return await self._missing(request, "Not all of these dead letters are there any more. List them anew.")

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = segments(request.rel_url)
        matching = [(it, part, found) for it, part in self._answers if (found := it.match(path)) is not None]
        for operation, part, named in matching:
            if request.method in operation.methods:
                if operation.role is not None:
                    self.shell.guard.check(request, operation.role)
                if operation.method == "POST" and not self.shell.guard.is_own_page(request):
                    raise Refused(HTTPStatus.FORBIDDEN, "It comes from a page of another host. Use the console's own.")
                if any(len(it) > LONGEST for it in named.values()):
                    raise Refused(HTTPStatus.NOT_FOUND, "There is nothing of so long a name.")
                return await self._ask(part, operation, request, operation.query(request.rel_url) | named)
        if matching:
            allow = ", ".join(sorted({method for it, _, _ in matching for method in it.methods}))
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"Ask by {allow}.", headers={"Allow": allow})
        raise Refused(HTTPStatus.NOT_FOUND, "There is no such page. Begin with the flows.")

    async def _ask(
        self, part: Part, operation: Operation, request: web.BaseRequest, asked: Mapping[str, Any]
    ) -> web.StreamResponse:
        """Raises what it raises, and Refused where what it reads from is away."""
        try:
            answer: web.StreamResponse = await getattr(part, operation.name)(request, asked)
            return answer
        except TransientError as error:
            log.warning("a page could not be made now: %s", error, extra={"page": operation.path})
            raise later(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{part.source} does not answer. This page tries again by itself; the log of serve says more.",
            ) from error

    async def _missing(self, request: web.BaseRequest, detail: str) -> web.Response:
        return await self.shell.refused(request, Refused(HTTPStatus.NOT_FOUND, detail))


def is_for_people(request: web.BaseRequest) -> bool:
    """Whether a page answers it."""
    return segments(request.rel_url)[1:2] != [] and segments(request.rel_url)[1] not in PROGRAMS
