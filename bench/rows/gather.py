"""``gather`` and ``gather_many``: what it costs to know that a flow is done.

A flow: one event, of which a module makes many, each taken by a module that makes one of it. Embedded broker and
stores, a runtime in memory whose modules cost nothing but their event files, ten jobs at a time. From before the first
event is published until the last delivery is acked, with a dispatcher that is made for it.

``gather``   ours: 1,000 events, and a gatherer that is given all of them in the end. Theirs: the same without the
gatherer.

``gather_many``  ours: the time an event of such a flow with 10,000 events and the gatherer. Theirs: with 1,000 events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.embedded import EVENT_TYPE, Ion, at_rest, embedded
from bench.measure import Benchmark, Pair, Side, at_most
from ion_core.embedded.memory.runtime import MemoryRuntime
from ion_core.gathered import gathered_id, gathered_type
from ion_core.gathering.graph import joined
from ion_core.jobs import Job
from ion_core.modules import Gather, Module, OutputLimits

AT_ONCE = 10
PART = '[{"key":"eventType","value":"bench.part"}]'
MADE = '[{"key":"eventType","value":"bench.made"}]'


def benchmark(events: int = 1_000) -> Benchmark:
    return Benchmark(name="gather", unit="ms", goal=at_most(1.15), open=partial(_open, events))


def many(events: int = 10_000, few: int = 1_000) -> Benchmark:
    return Benchmark(
        name="gather_many", unit="ms an event", goal=at_most(1.3), open=partial(_open_many, events, few), pairs=3
    )


@asynccontextmanager
async def _open(events: int, directory: Path) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(_flow(events, directory / "with", gathers=True))
        theirs = await stack.enter_async_context(_flow(events, directory / "without", gathers=False))
        yield Pair(ours, theirs)


@asynccontextmanager
async def _open_many(events: int, few: int, directory: Path) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(_flow(events, directory / "many", gathers=True))
        theirs = await stack.enter_async_context(_flow(few, directory / "few", gathers=True))

        async def each(side: Side, count: int) -> float:
            return await side() / count

        yield Pair(partial(each, ours, events), partial(each, theirs, few))


def _modules(events: int, *, gathers: bool) -> list[Module]:
    limits = OutputLimits(max_events=events)
    modules = [
        Module(name="split", command=("split",), subscribes=(EVENT_TYPE,), publishes=("bench.part",), limits=limits),
        Module(
            name="make",
            command=("make",),
            subscribes=("bench.part",),
            publishes=("bench.made",),
            concurrency=AT_ONCE,
        ),
    ]
    if gathers:
        gather = Gather(events=("bench.made",), within=EVENT_TYPE)
        modules.append(Module(name="bind", command=("bind",), subscribes=(gathered_type("bind"),), gather=gather))
    return joined(modules)


def _programs(events: int) -> MemoryRuntime:
    async def split(workspace: Path, env: Mapping[str, str]) -> int:
        for n in range(events):
            (workspace / "out" / "events" / f"{n}.json").write_text(PART)
        return 0

    async def make(workspace: Path, env: Mapping[str, str]) -> int:
        (workspace / "out" / "events" / "0.json").write_text(MADE)
        return 0

    async def bind(workspace: Path, env: Mapping[str, str]) -> int:
        return 0

    return MemoryRuntime(programs={"split": split, "make": make, "bind": bind})


@asynccontextmanager
async def _flow(events: int, directory: Path, *, gathers: bool) -> AsyncIterator[Side]:
    await asyncio.to_thread(directory.mkdir)
    modules = _modules(events, gathers=gathers)
    async with embedded(directory) as opened:
        ion: Ion = replace(opened, dataplane=opened.dataplane.with_gatherers(modules))
        intake = await ion.intake(modules)

        async def run() -> float:
            begun = time.perf_counter()
            async with ion.serving(modules, _programs(events)) as dispatcher:
                event = await intake.publish(EVENT_TYPE, name="bench")
                await ion.finished.job_of(event.context.event_id)
                job = Job(event=event, module="split")
                for n in range(events):
                    await ion.finished.job_of(job.child_id(f"{n}.json"))
                if gathers:
                    await ion.finished.job_of(gathered_id(event.context.event_id, "bind", None))
                taken = time.perf_counter() - begun
                await at_rest(dispatcher)
            return 1000 * taken

        yield run
