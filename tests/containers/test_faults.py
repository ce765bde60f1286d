"""Faults of modules, of images and of ourselves, made to happen."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from ion_core.contracts.runtime import ContainerRef, ContainerRuntime, ContainerState, ExitStatus, Resources
from ion_core.errors import ContainerNotFound, IonError, PermanentError, StorageFull, TransientError
from ion_core.testing.kit import refused
from ion_podman.testing import BUSYBOX, PodmanService
from tests.containers.running import PATIENCE, finished, run, said, spec, started
from tests.support.containers import RUNTIMES, RuntimeUnderTest, control_groups, holders, under_test

MIB = 1024**2
LONG = timedelta(minutes=1)


async def test_out_of_memory_is_told(runtime: ContainerRuntime, tmp_path: Path) -> None:
    eats = "x=0123456789abcdef; while :; do x=$x$x; done"
    ran = await run(runtime, tmp_path, f"exec sh -c '{eats}'", resources=Resources(memory=32 * MIB))
    assert ran.status == ExitStatus(code=137, signal=9, limit="memory 32 MiB")
    assert not Path("oom").exists(), "conmon notes it where it was started, which is not here"  # noqa: ASYNC240


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


async def test_tmp_is_bounded(runtime: ContainerRuntime, tested: RuntimeUnderTest, tmp_path: Path) -> None:
    async with tested.open(tmp="1MiB") as small:
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
    runtime: ContainerRuntime, tested: RuntimeUnderTest, tmp_path: Path
) -> None:
    with refused(IonError, naming="image unavailable: localhost/no/such:1"):
        await runtime.create(spec(tmp_path, "true", image="localhost/no/such:1"))
    assert await asyncio.to_thread(tested.containers) == []


async def test_containers_of_an_earlier_life_are_found_and_removed(
    runtime: ContainerRuntime, tested: RuntimeUnderTest, tmp_path: Path
) -> None:
    label = {"ion.state": "earlier"}
    waiting = spec(tmp_path, "true", labels=label)
    running = spec(tmp_path, "trap '' TERM; while :; do sleep 1; done", labels=label)
    ended = spec(tmp_path, "true", labels=label)
    refs = [await runtime.create(one) for one in (waiting, running, ended)]
    for ref in refs[1:]:
        await runtime.start(ref)
    await runtime.wait(refs[2])
    async with tested.open() as later:
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
    assert await asyncio.to_thread(tested.containers) == []


async def test_leaving_removes_what_was_made(tested: RuntimeUnderTest, tmp_path: Path) -> None:
    async with tested.open() as runtime:
        await runtime.create(spec(tmp_path, "true"))
        await runtime.start(await runtime.create(spec(tmp_path, "sleep 100")))
    assert await asyncio.to_thread(tested.containers) == []


async def test_links_and_pipes_in_out_are_just_there(runtime: ContainerRuntime, tmp_path: Path) -> None:
    ran = await run(runtime, tmp_path, "cd /ion/out/data; ln -s /etc/shadow link; mkfifo pipe; ln -s / root")
    assert ran.status.code == 0
    assert sorted(path.name for path in (ran.workspace / "out/data").iterdir()) == ["link", "pipe", "root"]


async def test_cancelling_create_leaves_nothing_that_comes_later(
    runtime: ContainerRuntime, tested: RuntimeUnderTest, tmp_path: Path
) -> None:
    label = {"ion-test": "cancelled"}
    for delay in (0.0, 0.001, 0.003, 0.01, 0.03, 0.06):
        creating = asyncio.create_task(runtime.create(spec(tmp_path, "true", labels=label)))
        await asyncio.wait({creating}, timeout=delay)
        creating.cancel()
        await asyncio.wait({creating})
        for status in await runtime.find(label):  # as the dispatcher does
            await runtime.remove(status.ref)
        assert await asyncio.to_thread(tested.containers) == []


OTHER_MACHINE = bytes.fromhex("7f454c4602010100" + "00" * 8 + "0200" + "f700" + "01000000") + bytes(40)
"""A program in the format of ELF, for eBPF: no machine of ours."""
PROGRAMS = {"plain": (b"#!/bin/sh\n", 0o644), "text": (b"hello\n", 0o755), "other": (OTHER_MACHINE, 0o755)}


@pytest.fixture
def programs(tested: RuntimeUnderTest, tmp_path: Path) -> Iterator[str]:
    """An image with what cannot be executed; its name."""
    for name, (content, mode) in PROGRAMS.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(mode)
    (tmp_path / "Containerfile").write_text(f"FROM {BUSYBOX}\nCOPY {' '.join(PROGRAMS)} /\n", encoding="utf-8")
    image = "localhost/ion-test/programs:1"
    tested.images.build(image, tmp_path)
    yield image
    tested.images.podman("rmi", "--force", image)


@pytest.mark.parametrize("program", ["/absent", "absent", "/plain", "/bin", "/text", "/other"])
async def test_a_program_that_cannot_be_executed_is_said_and_leaves_nothing(
    runtime: ContainerRuntime, tested: RuntimeUnderTest, programs: str, tmp_path: Path, program: str
) -> None:
    job = spec(tmp_path, "", image=programs, command=(program,))
    if program in ("/text", "/other"):  # told by the kernel, when the OCI runtime has done its part
        async with started(runtime, job) as ref:
            ran = await finished(runtime, ref, job.workspace)
        assert ran.status.code != 0
        assert "exec format error" in "\n".join(ran.stderr).lower()
    else:
        with refused(PermanentError, naming="cannot be executed"):
            await runtime.create(job)
    assert tested.containers() == []


@pytest.fixture
def small(tmp_path: Path) -> Iterator[PodmanService]:
    """A Podman all of whose files are on a disk with little room."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", str(place)], check=True)
    podman = PodmanService(place / "podman")
    try:
        podman.make()
        podman.build_busybox()
        yield podman
    finally:
        podman.remove()
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("provider", RUNTIMES)
async def test_no_room_for_images_and_containers_is_said(
    small: PodmanService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    context = tmp_path / "large"
    context.mkdir()
    (context / "Containerfile").write_text(f"FROM {BUSYBOX}\nCOPY file /\n", encoding="utf-8")
    (context / "file").write_bytes(os.urandom(12 * MIB))
    ballast, filler = small.directory / "ballast", small.directory / "filler"
    ballast.write_bytes(bytes(4 * MIB))  # what a failed build leaves may take all the rest
    full = under_test(provider, small, monkeypatch)
    async with full.open() as runtime:
        with refused(StorageFull, naming="Free some space"):
            await runtime.create(spec(tmp_path, "true", image=None, build=context))
        fill(filler)
        with refused(StorageFull, naming="Free some space"):
            await runtime.create(spec(tmp_path, "true"))
        ballast.unlink()
        filler.unlink()
        assert (await run(runtime, tmp_path, "echo room")).stdout == ["room"]
    assert full.containers() == []
    assert full.mounts() == []


def fill(path: Path) -> None:
    """To the last byte."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


@pytest.mark.parametrize("victim", ["first", "conmon"])
async def test_a_warm_container_whose_process_was_killed_is_no_fault_of_its_module(
    runtime: ContainerRuntime, tested: RuntimeUnderTest, tmp_path: Path, victim: str
) -> None:
    job = spec(tmp_path, "sleep 100")
    ref = await runtime.create(job)
    (conmon,) = holders(job.name)
    if victim == "conmon":
        os.kill(conmon, signal.SIGKILL)
    else:
        (first,) = Path(f"/proc/{conmon}/task/{conmon}/children").read_text().split()  # noqa: ASYNC240
        os.kill(int(first), signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises((ContainerNotFound, TransientError)):
            await begun_and_ended(runtime, ref)
        await runtime.remove(ref)
    assert tested.containers() == []
    assert control_groups(ref.id) == []


async def begun_and_ended(runtime: ContainerRuntime, ref: ContainerRef) -> ExitStatus:
    await runtime.start(ref)
    return await runtime.wait(ref)
