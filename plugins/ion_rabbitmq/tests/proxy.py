"""A TCP proxy that can fall silent: connections stay open, nothing passes, or nothing comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Proxy:
    """Forwards to a port. ``silent`` holds everything back without a reset, ``answerless`` only what comes back."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self._target = port
        self._passing, self._answering = asyncio.Event(), asyncio.Event()
        self.speaking()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def silent(self) -> None:
        self._passing.clear()
        self._answering.clear()

    def answerless(self) -> None:
        self._answering.clear()

    def speaking(self) -> None:
        self._passing.set()
        self._answering.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, there_writer}
        for source, target, may in ((reader, there_writer, self._passing), (there_reader, writer, self._answering)):
            task = asyncio.create_task(self._forward(source, target, may))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, may: asyncio.Event) -> None:
        try:
            while data := await source.read(65536):
                await may.wait()
                target.write(data)
                await target.drain()
        except ConnectionError:
            return
        finally:
            target.close()

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
