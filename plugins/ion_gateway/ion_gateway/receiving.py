"""Requests become events: what is asked of one, in which order, and what it is told."""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import logging
import re
import uuid
from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote

from ion_core.errors import IdTaken, InvalidEvent, MessageRefused, TransientError, Unroutable
from ion_core.events import MAX_TYPE_LENGTH
from ion_core.words import counted
from ion_gateway.answers import Refused, answer, later
from ion_gateway.auth import Guard
from ion_gateway.bodies import directory
from ion_gateway.contents import Brought, read_content
from ion_gateway.gateway_settings import GatewaySettings, is_loopback

if TYPE_CHECKING:
    from aiohttp import web

    from ion_core.contracts.service import ServiceHost

log = logging.getLogger(__name__)

EVENTS = "/events/"
COUNTED_FOR = 1.0
"""Seconds for which a count of what waits is good: a broker is not asked at every request."""

_KEY = re.compile(r"[!-~]{1,255}")


class Receiver:
    """Answers requests for one run of the service."""

    def __init__(self, settings: GatewaySettings, host: ServiceHost) -> None:
        self._settings = settings
        self._host = host
        self._guard = Guard(settings.auth, alone=is_loopback(settings.listen) and not settings.exposed)
        self._counts: dict[str, tuple[float, int | None]] = {}

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Raises Refused, Gone; IonError and anything else where it fails here."""
        if not request.path.startswith(EVENTS) or request.path == EVENTS:
            raise Refused(HTTPStatus.NOT_FOUND, "There is POST /events/TYPE and GET /events/ID.")
        what = request.path.removeprefix(EVENTS)
        if request.method == "POST":
            return await self._take(request, what)
        if request.method in ("GET", "HEAD"):
            return await self._tell(request, what)
        raise Refused(
            HTTPStatus.METHOD_NOT_ALLOWED, "An event is sent with POST.", headers={"Allow": "GET, HEAD, POST"}
        )

    async def _tell(self, request: web.BaseRequest, event_id: str) -> web.StreamResponse:
        signed = self._guard.before(request)
        if signed is not None:
            signed.check()
        try:
            found = await self._host.outcome(event_id)  # the flows that begin here are called as their first event
        except TransientError as error:
            raise self._away(error) from error
        if found is None:
            raise Refused(HTTPStatus.NOT_FOUND, "No event of this id came in here, or it is removed already.")
        body = {
            "eventId": event_id,
            "correlationId": found.correlation_id,
            "outcome": found.outcome,
            "over": found.over,
            "events": found.events,
            "jobs": dict(found.jobs),
            "failing": list(found.failing),
        }
        return answer(HTTPStatus.OK, body)

    async def _take(self, request: web.BaseRequest, event_type: str) -> web.StreamResponse:
        signed = self._guard.before(request)
        if signed is None:
            self._check_taken(event_type)
        await self._check_room(event_type)
        key = self._key(request)
        async with directory(self._host.work) as into:
            also = None if signed is None else signed.add
            brought = await read_content(request, self._settings, into=into, also=also, whole=self._guard.whole)
            if signed is not None:
                signed.check()
                self._check_taken(event_type)
            try:
                return await self._publish(event_type, brought(), key)
            except IdTaken as error:
                raise Refused(
                    HTTPStatus.CONFLICT,
                    "This key was used for another event. Use a new one, or send what was sent before.",
                    problems=error.problems,
                ) from error
            except InvalidEvent as error:
                raise Refused(
                    HTTPStatus.UNPROCESSABLE_ENTITY, "The event is not as it must be.", problems=error.problems
                ) from error

    async def _publish(self, event_type: str, brought: Brought, key: str | None) -> web.StreamResponse:
        event_id = str(uuid.uuid4()) if key is None else event_id_of(event_type, key)
        try:
            event = await self._host.publish(
                event_type, data=brought.pairs, files=brought.files, event_id=event_id, correlation_id=event_id
            )
        except Unroutable as error:
            raise _of_nobody(event_type, self._host.event_types()) from error
        except MessageRefused as error:
            log.warning("the broker takes no such message: %s", error)
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The broker takes no event like this. Send large data as files."
            ) from error
        except TransientError as error:
            raise self._away(error) from error
        context = event.context
        body = {"eventId": context.event_id, "correlationId": context.correlation_id, "type": event.type}
        return answer(HTTPStatus.ACCEPTED, body, {"Location": f"{EVENTS}{quote(context.event_id, safe='')}"})

    def _away(self, error: TransientError) -> Refused:
        log.warning("a request is to come again: %s", error)
        return later(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "What is needed for it is away. Whether the event was taken is unknown: send it again, with the same "
            "Idempotency-Key it is one event.",
        )

    def _check_taken(self, event_type: str) -> None:
        """Raises Refused (404) where no module takes it."""
        types = self._host.event_types()
        if event_type not in types:
            raise _of_nobody(event_type, types)

    async def _check_room(self, event_type: str) -> None:
        """Raises Refused (429) where too much waits for those who take it. What is not known keeps nobody out."""
        now = asyncio.get_running_loop().time()
        counted_at, count = self._counts.get(event_type, (float("-inf"), None))
        if now - counted_at > COUNTED_FOR and event_type in self._host.event_types():
            count = await self._host.pending(event_type)
            self._counts[event_type] = now, count
        if count is not None and count > self._settings.max_pending:
            raise later(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"Too much waits already for those who take this type: {counted(count, 'message')}.",
            )

    def _key(self, request: web.BaseRequest) -> str | None:
        """What makes this request and another one the same event. Raises Refused."""
        names = ["Idempotency-Key"]
        if self._settings.auth.standard_webhooks:
            names = ["webhook-id"]
        elif self._settings.auth.github:
            names.append("X-GitHub-Delivery")
        for name in names:
            found = request.headers.getall(name, [])
            if not found:
                continue
            key = found[0][1:-1] if len(found[0]) > 1 and found[0][0] == found[0][-1] == '"' else found[0]
            if len(found) > 1 or not _KEY.fullmatch(key):
                raise Refused(
                    HTTPStatus.BAD_REQUEST, f"{name} must be there once, 1 to 255 ASCII characters, no blanks."
                )
            return key
        return None


def event_id_of(event_type: str, key: str) -> str:
    """The id of the event of this type and key: the same from every gateway. A type has no line breaks."""
    return hashlib.sha256(f"{event_type}\n{key}".encode("ascii")).hexdigest()[:32]


def _of_nobody(event_type: str, types: Sequence[str]) -> Refused:
    near = difflib.get_close_matches(event_type[:MAX_TYPE_LENGTH], types, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return Refused(HTTPStatus.NOT_FOUND, f"No module takes events of type {event_type[:80]!r}.{hint}")
