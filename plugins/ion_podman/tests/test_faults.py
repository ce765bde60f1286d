"""Faults of modules and of Podman's service, made to happen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from ion_core.contracts.runtime import ContainerRef, ContainerRuntime, ContainerState, ExitStatus, Resources
from ion_core.errors import IonError, TransientError
from ion_core.testing.kit import refused
from ion_podman.runtime import open_podman_runtime
from ion_podman.settings import PodmanSettings
from ion_podman.testing import PodmanService
from plugins.ion_podman.tests.running import PATIENCE, finished, run, said, spec, started

MIB = 1024**2
LONG = timedelta(minutes=1)


@pytest.fixture
def paused(service: PodmanService) -> Iterator[Callable[[], None]]:
    """Makes the service hang; it goes on when the test is over."""
    yield service.pause
    service.resume()


async def test_out_of_memory_is_told(runtime: ContainerRuntime, tmp_path: Path) -> None:
    eats = "x=0123456789abcdef; while :; do x=$x$x; done"
    ran = await run(runtime, tmp_path, f"exec sh -c '{eats}'", resources=Resources(memory=32 * MIB))
    assert ran.status == ExitStatus(code=137, signal=9, limit="memory 32 MiB")


async def test_a_child_that_ran_out_of_memory_is_told_too(runtime: ContainerRuntime, tmp_path: Path) -> None:
    eats = "x=0123456789abcdef; while :; do x=$x$x; done"
    ran = await run(runtime, tmp_path, f"sh -c '{eats}'; exit 3", resources=Resources(memory=32 * MIB))
    assert ran.status == ExitStatus(code=3, limit="memory 32 MiB")


async def test_a_child_that_ran_out_of_memory_is_told_though_its_parent_exits_0(
    runtime: ContainerRuntime, tmp_path: Path
) -> None:
    eats = "x=0123456789abcdef; while :; do x=$x$x; done"
    ran = await run(runtime, tmp_path, f"sh -c '{eats}'; exit 0", resources=Resources(memory=32 * MIB))
    assert ran.status == ExitStatus(code=0, limit="memory 32 MiB")
    assert (await run(runtime, tmp_path, "exit 0", resources=Resources(memory=32 * MIB))).status == ExitStatus(code=0)


async def test_a_refused_fork_that_the_module_gets_over_is_no_failure(
    runtime: ContainerRuntime, tmp_path: Path
) -> None:
    forks = "(n=0; while [ $n -lt 50 ]; do sleep 5 & n=$((n+1)); done); exit 0"
    ran = await run(runtime, tmp_path, forks, resources=Resources(pids=20))
    assert "can't fork" in "\n".join(ran.stderr)
    assert ran.status == ExitStatus(code=0)


async def test_a_kill_by_the_module_itself_is_no_limit(runtime: ContainerRuntime, tmp_path: Path) -> None:
    ran = await run(runtime, tmp_path, "sh -c 'kill -9 $$'; exit $?")
    assert ran.status == ExitStatus(code=137, signal=9)


async def test_a_fork_bomb_is_contained_and_told(runtime: ContainerRuntime, tmp_path: Path) -> None:
    bomb = "n=0; while [ $n -lt 200 ]; do sleep 5 & n=$((n+1)); done; exit 0"
    ran = await run(runtime, tmp_path, bomb, resources=Resources(pids=20))
    assert ran.status.code != 0
    assert ran.status.limit == "pids 20"
    assert (await run(runtime, tmp_path, "echo fine")).stdout == ["fine"], "others go on"


async def test_tmp_is_bounded(runtime: ContainerRuntime, service: PodmanService, tmp_path: Path) -> None:
    given = PodmanSettings.model_validate({"url": service.url, "tmp": "1MiB"})
    async with open_podman_runtime(given) as small:
        ran = await run(small, tmp_path, "dd if=/dev/zero of=/tmp/x bs=1M count=8 2>/dev/null; wc -c < /tmp/x")
        assert ran.stdout == [str(MIB)]


async def cut(runtime: ContainerRuntime, ref: ContainerRef) -> None:
    """Until some of its output was dropped."""
    async with asyncio.timeout(PATIENCE):
        while not [line async for line in runtime.logs(ref) if "are not kept" in line.text]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_endless_output_is_cut_and_the_module_can_be_stopped(runtime: ContainerRuntime, tmp_path: Path) -> None:
    endless = spec(tmp_path, "echo first; exec yes xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", log_limit=1 << 16)
    async with started(runtime, endless) as ref:
        await said(runtime, ref, "first")
        await cut(runtime, ref)
        await runtime.stop(ref, grace=timedelta(seconds=0.2))
        ran = await finished(runtime, ref, endless.workspace)
        assert ran.status.signal in (9, 15)
        assert ran.stdout[0] == "first"
        assert sum(len(line) + 1 for line in ran.stdout) <= 1 << 16
        assert any("are not kept" in line for line in ran.stderr)


async def test_an_image_that_is_missing_leaves_nothing(
    runtime: ContainerRuntime, service: PodmanService, tmp_path: Path
) -> None:
    with refused(IonError, naming="image unavailable: localhost/no/such:1"):
        await runtime.create(spec(tmp_path, "true", image="localhost/no/such:1"))
    assert await asyncio.to_thread(service.containers) == []


async def test_a_job_survives_a_service_that_was_killed(
    runtime: ContainerRuntime, service: PodmanService, tmp_path: Path
) -> None:
    script = "echo before; while [ ! -e /ion/in/data/go ]; do sleep 0.05; done; echo after; echo wrong >&2; exit 7"
    job = spec(tmp_path, script)
    async with started(runtime, job) as ref:
        await said(runtime, ref, "before")
        waiting = asyncio.create_task(runtime.wait(ref))
        service.kill()
        (job.workspace / "in/data/go").touch()
        with refused(TransientError, naming="nothing answers"):
            await runtime.find({"ion-test": job.name})
        await asyncio.to_thread(service.podman, "wait", job.name)  # without the service, and it ends while that is away
        assert not waiting.done()
        await asyncio.to_thread(service.start)
        ran = await finished(runtime, ref, job.workspace)
        assert (ran.status, await waiting) == (ExitStatus(code=7), ExitStatus(code=7))
        assert ran.stdout == ["before", "after"]
        assert ran.stderr == ["wrong"]


async def test_a_slot_made_before_the_service_was_killed_still_starts(
    runtime: ContainerRuntime, service: PodmanService, tmp_path: Path
) -> None:
    job = spec(tmp_path, "echo here; exit 3")
    ref = await runtime.create(job)
    service.kill()
    await asyncio.to_thread(service.start)
    try:
        await runtime.start(ref)
        ran = await finished(runtime, ref, job.workspace)
        assert (ran.status.code, ran.stdout) == (3, ["here"])
    finally:
        await runtime.remove(ref)


async def test_calls_to_a_service_that_hangs_end_in_time(
    service: PodmanService, tmp_path: Path, paused: Callable[[], None]
) -> None:
    given = PodmanSettings.model_validate({"url": service.url, "timeout": "2s"})
    async with open_podman_runtime(PodmanSettings.model_validate({"url": service.url})) as patient:
        job = spec(tmp_path, "echo up; while [ ! -e /ion/in/data/go ]; do sleep 0.05; done; exit 5")
        async with started(patient, job) as ref, open_podman_runtime(given) as runtime:
            await said(patient, ref, "up")
            paused()
            calls: list[Awaitable[object]] = [
                runtime.create(spec(tmp_path, "true")),
                runtime.find({"ion-test": job.name}),
                runtime.start(ref),
                runtime.stop(ref, grace=timedelta(0)),
            ]
            begun = time.monotonic()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(result) for result in results] == [TransientError] * 4
            assert all("no answer within 2 s" in str(result) for result in results)
            assert time.monotonic() - begun < 10
            (job.workspace / "in/data/go").touch()
            service.resume()
            assert (await finished(patient, ref, job.workspace)).status.code == 5


async def test_no_service_says_how_to_start_one(tmp_path: Path) -> None:
    given = PodmanSettings.model_validate({"url": f"unix://{tmp_path}/none.sock"})
    with refused(TransientError, naming="podman system service"):
        async with open_podman_runtime(given):
            raise AssertionError("it opened")


async def test_containers_of_an_earlier_life_are_found_and_removed(
    runtime: ContainerRuntime, service: PodmanService, settings: PodmanSettings, tmp_path: Path
) -> None:
    label = {"ion.state": "earlier"}
    waiting = spec(tmp_path, "true", labels=label)
    running = spec(tmp_path, "trap '' TERM; while :; do sleep 1; done", labels=label)
    ended = spec(tmp_path, "true", labels=label)
    refs = [await runtime.create(one) for one in (waiting, running, ended)]
    for ref in refs[1:]:
        await runtime.start(ref)
    await runtime.wait(refs[2])
    async with open_podman_runtime(settings) as later:
        found = {status.ref.name: status for status in await later.find(label)}
        assert {name: status.state for name, status in found.items()} == {
            waiting.name: ContainerState.CREATED,
            running.name: ContainerState.RUNNING,
            ended.name: ContainerState.EXITED,
        }
        assert (await later.wait(refs[2])).code == 0, "its exit code is told to others too"
        for status in found.values():
            await later.stop(status.ref, grace=timedelta(0))
            await later.remove(status.ref)
        assert await later.find(label) == []
    assert await asyncio.to_thread(service.containers) == []


async def test_leaving_removes_what_was_made(service: PodmanService, settings: PodmanSettings, tmp_path: Path) -> None:
    async with open_podman_runtime(settings) as runtime:
        await runtime.create(spec(tmp_path, "true"))
        await runtime.start(await runtime.create(spec(tmp_path, "sleep 100")))
    assert await asyncio.to_thread(service.containers) == []


async def test_links_and_pipes_in_out_are_just_there(runtime: ContainerRuntime, tmp_path: Path) -> None:
    ran = await run(runtime, tmp_path, "cd /ion/out/data; ln -s /etc/shadow link; mkfifo pipe; ln -s / root")
    assert ran.status.code == 0
    assert sorted(path.name for path in (ran.workspace / "out/data").iterdir()) == ["link", "pipe", "root"]


async def test_cancelling_create_leaves_nothing_that_comes_later(
    runtime: ContainerRuntime, service: PodmanService, tmp_path: Path
) -> None:
    label = {"ion-test": "cancelled"}
    for delay in (0.0, 0.001, 0.003, 0.01, 0.03, 0.06):
        creating = asyncio.create_task(runtime.create(spec(tmp_path, "true", labels=label)))
        await asyncio.wait({creating}, timeout=delay)
        creating.cancel()
        await asyncio.wait({creating})
        for status in await runtime.find(label):  # as the dispatcher does
            await runtime.remove(status.ref)
        assert await asyncio.to_thread(service.containers) == []
