"""``embedded_rate``: events a second when plenty are waiting, four at a time.

Ours: 200 events already in the queue of a module that runs ``true``, ``concurrency: 4``, embedded providers as in
``embedded_event``. From before the dispatcher is made until the last job is acked and its workspace removed.

Theirs: 200 times ``true`` as a bare asyncio subprocess, four at a time. It stores nothing.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from bench.embedded import EVENT_TYPE, at_rest, embedded, module, process_runtime
from bench.measure import Benchmark, Pair, at_least

CONCURRENCY = 4
GOAL = at_least(0.45 if sys.version_info < (3, 12) else 0.38)
"""From 3.12 on asyncio waits for processes without a thread for each, and the bare loop takes half as long."""


def benchmark(events: int = 200) -> Benchmark:
    return Benchmark(name="embedded_rate", unit="events/s", goal=GOAL, open=partial(_open, events))


@asynccontextmanager
async def _open(events: int, directory: Path) -> AsyncIterator[Pair]:
    modules = [module(directory, concurrency=CONCURRENCY)]
    async with embedded(directory) as ion, process_runtime(directory) as runtime:
        intake = await ion.intake(modules)

        async def ours() -> float:
            published = await asyncio.gather(*(intake.publish(EVENT_TYPE, name="bench") for _ in range(events)))
            begun = time.perf_counter()
            async with ion.serving(modules, runtime) as dispatcher:
                for event in published:
                    await ion.finished.job_of(event.context.event_id)
                await at_rest(dispatcher)
                return events / (time.perf_counter() - begun)

        async def theirs() -> float:
            waiting = iter(range(events))

            async def worker() -> None:
                for _ in waiting:
                    process = await asyncio.create_subprocess_exec("true")
                    await process.wait()

            begun = time.perf_counter()
            await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
            return events / (time.perf_counter() - begun)

        yield Pair(ours, theirs)
