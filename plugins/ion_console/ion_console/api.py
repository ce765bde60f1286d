"""What the console answers to each operation, by what its host shows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from aiohttp import web

from ion_console.answers import HEADERS, JSON, RETRY_AFTER, Refused, answer, mistaken
from ion_console.guard import Guard
from ion_console.metrics import Metrics
from ion_console.openapi import document
from ion_console.routing import LONGEST, MOST, OPERATIONS, Operation, segments
from ion_console.shown import change, page, shown
from ion_console.streams import REFRESH, Streams, Told
from ion_core.contracts.looking import LetterFilter, LetterId
from ion_core.contracts.service import ServiceHost
from ion_core.errors import BlobNotFound, DeadLetterNotFound, InvalidCursor, IonError
from ion_core.words import counted

MOST_BODY = 1024 * 1024
"""Bytes of a request."""
BODY_WITHIN = 30.0
"""Seconds for them to come."""
LIMIT = 50
_CONDITIONS = ("module", "type", "reason", "containing")


class Api:
    """``guarded``: whether tokens are asked for, which the OpenAPI document says."""

    def __init__(self, host: ServiceHost, metrics: Metrics, streams: Streams, guard: Guard, *, guarded: bool) -> None:
        self._host = host
        self._measures = metrics
        self._streams = streams
        self.guard = guard
        self.guarded = guarded

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
            raise Refused(HTTPStatus.NOT_FOUND, "There is no such file. List the files of its flow.") from None
        except DeadLetterNotFound:
            raise Refused(HTTPStatus.NOT_FOUND, "Not all of them are there. List the dead letters anew.") from None

    def _operation(self, request: web.BaseRequest) -> tuple[Operation, dict[str, str]]:
        """Raises Refused (404, 405)."""
        path = segments(request.rel_url)
        matching = [(it, found) for it in OPERATIONS if (found := it.match(path)) is not None]
        if not matching:
            raise Refused(HTTPStatus.NOT_FOUND, "There is nothing here. GET /api/openapi.json says what there is.")
        for operation, named in matching:
            if operation.method == request.method:
                if long := [name for name, text in named.items() if len(text) > LONGEST]:
                    raise mistaken(*(f"{name}: must have at most {LONGEST:,} characters" for name in long))
                return operation, named
        allow = ", ".join(sorted({it.method for it, _ in matching}))
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"Ask by {allow}.", headers={"Allow": allow})

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
            after=asked["after"],
            limit=asked["limit"] or LIMIT,
        )
        return answer(page(found))

    async def _flow(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        found = await self._host.flow(asked["flow"])
        if found is None:
            raise Refused(HTTPStatus.NOT_FOUND, "There is no flow of that correlation id.")
        return answer(shown(found))

    async def _documents(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        found = await self._host.documents(
            asked["kind"], correlation_id=asked["flow"], after=asked["after"], limit=asked["limit"] or LIMIT
        )
        return answer(page(found))

    async def _files(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        return answer(shown(await self._host.files(asked["flow"], asked["event"])))

    async def _file(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.StreamResponse:
        async with self._host.file(asked["flow"], asked["key"]) as found:
            name = PurePosixPath(found.file.name).name
            response = web.StreamResponse(
                headers={
                    **HEADERS,
                    "Content-Type": "application/octet-stream",
                    "Content-Length": str(found.file.size),
                    "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='', errors='replace')}",
                }
            )
            await response.prepare(request)
            try:
                async for chunk in found.chunks:
                    await response.write(chunk)
                await response.write_eof()
            except IonError as error:
                raise ConnectionError("a file ends early") from error  # its length has been told: the client sees it
            return response

    async def _logs(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        return answer(shown(await self._host.logs(asked["event"], correlation_id=asked["flow"])))

    async def _follow(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.StreamResponse:
        async def lines() -> AsyncGenerator[Told, None]:
            async for line in self._host.follow(asked["event"]):
                yield Told("line", shown(line))
            yield Told("end", {})

        with self._streams.one():
            async with aclosing(lines()) as source:
                return await self._streams.send(request, source, may=lambda: self._still_may(request))

    # Work

    async def _queues(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        return answer(shown(await self._host.queues()))

    async def _running(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        return answer(shown(self._host.running()))

    async def _modules(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        return answer(shown(self._host.pipeline()))

    async def _changes(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.StreamResponse:
        with self._streams.one():
            async with self._host.changes() as told:

                async def changes() -> AsyncGenerator[Told, None]:
                    async for it in told:
                        yield Told(REFRESH, {}) if it.kind == "missed" else Told(it.kind, change(it))

                async with aclosing(changes()) as source:
                    return await self._streams.send(request, source, may=lambda: self._still_may(request))

    # Dead letters

    async def _letters(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        which = LetterFilter(**{name: asked[name] for name in _CONDITIONS})
        found = await self._host.dead_letters(which, after=asked["after"], limit=asked["limit"] or LIMIT)
        return answer(page(found))

    async def _groups(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        return answer(shown(await self._host.dead_letter_groups(asked["by"] or "reason")))

    async def _redrive(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        which = _which(await _body(request))
        if isinstance(which, LetterFilter):
            done = await self._host.redrive_all(which)
        else:
            done = await self._host.redrive(which)
        return answer({"redriven": done})

    async def _purge(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        which = _which(await _body(request))
        if isinstance(which, LetterFilter):
            done = await self._host.purge_all(which)
        else:
            done = await self._host.purge(which)
        return answer({"purged": done})


def _green_or_red(body: Mapping[str, Any], green: bool) -> web.Response:
    if green:
        return answer(body)
    return answer(body, HTTPStatus.SERVICE_UNAVAILABLE, headers={"Retry-After": RETRY_AFTER})


async def _body(request: web.BaseRequest) -> Any:
    """JSON. Raises Refused."""
    if request.content_type != JSON or request.headers.get("Content-Encoding", "identity") != "identity":
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Send {JSON}, not packed.")
    found = bytearray()
    try:
        async with asyncio.timeout(BODY_WITHIN):
            async for chunk in request.content.iter_any():
                found += chunk
                if len(found) > MOST_BODY:
                    raise Refused(
                        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A body has at most {counted(MOST_BODY, 'byte')}."
                    )
    except (TimeoutError, web.PayloadAccessError, ConnectionError) as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "The body is not there as a whole.") from error
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
    problems = [f"{name[:80]}: is not known here, or not beside others" for name in body if name not in _CONDITIONS]
    for name in set(body) & {*_CONDITIONS}:
        if not isinstance(body[name], str) or not 1 <= len(body[name]) <= LONGEST:
            problems.append(f"{name}: must be text of 1 to {LONGEST:,} characters")
    if problems:
        raise mistaken(*problems)
    return LetterFilter(**body)


def _ids(given: Any) -> list[LetterId]:
    if not isinstance(given, list) or not 1 <= len(given) <= MOST:
        raise mistaken(f"ids: must be a list of 1 to {MOST:,}")
    found = []
    for number, it in enumerate(given):
        texts = isinstance(it, dict) and set(it) == {"queue", "id"} and all(isinstance(one, str) for one in it.values())
        if not texts or any(len(one) > LONGEST for one in it.values()):
            raise mistaken(f"ids.{number}: must be an object with queue and id, as dead letters have them")
        found.append(LetterId(it["queue"], it["id"]))
    return found
