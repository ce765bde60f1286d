"""What rows run beside ours, each a process: ``python -m bench.bare PROGRAM ARGUMENT …``.

Each prints a line once it is ready, but ``load``, which prints how many seconds it took.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import BodyPartReader, web

if TYPE_CHECKING:
    from ion_core.intake import Intake

QUEUE = "bare"
"""Of RabbitMQ, for what is published without Ion."""
PART = 8 << 20
"""Bytes of each part of a large object, but the last."""


async def load(port: str, path: str, connections: str, requests: str) -> None:
    """So many POSTs of a small JSON object, one after the other on each of so many connections. All must be 202."""
    body = (
        b'{"subject": "a photo came in", "size": 12345, "taken": {"at": "2026-11-29T12:00:00Z", "by": ["me", "you"]}}'
    )
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    left = int(requests)

    async def one() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        while left > 0:
            left -= 1
            writer.write(f"{head}\r\n\r\n".encode() + body)
            answered = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not answered.startswith(b"http/1.1 202"):
                raise RuntimeError(answered.decode())
            length = answered.partition(b"content-length:")[2].partition(b"\r")[0]
            await reader.readexactly(int(length))
        writer.close()

    begun = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(int(connections))))
    print(time.perf_counter() - begun, flush=True)


async def publisher(url: str, port: str) -> None:
    """202 once a message with the body of the request is confirmed by RabbitMQ."""
    publish = await _publishing(url)

    async def handle(request: web.Request) -> web.Response:
        await publish(await request.read())
        return web.json_response({"taken": True}, status=202)

    await _serve(handle, port)


async def receiver(directory: str, port: str) -> None:
    """202 once the body is a file there, and flushed."""

    async def handle(request: web.Request) -> web.Response:
        with (Path(directory) / "received").open("wb") as file:
            async for chunk in request.content.iter_any():
                file.write(chunk)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        return web.json_response({"taken": True}, status=202)

    await _serve(handle, port)


async def form_receiver(directory: str, port: str) -> None:
    """202 once the file of the form is there, and flushed.

    It is read in pieces of 1 MiB, which is the quickest of what was tried: pieces of 8 KiB, the default, cost thrice as
    much.
    """

    async def handle(request: web.Request) -> web.Response:
        part = await (await request.multipart()).next()
        assert isinstance(part, BodyPartReader)
        with (Path(directory) / "received").open("wb") as file:
            while chunk := await part.read_chunk(1024 * 1024):
                file.write(chunk)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        return web.json_response({"taken": True}, status=202)

    await _serve(handle, port)


async def objects(port: str) -> None:
    """As much of S3 as one large object needs, sent in parts of 8 MiB or whole. It is kept in memory, one at a time.

    Parts may come in any order, since all but the last are equally large.
    """
    kept = os.memfd_create("object")
    file = f"/proc/self/fd/{kept}"

    async def handle(request: web.Request) -> web.StreamResponse:
        asked = request.query
        if request.method in ("GET", "HEAD"):
            return web.FileResponse(file, headers={"ETag": '"bench"'})
        if request.method == "POST" and "uploads" in asked:
            os.ftruncate(kept, 0)
            return _xml("InitiateMultipartUploadResult", "<UploadId>one</UploadId>")
        if request.method == "POST":
            await request.read()
            return _xml("CompleteMultipartUploadResult", "<ETag>&quot;bench&quot;</ETag>")
        if request.method == "DELETE":
            os.ftruncate(kept, 0)
            return web.Response(status=204)
        place = (int(asked.get("partNumber", 1)) - 1) * PART
        if "partNumber" not in asked:
            os.ftruncate(kept, 0)
        async for chunk in request.content.iter_any():
            place += os.pwrite(kept, chunk, place)
        return web.Response(headers={"ETag": '"bench"'})

    await _serve(handle, port, path="/{object:.*}")


def _xml(name: str, inside: str) -> web.Response:
    return web.Response(
        text=f"<{name}><Bucket>bench</Bucket><Key>object</Key>{inside}</{name}>", content_type="text/xml"
    )


async def watcher(url: str, inbox: str) -> None:
    """A confirmed message with its path for each file that ``inotifywait`` tells of, one after the other."""
    publish = await _publishing(url)
    await _watch(inbox, lambda path: publish(os.fsencode(path)))


async def storing_watcher(url: str, inbox: str, state: str, module: str, event_type: str) -> None:
    """An event of Ion for each file that ``inotifywait`` tells of, one after the other, as `event publish` makes it."""
    from bench.podman import ion
    from ion_core.modules import Module

    async with ion(Path(state), url) as opened:
        intake: Intake = await opened.intake([Module(name=module, command=("true",), subscribes=(event_type,))])

        async def publish(path: Path) -> None:
            data = [("folder", "inbox"), ("path", path.name)]
            await intake.publish(event_type, name="bench", data=data, files={path.name: path})

        await _watch(inbox, publish)


async def _watch(inbox: str, publish: Callable[[Path], Awaitable[None]]) -> None:
    command = ("inotifywait", "-m", "-e", "moved_to", "-e", "close_write", "--format", "%f", inbox)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        while b"established" not in await process.stderr.readline():
            pass
        print("ready", flush=True)
        async for name in process.stdout:
            await publish(Path(inbox, os.fsdecode(name.rstrip(b"\n"))))
    finally:
        process.terminate()


async def _publishing(url: str) -> Callable[[bytes], Awaitable[None]]:
    """Publishes persistent and confirmed into a quorum queue."""
    import aio_pika

    connection = await aio_pika.connect(url)
    channel = await connection.channel()
    await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})

    async def publish(body: bytes) -> None:
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, routing_key=QUEUE, mandatory=True)

    return publish


async def _serve(
    handle: Callable[[web.Request], Awaitable[web.StreamResponse]], port: str, *, path: str = "/event"
) -> None:
    application = web.Application(client_max_size=1 << 40)
    application.router.add_route("*", path, handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(port)).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


PROGRAMS: dict[str, Callable[..., Awaitable[None]]] = {
    it.__name__: it for it in (load, publisher, receiver, form_receiver, objects, watcher, storing_watcher)
}


async def main(program: str, *arguments: str) -> None:
    """Until it is through, or SIGTERM ends it and what it has started."""
    running = asyncio.ensure_future(PROGRAMS[program](*arguments))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    with suppress(asyncio.CancelledError):
        await running


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
