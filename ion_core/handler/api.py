"""The handler's HTTP API: ``GET /ready`` and ``GET /done``, as ``docs/module-contract.md`` has them.

One listener at a loopback address serves all modules of a dispatcher, who tell themselves apart by their secret; a
container with a loopback interface of its own gets a listener there.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from ion_core.errors import OutOfTurn
from ion_core.handler.session import CallFailed, Calls, NoMoreEvents

if TYPE_CHECKING:
    import h11

log = logging.getLogger(__name__)

REQUEST_WITHIN = 10.0
"""Seconds a connection gets to send its request, and to take the answer."""
MAX_REQUEST = 16 * 1024
"""Bytes of a request, headers and all."""
MAX_CONNECTIONS = 256
"""At a listener, at a time; more are closed at once."""


class HandlerApi:
    """Answers modules. What cannot be authenticated gets no further than the secret."""

    def __init__(self) -> None:
        self.port = 0
        """Where modules find us, in their ``HANDLER_PORT``."""
        self._calls: dict[bytes, tuple[bytes, Calls]] = {}
        self._conversations: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator[None]:
        """Answer at 127.0.0.1:``port`` (0: any that is free) while the body runs. Raises OSError if it is taken."""
        server = await self.serve(socket.create_server(("127.0.0.1", port)))
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            conversations = list(self._conversations)
            for conversation in conversations:
                conversation.cancel()
            if conversations:
                await asyncio.wait(conversations)

    def register(self, secret: str, calls: Calls) -> None:
        """From now on the holder of ``secret`` is answered by ``calls``."""
        raw = secret.encode()
        self._calls[hashlib.sha256(raw).digest()] = (raw, calls)

    def unregister(self, secret: str) -> None:
        """The holder of ``secret`` is nobody any more. Idempotent."""
        self._calls.pop(hashlib.sha256(secret.encode()).digest(), None)

    async def serve(self, listening: socket.socket) -> asyncio.Server:
        """Answer there too, until the server that is returned is closed."""
        open_now = 0

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal open_now
            if open_now >= MAX_CONNECTIONS:
                writer.transport.abort()
                return
            open_now += 1
            conversation = asyncio.current_task()
            assert conversation is not None
            self._conversations.add(conversation)
            try:
                await self._converse(reader, writer)
            except (ConnectionError, TimeoutError, asyncio.CancelledError):  # cancelled when the server is closing
                writer.transport.abort()
            finally:
                open_now -= 1
                self._conversations.discard(conversation)
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

        return await asyncio.start_server(accept, sock=listening, limit=MAX_REQUEST)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one answer."""
        import h11  # only where a module calls

        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST)
        try:
            async with asyncio.timeout(REQUEST_WITHIN):
                request = await _request(connection, reader)
        except h11.RemoteProtocolError as error:
            status, message = error.error_status_hint, f"this is no HTTP request: {error}"
        else:
            if request is None:
                return
            answer = await self._while_connected(request, reader)
            if answer is None:
                return
            status, message = answer
        body = json.dumps({"statusCode": status, "message": message}).encode() if message else b""
        headers = [("Content-Length", str(len(body))), ("Connection", "close")]
        if body:
            headers.append(("Content-Type", "application/json"))
        events = (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage())
        if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        async with asyncio.timeout(REQUEST_WITHIN):
            writer.write(b"".join(connection.send(event) or b"" for event in events))
            await writer.drain()

    async def _while_connected(self, request: h11.Request, reader: asyncio.StreamReader) -> tuple[int, str] | None:
        """The answer; None if the module hung up while it waited in ``/ready``."""
        answering = asyncio.create_task(self._answer(request))
        hanging_up = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait({answering, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done() and _path(request) == b"/ready":
                return None
            return await answering
        finally:
            answering.cancel()
            hanging_up.cancel()
            await asyncio.wait({answering, hanging_up})

    async def _answer(self, request: h11.Request) -> tuple[int, str]:
        """Status and message; none for success."""
        given = dict(request.headers).get(b"secret", b"")
        expected, calls = self._calls.get(hashlib.sha256(given).digest(), (b"", None))
        if calls is None or not hmac.compare_digest(given, expected):
            return 401, "the header secret is missing or wrong: it must be the value of SHARED_SECRET"
        call = {b"/ready": calls.ready, b"/done": calls.done}.get(_path(request))
        if call is None:
            return 404, "there are /ready and /done"
        if request.method != b"GET":
            return 405, "use GET"
        try:
            await call()
        except OutOfTurn as error:
            return 400, str(error)
        except NoMoreEvents as error:
            return 410, str(error)
        except CallFailed as error:
            return 500, str(error)
        except Exception:
            log.exception("a module's call failed by a bug")
            return 500, "a bug; the dispatcher's log has it"
        return 200, ""


def _path(request: h11.Request) -> bytes:
    return bytes(request.target).partition(b"?")[0]


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """The request, once all of it is here; None if the connection ends before."""
    import h11

    request: h11.Request | None = None
    taken = 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = await reader.read(MAX_REQUEST)
            taken += len(data)
            if taken > MAX_REQUEST:
                raise h11.RemoteProtocolError(f"it has more than {MAX_REQUEST:,} bytes", error_status_hint=413)
            connection.receive_data(data)
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.EndOfMessage):
            return request
        elif isinstance(event, h11.ConnectionClosed):
            return None
