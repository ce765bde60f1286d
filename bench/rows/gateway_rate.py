"""``gateway_rate``: events a second that the gateway accepts, with RabbitMQ.

Ours: `ion-core serve` with the gateway, RabbitMQ, sqlite documents and local blobs. Each request, a POST of 100 bytes
of JSON, is answered with 202 once the event's document is flushed and its message confirmed.

Theirs: a bare aiohttp handler that publishes one persistent message with the body, confirmed, to a quorum queue of the
same server. It stores nothing else.

Both are asked by the same client (`bench.bare load`: asyncio streams in a process of its own), on 32 connections that
are kept, one request after the other on each. From before they are opened until the last answer. No job runs.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from bench.embedded import EVENT_TYPE
from bench.measure import Benchmark, Pair, at_least
from bench.podman import rabbit
from bench.serving import ROOT, asleep, bare, line, serve, started

CONNECTIONS = 32
CONFIG = """
messaging: {{provider: rabbitmq, url: "{url}"}}
services: {{gateway: {{listen: "127.0.0.1:{port}", auth: none, max_pending: 1000000}}}}
"""


def benchmark(requests: int = 2_000) -> Benchmark:
    return Benchmark(name="gateway_rate", unit="events/s", goal=at_least(0.60), open=partial(_open, requests))


@asynccontextmanager
async def _open(requests: int, directory: Path) -> AsyncIterator[Pair]:
    with rabbit() as url:
        from ion_rabbitmq.testing import free_port

        port, bare_port = free_port(), free_port()
        async with (
            serve(directory, CONFIG.format(url=url, port=port), port) as process,
            bare(directory, "publisher", url, str(bare_port)),
        ):
            ours = partial(_rate, directory, port, f"/events/{EVENT_TYPE}")
            await ours(1)
            await asleep(directory, process)
            yield Pair(partial(ours, requests), partial(_rate, directory, bare_port, "/event", requests))


async def _rate(directory: Path, port: int, path: str, requests: int) -> float:
    program = (sys.executable, "-m", "bench.bare", "load", str(port), path, str(CONNECTIONS), str(requests))
    async with started(directory / "load.log", ROOT, *program) as load:
        return requests / float(await line(load))
