"""Server-sent events: so many streams at a time, with signs of life, until the client leaves or the service ends."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, NamedTuple

from aiohttp import web

from ion_console.answers import HEADERS
from ion_core.errors import IonError
from ion_core.listening.refusals import later
from ion_core.listening.waiting import unless_set

log = logging.getLogger(__name__)

HEARTBEAT = 15.0
"""Seconds after which a stream on which nothing happens shows that it lives."""
SENT_WITHIN = 30.0
"""Seconds in which a client takes what it is sent; after them it is thought to be gone."""
TOGETHER = 0.05
"""Seconds from one write to the next: what comes meanwhile is sent together."""
HELD = 64 * 1024
"""Bytes that are held to be sent; beyond them the source waits."""
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

    async def unless_ending(self, waiting: Coroutine[Any, Any, object]) -> None:
        """Until that is done, or the service is to end."""
        await unless_set(self._stop, waiting)

    async def send(
        self, request: web.BaseRequest, source: AsyncIterator[Told], *, may: Callable[[], bool]
    ) -> web.StreamResponse:
        """All that ``source`` has, as long as the client ``may`` have it, which is asked before anything is sent.

        A client that comes again with ``Last-Event-ID`` is told to look anew.
        """
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        held = _Held()
        if "Last-Event-ID" in request.headers:
            held.add(Told(REFRESH, {}))
        else:
            await _write(response, b": hello\n\n")
        stopping = asyncio.ensure_future(self._stop.wait())
        stopping.add_done_callback(held.wake)
        filling = asyncio.ensure_future(held.fill(source))
        try:
            while not stopping.done():
                await held.some(within=HEARTBEAT)
                if not may():
                    break
                if text := held.take():
                    await _write(response, text)
                    await asyncio.wait({stopping}, timeout=TOGETHER)
                elif filling.done():
                    filling.result()
                    break
                else:
                    await _write(response, b": alive\n\n")
            await response.write_eof()
        except IonError as error:
            log.warning("a stream ends early: %s", error)
            response.force_close()
        except (ConnectionError, TimeoutError):
            response.force_close()  # it has left, or does not read
        finally:
            for task in (stopping, filling):
                task.cancel()
            await asyncio.wait({stopping, filling})
        return response


class _Held:
    """Events that are to be sent together. They are bounded: a client that is slow holds up the source."""

    def __init__(self) -> None:
        self._number = 0
        self._text = bytearray()
        self._over = False
        self._some, self._room = asyncio.Event(), asyncio.Event()
        self._room.set()

    async def fill(self, source: AsyncIterator[Told]) -> None:
        try:
            async for told in source:
                self.add(told)
                await self._room.wait()
        finally:
            self._over = True
            self._some.set()

    def add(self, told: Told) -> None:
        self._number += 1
        self._text += _event(self._number, told)
        if len(self._text) >= HELD:
            self._room.clear()
        self._some.set()

    async def some(self, *, within: float) -> None:
        """Once there is something to send, the source is over or ``wake`` was called; after so many seconds anyway."""
        try:
            async with asyncio.timeout(within):
                await self._some.wait()
        except TimeoutError:
            pass

    def take(self) -> bytes:
        """Nothing where nothing is held."""
        found = bytes(self._text)
        self._text.clear()
        self._room.set()
        if not self._over:
            self._some.clear()
        return found

    def wake(self, _: object) -> None:
        self._some.set()


async def _write(response: web.StreamResponse, text: bytes) -> None:
    async with asyncio.timeout(SENT_WITHIN):
        await response.write(text)


def _event(number: int, told: Told) -> bytes:
    """JSON has no line breaks of its own, so it is one line whatever it holds."""
    return f"id: {number}\nevent: {told.event}\ndata: {json.dumps(told.data, ensure_ascii=True)}\n\n".encode("ascii")
