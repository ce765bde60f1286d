"""``gc``: what ``ion-core gc --dry-run`` takes for each of 100,000 old flows. ``gc_memory``: what it holds meanwhile.

A flow is an event with its commit record and log, all of them over.

``gc``: the whole process, its time by flow. Ours with 100,000 flows, theirs with 1,000.
``gc_memory``: the peak of its resident set, in MiB. Ours with 200,000 messages of 2 KiB waiting in its module's queue
beside 1,000 old flows, theirs with none waiting.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from bench.measure import Benchmark, Pair, at_most
from bench.rows.growth_commands import history, ion_core
from bench.rows.help import milliseconds

GC = ["gc", "--older-than", "1s", "--dry-run"]


def benchmark(many: int = 100_000, few: int = 1_000) -> Benchmark:
    return Benchmark(name="gc", unit="ms", goal=at_most(0.2), open=partial(_open, many, few), pairs=5)


def memory(waiting: int = 200_000, flows: int = 1_000) -> Benchmark:
    opens = partial(_open_memory, waiting, flows)
    return Benchmark(name="gc_memory", unit="MiB", goal=at_most(1.3), open=opens, pairs=3)


@asynccontextmanager
async def _open(many: int, few: int, directory: Path) -> AsyncIterator[Pair]:
    for count in (many, few):
        await history(directory / f"{count}", flows=count)

    async def each(count: int) -> float:
        return await milliseconds(ion_core(directory / f"{count}", *GC)) / count

    yield Pair(partial(each, many), partial(each, few))


@asynccontextmanager
async def _open_memory(waiting: int, flows: int, directory: Path) -> AsyncIterator[Pair]:
    await history(directory / "waiting", flows=flows, waiting=waiting)
    await history(directory / "none", flows=flows)
    ours, theirs = (partial(_peak, ion_core(directory / name, *GC)) for name in ("waiting", "none"))
    yield Pair(ours, theirs)


async def _peak(command: Sequence[str]) -> float:
    """MiB that it held at most."""

    def run() -> float:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        return used.ru_maxrss / 1024

    return await asyncio.to_thread(run)
