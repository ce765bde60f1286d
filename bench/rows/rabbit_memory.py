"""``rabbit_memory``: what ``ion-core serve`` holds in memory with RabbitMQ and the process runtime.

Ours: after 1,000 events, ten at a time, each a process that writes one event. Theirs: the same process after 100.
There is one run, and both figures are read from it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from bench.embedded import EVENT_TYPE
from bench.measure import Benchmark, Pair
from bench.podman import CHILD_TYPE, ion, rabbit
from bench.rows.memory import FEW, resident, waiting_events
from ion_core.modules import Module

CONFIG = """
messaging: {{provider: rabbitmq, url: "{rabbit}"}}
modules:
  noop:
    command: [sh, emit.sh]
    source: modules
    subscribes: [{takes}]
    publishes: [{emits}]
    concurrency: 10
"""
EMIT = """printf '[{{"key":"eventType","value":"{emits}"}}]' > "$HANDLER_BASE_DIR/out/events/0.json"
"""


def benchmark(events: int = 1_000) -> Benchmark:
    return Benchmark(name="rabbit_memory", unit="MiB", goal=None, open=partial(_open, events), pairs=1)


@asynccontextmanager
async def _open(events: int, directory: Path) -> AsyncIterator[Pair]:
    few, many = await _measured(events, directory)

    async def ours() -> float:
        return many

    async def theirs() -> float:
        return few

    yield Pair(ours, theirs)


async def _measured(events: int, directory: Path) -> tuple[float, float]:
    noop = Module(name="noop", command=("sh", "emit.sh"), subscribes=(EVENT_TYPE,), publishes=(CHILD_TYPE,))
    (directory / "modules").mkdir()
    (directory / "modules" / "emit.sh").write_text(EMIT.format(emits=CHILD_TYPE), encoding="utf-8")
    (directory / ".ion").mkdir()
    with rabbit() as url:
        text = CONFIG.format(rabbit=url, takes=EVENT_TYPE, emits=CHILD_TYPE)
        (directory / "ion.yaml").write_text(text, encoding="utf-8")
        async with ion(directory / ".ion", url) as opened:
            await waiting_events(await opened.intake([noop]), events)
            few, many = await resident(opened, directory, (events - FEW, 0))
            return few, many
