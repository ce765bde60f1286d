"""Podman's service is killed, hangs or is not there: jobs go on, and calls end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from ion_core.contracts.runtime import ContainerRuntime, ExitStatus
from ion_core.errors import TransientError
from ion_core.testing.kit import refused
from ion_podman.runtime import open_podman_runtime
from ion_podman.settings import PodmanSettings
from ion_podman.testing import PodmanService
from tests.containers.running import finished, said, spec, started


@pytest.fixture
def paused(service: PodmanService) -> Iterator[Callable[[], None]]:
    """Makes the service hang; it goes on when the test is over."""
    yield service.pause
    service.resume()


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
    with pytest.raises(
        TransientError, match=r"^podman: GET /info: nothing answers .* Start it: `podman system service"
    ):
        async with open_podman_runtime(given):
            raise AssertionError("it opened")
