"""``executor_event``: one event whose whole job an executor takes, with nothing else going on.

Ours: the sqlite broker, sqlite documents, local blobs and the executor of local processes, open in this process with a
dispatcher serving one module that runs ``true``. From ``Intake.publish`` until its delivery is acked: commit looked up,
job made and started, ``handler prepare``, ``true`` and ``handler commit`` run by its supervisor, its output read, log
stored. What supervisors are forked from is there since the pair that is not counted. Removing the job comes after the
acknowledgement and is waited for outside the timing.

Theirs: the same three commands by hand, one after the other, with the same configuration and on the same stores: the
event's document is there before.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

from bench.embedded import EVENT_TYPE, at_rest, embedded, module, subprocess_executor
from bench.measure import Benchmark, Pair, at_most
from ion_core.contracts.executor import Ticket
from ion_core.dispatcher.engine import Engine
from ion_core.events import Context, Event

ION = (sys.executable, "-P", "-m", "ion_core")


def benchmark() -> Benchmark:
    return Benchmark(name="executor_event", unit="ms", goal=at_most(1.15), open=_open, pairs=21)


@asynccontextmanager
async def _open(directory: Path) -> AsyncIterator[Pair]:
    modules = [module(directory)]
    settings = _settings(directory, modules[0].name)
    numbers = count(1)
    async with embedded(directory) as ion, subprocess_executor(directory) as executor:
        intake = await ion.intake(modules)
        engine = Engine(executor, name="default", installation="bench", alone=True)
        async with ion.serving(modules, engine=engine, settings=settings) as dispatcher:

            async def ours() -> float:
                begun = time.perf_counter()
                event = await intake.publish(EVENT_TYPE, name="bench")
                await ion.finished.job_of(event.context.event_id)
                taken = time.perf_counter() - begun
                await at_rest(dispatcher)
                return 1000 * taken

            async def theirs() -> float:
                number = next(numbers)
                here = directory / f"by-hand-{number}"
                context = Context(name="bench", event_id=f"event-{number}", correlation_id=f"flow-{number}")
                await ion.dataplane.document(Event(context=context, type=EVENT_TYPE), ())
                commands = _by_hand(here, settings, context, modules[0].name)
                begun = time.perf_counter()
                for command in commands:
                    process = await asyncio.create_subprocess_exec(
                        *command, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
                    )
                    if await process.wait() != 0:
                        raise RuntimeError(f"exit code {process.returncode}: {' '.join(command)}")
                return 1000 * (time.perf_counter() - begun)

            yield Pair(ours, theirs)


def _settings(directory: Path, name: str) -> bytes:
    """What steps 1 and 3 have of the configuration."""
    storage = {
        "blobs": {"provider": "local", "path": str(directory / "blobs")},
        "documents": {"provider": "sqlite", "path": str(directory / "documents.sqlite")},
    }
    modules = {name: {"command": ["true"], "subscribes": [EVENT_TYPE]}}
    said = {"version": 1, "state": str(directory / "state"), "plugins": [], "storage": storage, "modules": modules}
    return json.dumps(said).encode()


def _by_hand(here: Path, settings: bytes, context: Context, name: str) -> list[list[str]]:
    """The three commands of a job, ready to be run in that directory."""
    (here / "workspace").mkdir(parents=True)
    (here / "settings.yaml").write_bytes(settings)
    ticket = Ticket(
        event_id=context.event_id, correlation_id=context.correlation_id, module=name, attempt=1, token="by hand"
    )
    (here / "ticket").write_bytes(ticket.encode())
    given = [
        *("--config", str(here / "settings.yaml"), "--ticket", str(here / "ticket")),
        *("--result", str(here / "result"), "--basedir", str(here / "workspace")),
    ]
    return [[*ION, "handler", "prepare", *given], ["true"], [*ION, "handler", "commit", *given]]
