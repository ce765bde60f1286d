"""HTTP/1.1 to one server, by h11: kept connections, TLS that is checked, answers as they come, one more try."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeVar

import h11

from ion_core.errors import PermanentError, TransientError

T = TypeVar("T")

CONNECT_WITHIN = 10.0
"""Seconds for a connection, with its TLS."""
SILENT_FOR = 60.0
"""Seconds that the server may send, or take, nothing in the middle of a body."""
LINGER = 2.0
"""Seconds in which a server that takes no more of a body may say why."""
KEPT_FOR = 20.0
"""Seconds for which a connection is used again; servers close theirs later."""
AT_A_TIME = 8
"""Requests under way; others wait here, not there."""
CHUNK = 256 * 1024
MOST_HEAD = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Server:
    """``where`` is its URL, for people. ``tls`` is None for plain HTTP; ``headers`` go with every request."""

    where: str
    host: str
    port: int
    base: str
    tls: ssl.SSLContext | None
    headers: tuple[tuple[str, str], ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One that may be sent twice. ``content`` begins anew each time, and has ``size`` bytes.

    ``within`` seconds after the whole of it an answer is there.
    """

    target: str
    within: float
    method: str = "GET"
    kind: str = ""
    size: int = 0
    content: Callable[[], AsyncGenerator[bytes, None]] | None = None


class Lost(Exception):
    """The connection is gone, before there was an answer or in the middle of it."""


class Answer:
    """``chunks`` are had once."""

    def __init__(self, connection: _Connection, head: h11.Response) -> None:
        self._connection = connection
        self.status = head.status_code

    async def chunks(self) -> AsyncIterator[bytes]:
        """Raises Lost."""
        while isinstance(event := await self._connection.event(SILENT_FOR), h11.Data):
            yield bytes(event.data)

    async def read(self) -> bytes:
        """All of it. Raises Lost."""
        return b"".join([chunk async for chunk in self.chunks()])


class Connections:
    """To one server. Of an event loop; closed by ``close``."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._kept: list[tuple[float, _Connection]] = []
        self._room = asyncio.Semaphore(AT_A_TIME)

    async def ask(
        self, request: Request, use: Callable[[Answer], Awaitable[T]], *, room: asyncio.Semaphore | None = None
    ) -> T:
        """What ``use`` makes of the answer. If the connection is lost all of it is done once more, on a new one.

        Raises TransientError where the server cannot be reached or does not answer, PermanentError where it is not to
        be trusted or does not speak HTTP, and what ``use`` raises.
        """
        async with room or self._room:
            try:
                return await self._once(request, use, self._usable())
            except Lost:
                self.close()  # the others are as old
            try:
                return await self._once(request, use, None)
            except Lost as error:
                hint = "" if self._server.tls is not None else " Or does it speak TLS? Then it is https://."
                raise TransientError(
                    f"{self._server.where}: the connection was lost, twice: {error}. Try again later.{hint}"
                ) from error

    def close(self) -> None:
        for _, it in self._kept:
            it.close()
        self._kept.clear()

    async def _once(self, request: Request, use: Callable[[Answer], Awaitable[T]], connection: _Connection | None) -> T:
        connection = connection or await self._opened()
        try:
            found = await use(await connection.exchange(request))
        except TimeoutError as error:
            connection.close()
            raise TransientError(f"{self._server.where}: does not answer. Try again later.") from error
        except h11.RemoteProtocolError as error:
            connection.close()
            raise PermanentError(f"{self._server.where}: does not speak HTTP/1.1: {error}.") from error
        except BaseException:
            connection.close()
            raise
        if connection.ready():
            self._kept.append((asyncio.get_running_loop().time(), connection))
        else:
            connection.close()
        return found

    def _usable(self) -> _Connection | None:
        while self._kept:
            since, found = self._kept.pop()
            if asyncio.get_running_loop().time() - since < KEPT_FOR:
                return found
            found.close()
        return None

    async def _opened(self) -> _Connection:
        server = self._server
        try:
            async with asyncio.timeout(CONNECT_WITHIN):
                reader, writer = await asyncio.open_connection(server.host, server.port, ssl=server.tls, limit=CHUNK)
        except TimeoutError as error:
            raise TransientError(f"{server.where}: cannot be reached within {CONNECT_WITHIN:.0f} s.") from error
        except ssl.SSLCertVerificationError as error:
            raise PermanentError(
                f"{server.where}: its certificate is not trusted: {error.verify_message}. If that authority is yours, "
                "give its certificate as ca_file."
            ) from error
        except ssl.SSLError as error:
            raise PermanentError(f"{server.where}: no TLS with it ({error.reason}). Is it http://?") from error
        except OSError as error:
            raise TransientError(f"{server.where}: cannot be reached: {error.strerror or error}.") from error
        return _Connection(server, reader, writer)


class _Connection:
    def __init__(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD)

    async def exchange(self, request: Request) -> Answer:
        """Once the head of the answer is there, which may be before all was sent. Raises Lost, TimeoutError."""
        sending = asyncio.create_task(self._send(request))
        reading = asyncio.create_task(self._head())
        both = {sending, reading}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                failure = sending.exception()
                if failure is not None and not isinstance(failure, Lost):
                    raise failure
                done, _ = await asyncio.wait({reading}, timeout=request.within if failure is None else LINGER)
                if not done:
                    raise failure or TimeoutError
            return Answer(self, reading.result())
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def event(self, within: float | None) -> h11.Event:
        """The next of the answer; ``within`` None waits. Raises Lost, TimeoutError, h11.RemoteProtocolError."""
        try:
            while (found := self._http.next_event()) is h11.NEED_DATA:
                async with asyncio.timeout(within):
                    chunk = await self._reader.read(CHUNK)
                if not chunk and self._http.their_state is not h11.SEND_BODY:
                    raise Lost("there was no answer")
                self._http.receive_data(chunk)
        except OSError as error:
            if isinstance(error, TimeoutError) and error.errno is None:
                raise
            raise Lost(error.strerror or str(error)) from error
        except h11.RemoteProtocolError as error:
            if self._reader.at_eof():
                raise Lost("the answer ends early") from error
            raise
        assert not isinstance(found, type)
        return found

    def ready(self) -> bool:
        """Whether all was sent and read, so that it can be used again."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return not self._writer.is_closing()

    def close(self) -> None:
        self._writer.transport.abort()

    async def _send(self, request: Request) -> None:
        server, length = self._server, request.size
        headers = [("Host", server.where.partition("://")[2].partition("/")[0]), ("User-Agent", "ion"), *server.headers]
        if request.content is not None:
            headers += [("Content-Type", request.kind), ("Content-Length", str(length))]
        await self._write(h11.Request(method=request.method, target=server.base + request.target, headers=headers))
        if request.content is not None:
            async with aclosing(request.content()) as chunks:
                async for chunk in chunks:
                    await self._write(h11.Data(data=chunk))
        await self._write(h11.EndOfMessage())

    async def _write(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if not data:
            return
        try:
            self._writer.write(data)
            async with asyncio.timeout(SILENT_FOR):
                await self._writer.drain()
        except TimeoutError as error:
            raise Lost(f"it takes nothing for {SILENT_FOR:.0f} s") from error
        except OSError as error:
            raise Lost(error.strerror or str(error)) from error

    async def _head(self) -> h11.Response:
        while True:
            found = await self.event(None)
            if isinstance(found, h11.Response):
                return found
