"""``executor_cost``: what a job that runs elsewhere costs the dispatcher while it waits for it.

Ours: a dispatcher with embedded broker and stores and the executor of Kubernetes, in this process; 1,000 jobs are with
the stand-in for an API server, which is a process of its own, and their modules run. Processor time of this process in
ten seconds, in milliseconds for each job and second. There is one watch for all of them; each module's log is followed
by a connection of its own. In ``executor_cost`` the modules print nothing, in ``executor_cost_lines`` a line a second
each.

Theirs: 0.3 ms, which is the goal, so the ratio is how much of it is used. Making and starting the jobs is not timed.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

from bench.embedded import EVENT_TYPE, embedded
from bench.kubernetes import StandIn, stand_in
from bench.measure import Benchmark, Pair, Unavailable, at_most
from ion_core.dispatcher.engine import Engine
from ion_core.modules import Module

GOAL = 0.3
"""Milliseconds of processor time for each job and second."""
_FILES_OF_OURS = 200


def benchmark(jobs: int = 1_000, seconds: float = 10.0) -> Benchmark:
    opening = partial(_open, jobs, 0, seconds)
    return Benchmark(name="executor_cost", unit="ms", goal=at_most(1.0), open=opening, pairs=3)


def printing(jobs: int = 1_000, seconds: float = 10.0) -> Benchmark:
    opening = partial(_open, jobs, 1, seconds)
    return Benchmark(name="executor_cost_lines", unit="ms", goal=None, open=opening, pairs=3)


@asynccontextmanager
async def _open(jobs: int, lines: int, lasts: float, directory: Path) -> AsyncIterator[Pair]:
    try:
        from ion_kubernetes.opening import open_kubernetes_executor
        from ion_kubernetes.settings import KubernetesSettings
    except ImportError as error:
        raise Unavailable(f"{error.name} is not installed") from error

    _allow_files(jobs + _FILES_OF_OURS)
    module = Module(name="noop", image="registry.example/noop:1", subscribes=(EVENT_TYPE,), concurrency=jobs)
    kubeconfig = directory / "kubeconfig"
    async with stand_in() as cluster, embedded(directory) as ion:
        kubeconfig.write_text(_kubeconfig(cluster.url), encoding="utf-8")
        given = {"handler_image": "registry.example/ion:1", "kubeconfig": kubeconfig, "followed_logs": jobs}
        settings = KubernetesSettings.model_validate(given)
        async with open_kubernetes_executor(settings) as executor:
            intake = await ion.intake([module])
            for _ in range(jobs):
                await intake.publish(EVENT_TYPE, name="bench")
            engine = Engine(executor, name="default", installation="bench", alone=True)
            async with ion.serving([module], engine=engine, settings=b"{}", drain_timeout=timedelta(0)):
                await _all_run(cluster, jobs)
                if lines:
                    await cluster.say(f"lines {lines}")

                async def ours() -> float:
                    begun, wall = time.process_time(), time.perf_counter()
                    await asyncio.sleep(lasts)
                    used, seconds = time.process_time() - begun, time.perf_counter() - wall
                    print(f"at the API server: {json.dumps(await cluster.say('figures'))}", file=sys.stderr)
                    return 1000 * used / jobs / seconds

                async def theirs() -> float:
                    return GOAL

                yield Pair(ours, theirs)


async def _all_run(cluster: StandIn, jobs: int) -> None:
    """Until each job's module runs, and its log is followed."""
    while True:
        figures = await cluster.say("figures")
        if figures["running"] == jobs and figures["connections"] > jobs:
            return
        await asyncio.sleep(0.5)


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise Unavailable(f"{count:,} open files are needed, and {hard:,} are allowed")
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))  # which the stand-in has from us


def _kubeconfig(server: str) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
    )
