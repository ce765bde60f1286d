"""A TCP proxy in a thread of its own, which forwards late, not at all, or resets what is connected."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER by which closing is a reset."""


class TcpProxy:
    """Forwards to ``target``. What is set from other threads holds from the next piece of data on.

    ``delay`` is for how many seconds each piece is held back; ``silent`` holds back all there is.
    """

    def __init__(self, target: int) -> None:
        self.delay = 0.0
        self.port = 0
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._speaking = asyncio.Event()
        self._speaking.set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def silence(self) -> None:
        self._loop.call_soon_threadsafe(self._speaking.clear)

    def speak(self) -> None:
        self._loop.call_soon_threadsafe(self._speaking.set)

    def cut(self) -> None:
        """Reset every connection; new ones are taken."""
        self._loop.call_soon_threadsafe(self._reset)

    def _reset(self) -> None:
        for writer in self._clients:
            connection: socket.socket = writer.get_extra_info("socket")
            with suppress(OSError):  # it has just been closed
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._clients.add(writer)
        there: asyncio.StreamWriter | None = None
        try:
            there_reader, there = await asyncio.open_connection("127.0.0.1", self._target)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._forward(reader, there))
                both.create_task(self._forward(there_reader, writer))
        except* OSError:
            pass  # either side has ended it, which ends the other, below
        finally:
            self._clients.discard(writer)
            self._tasks.discard(task)
            for end in (writer, there):
                if end is not None:
                    end.close()

    async def _forward(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            if self.delay:
                await asyncio.sleep(self.delay)
            await self._speaking.wait()
            target.write(data)
            await target.drain()
        raise ConnectionResetError  # so that the other way ends as well

    async def _run(self, started: threading.Event, ending: asyncio.Event) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await ending.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextmanager
def tcp_proxy(target: int) -> Iterator[TcpProxy]:
    """One on a free port, while the body runs."""
    proxy = TcpProxy(target)
    started, ending = threading.Event(), asyncio.Event()
    running = threading.Thread(target=proxy._loop.run_until_complete, args=(proxy._run(started, ending),), daemon=True)
    running.start()
    assert started.wait(10)
    try:
        yield proxy
    finally:
        proxy._loop.call_soon_threadsafe(ending.set)
        running.join(10)
        proxy._loop.close()
