"""``console_cost``: what it costs to be looked at. Events a second of `serve` with a console and a page open on it.

Ours: ``ion-core serve`` with embedded providers, the service ``console``, and one page open on it (``bench.consoles``,
a process of its own), which is told what changed and asks for itself anew.
Theirs: the same without console and page.

1,000 events wait in the queue of a module that runs next to nothing, four at a time. Its first four hold on until all
are there; from when they are let go until the last commit, by what commit records say.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from bench.consoles import CONSOLE, page, serve, url_of
from bench.embedded import EVENT_TYPE
from bench.measure import Benchmark, Pair, Side, at_least
from bench.serving import WITHIN
from ion_core.app import App
from ion_core.config import load_config
from ion_core.contracts.messaging import MessageBroker
from ion_core.contracts.storage import DocumentStore
from ion_core.events import COMMIT
from ion_core.stores import for_each

CONFIG = """
drain_timeout: 1s
modules:
  noop:
    command: [sh, -c, "until test -e {go}; do sleep 0.05; done"]
    source: .
    subscribes: [{type}]
    concurrency: 4
"""


def benchmark(events: int = 1_000) -> Benchmark:
    return Benchmark(name="console_cost", unit="events/s", goal=at_least(0.95), open=partial(_open, events), pairs=11)


@asynccontextmanager
async def _open(events: int, directory: Path) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(_served(events, directory / "ours", looked_at=True))
        theirs = await stack.enter_async_context(_served(events, directory / "theirs", looked_at=False))
        yield Pair(ours, theirs)


@asynccontextmanager
async def _served(events: int, directory: Path, *, looked_at: bool) -> AsyncIterator[Side]:
    await asyncio.to_thread(directory.mkdir)
    go = directory / "go"
    config = CONFIG.format(go=go, type=EVENT_TYPE) + (CONSOLE if looked_at else "")
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(serve(directory, config))
        if looked_at:
            await stack.enter_async_context(page(directory, await url_of(directory, process)))
        app = await stack.enter_async_context(App.open(load_config(directory / "ion.yaml")))
        yield partial(_rate, events, go, app, process)


async def _rate(events: int, go: Path, app: App, process: asyncio.subprocess.Process) -> float:
    await asyncio.to_thread(go.unlink, missing_ok=True)
    intake = await app.intake()

    async def publish(_: int) -> None:
        await intake.publish(EVENT_TYPE, name="bench")

    await for_each(publish, range(events))
    begun = datetime.now(UTC)
    await asyncio.to_thread(go.touch)
    await _nothing_waits(await app.broker(), process)
    return events / (await _last_commit(await app.documents()) - begun).total_seconds()


async def _nothing_waits(broker: MessageBroker, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(WITHIN):
        while (stats := await broker.stats("noop")).pending:
            if stats.dead or process.returncode is not None:
                raise RuntimeError(f"{stats.dead} events were given up; ion-core serve: {process.returncode}")
            await asyncio.sleep(0.1)


async def _last_commit(documents: DocumentStore) -> datetime:
    async for document in documents.find(COMMIT, newest_first=True, limit=1):
        return datetime.fromisoformat(document.body["committedAt"])
    raise RuntimeError("nothing was committed")
