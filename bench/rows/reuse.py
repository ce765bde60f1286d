"""``reuse``: what it saves that a module stays: events a second of the faces example's detector.

Ours: 20 photographs already in the queue, the detector with ``reuse: true``: one process that imports OpenCV once and
is given one event after the other through ``/ready`` and ``/done``.

Theirs: the same 20 and the same program, one process for each event. Embedded providers, one job at a time, from
before the dispatcher is made until it is at rest, for both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.embedded import EVENT_TYPE, at_rest, embedded, process_runtime
from bench.measure import Benchmark, Pair
from ion_core.modules import Module

ROOT = Path(__file__).parent.parent.parent
FACES = ROOT / "examples" / "faces"
PROGRAM = """
import sys

sys.path[:0] = [{detect!r}, {library!r}]
import detect
import ion_module

for _ in ion_module.events():
    detect.main()
"""


def benchmark(events: int = 20) -> Benchmark:
    return Benchmark(name="reuse", unit="events/s", goal=None, open=partial(_open, events), pairs=7)


@asynccontextmanager
async def _open(events: int, directory: Path) -> AsyncIterator[Pair]:
    source = directory / "detector"
    source.mkdir()
    detect, library = str(FACES / "modules" / "detect"), str(ROOT / "ion_core" / "module_library")
    (source / "again.py").write_text(PROGRAM.format(detect=detect, library=library), encoding="utf-8")
    once = Module(
        name="bench",
        command=("python3", "again.py"),
        source=source,
        subscribes=(EVENT_TYPE,),
        publishes=("face.detected",),
    )
    async with embedded(directory) as ion, process_runtime(directory) as runtime:
        intake = await ion.intake([once])
        photo = FACES / "photos" / "astronaut.jpg"

        async def run(module: Module) -> float:
            published = await asyncio.gather(
                *(intake.publish(EVENT_TYPE, name="bench", files={photo.name: photo}) for _ in range(events))
            )
            begun = time.perf_counter()
            async with ion.serving([module], runtime) as dispatcher:
                for event in published:
                    await ion.finished.job_of(event.context.event_id)
                await at_rest(dispatcher)
                return events / (time.perf_counter() - begun)

        yield Pair(partial(run, replace(once, reuse=True)), partial(run, once))
