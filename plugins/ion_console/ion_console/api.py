"""What the console answers to each operation, by what its host shows."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from aiohttp import web

from ion_console.answers import BROKEN, HEADERS, JSON, Aside, answer, mistaken
from ion_console.digests import Digests
from ion_console.guard import Guard
from ion_console.metrics import Metrics
from ion_console.openapi import document
from ion_console.parts import is_known, part_of
from ion_console.publishing import Publishing
from ion_console.routing import LONGEST, MOST, OPERATIONS, Operation, segments
from ion_console.shown import change, page, shown
from ion_console.streams import REFRESH, Streams, Told
from ion_core.contracts.looking import FlowView, LetterFilter, LetterId
from ion_core.contracts.service import ServiceHost
from ion_core.errors import BlobNotFound, DeadLetterNotFound, InvalidCursor, IonError
from ion_core.events import StoredFile
from ion_core.listening.bodies import Body
from ion_core.listening.refusals import RETRY_AFTER, Refused

MOST_BODY = 1024 * 1024
"""Bytes of a request."""
LIMIT = 50
_CONDITIONS = ("module", "type", "reason", "containing")


class Api:
    """``guarded``: whether tokens are asked for, which the OpenAPI document says."""

    def __init__(
        self,
        host: ServiceHost,
        metrics: Metrics,
        streams: Streams,
        guard: Guard,
        publishing: Publishing,
        aside: Aside,
        *,
        guarded: bool,
    ) -> None:
        self._host = host
        self._publishing = publishing
        self._measures = metrics
        self._streams = streams
        self._digests = Digests(host)
        self._aside = aside
        self.guard = guard
        self.guarded = guarded

    def mended(self) -> None:
        """Dead letters were put back or deleted by a page: those that are open are told."""
        self._digests.mended()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Raises Refused, and what the host raises otherwise."""
        operation, named = self._operation(request)
        if operation.role is not None:
            self.guard.check(request, operation.role)
        asked = operation.query(request.rel_url) | named
        try:
            method = getattr(self, f"_{operation.name}")
            found: web.StreamResponse = await method(request, asked)
            return found
        except InvalidCursor:
            raise mistaken("after: is no cursor that was told here") from None
        except BlobNotFound:
            raise _no_file() from None
        except DeadLetterNotFound:
            raise Refused(HTTPStatus.NOT_FOUND, "Not all of them are there. List the dead letters anew.") from None

    def _operation(self, request: web.BaseRequest) -> tuple[Operation, dict[str, str]]:
        """Raises Refused (404, 405)."""
        path = segments(request.rel_url)
        matching = [(it, found) for it in OPERATIONS if (found := it.match(path)) is not None]
        if not matching:
            raise Refused(HTTPStatus.NOT_FOUND, "There is nothing here. GET /api/openapi.json says what there is.")
        for operation, named in matching:
            if request.method in operation.methods:
                if long := [name for name, text in named.items() if len(text) > LONGEST]:
                    raise mistaken(*(f"{name}: must have at most {LONGEST:,} characters" for name in long))
                return operation, named
        allow = ", ".join(sorted({method for it, _ in matching for method in it.methods}))
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"Ask by {allow}.", headers={"Allow": allow})

    async def _told(self, found: Callable[[], Any]) -> web.Response:
        return await self._aside.made(lambda: answer(found()))

    # How it is

    async def _healthz(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        live = self._host.health().live
        return _green_or_red({"live": live}, live)

    async def _readyz(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        health = self._host.health()
        body: dict[str, Any] = {"ready": health.ready, "draining": health.draining}
        if self.guard.may(request, "look"):
            body["problems"] = shown(health.problems)
        return _green_or_red(body, health.ready)

    async def _metrics(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        text = await self._measures.text()
        headers = {**HEADERS, "Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=text, headers=headers)

    async def _openapi(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        return answer(document(guarded=self.guarded))

    def _still_may(self, request: web.BaseRequest) -> bool:
        """Whether a stream goes on: tokens may have been replaced meanwhile."""
        try:
            return self.guard.may(request, "look")
        except Refused:
            return False

    # Flows

    async def _flows(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        found = await self._host.flows(
            outcomes=asked["outcome"] or None,
            module=asked["module"],
            type=asked["type"],
            since=asked["since"],
            containing=asked["containing"],
            after=asked["after"],
            limit=asked["limit"] or LIMIT,
        )
        return await self._told(lambda: page(found))

    async def _flow(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        found = await self._found(asked["flow"])
        return await self._told(lambda: shown(found))

    async def _outcome(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        if asked["within"]:
            with self._streams.one():
                await self._streams.unless_ending(self._host.outcome(asked["flow"], within=asked["within"]))
        return answer(shown((await self._found(asked["flow"])).summary))

    async def _found(self, flow: str) -> FlowView:
        """Raises Refused (404)."""
        found = await self._host.flow(flow)
        if found is None:
            raise Refused(HTTPStatus.NOT_FOUND, "There is no flow of that correlation id.", error="DocumentNotFound")
        return found

    async def _documents(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        found = await self._host.documents(
            asked["kind"], correlation_id=asked["flow"], after=asked["after"], limit=asked["limit"] or LIMIT
        )
        return await self._told(lambda: page(found))

    async def _files(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        found = await self._host.files(asked["flow"], asked["event"])
        return await self._told(lambda: shown(found))

    async def _file(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.StreamResponse:
        flow, key = asked["flow"], asked["key"]
        file = next((it.file for it in await self._host.files(flow) if it.file.key == key), None)
        if file is None:
            raise _no_file()
        headers = _of_file(file)
        if is_known(request, file.sha256):
            del headers["Content-Length"]
            return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        part = part_of(request, file.size, file.sha256)
        if part is not None:
            about = {"Content-Length": str(len(part)), "Content-Range": f"bytes {part[0]}-{part[-1]}/{file.size}"}
            headers |= about
        response = web.StreamResponse(
            status=HTTPStatus.OK if part is None else HTTPStatus.PARTIAL_CONTENT, headers=headers
        )
        if request.method == "HEAD":
            await response.prepare(request)
            return response
        async with self._host.file(flow, key, start=0 if part is None else part[0]) as found:
            await response.prepare(request)
            left = file.size if part is None else len(part)
            try:
                async for chunk in found.chunks:
                    await response.write(chunk[:left])
                    if not (left := left - len(chunk[:left])):
                        break
                await response.write_eof()
            except IonError as error:
                raise ConnectionError("a file ends early") from error  # its length has been told: the client sees it
        return response

    async def _publish(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        event = await self._publishing.publish(request)
        context = event.context
        return answer({"eventId": context.event_id, "correlationId": context.correlation_id, "type": event.type})

    async def _report(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        page = await self._host.report(asked["flow"])
        if page is None:
            raise Refused(HTTPStatus.NOT_FOUND, "There is no flow of that correlation id.")
        return web.Response(body=page, headers=_saved_as(f"flow-{asked['flow']}.html", "text/html; charset=utf-8"))

    async def _logs(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        found = await self._host.logs(asked["event"], correlation_id=asked["flow"])
        return await self._told(lambda: shown(found))

    async def _follow(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.StreamResponse:
        async def lines() -> AsyncGenerator[Told, None]:
            async for line in self._host.follow(asked["event"]):
                yield Told("line", shown(line))
            yield Told("end", {})

        with self._streams.one():
            async with aclosing(lines()) as source:
                return await self._streams.send(request, source, may=lambda: self._still_may(request))

    async def _why(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        return answer(shown(await self._host.why(asked["event"], correlation_id=asked["flow"])))

    # Work

    async def _queues(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        return answer(shown(await self._host.queues()))

    async def _running(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        return answer(shown(self._host.running()))

    async def _modules(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        return answer(shown(self._host.pipeline()))

    async def _schedules(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        return answer(shown(self._host.planned()))

    async def _changes(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.StreamResponse:
        with self._streams.one():
            async with self._host.changes() as told:

                async def changes() -> AsyncGenerator[Told, None]:
                    async for it in told:
                        yield Told(REFRESH, {}) if it.kind == "missed" else Told(it.kind, change(it))

                async with aclosing(changes()) as source:
                    return await self._streams.send(request, source, may=lambda: self._still_may(request))

    async def _digest(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.StreamResponse:
        with self._streams.one():
            async with self._digests.one(asked["every"] or 1) as source:
                return await self._streams.send(request, source, may=lambda: self._still_may(request))

    # Dead letters

    async def _letters(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        which = LetterFilter(**{name: asked[name] for name in _CONDITIONS})
        found = await self._host.dead_letters(which, after=asked["after"], limit=asked["limit"] or LIMIT)
        return await self._told(lambda: page(found))

    async def _groups(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        return answer(shown(await self._host.dead_letter_groups(asked["by"] or "reason")))

    async def _redrive(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        which = _which(await _body(request))
        if isinstance(which, LetterFilter):
            done = await self._host.redrive_all(which)
        else:
            done = await self._host.redrive(which)
        self._digests.mended()
        return answer({"redriven": done})

    async def _purge(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        which = _which(await _body(request))
        if isinstance(which, LetterFilter):
            done = await self._host.purge_all(which)
        else:
            done = await self._host.purge(which)
        self._digests.mended()
        return answer({"purged": done})


def _no_file() -> Refused:
    return Refused(HTTPStatus.NOT_FOUND, "There is no such file. List the files of its flow.", error="BlobNotFound")


def _of_file(file: StoredFile) -> dict[str, str]:
    return {
        **_saved_as(PurePosixPath(file.name).name, "application/octet-stream"),
        "Content-Length": str(file.size),
        "Accept-Ranges": "bytes",
        "ETag": f'"{file.sha256}"',
    }


def _saved_as(name: str, kind: str) -> Mapping[str, str]:
    """Headers of what is saved under that name, and never shown."""
    disposition = f"attachment; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
    return {**HEADERS, "Content-Type": kind, "Content-Disposition": disposition}


def _green_or_red(body: Mapping[str, Any], green: bool) -> web.Response:
    if green:
        return answer(body)
    return answer(body, HTTPStatus.SERVICE_UNAVAILABLE, headers={"Retry-After": RETRY_AFTER})


async def _body(request: web.BaseRequest) -> Any:
    """JSON. Raises Refused."""
    if request.content_type != JSON or request.headers.get("Content-Encoding", "identity") != "identity":
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Send {JSON}, not compressed, and say so as Content-Type.")
    found = await Body(request, limit=MOST_BODY, what="JSON", broken=BROKEN).read()
    try:
        return json.loads(found)
    except (ValueError, RecursionError):
        raise mistaken("the body: must be JSON") from None


def _which(body: Any) -> LetterFilter | list[LetterId]:
    """Which dead letters are meant. Raises Refused."""
    if not isinstance(body, dict) or not body:
        raise mistaken("the body: must be an object with ids; with module, type, reason or containing; or with all")
    if set(body) == {"all"} and body["all"] is True:
        return LetterFilter()
    if set(body) == {"ids"}:
        return _ids(body["ids"])
    if "all" in body:
        raise mistaken("all: must be true, and alone")
    problems = [f"{name[:80]}: is not known here, or not beside others" for name in body if name not in _CONDITIONS]
    for name in set(body) & {*_CONDITIONS}:
        if not _is_text(body[name]) or not 1 <= len(body[name]) <= LONGEST:
            problems.append(f"{name}: must be text of 1 to {LONGEST:,} characters")
    if problems:
        raise mistaken(*problems)
    return LetterFilter(**body)


def _ids(given: Any) -> list[LetterId]:
    if not isinstance(given, list) or not 1 <= len(given) <= MOST:
        raise mistaken(f"ids: must be a list of 1 to {MOST:,}")
    found = []
    for number, it in enumerate(given):
        texts = isinstance(it, dict) and set(it) == {"queue", "id"} and all(map(_is_text, it.values()))
        if not texts or any(len(one) > LONGEST for one in it.values()):
            raise mistaken(f"ids.{number}: must be an object with queue and id, as dead letters have them")
        found.append(LetterId(it["queue"], it["id"]))
    return found


def _is_text(value: Any) -> bool:
    """Of JSON, which may have half of a surrogate pair: that is the name of nothing, and no broker takes it."""
    try:
        str.encode(value)
    except (TypeError, UnicodeEncodeError):
        return False
    return True
