"""``embedded_event``: one event from its publication to the acknowledgement, nothing else going on.

Ours: the sqlite broker, sqlite documents, local blobs and the process runtime, open in this process with a dispatcher
serving one module that runs ``true``. From ``Intake.publish`` (the event's document stored, its message stored) until
its delivery is acked: commit looked up, workspace made, process run, output read, commit record and log stored. All of
it as durable as in use. Removing the workspace comes after the acknowledgement and is waited for outside the timing.

Theirs: what no such tool can do without: ``true`` as an asyncio subprocess, and three flushes, each of one small append
to a file on the same file system.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.embedded import EVENT_TYPE, at_rest, embedded, module, process_runtime
from bench.measure import Benchmark, Pair, at_most

FLUSHES = 3
LINE = b"x" * 200


def benchmark() -> Benchmark:
    return Benchmark(name="embedded_event", unit="ms", goal=at_most(3.0), open=_open, pairs=101)


@asynccontextmanager
async def _open(directory: Path) -> AsyncIterator[Pair]:
    modules = [module(directory)]
    async with embedded(directory) as ion, process_runtime(directory) as runtime:
        intake = await ion.intake(modules)
        descriptor = os.open(directory / "appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        async with ion.serving(modules, runtime) as dispatcher:

            async def ours() -> float:
                begun = time.perf_counter()
                event = await intake.publish(EVENT_TYPE, name="bench")
                await ion.finished.job_of(event.context.event_id)
                taken = time.perf_counter() - begun
                await at_rest(dispatcher)
                return 1000 * taken

            async def theirs() -> float:
                begun = time.perf_counter()
                process = await asyncio.create_subprocess_exec("true")
                await process.wait()
                for _ in range(FLUSHES):
                    os.write(descriptor, LINE)
                    os.fsync(descriptor)
                return 1000 * (time.perf_counter() - begun)

            yield Pair(ours, theirs)
        os.close(descriptor)
