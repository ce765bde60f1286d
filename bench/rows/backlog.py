"""``backlog``: what a long queue costs. The time of an event where 1,000,000 wait in its module's queue, against 1,000.

Both sides: embedded providers, a runtime in memory whose module costs nothing, ten at a time; from before the
dispatcher is made until 200 events are committed and acknowledged, by event. The others go on waiting.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.embedded import EVENT_TYPE, Finished, Ion, embedded
from bench.measure import Benchmark, Pair, at_most
from ion_core.embedded.memory.runtime import MemoryRuntime
from ion_core.jobs import Attempt, Outcome, Verdict
from ion_core.modules import Module

MODULE = Module(name="worker", command=("nothing",), subscribes=(EVENT_TYPE,), concurrency=10)
TOGETHER = 250
"""Events that are published at once."""


def benchmark(many: int = 1_000_000, few: int = 1_000, events: int = 200) -> Benchmark:
    return Benchmark(name="backlog", unit="ms", goal=at_most(1.1), open=partial(_open, many, few, events), pairs=11)


class _Countdown(Finished):
    """Waits for ``left`` jobs, whichever. What is released when the side is over does not count."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self._left = left
        self.over = asyncio.Event()

    def job_finished(self, attempt: Attempt, outcome: Outcome) -> None:
        if outcome.verdict is Verdict.COMMITTED:
            self._left -= 1
            if not self._left:
                self.over.set()
        elif outcome.verdict is not Verdict.RELEASED:
            raise RuntimeError(f"job {outcome.verdict.value}: {outcome.reason}")


@asynccontextmanager
async def _open(many: int, few: int, events: int, directory: Path) -> AsyncIterator[Pair]:
    for name in ("many", "few"):
        (directory / name).mkdir()
    async with embedded(directory / "many") as ours, embedded(directory / "few") as theirs:
        await _publish(ours, many)
        await _publish(theirs, few)
        await asyncio.to_thread(os.sync)
        yield Pair(partial(_each, ours, events), partial(_each, theirs, events))


async def _publish(ion: Ion, events: int) -> None:
    intake = await ion.intake([MODULE])
    for start in range(0, events, TOGETHER):
        together = range(start, min(start + TOGETHER, events))
        await asyncio.gather(*(intake.publish(EVENT_TYPE, name="bench") for _ in together))


async def _each(ion: Ion, events: int) -> float:
    await _publish(ion, events)  # as many wait in the next run
    counted = _Countdown(events)
    begun = time.perf_counter()
    async with replace(ion, finished=counted).serving([MODULE], MemoryRuntime(programs={"nothing": _nothing})):
        await counted.over.wait()
        return 1000 * (time.perf_counter() - begun) / events


async def _nothing(workspace: Path, env: Mapping[str, str]) -> int:
    return 0
