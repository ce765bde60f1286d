"""Output and ends of containers whose service, or who themselves, are taken away by others."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import timedelta
from pathlib import Path

import pytest

from ion_core.containers.stored_log import StoredLog, parsed, unseen
from ion_core.contracts.runtime import ContainerRuntime, ExitStatus, Resources
from ion_core.errors import ContainerNotFound, PermanentError, TransientError
from ion_core.testing.kit import refused
from ion_podman.client import Answer
from ion_podman.container import Container
from ion_podman.runtime import PodmanRuntime
from ion_podman.testing import PodmanService
from tests.containers.running import PATIENCE, finished, said, spec, started
from tests.support.containers import RuntimeUnderTest


def until_ended(container: Container) -> None:
    """Until conmon has said so. Blocks, as something that keeps the event loop busy does."""
    deadline = time.monotonic() + PATIENCE
    while container._exit_file.code() is None:
        assert time.monotonic() < deadline, "it does not end"
        time.sleep(0.001)


async def test_output_is_kept_though_service_and_container_end_while_we_are_busy(
    runtime: PodmanRuntime, service: PodmanService, tmp_path: Path
) -> None:
    script = "echo before; while [ ! -e /ion/in/data/go ]; do sleep 0.05; done; echo after; echo wrong >&2; exit 7"
    job = spec(tmp_path, script)
    async with started(runtime, job) as ref:
        await said(runtime, ref, "before")
        container = runtime._our(ref)
        assert container is not None
        service.kill()  # from here on the event loop stands still
        (job.workspace / "in/data/go").touch()
        until_ended(container)
        again = asyncio.create_task(asyncio.to_thread(service.start))
        try:
            ran = await finished(runtime, ref, job.workspace)
        finally:
            await again
    assert ran.status == ExitStatus(code=7)
    assert (ran.stdout, ran.stderr) == (["before", "after"], ["wrong"])


async def test_what_was_seen_is_not_repeated(runtime: ContainerRuntime, tmp_path: Path) -> None:
    job = spec(tmp_path, "printf 'a\\n\\nbb'; echo err >&2; head -c 100000 /dev/zero | tr '\\0' x; printf '\\nlast'")
    async with started(runtime, job) as ref:
        ran = await finished(runtime, ref, job.workspace)
    assert ran.stdout == ["a", "", "bb" + 100_000 * "x", "last"]
    assert ran.stderr == ["err"]


async def test_one_that_was_removed_before_its_start_is_not_there(
    runtime: ContainerRuntime, service: PodmanService, tmp_path: Path
) -> None:
    ref = await runtime.create(spec(tmp_path, "true"))
    await asyncio.to_thread(service.podman, "rm", "--force", ref.name)
    with refused(ContainerNotFound, naming=ref.name):
        await runtime.start(ref)
    await runtime.remove(ref)


def lose_storage_of(id: str, service: PodmanService) -> None:
    """As a service leaves it that is killed while it removes the container; and another one that knows no better."""
    service.kill()
    kept = service.directory / "images/overlay-containers/containers.json"
    entries = json.loads(kept.read_text(encoding="utf-8"))
    kept.write_text(json.dumps([it for it in entries if it["id"] != id]), encoding="utf-8")
    service.start()


async def test_one_that_a_killed_service_has_removed_by_half_is_stopped_and_removed_in_a_later_life(
    runtime: ContainerRuntime, tested: RuntimeUnderTest, service: PodmanService, tmp_path: Path
) -> None:
    job = spec(tmp_path, "true")
    async with started(runtime, job) as ref, tested.open() as later:
        await finished(runtime, ref, job.workspace)
        await asyncio.to_thread(lose_storage_of, ref.id, service)
        assert [it.ref.id for it in await later.find(job.labels)] == [ref.id]
        await later.stop(ref, grace=timedelta(0))
        with refused(ContainerNotFound, naming=ref.name):
            await later.wait(ref)
        await later.remove(ref)
        assert await later.find(job.labels) == []


async def test_a_refusal_of_one_that_was_removed_meanwhile_is_not_the_programs(
    runtime: PodmanRuntime, service: PodmanService, tmp_path: Path
) -> None:
    """Whatever Podman says in the midst of it, such as that some file is not there."""
    answer = Answer(500, {"message": "runc: open /x: no such file or directory: unknown"})
    ref = await runtime.create(spec(tmp_path, "true"))
    container = runtime._our(ref)
    assert container is not None
    assert type(await container._refusal(answer)) is PermanentError
    await asyncio.to_thread(service.podman, "rm", "--force", ref.name)
    assert type(await container._refusal(answer)) is ContainerNotFound
    await runtime.remove(ref)


AT = "2026-11-29T01:56:52.193258605+00:00"


def test_a_stored_log_is_read_as_it_was_printed() -> None:
    raw = f"{AT} stdout F a\n{AT} stdout F \n{AT} stdout P b b\n{AT} stderr F err\n{AT} stdout F c\n{AT} stdout F half"
    frames = parsed(raw.encode())
    assert frames == [(1, b"a\n"), (1, b"\n"), (1, b"b b"), (2, b"err\n"), (1, b"c\n")]
    assert unseen(frames, {1: 0, 2: 0}) == frames
    assert unseen(frames, {1: 4, 2: 4}) == [(1, b" b"), (1, b"c\n")]
    assert unseen(frames, {1: 100, 2: 4}) == []


@pytest.mark.parametrize(
    ("printed", "seen", "missing"),
    [
        ([b"half", b"\n"], 4, []),  # its end is conmon's
        ([b"half", b"\n"], 0, [b"half", b"\n"]),
        ([b"line\n", b"\n"], 5, [b"\n"]),
        ([b"\n"], 0, [b"\n"]),
    ],
)
def test_an_end_that_conmon_adds_to_a_last_line_is_not_missing(
    printed: list[bytes], seen: int, missing: list[bytes]
) -> None:
    assert unseen([(1, data) for data in printed], {1: seen, 2: 0}) == [(1, data) for data in missing]


def test_a_log_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert StoredLog().frames() is None
    assert StoredLog(tmp_path / "none").frames() is None
    assert StoredLog.of({"HostConfig": {"LogConfig": {"Type": "journald", "Path": "/x"}}}) == StoredLog()


@pytest.mark.parametrize(("pids", "told"), [(15, True), (16, False)])
async def test_a_refusal_says_that_so_few_processes_leave_the_oci_runtime_no_room(
    runtime: PodmanRuntime, tmp_path: Path, pids: int, told: bool
) -> None:
    """What runc does when a thread is refused it cannot be had at will: it ends, and what comes next fails."""
    ref = await runtime.create(spec(tmp_path, "true", resources=Resources(pids=pids)))
    container = runtime._our(ref)
    assert container is not None
    error = await container._refusal(Answer(500, {"message": "failed to connect to container's attach socket"}))
    assert type(error) is TransientError
    assert (f"`pids` is {pids}" in str(error)) is told
    await runtime.remove(ref)
