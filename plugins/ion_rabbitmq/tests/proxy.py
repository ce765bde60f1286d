"""A TCP proxy that can fall silent: connections stay open, nothing passes, nothing comes back, or no confirm does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

NOTHING_THERE = b"\x00\x3c\x00\x48"
"""How the payload of a frame begins that is basic.get-empty."""
CONFIRMS = (b"\x00\x3c\x00\x50", b"\x00\x3c\x00\x78")
"""How the payload of a frame begins that is basic.ack, or basic.nack."""


class Proxy:
    """Forwards to a port. ``silent`` holds everything back without a reset, ``answerless`` only what comes back.

    With ``confirming`` off, confirms are dropped, as they do not come from a node that has lost its cluster. On
    channels of the numbers in ``refusing`` they are turned into refusals. With ``knowing`` off nobody says that a queue
    is empty, as where its leader does not answer.
    ``hang_up`` ends the connections there are for the clients alone: the server finds out by its heartbeat.
    """

    confirming = True
    knowing = True

    def __init__(self, port: int) -> None:
        self.refusing: set[int] = set()
        self.withheld = 0
        """How many answers were dropped."""
        self.port = 0
        self._target = port
        self._passing, self._answering = asyncio.Event(), asyncio.Event()
        self.speaking()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._hung_up: set[asyncio.StreamWriter] = set()

    def silent(self) -> None:
        self._passing.clear()
        self._answering.clear()

    def answerless(self) -> None:
        self._answering.clear()

    def speaking(self) -> None:
        self._passing.set()
        self._answering.set()

    def hang_up(self) -> None:
        self._hung_up |= self._clients
        for writer in self._clients:
            writer.close()
        self._clients = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, there_writer}
        self._clients.add(writer)
        for source, target, may in ((reader, there_writer, self._passing), (there_reader, writer, self._answering)):
            task = asyncio.create_task(self._forward(source, target, may, writer, frames=source is there_reader))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        may: asyncio.Event,
        client: asyncio.StreamWriter,
        *,
        frames: bool,
    ) -> None:
        rest = b""
        try:
            while data := await source.read(65536):
                await may.wait()
                if frames:
                    data, rest = self._filtered(rest + data)
                target.write(data)
                await target.drain()
        except ConnectionError:
            return
        finally:
            if client not in self._hung_up:
                target.close()

    def _filtered(self, data: bytes) -> tuple[bytes, bytes]:
        """Whole frames of AMQP that pass, and the beginning of the next one."""
        passing, at = b"", 0
        while len(data) - at >= 7 and len(data) - at >= (size := 8 + int.from_bytes(data[at + 3 : at + 7], "big")):
            frame, at = data[at : at + size], at + size
            is_confirm = frame[0] == 1 and frame[7:11] in CONFIRMS
            if is_confirm and int.from_bytes(frame[1:3], "big") in self.refusing:
                frame = frame[:7] + CONFIRMS[1] + frame[11:]  # but for the method they are the same
            is_empty = frame[0] == 1 and frame[7:11] == NOTHING_THERE
            if (self.confirming or not is_confirm) and (self.knowing or not is_empty):
                passing += frame
            else:
                self.withheld += 1
        return passing, data[at:]

    async def end(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    """A proxy on a free port, for as long as the context."""
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        await proxy.end()
        server.close()
