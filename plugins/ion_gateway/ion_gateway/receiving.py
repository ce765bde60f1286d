"""Requests become events: what is asked of one, in which order, and what it is told."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ion_core.contracts.storage import BlobInfo
from ion_core.errors import IdTaken, InvalidEvent, IonError, MessageRefused, TransientError, Unroutable
from ion_core.events import Event, checked_traceparent
from ion_core.listening.arriving import Arrivals, keep
from ion_core.listening.bodies import check_framing
from ion_core.listening.proxies import Proxies
from ion_core.listening.refusals import Refused, later, of_nobody
from ion_core.listening.settings import is_loopback
from ion_core.listening.waiting import unless_set
from ion_core.words import counted
from ion_gateway.answers import answer
from ion_gateway.auth import Guard
from ion_gateway.cloud_events import DATA, is_batch, is_cloud_event, read_cloud_events, traceparent_of, which
from ion_gateway.contents import read_content, read_json_of_any_kind
from ion_gateway.front_api import NAME, read_link
from ion_gateway.gateway_settings import DOCUMENT, NEW_LINK, Auth, GatewaySettings, Route
from ion_gateway.openapi import document
from ion_gateway.preferring import wait
from ion_gateway.routes import found
from ion_gateway.waiting import Waiting

if TYPE_CHECKING:
    from aiohttp import web

    from ion_core.contracts.service import FlowOutcome, ServiceHost

log = logging.getLogger(__name__)

EVENTS = "/events/"
_KEY = re.compile(r"[!-~]{1,255}")


class Receiver:
    """Answers requests for one run of the service, by settings that do not change."""

    def __init__(
        self, settings: GatewaySettings, host: ServiceHost, stop: asyncio.Event, waiting: Waiting | None = None
    ) -> None:
        self._settings = settings
        self._stop = stop
        self._host = host
        alone = is_loopback(settings.listen) and not settings.exposed
        self.proxies = Proxies(settings.trusted_proxies)
        self._guard = Guard(settings.auth, self.proxies, alone=alone)
        self._routes = {
            it.path: (name, it, self._guard if it.auth is None else Guard(it.auth, self.proxies, alone=alone))
            for name, it in settings.routes.items()
        }
        self._waiting = Waiting(host) if waiting is None else waiting

    def by(self, settings: GatewaySettings) -> Receiver:
        """One by other settings, for the same run of the service."""
        return Receiver(settings, self._host, self._stop, self._waiting)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Raises Refused, Gone; IonError and anything else where it fails here."""
        check_framing(request)
        if request.path in self._routes:
            if request.method != "POST":
                raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "This is for POST.", headers={"Allow": "POST"})
            return await self._take_by_route(request, *self._routes[request.path])
        if request.path == DOCUMENT:
            if request.method not in ("GET", "HEAD"):
                raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "This is for GET.", headers={"Allow": "GET, HEAD"})
            return self._describe(request)
        if request.path == "/" and self._settings.front_api:
            if request.method != "POST":
                raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "A link is sent with POST.", headers={"Allow": "POST"})
            return await self._take_link(request)
        if request.path == EVENTS.rstrip("/"):
            if request.method != "POST":
                raise Refused(
                    HTTPStatus.METHOD_NOT_ALLOWED, "CloudEvents are sent with POST.", headers={"Allow": "POST"}
                )
            return await self._take_cloud_events(request)
        if not request.path.startswith(EVENTS) or request.path == EVENTS:
            raise Refused(HTTPStatus.NOT_FOUND, "There is POST /events/TYPE, POST /events and GET /events/ID.")
        what = request.path.removeprefix(EVENTS)
        if request.method == "POST":
            return await self._take(request, what)
        if request.method in ("GET", "HEAD"):
            return await self._tell(request, what)
        raise Refused(
            HTTPStatus.METHOD_NOT_ALLOWED, "An event is sent with POST.", headers={"Allow": "GET, HEAD, POST"}
        )

    def _describe(self, request: web.BaseRequest) -> web.StreamResponse:
        signed = self._guard.before(request)
        if signed is not None:
            signed.check()
        return answer(HTTPStatus.OK, document(self._settings, self._host.event_types()))

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
        headers = {}
        within = wait(request.headers.getall("Prefer", []))
        if within is not None:
            headers["Preference-Applied"] = _applied(within)
            if not found.over:
                found = await self._outcome_unless_ending(event_id, within) or found
        body = {"eventId": event_id, "correlationId": found.correlation_id, **_outcome_as_json(found)}
        return answer(HTTPStatus.OK, body, headers)

    async def _take(self, request: web.BaseRequest, event_type: str) -> web.StreamResponse:
        if is_cloud_event(request):
            return await self._take_cloud_events(request, event_type)
        signed = self._guard.before(request)
        if signed is None:
            self._check_taken(event_type)
        await self._check_room(event_type)
        key = self._key(request, self._settings.auth)
        async with Arrivals(self._host.work) as into:
            also = None if signed is None else signed.add
            brought = await read_content(request, self._settings, into=into, also=also, whole=self._guard.whole)
            if signed is not None:
                signed.check()
                self._check_taken(event_type)
            with _told_as_such():
                event_id = str(uuid.uuid4()) if key is None else event_id_of(event_type, key)
                content = brought()
                event = await self._publish(
                    event_type, content.pairs, content.files, event_id, told=content.told, traceparent=_trace(request)
                )
        return await self._taken(request, event)

    async def _taken(self, request: web.BaseRequest, event: Event) -> web.StreamResponse:
        """202; or, where that is preferred and its flow is over in time, 200 with what became of it."""
        headers = {"Location": f"{EVENTS}{quote(event.context.event_id, safe='')}"}
        within = wait(request.headers.getall("Prefer", []))
        if within is None:
            return answer(HTTPStatus.ACCEPTED, _as_json(event), headers)
        headers["Preference-Applied"] = _applied(within)
        found = await self._outcome_unless_ending(event.context.correlation_id, within)
        if found is None:
            return answer(HTTPStatus.ACCEPTED, _as_json(event), headers)
        status = HTTPStatus.OK if found.over else HTTPStatus.ACCEPTED
        return answer(status, {**_as_json(event), **_outcome_as_json(found)}, headers)

    async def _outcome_unless_ending(self, correlation_id: str, within: timedelta) -> FlowOutcome | None:
        """None where the service is to end, or nobody can tell: the event is taken all the same."""
        try:
            return await unless_set(self._stop, self._host.outcome(correlation_id, within=within))
        except IonError as error:
            log.warning("what became of %s cannot be told now: %s", correlation_id, error)
            return None

    async def _take_cloud_events(self, request: web.BaseRequest, only: str | None = None) -> web.StreamResponse:
        """``only``: one of this type, which is answered as any other event."""
        signed = self._guard.before(request)
        if only is not None and signed is None:
            self._check_taken(only)
        told = await read_cloud_events(
            request, self._settings, also=None if signed is None else signed.add, one=only is not None
        )
        if signed is not None:
            signed.check()
        with _told_as_such():
            events = told()
            for event_type in dict.fromkeys(it.type for it in events):
                if only not in (None, event_type):
                    raise InvalidEvent(
                        f"type: is {event_type[:80]!r}, and {only[:80]!r} in the path. Send a CloudEvent to POST "
                        "/events, which goes by its own type."
                    )
                self._check_taken(event_type)
                await self._check_room(event_type)
            published = []
            async with Arrivals(self._host.work) as into:
                for n, it in enumerate(events):  # what fails midway is sent again as a whole, and is the same then
                    files = {} if it.content is None else {DATA: await keep(it.content, into, str(n))}
                    trace = _trace(request, it.traceparent)
                    published.append(await self._publish(it.type, it.pairs, files, it.event_id, traceparent=trace))
        if only is not None:
            return await self._taken(request, published[0])
        return answer(HTTPStatus.ACCEPTED, {"events": [_as_json(it) for it in published]})

    async def _take_by_route(
        self, request: web.BaseRequest, name: str, route: Route, guard: Guard
    ) -> web.StreamResponse:
        signed = guard.before(request)
        if is_batch(request):
            raise Refused(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "Batches of CloudEvents are taken by POST /events alone. Send it there.",
            )
        await self._check_room(route.type)
        raw = await read_json_of_any_kind(request, self._settings, also=None if signed is None else signed.add)
        if signed is not None:
            signed.check()
        with _told_as_such():
            it = found(route, raw, request.headers, self._settings)
            if it is None:
                log.info("a request is not what route %s is for, and is passed over", name)
                return answer(HTTPStatus.OK, {"published": False, "detail": "It is not what this is for."})
            key = it.key
            if key is None and is_cloud_event(request):
                key = which(request, raw, self._settings)
            key = self._key(request, route.auth or self._settings.auth) if key is None else f"{name}\n{key}"
            event_id = str(uuid.uuid4()) if key is None else event_id_of(route.type, key)
            own = traceparent_of(request, raw, self._settings) if is_cloud_event(request) else ""
            async with Arrivals(self._host.work) as into:
                files = {} if route.file is None else {route.file: await keep(raw, into)}
                event = await self._publish(route.type, it.pairs, files, event_id, traceparent=_trace(request, own))
        return await self._taken(request, event)

    async def _take_link(self, request: web.BaseRequest) -> web.StreamResponse:
        """200 with the event as it travels: so the predecessor answered."""
        signed = self._guard.before(request)
        await self._check_room(NEW_LINK)
        key = self._key(request, self._settings.auth)
        raw = await read_json_of_any_kind(request, self._settings, also=None if signed is None else signed.add)
        if signed is not None:
            signed.check()
        with _told_as_such():
            url = read_link(raw, limit=self._settings.max_json)
            event_id = str(uuid.uuid4()) if key is None else event_id_of(NEW_LINK, key)
            event = await self._publish(
                NEW_LINK, [("url", url)], {}, event_id, name=NAME, parent_event_id=NAME, traceparent=_trace(request)
            )
        return answer(HTTPStatus.OK, event.to_wire())

    async def _publish(
        self,
        event_type: str,
        pairs: Sequence[tuple[str, str]],
        files: Mapping[str, Path],
        event_id: str,
        told: Mapping[str, BlobInfo] | None = None,
        **context: str,
    ) -> Event:
        try:
            return await self._host.publish(
                event_type,
                data=pairs,
                files=files,
                event_id=event_id,
                correlation_id=event_id,
                consume=True,
                told=told,
                **context,
            )
        except Unroutable as error:
            raise of_nobody(event_type, self._host.event_types()) from error
        except MessageRefused as error:
            log.warning("the broker takes no such message: %s", error)
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The broker takes no event like this. Send large data as files."
            ) from error
        except TransientError as error:
            raise self._away(error) from error

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
            raise of_nobody(event_type, types)

    async def _check_room(self, event_type: str) -> None:
        """Raises Refused (429) where too much waits for those who take it. What is not known keeps nobody out."""
        count = await self._waiting.count(event_type)
        if count is not None and count > self._settings.max_pending:
            raise later(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"Too much waits already for those who take this type: {counted(count, 'message')}.",
            )

    def _key(self, request: web.BaseRequest, auth: Auth) -> str | None:
        """What makes this request and another one the same event. Raises Refused."""
        names = ["Idempotency-Key"]
        if auth.standard_webhooks:
            names = ["webhook-id"]
        elif auth.github:
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


@contextmanager
def _told_as_such() -> Iterator[None]:
    """What the core finds wrong with an event, as an answer."""
    try:
        yield
    except IdTaken as error:
        raise Refused(
            HTTPStatus.CONFLICT,
            "The key, or the source and id, is that of another event. Use a new one, or send what was sent before.",
            problems=error.differs,
        ) from error
    except InvalidEvent as error:
        raise Refused(
            HTTPStatus.UNPROCESSABLE_ENTITY, "The event is not as it must be.", problems=error.problems
        ) from error


def _trace(request: web.BaseRequest, own: str = "") -> str:
    """The trace that the request is part of, '' for none. Of several none, as W3C Trace Context says.

    ``own`` is what a CloudEvent says itself: where it began, whichever hop brought it.
    """
    if checked_traceparent(own):
        return own
    said = request.headers.getall("traceparent", [])
    return said[0] if len(said) == 1 else ""


def _as_json(event: Event) -> dict[str, str]:
    context = event.context
    return {"eventId": context.event_id, "correlationId": context.correlation_id, "type": event.type}


def _outcome_as_json(found: FlowOutcome) -> dict[str, Any]:
    return {
        "outcome": found.outcome,
        "over": found.over,
        "events": found.events,
        "jobs": dict(found.jobs),
        "failing": list(found.failing),
    }


def _applied(within: timedelta) -> str:
    return f"wait={within.total_seconds():.0f}"


def event_id_of(event_type: str, key: str) -> str:
    """The id of the event of this type and key: the same from every gateway. A type has no line breaks."""
    return hashlib.sha256(f"{event_type}\n{key}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
