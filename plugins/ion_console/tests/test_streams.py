"""What streams send: together what comes together, to the end, and no more than a client takes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer

from ion_console import streams
from ion_console.streams import Streams, Told
from ion_core.errors import TransientError


@asynccontextmanager
async def sending(
    source: AsyncIterator[Told], stop: asyncio.Event, over: asyncio.Event | None = None
) -> AsyncIterator[RawTestServer]:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await Streams(1, stop).send(request, source, may=lambda: True)
        finally:
            if over is not None:
                over.set()

    server = RawTestServer(handle)
    await server.start_server()
    try:
        yield server
    finally:
        await server.close()


async def said(source: AsyncIterator[Told]) -> bytes:
    async with (
        sending(source, asyncio.Event()) as server,
        aiohttp.ClientSession() as client,
        client.get(server.make_url("/")) as answer,
    ):
        async with asyncio.timeout(20):
            return await answer.read()


async def many(count: int, each: Callable[[], None] = lambda: None) -> AsyncIterator[Told]:
    for n in range(count):
        each()
        yield Told("line", n)


async def test_what_comes_together_is_one_write_and_takes_no_task_each(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    write = streams._write

    async def counted(response: web.StreamResponse, text: bytes) -> None:
        writes.append(len(text))
        await write(response, text)

    monkeypatch.setattr(streams, "_write", counted)
    tasks: list[object] = []

    def noted(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **how: Any) -> asyncio.Task[Any]:
        tasks.append(coro)
        return asyncio.Task(coro, loop=loop, **how)

    asyncio.get_running_loop().set_task_factory(noted)  # type: ignore[arg-type]
    text = await said(many(10_000))
    lines = text.decode().split("\n\n")
    assert lines[0] == ": hello"
    assert lines[1] == "id: 1\nevent: line\ndata: 0"
    assert lines[10_000] == "id: 10000\nevent: line\ndata: 9999"
    assert len(writes) < 20
    assert max(writes) < streams.HELD + 1_000
    assert len(tasks) < 50


async def test_what_came_before_the_source_failed_is_sent() -> None:
    async def failing() -> AsyncIterator[Told]:
        yield Told("line", 1)
        raise TransientError("away")

    assert await said(failing()) == b": hello\n\nid: 1\nevent: line\ndata: 1\n\n"


async def test_who_does_not_read_holds_up_the_source_and_loses_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SENT_WITHIN", 0.2)
    taken = 0

    def count() -> None:
        nonlocal taken
        taken += 1

    over = asyncio.Event()
    async with sending(many(10_000_000, count), asyncio.Event(), over) as server:
        with socket.create_connection((server.host, server.port or 0)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(60):
                await over.wait()
    assert taken < 1_000_000


async def test_a_stream_ends_when_told_to_though_much_is_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "TOGETHER", 3600)
    stop = asyncio.Event()
    async with (
        sending(many(10_000_000), stop) as server,
        aiohttp.ClientSession() as client,
        client.get(server.make_url("/")) as answer,
    ):
        await answer.content.readuntil(b"id: 1\n")
        stop.set()
        async with asyncio.timeout(20):
            assert len(await answer.read()) < 3 * streams.HELD
