"""A TCP proxy before an object store that misbehaves as told."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    b"Content-Length: 74\r\n\r\n<Error><Code>ServiceUnavailable</Code><Message>not today</Message></Error>\n"
)
_FORBIDDEN = (
    b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    b"Content-Length: 72\r\n\r\n<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
)
_EXPECTING = b"Expect: 100-continue\r\n"


@dataclass
class FaultyProxy:
    """What it does to the next requests; all at once, as often as said.

    ``busy`` are answered 503 · ``cut`` answers end in the middle · ``silent`` are never answered · ``refusing``: every
    connection is closed at once · a GET of a path that ends with ``forbidden``, or any if that is ``*``, is answered
    403, and so is a DELETE of one that ends with ``locked`` · ``says``: statuses and codes to answer the next requests
    with whose heads begin as ``says_to`` does, those that write unless told otherwise · the answers to so many
    conditional writes are ``lost`` · answers come without the header ``without`` · what so many GETs bring has its last
    byte ``damaged`` · so many bodies that come in are ``torn``: the connection is closed after half · where
    ``expires_after`` is set, no more than so many are let through, the others' credentials have expired.
    ``requests`` counts what came in, ``heads`` keeps their heads.
    """

    target: int
    port: int = 0
    busy: int = 0
    cut: int = 0
    silent: int = 0
    refusing: bool = False
    forbidden: str = ""
    locked: str = ""
    says: list[tuple[int, str]] = field(default_factory=list)
    says_to: bytes = b"PUT "
    without: bytes = b""
    lost: int = 0
    damaged: int = 0
    torn: int = 0
    expires_after: int | None = None
    heads: list[bytes] = field(default_factory=list)
    requests: int = 0
    _came_in: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await self._head(reader):
            self.requests += 1
            self.heads.append(head)
            self._came_in.set()
            if _EXPECTING in head:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                head = head.replace(_EXPECTING, b"")
            if self.torn and (length := _length(head)) > 1:
                self.torn -= 1
                await reader.readexactly(length // 2)
                return
            body = await self._body(head, reader)
            if self.refusing:
                return
            if self.expires_after is not None:
                self.expires_after -= 1
                if self.expires_after < 0:
                    writer.write(_answer(400, "ExpiredToken"))
                    await writer.drain()
                    return
            if self.busy:
                self.busy -= 1
                writer.write(_BUSY)
                await writer.drain()
                return
            if self._is_forbidden(head):
                writer.write(_FORBIDDEN)
                await writer.drain()
                return
            if self.says and re.match(self.says_to, head):
                writer.write(_answer(*self.says.pop(0)))
                await writer.drain()
                return
            if self.silent:
                self.silent -= 1
                await asyncio.get_running_loop().create_future()
            answer = await self._ask(head, body)
            if self.cut and len(answer) > 2_000:
                self.cut -= 1
                writer.write(answer[: len(answer) // 2])
                await writer.drain()
                return
            if self.lost and b"if-none-match" in head.lower():
                self.lost -= 1
                return
            if self.damaged and head.startswith(b"GET"):
                self.damaged -= 1
                answer = answer[:-1] + bytes([answer[-1] ^ 1])
            if self.without:
                answer = re.sub(rb"(?i)\r\n" + self.without + rb": [^\r]*", b"", answer)
            writer.write(answer)
            await writer.drain()

    def _is_forbidden(self, head: bytes) -> bool:
        method, path, _ = head.split(b" ", 2)
        path = path.partition(b"?")[0]
        if method == b"DELETE":
            return bool(self.locked) and path.endswith(self.locked.encode())
        asked = self.forbidden and (self.forbidden == "*" or path.endswith(self.forbidden.encode()))
        return method == b"GET" and bool(asked)

    async def _head(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""

    async def _body(self, head: bytes, reader: asyncio.StreamReader) -> bytes:
        return await reader.readexactly(_length(head))

    async def _ask(self, head: bytes, body: bytes) -> bytes:
        """The whole answer of the server, on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.target)
        try:
            writer.write(head + body)
            await writer.drain()
            answered = await reader.readuntil(b"\r\n\r\n")
            bare = head.startswith(b"HEAD") or b" 204 " in answered.split(b"\r\n")[0]
            if not bare and b"transfer-encoding: chunked" in answered.lower():
                return answered + await reader.readuntil(b"\r\n0\r\n\r\n")
            return answered if bare else answered + await reader.readexactly(_length(answered))
        finally:
            writer.close()

    async def came_in(self, count: int) -> None:
        """Until so many requests have."""
        while self.requests < count:
            self._came_in.clear()
            await self._came_in.wait()

    async def end(self) -> None:
        for task in list(self._tasks):
            task.cancel()


def _answer(status: int, code: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>as told</Message></Error>".encode()
    return b"HTTP/1.1 %d Told\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


@asynccontextmanager
async def faulty_proxy_to(port: int) -> AsyncIterator[FaultyProxy]:
    proxy = FaultyProxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=1 << 20)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        await proxy.end()
        server.close()
