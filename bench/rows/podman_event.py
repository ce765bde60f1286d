"""``podman_event`` and ``podman_event_cold``: one event through RabbitMQ and one container, nothing else going on.

Ours: a dispatcher with RabbitMQ, Podman, embedded stores, and a module that writes one event file. From
``Intake.publish`` until the event's delivery is acked: workspace, container, commit, child event published and
confirmed. Warm, two containers were made ahead and this is one of them; cold, none was. What comes after the
acknowledgement, such as making the next, is waited for outside the timing.

Theirs: the same container, with the same settings, bare through Podman's API by the fastest way known: create, attach
(which makes its namespaces), start, end seen when its output ends, remove.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from bench.embedded import EVENT_TYPE
from bench.measure import Benchmark, Pair, at_most
from bench.podman import Opening, at_rest, bare, ion, module, podman, podman_runtime, rabbit

PAIRS = 40


def warm() -> Benchmark:
    return Benchmark(
        name="podman_event", unit="ms", goal=at_most(0.30), open=partial(one_event, 2, podman_runtime), pairs=PAIRS
    )


def cold() -> Benchmark:
    return Benchmark(
        name="podman_event_cold", unit="ms", goal=at_most(1.15), open=partial(one_event, 0, podman_runtime), pairs=PAIRS
    )


@asynccontextmanager
async def one_event(warm: int, open_runtime: Opening, directory: Path) -> AsyncIterator[Pair]:
    """With so many slots warm."""
    modules = [module(concurrency=2, warm=warm)]
    with podman() as service, rabbit() as url:
        async with ion(directory, url) as opened, open_runtime(service) as runtime:
            intake = await opened.intake(modules)
            once = await bare(directory, service.url)
            async with opened.serving(modules, runtime) as dispatcher:

                async def ours() -> float:
                    await at_rest(dispatcher, warm)
                    begun = time.perf_counter()
                    event = await intake.publish(EVENT_TYPE, name="bench")
                    await opened.finished.job_of(event.context.event_id)
                    taken = time.perf_counter() - begun
                    await at_rest(dispatcher, warm)
                    return 1000 * taken

                async def theirs() -> float:
                    await at_rest(dispatcher, warm)
                    begun = time.perf_counter()
                    await once()
                    return 1000 * (time.perf_counter() - begun)

                yield Pair(ours, theirs)
