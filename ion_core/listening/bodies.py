"""Bodies of requests, as they come in: counted, and within time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any, Protocol

from ion_core.listening.refusals import Refused
from ion_core.words import counted

SILENT_FOR = 30.0
"""Seconds a client may send nothing in the middle of a body."""
GRACE, LEAST_RATE = 60.0, 1024
"""After ``GRACE`` seconds a body must have come with so many bytes a second: who sends one at a time holds a place."""


class Content(Protocol):
    """What comes of a body: that of ``asyncio.StreamReader``, and what is there already."""

    def read_nowait(self) -> bytes: ...
    def at_eof(self) -> bool: ...
    async def readany(self) -> bytes: ...


class Headers(Protocol):
    """By name, in whatever case; there may be several of one name."""

    def __contains__(self, key: object, /) -> bool: ...
    def getall(self, key: str, default: list[str]) -> list[str]: ...


class Request(Protocol):
    """What is asked of a request, whichever library has read its head."""

    @property
    def headers(self) -> Headers: ...
    @property
    def content_length(self) -> int | None: ...
    @property
    def content(self) -> Content: ...
    @property
    def writer(self) -> Any: ...


class Gone(Exception):
    """The client went away in the middle of its request: there is nobody to answer."""


def check_framing(request: Request) -> None:
    """How the body comes, and what is expected of us, by the head. Raises Refused (417, 501)."""
    codings = [it.strip().lower() for it in request.headers.getall("Transfer-Encoding", [])]
    if codings not in ([], ["chunked"]):  # the parser takes any before chunked, and hands out what is packed
        raise Refused(
            HTTPStatus.NOT_IMPLEMENTED,
            "A Transfer-Encoding other than chunked is not understood. Send the body as it is.",
            headers={"Connection": "close"},
        )
    if any(it.strip().lower() != "100-continue" for it in request.headers.getall("Expect", [])):
        raise Refused(
            HTTPStatus.EXPECTATION_FAILED, "Of an Expect header 100-continue is understood, and nothing else."
        )


class Body:
    """The body of a request, at most ``limit`` bytes. ``also`` is given each chunk, for signatures.

    ``broken`` is what the library raises beside ConnectionError where the body does not come as a whole.
    """

    def __init__(
        self,
        request: Request,
        *,
        limit: int,
        what: str,
        broken: tuple[type[Exception], ...],
        also: Callable[[bytes], None] | None = None,
    ) -> None:
        self._request = request
        self._limit = limit
        self._what = what
        self._also = also
        self._broken: tuple[type[Exception], ...] = (ConnectionError, *broken)
        self._begun, self._count = 0.0, 0
        if (request.content_length or 0) > limit:
            raise self._too_large()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Raises Refused where it is too large or too slow, Gone where the client is."""
        while chunk := await self._next():
            yield chunk

    async def _next(self) -> bytes:
        """What has come, once anything has; empty at the end. Raises as ``chunks``."""
        content, loop = self._request.content, asyncio.get_running_loop()
        try:
            if not self._begun:
                self._begun = loop.time()
                await self._say_continue()
            chunk = content.read_nowait()
            if not chunk and not content.at_eof():
                async with asyncio.timeout(SILENT_FOR):
                    chunk = await content.readany()
            self._count += len(chunk)
            if self._count > self._limit:
                raise self._too_large()
            seconds = loop.time() - self._begun
            if chunk and seconds > GRACE and self._count < (seconds - GRACE) * LEAST_RATE:
                raise TimeoutError
            if chunk and self._also is not None:
                self._also(chunk)
        except TimeoutError:
            raise Refused(
                HTTPStatus.REQUEST_TIMEOUT, "The body came too slowly.", headers={"Connection": "close"}
            ) from None
        except self._broken as error:
            raise Gone from error
        return chunk

    async def _say_continue(self) -> None:
        if "Expect" in self._request.headers:  # what else it may be is refused before
            await self._request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._request.writer.output_size = 0  # what is counted there is the answer, which has not begun

    def _too_large(self) -> Refused:
        return Refused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"The body has more than {counted(self._limit, 'byte')}, the limit of {self._what}.",
        )

    async def read(self) -> bytes:
        """All of it."""
        first = await self._next()
        if self._request.content.at_eof():
            return first
        found = bytearray(first)
        while chunk := await self._next():
            found += chunk
        return bytes(found)
