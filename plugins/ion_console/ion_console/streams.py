"""Server-sent events: so many streams at a time, with signs of life, until the client leaves or the service ends."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, NamedTuple

from aiohttp import web

from ion_console.answers import HEADERS, later
from ion_core.errors import IonError

log = logging.getLogger(__name__)

HEARTBEAT = 15.0
"""Seconds after which a stream on which nothing happens shows that it lives."""
SENT_WITHIN = 30.0
"""Seconds in which a client takes what it is sent; after them it is thought to be gone."""
REFRESH = "refresh"
"""The event that says: what happened meanwhile is not told, look anew at what there is."""


class Told(NamedTuple):
    """An event of a stream, and what it says as JSON."""

    event: str
    data: Any


class Streams:
    """``most`` at a time, ``open`` now; all end once ``stop`` is set."""

    def __init__(self, most: int, stop: asyncio.Event) -> None:
        self._most = most
        self._stop = stop
        self.open = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Room for one more. Raises Refused (429)."""
        if self.open >= self._most:
            raise later(HTTPStatus.TOO_MANY_REQUESTS, "There are too many streams at this moment.")
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    async def send(
        self, request: web.BaseRequest, source: AsyncIterator[Told], *, may: Callable[[], bool]
    ) -> web.StreamResponse:
        """All that ``source`` has, as long as the client ``may`` have it, which is asked before anything is sent.

        A client that comes again with ``Last-Event-ID`` is told to look anew.
        """
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        number = 0
        if "Last-Event-ID" in request.headers:
            await _write(response, _event(number := number + 1, Told(REFRESH, {})))
        else:
            await _write(response, b": hello\n\n")
        stopping = asyncio.ensure_future(self._stop.wait())
        coming = asyncio.ensure_future(_next(source))
        try:
            while not stopping.done():
                await asyncio.wait({stopping, coming}, timeout=HEARTBEAT, return_when=asyncio.FIRST_COMPLETED)
                if not may():
                    break
                if not coming.done():
                    await _write(response, b": alive\n\n")
                    continue
                if (told := coming.result()) is None:
                    break
                await _write(response, _event(number := number + 1, told))
                coming = asyncio.ensure_future(_next(source))
            await response.write_eof()
        except IonError as error:
            log.warning("a stream ends early: %s", error)
            response.force_close()
        except (ConnectionError, TimeoutError):
            response.force_close()  # it has left, or does not read
        finally:
            for task in (stopping, coming):
                task.cancel()
            await asyncio.wait({stopping, coming})
        return response


async def _next(source: AsyncIterator[Told]) -> Told | None:
    return await anext(source, None)


async def _write(response: web.StreamResponse, text: bytes) -> None:
    async with asyncio.timeout(SENT_WITHIN):
        await response.write(text)


def _event(number: int, told: Told) -> bytes:
    """JSON has no line breaks of its own, so it is one line whatever it holds."""
    return f"id: {number}\nevent: {told.event}\ndata: {json.dumps(told.data, ensure_ascii=True)}\n\n".encode("ascii")
