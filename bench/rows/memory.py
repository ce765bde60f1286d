"""``memory``: what ``ion-core serve`` holds in memory with RabbitMQ and Podman; a process of its own, from /proc.

Ours: after 5,000 events, with 10,000 more waiting. Theirs: the same process after 100. One run takes a quarter of an
hour, so there is one, and both figures are read from it. The goal has a second half that the ratio does not show: ours
is to be 80 MiB at most.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from bench.embedded import EVENT_TYPE, Ion
from bench.measure import Benchmark, Pair, at_most
from bench.podman import CHILD_TYPE, COMMAND, ion, module, podman, rabbit
from bench.resident import resident as resident_now
from ion_core.intake import Intake

FEW = 100
WHEN_SLOW = 3600.0
CONFIG = """
messaging: {{provider: rabbitmq, url: "{rabbit}"}}
runtimes: {{default: {{provider: podman, url: "{podman}"}}}}
modules:
  noop:
    image: {image}
    command: {command}
    subscribes: [{takes}]
    publishes: [{emits}]
    concurrency: 2
    warm: 2
"""


def benchmark(events: int = 5_000, waiting: int = 10_000) -> Benchmark:
    return Benchmark(name="memory", unit="MiB", goal=at_most(1.15), open=partial(_open, events, waiting), pairs=1)


@asynccontextmanager
async def _open(events: int, waiting: int, directory: Path) -> AsyncIterator[Pair]:
    few, many = await _measured(events, waiting, directory)

    async def ours() -> float:
        return many

    async def theirs() -> float:
        return few

    yield Pair(ours, theirs)


async def _measured(events: int, waiting: int, directory: Path) -> tuple[float, float]:
    noop = module()
    with podman() as service, rabbit() as url:
        text = CONFIG.format(
            rabbit=url,
            podman=service.url,
            image=noop.image,
            command=json.dumps(COMMAND),
            takes=EVENT_TYPE,
            emits=CHILD_TYPE,
        )
        (directory / "ion.yaml").write_text(text, encoding="utf-8")
        (directory / ".ion").mkdir()
        async with ion(directory / ".ion", url) as opened:
            intake = await opened.intake([noop])
            await waiting_events(intake, events + waiting)
            stages = (events + waiting - FEW, waiting)
            few, many = await resident(opened, directory, stages, environ=service.environ)
            return few, many


async def waiting_events(intake: Intake, count: int) -> None:
    for _ in range(0, count, 100):
        await asyncio.gather(*(intake.publish(EVENT_TYPE, name="bench") for _ in range(100)))


async def resident(
    opened: Ion, directory: Path, stages: Sequence[int], *, environ: Mapping[str, str] | None = None
) -> list[float]:
    """MiB that ``ion-core serve`` holds when no more than each of ``stages`` events are waiting, most first."""
    serve = [str(Path(sys.executable).with_name("ion-core")), "serve", "--config", "ion.yaml"]
    with (directory / "serve.log").open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            *serve, cwd=directory, env={**os.environ, **(environ or {})}, stdout=said, stderr=said
        )
    found = []
    try:
        for stage in stages:
            await _left(opened, stage, process)
            found.append(resident_now(process.pid))
        return found
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _left(opened: Ion, count: int, process: asyncio.subprocess.Process) -> None:
    """Until no more events than that are waiting."""
    async with asyncio.timeout(WHEN_SLOW):
        while (await opened.broker.stats("noop")).ready > count:
            if process.returncode is not None:
                raise RuntimeError(f"ion-core serve ended with {process.returncode}")
            await asyncio.sleep(0.2)
