"""``gateway_upload``: a file of 1 GiB through the gateway, to local blobs.

Ours: `curl -F` to `ion-core serve` with the gateway and the embedded defaults; 202 once blob, document and message are
flushed.

Theirs: the same request to a bare aiohttp handler that reads the form with aiohttp, writes the file and flushes it.
What it writes is removed between runs, and so are our blobs.

``gateway_upload_body`` is ours beside `curl -T`: a body that is no form, which a bare handler writes as it comes. It
has no goal: it says what the form itself, and the hash of each file, cost.

``gateway_upload_memory`` has the peak of the resident set of `ion-core serve` in such an upload, and what it was right
before. There is one run, and both figures are read from it. The goal is the difference: 40 MiB at most.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from bench.embedded import EVENT_TYPE
from bench.measure import Benchmark, Pair, Unavailable, at_most
from bench.resident import forget_peak, peak
from bench.serving import asleep, bare, serve

CONFIG = """
services: {{gateway: {{listen: "127.0.0.1:{port}", auth: none, max_body: 2GiB}}}}
"""
MIB = 1024 * 1024


def benchmark(size: int = 1024 * MIB) -> Benchmark:
    return Benchmark(name="gateway_upload", unit="s", goal=at_most(1.3), open=partial(_open, size, form=True), pairs=5)


def body(size: int = 1024 * MIB) -> Benchmark:
    return Benchmark(name="gateway_upload_body", unit="s", goal=None, open=partial(_open, size, form=False), pairs=5)


def memory(size: int = 1024 * MIB) -> Benchmark:
    return Benchmark(name="gateway_upload_memory", unit="MiB", goal=None, open=partial(_open_memory, size), pairs=1)


@asynccontextmanager
async def _open(size: int, directory: Path, *, form: bool) -> AsyncIterator[Pair]:
    async with _gateway(size, directory) as (upload, _):
        from ion_rabbitmq.testing import free_port

        port = free_port()
        file = directory / "photo.raw"
        sent = ("-F", f"file=@{file}") if form else ("-T", str(file), "-X", "POST")
        async with bare(directory, "form_receiver" if form else "receiver", str(directory), str(port)):

            async def theirs() -> float:
                seconds = await _curl(*sent, f"http://127.0.0.1:{port}/event")
                (directory / "received").unlink()
                await asyncio.to_thread(os.sync)
                return seconds

            yield Pair(upload, theirs)


@asynccontextmanager
async def _open_memory(size: int, directory: Path) -> AsyncIterator[Pair]:
    async with _gateway(size, directory) as (upload, pid):
        await upload()  # what it imports at the first one is no matter of the upload
        forget_peak(pid)
        before = peak(pid)
        await upload()
        highest = peak(pid)

        async def ours() -> float:
            return highest

        async def theirs() -> float:
            return before

        yield Pair(ours, theirs)


@asynccontextmanager
async def _gateway(size: int, directory: Path) -> AsyncIterator[tuple[Callable[[], Awaitable[float]], int]]:
    """Uploads a file, and the process that takes it."""
    if shutil.which("curl") is None:
        raise Unavailable("curl is needed")
    from ion_rabbitmq.testing import free_port

    file, port = directory / "photo.raw", free_port()
    with file.open("wb") as written:
        for _ in range(0, size, MIB):
            written.write(os.urandom(min(size, MIB)))
    await asyncio.to_thread(os.sync)
    async with serve(directory, CONFIG.format(port=port), port) as process:
        post = partial(_curl, f"http://127.0.0.1:{port}/events/{EVENT_TYPE}", "-F")
        await post("of=bench")
        await asleep(directory, process)

        async def upload() -> float:
            seconds = await post(f"file=@{file}")
            for blobs in (directory / ".ion" / "blobs" / "files").iterdir():
                shutil.rmtree(blobs)
            await asyncio.to_thread(os.sync)
            return seconds

        yield upload, process.pid


async def _curl(*arguments: str) -> float:
    """Seconds until it was answered with 202."""
    begun = time.perf_counter()
    curl = await asyncio.create_subprocess_exec(
        "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", *arguments, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await curl.communicate()
    seconds = time.perf_counter() - begun
    if said != b"202":
        raise RuntimeError(f"curl was answered {said.decode()}")
    return seconds
