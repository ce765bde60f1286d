"""``events_many``: a module that leaves a thousand events.

Ours: commit of 1,000 small event files in ``out/events`` (S8 to S10): each read and checked, the record created, a
document for each event stored and each published to a queue that takes it, all durable.

Theirs: Python writing 1,000 JSON files with the same content and reading them back; nothing is flushed.

The event files ours reads are written outside the timing; all is synced before each side.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from bench.embedded import embedded
from bench.handing_over import CHILD_TYPE, Workshop, event_file
from bench.measure import Benchmark, Pair, at_most
from ion_core.contracts.messaging import RetryPolicy


def benchmark(events: int = 1000) -> Benchmark:
    return Benchmark(name="events_many", unit="ms", goal=at_most(4.0), open=partial(_open, events), pairs=11)


@asynccontextmanager
async def _open(events: int, directory: Path) -> AsyncIterator[Pair]:
    texts = {f"{number:06}.json": event_file(number=number, text="some words about it") for number in range(events)}
    values = {name: json.loads(text) for name, text in texts.items()}
    async with embedded(directory) as ion:
        await ion.broker.declare("next", topics=[CHILD_TYPE], retry=RetryPolicy())
        workshop = Workshop(ion, directory)

        async def ours() -> float:
            workspace = await workshop.workspace()
            for name, text in texts.items():
                (workspace.out / "events" / name).write_text(text)
            await asyncio.to_thread(os.sync)
            attempt = workshop.attempt()
            begun = time.perf_counter()
            commit = await workshop.commit(attempt, workspace)
            seconds = time.perf_counter() - begun
            assert len(commit.events) == events
            await workshop.clean(commit, workspace)
            return 1000 * seconds

        async def theirs() -> float:
            place = directory / "files"
            place.mkdir()
            await asyncio.to_thread(os.sync)
            begun = time.perf_counter()
            for name, value in values.items():
                with (place / name).open("w", encoding="utf-8") as file:
                    json.dump(value, file)
            for name in values:
                with (place / name).open(encoding="utf-8") as file:
                    json.load(file)
            seconds = time.perf_counter() - begun
            shutil.rmtree(place)
            return 1000 * seconds

        yield Pair(ours, theirs)
