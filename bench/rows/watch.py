"""``watch``: 10,000 files of 1 KiB renamed into a folder, until the last event is published to RabbitMQ.

Ours: `ion-core serve` with the service watch (``stable: 0s``), RabbitMQ, sqlite documents and local blobs.

Theirs: `inotifywait -m`, and for each file that it tells of, one after the other, one publish of the same durability:
the same intake that `ion-core event publish` calls, in a process that stays, with stores of its own of the same kind on
the same disk, and the same RabbitMQ.

Of ``watch_bare`` theirs is `inotifywait -m`, and for each file one confirmed message with its path to a quorum queue by
aio-pika, one after the other. It stores nothing: neither file nor event.

From before the first file is renamed until the queue, asked every 20 ms, has as many messages more as there are files.
What lies in the folder is removed between runs. No job runs.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from bench import bare as programs
from bench.embedded import EVENT_TYPE
from bench.measure import Benchmark, Pair, Unavailable, at_most
from bench.podman import rabbit
from bench.serving import QUEUE, asleep, bare, ready, serve

if TYPE_CHECKING:
    import aio_pika

CONFIG = """
messaging: {{provider: rabbitmq, url: "{url}"}}
services: {{watch: {{folders: {{inbox: {{path: inbox, type: {type}, stable: 0s}}}}}}}}
"""
STORED = "stored"
"""The module that takes what theirs publishes, of a type of its own."""


def benchmark(files: int = 10_000) -> Benchmark:
    return Benchmark(name="watch", unit="s", goal=at_most(1.3), open=partial(_open, files, True), pairs=3)


def beside_bare(files: int = 10_000) -> Benchmark:
    return Benchmark(name="watch_bare", unit="s", goal=None, open=partial(_open, files, False), pairs=3)


@asynccontextmanager
async def _open(files: int, stored: bool, directory: Path) -> AsyncIterator[Pair]:
    if shutil.which("inotifywait") is None:
        raise Unavailable("inotifywait is needed (Debian: inotify-tools)")
    inbox, bare_inbox, state = directory / "inbox", directory / "bare-inbox", directory / "bare-state"
    for path in (inbox, bare_inbox, state):
        path.mkdir()
    (inbox / "first").touch()
    with rabbit() as url:
        program = ["watcher", url, str(bare_inbox)]
        if stored:
            program = ["storing_watcher", url, str(bare_inbox), str(state), STORED, "bench.stored"]
        import aio_pika

        async with (
            serve(directory, CONFIG.format(url=url, type=EVENT_TYPE)) as process,
            bare(directory, *program),
            await aio_pika.connect(url) as connection,
            connection.channel() as channel,
        ):
            await asleep(directory, process)
            theirs = f"ion.q.{STORED}" if stored else programs.QUEUE
            yield Pair(
                partial(_dropped, files, count(files, files), inbox, channel, QUEUE),
                partial(_dropped, files, count(files, files), bare_inbox, channel, theirs),
            )


async def _dropped(
    files: int, expected: Iterator[int], inbox: Path, channel: aio_pika.abc.AbstractChannel, queue: str
) -> float:
    """Seconds until the queue has so many messages."""
    beside, run = inbox.with_name("beside"), secrets.token_hex(4)
    beside.mkdir()
    names = [f"{run}-{n}.dat" for n in range(files)]
    for name in names:
        (beside / name).write_bytes(os.urandom(1024))
    await asyncio.to_thread(os.sync)

    def drop() -> None:
        for name in names:
            (beside / name).rename(inbox / name)

    begun = time.perf_counter()
    await asyncio.to_thread(drop)
    await ready(channel, queue, next(expected))
    seconds = time.perf_counter() - begun
    shutil.rmtree(beside)
    for name in names:
        (inbox / name).unlink()
    await asyncio.to_thread(os.sync)
    return seconds
