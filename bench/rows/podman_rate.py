"""``podman_rate``: events a second through RabbitMQ and Podman when plenty are waiting, two at a time.

Ours: 200 events already in the queue of a module with ``concurrency: 2`` and as many warm slots, everything else as in
``podman_event``. From before the dispatcher is made until the last job is acked and everything of it removed.

Theirs: the bare loop of ``podman_event``, two at a time, as many times.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from bench.embedded import EVENT_TYPE
from bench.measure import Benchmark, Pair, at_least
from bench.podman import Opening, bare, ion, module, podman, podman_runtime, rabbit

IN_FLIGHT = 2


def benchmark(events: int = 200) -> Benchmark:
    return Benchmark(
        name="podman_rate",
        unit="events/s",
        goal=at_least(0.95),
        open=partial(waiting_events, events, IN_FLIGHT, podman_runtime),
    )


@asynccontextmanager
async def waiting_events(events: int, in_flight: int, open_runtime: Opening, directory: Path) -> AsyncIterator[Pair]:
    """So many events, and jobs at a time."""
    modules = [module(concurrency=in_flight, warm=in_flight)]
    with podman() as service, rabbit() as url:
        async with ion(directory, url) as opened, open_runtime(service) as runtime:
            intake = await opened.intake(modules)
            once = await bare(directory, service.url)

            async def ours() -> float:
                published = await asyncio.gather(*(intake.publish(EVENT_TYPE, name="bench") for _ in range(events)))
                begun = time.perf_counter()
                async with opened.serving(modules, runtime):
                    for event in published:
                        await opened.finished.job_of(event.context.event_id)
                return events / (time.perf_counter() - begun)

            async def theirs() -> float:
                waiting = iter(range(events))

                async def worker() -> None:
                    for _ in waiting:
                        await once()

                begun = time.perf_counter()
                await asyncio.gather(*(worker() for _ in range(in_flight)))
                return events / (time.perf_counter() - begun)

            yield Pair(ours, theirs)
