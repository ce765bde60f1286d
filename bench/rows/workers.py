"""``workers``: events a second through RabbitMQ with two workers, where the modules cost nothing.

Ours: what ``rabbit_rate`` calls ours, as a process of its own, ``serve`` with two workers: 2,000 events waiting in a
quorum queue, for each the whole of a job, twenty at a time. From the first commit to the last one, by what the commit
records say. Theirs: the same ``serve`` without workers.

The publisher waits meanwhile. RabbitMQ runs on the same cores, and takes of them what neither side has.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

from bench.embedded import EVENT_TYPE, Ion, embedded
from bench.measure import Benchmark, Pair, Unavailable, at_least
from bench.serving import ROOT
from ion_core.events import COMMIT
from ion_core.modules import Module
from ion_core.stores import for_each

AT_ONCE = 20
CONFIG = """
state: state
messaging: {{provider: rabbitmq, url: "{url}"}}
runtimes: {{default: {{provider: noop}}}}
modules:
  worker: {{image: emit, subscribes: [{type}], publishes: [bench.child], concurrency: {at_once}}}
"""


def benchmark(events: int = 2_000) -> Benchmark:
    return Benchmark(name="workers", unit="events/s", goal=at_least(1.5), open=partial(_open, events))


@asynccontextmanager
async def _open(events: int, directory: Path) -> AsyncIterator[Pair]:
    try:
        from ion_rabbitmq.broker import open_rabbit_broker
        from ion_rabbitmq.settings import RabbitSettings
        from ion_rabbitmq.testing import RabbitServer
    except ImportError as error:
        raise Unavailable(f"ion-rabbitmq is not installed ({error})") from error
    server = RabbitServer(directory / "rabbitmq")
    try:
        try:
            await asyncio.to_thread(server.start)
        except AssertionError as error:
            raise Unavailable(str(error)) from error
        text = CONFIG.format(url=server.url, type=EVENT_TYPE, at_once=AT_ONCE)
        (directory / "ion.yaml").write_text(text, encoding="utf-8")
        (directory / "state").mkdir(mode=0o700)
        settings = RabbitSettings.model_validate({"url": server.url})
        async with (
            open_rabbit_broker(settings) as broker,
            embedded(directory / "state", broker=broker) as ion,
        ):
            yield Pair(partial(_rate, ion, directory, events, 2), partial(_rate, ion, directory, events, 1))
    finally:
        await asyncio.to_thread(server.remove)


async def _rate(ion: Ion, directory: Path, events: int, workers: int) -> float:
    module = Module(name="worker", command=("emit",), subscribes=(EVENT_TYPE,), publishes=("bench.child",))
    sink = Module(name="sink", command=("true",), subscribes=("bench.child",))
    intake = await ion.intake([module, sink])

    async def publish(_: int) -> None:
        await intake.publish(EVENT_TYPE, name="bench")

    await for_each(publish, range(events))
    with (directory / "serve.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.noop_serve", str(workers)),
            cwd=directory,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
            stderr=log,
        )
        code = await process.wait()
    if code:
        said = await asyncio.to_thread((directory / "serve.log").read_text, errors="replace")
        raise RuntimeError(f"serve ended with {code}: {said[-2000:]}")
    last, first = await _commits(ion, events)
    return (events - 1) / (last - first).total_seconds()


async def _commits(ion: Ion, events: int) -> tuple[datetime, datetime]:
    """When the last of these was made, and the first."""
    times = [
        datetime.fromisoformat(document.body["committedAt"])
        async for document in ion.documents.find(COMMIT, newest_first=True, limit=events)
    ]
    return max(times), min(times)
