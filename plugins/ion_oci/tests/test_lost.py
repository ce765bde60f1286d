"""Programs that are killed, we ourselves at any step, images and room that are gone: nothing stays behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from ion_core.contracts.runtime import ContainerRef, ContainerState, ExitStatus
from ion_core.errors import ContainerNotFound, StorageFull, TransientError
from ion_core.testing.kit import refused
from ion_oci.container import signal_of
from ion_oci.images import Image, Images
from ion_oci.runtime import OciRuntime
from ion_podman.testing import BUSYBOX
from tests.containers.running import PATIENCE, finished, run, said, spec, started
from tests.support.containers import OciUnderTest, control_groups, holders

NEVER_ENDS = "echo up; trap '' TERM; while :; do sleep 0.05; echo x > /ion/out/data/tick; done"


def is_over(pid: int) -> bool:
    """Gone, or only to be reaped by whoever inherited it."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


async def test_a_container_whose_conmon_was_killed_ends_and_its_end_is_not_made_up(
    runtime: OciRuntime, tmp_path: Path
) -> None:
    job = spec(tmp_path, NEVER_ENDS)
    async with started(runtime, job) as ref:
        await said(runtime, ref, "up")
        container = runtime._our(ref)
        assert container is not None
        (pid,) = holders(job.name)
        os.kill(pid, signal.SIGKILL)
        with refused(TransientError, naming="conmon was killed"):
            async with asyncio.timeout(PATIENCE):
                await runtime.wait(ref)
        assert is_over(container.pid)
        assert [status.state for status in await runtime.find(job.labels)] == [ContainerState.EXITED]
    assert control_groups(ref.id) == []


async def test_conmon_is_in_no_control_group_of_ours(runtime: OciRuntime, tmp_path: Path) -> None:
    """systemd sends its signals to all that is in a service's: a drain would end what it waits for."""
    job = spec(tmp_path, "echo up; sleep 100")
    async with started(runtime, job) as ref:
        await said(runtime, ref, "up")
        (pid,) = holders(job.name)
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()  # noqa: ASYNC240
        assert any(line.endswith(":/ion-oci/conmon") for line in lines if "systemd" in line or line[:3] == "0::")


async def test_a_warm_container_whose_processes_were_killed_is_gone_before_it_ran(
    runtime: OciRuntime, tmp_path: Path
) -> None:
    for victim in ("first", "conmon"):
        job = spec(tmp_path, "true")
        ref = await runtime.create(job)
        container = runtime._our(ref)
        assert container is not None
        os.kill(container.pid if victim == "first" else holders(job.name)[0], signal.SIGKILL)
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait({container.ended})
            with refused(ContainerNotFound, naming="before it began"):
                await runtime.start(ref)
            await runtime.remove(ref)
        assert await runtime.find(job.labels) == []


async def test_one_that_nobody_can_attach_to_leaves_nothing(
    runtime: OciRuntime, tested: OciUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for victim in ("Attached", "Exit"):
        with monkeypatch.context() as patched:

            def fails(*_: object) -> None:
                raise ProcessLookupError("it is gone")

            patched.setattr(f"ion_oci.container.{victim}", fails)
            job = spec(tmp_path, "true")
            async with asyncio.timeout(PATIENCE):
                with refused(TransientError, naming="ended before it began"):
                    await runtime.create(job)
        assert await runtime.find(job.labels) == []
        assert [*(tested.directory / "state").iterdir()] == []
        assert holders(job.name) == []


KILLED = """
import asyncio, os, shutil, signal, sys
from pathlib import Path
from ion_oci import conmon, container, kept, roots, runtime
from ion_oci.settings import OciSettings
from tests.containers.running import spec

directory, place, step = sys.argv[1:]

def dies(*_, **__):
    print("now", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

MAKING = {
    "image mounted": (roots.Roots, "_mount"),
    "root mounted": (roots.Roots, "_furnish"),
    "half written": (kept, "asdict"),
    "kept": (runtime.Container, "make_ready"),
    "conmon runs": (conmon, "_move"),
    "made": (container.Attached, "__init__"),
}
REMOVING = {"deleting": (shutil, "rmtree"), "deleted": (kept.Kept, "remove"), "half removed": (kept, "shutil")}

async def main():
    settings = OciSettings.model_validate({"directory": directory})
    async with runtime.open_oci_runtime(settings) as ours:
        job = spec(Path(place), {"ended": "exit 7"}.get(step, NEVER_ENDS), labels={"ion-test": "killed"})
        if step in MAKING:
            setattr(*MAKING[step], dies)
        ref = await ours.create(job)
        if step == "created":
            dies()
        await ours.start(ref)
        if step == "ended":
            await ours.wait(ref)
        if step in REMOVING:
            dies.rmtree = dies
            setattr(*REMOVING[step], dies)
            await ours.remove(ref)
        dies()

NEVER_ENDS = %r
asyncio.run(main())
"""


async def killed_at(step: str, tested: OciUnderTest, tmp_path: Path) -> None:
    program = [sys.executable, "-c", KILLED % NEVER_ENDS, str(tested.directory), str(tmp_path), step]
    done = await asyncio.to_thread(subprocess.run, program, cwd=Path.cwd(), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "now\n"), done.stderr


@pytest.mark.parametrize("step", ["kept", "made", "created", "started", "ended", "deleting", "deleted"])
async def test_whatever_we_were_doing_when_killed_the_next_one_removes_it(
    tested: OciUnderTest, tmp_path: Path, step: str
) -> None:
    await killed_at(step, tested, tmp_path)
    async with tested.open() as later:
        (left,) = await later.find({"ion-test": "killed"})
        expected = {"created": ContainerState.CREATED, "made": ContainerState.CREATED} | {
            "started": ContainerState.RUNNING
        }
        assert left.state is expected.get(step, ContainerState.EXITED)
        if step == "ended":
            assert await later.wait(left.ref) == ExitStatus(code=7)
        await later.stop(left.ref, grace=timedelta(0))
        if step == "started":
            assert await later.wait(left.ref) == ExitStatus(code=137, signal=9), "conmon was there all the time"
            assert "up" in [line.text async for line in later.logs(left.ref, follow=True)]
        await later.remove(left.ref)
        assert await later.find({"ion-test": "killed"}) == []
        assert holders(left.ref.name) == []
        with refused(ContainerNotFound):
            await later.wait(left.ref)
    assert control_groups(left.ref.id) == []
    assert tested.mounts() == [], "nor is a root left"


async def test_a_container_that_is_being_made_when_we_are_killed_is_none_later(
    tested: OciUnderTest, tmp_path: Path
) -> None:
    """conmon runs by then. What it has the OCI runtime make cannot be noted where there is no directory any more."""
    await killed_at("conmon runs", tested, tmp_path)
    async with tested.open() as later:
        (left,) = await later.find({"ion-test": "killed"})
        await later.remove(left.ref)
    assert holders(left.ref.name) == []
    assert tested.in_state("created") == []
    assert control_groups(left.ref.id) == []


@pytest.mark.parametrize("step", ["image mounted", "root mounted", "half written", "half removed"])
async def test_what_was_half_done_when_we_were_killed_is_gone_at_the_next_start(
    tested: OciUnderTest, tmp_path: Path, step: str
) -> None:
    await killed_at(step, tested, tmp_path)
    async with tested.open() as later:
        assert await later.find({"ion-test": "killed"}) == []
        assert tested.containers() == []
        assert tested.mounts() == []
        assert len([*tested.directory.glob("roots/*")]) == 1, "what is the next one's own"
    assert [*tested.directory.glob("roots/*")] == []
    assert "busybox" not in await asyncio.to_thread(tested.images.podman, "image", "mount")


async def test_a_root_that_somebody_unmounts_is_made_anew(
    runtime: OciRuntime, tested: OciUnderTest, tmp_path: Path
) -> None:
    job = spec(tmp_path, "echo up; while [ ! -e /ion/in/data/go ]; do sleep 0.05; done; ls /bin/busybox")
    async with started(runtime, job) as ref:
        await said(runtime, ref, "up")
        (root,) = tested.directory.glob("roots/*/*/merged")
        await asyncio.to_thread(subprocess.run, ["umount", "--lazy", str(root)], check=True)
        assert (await run(runtime, tmp_path, "echo made anew")).stdout == ["made anew"]
        (job.workspace / "in/data/go").touch()
        assert (await finished(runtime, ref, job.workspace)).stdout == ["up", "/bin/busybox"], "who runs keeps it"


async def test_an_image_that_somebody_unmounts_while_it_is_taken_is_mounted_again(
    runtime: OciRuntime, tested: OciUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted, seen = Images.mounted, []

    async def and_unmounted(self: Images, image: Image) -> Path:
        place = await mounted(self, image)
        seen.append(place)
        if len(seen) == 1:
            await self.unmount(image.id)
        return place

    monkeypatch.setattr(Images, "mounted", and_unmounted)
    assert (await run(runtime, tmp_path, "echo there")).stdout == ["there"]
    assert len(seen) == 2


async def test_cancelling_create_lets_podman_mount_to_the_end(
    runtime: OciRuntime, tested: OciUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted, begun, go, ended = Images.mounted, asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def when_told(self: Images, image: Image) -> Path:
        begun.set()
        await go.wait()
        place = await mounted(self, image)
        ended.set()
        return place

    monkeypatch.setattr(Images, "mounted", when_told)
    creating = asyncio.create_task(runtime.create(spec(tmp_path, "true")))
    async with asyncio.timeout(PATIENCE):
        await begun.wait()
        creating.cancel()
        await asyncio.sleep(0)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await creating
    assert ended.is_set()
    assert tested.mounts() == []


async def test_a_module_whose_image_was_removed_while_it_ran_has_not_failed(
    runtime: OciRuntime, tested: OciUnderTest, tmp_path: Path
) -> None:
    """Nothing of Podman's uses it: `podman image prune --all` takes it as well."""
    (tmp_path / "Containerfile").write_text(f"FROM {BUSYBOX}\nCOPY greeting /\n", encoding="utf-8")
    (tmp_path / "greeting").write_text("hello\n", encoding="utf-8")
    name = "localhost/ion-test/removed:1"
    await asyncio.to_thread(tested.images.build, name, tmp_path)
    waits = "echo up; while [ ! -e /ion/in/data/go ]; do :; done; "
    for script, code in (("cat /greeting", None), ("exit 0", 0)):
        await asyncio.to_thread(tested.images.build, name, tmp_path)
        job = spec(tmp_path, waits + script, image=name)
        async with started(runtime, job) as ref:
            await said(runtime, ref, "up")
            await asyncio.to_thread(tested.images.podman, "rmi", name)
            (job.workspace / "in/data/go").touch()
            if code is None:
                with refused(TransientError, naming="its image was removed"):
                    await runtime.wait(ref)
            else:
                assert (await runtime.wait(ref)).code == code


async def test_an_oci_runtime_that_breaks_while_we_serve_is_nobodys_fault_and_may_be_mended(
    tested: OciUnderTest, tmp_path: Path
) -> None:
    stand_in = tmp_path / "runc"
    whole = f'#!/bin/sh\nexec {shutil.which("runc", path="/usr/sbin:/usr/bin")} "$@"\n'
    stand_in.write_text(whole)
    stand_in.chmod(0o755)
    async with tested.open(runtime=str(stand_in)) as runtime:
        assert (await run(runtime, tmp_path, "echo whole")).stdout == ["whole"]
        ref = await runtime.create(job := spec(tmp_path, "echo ran"))
        stand_in.write_text('#!/bin/sh\necho "libseccomp.so.2: cannot open shared object file" >&2\nexit 127\n')
        with refused(TransientError, naming="libseccomp.so.2: cannot open"):
            await runtime.create(spec(tmp_path, "true"))
        await runtime.start(ref)
        assert (await finished(runtime, ref, job.workspace)).stdout == ["ran"], "what was made needs it no more"
        await runtime.remove(ref)
        stand_in.write_text(whole)
        assert (await run(runtime, tmp_path, "echo mended")).stdout == ["mended"]
    assert tested.containers() == []


async def test_a_root_whose_image_is_gone_is_not_used_again(
    runtime: OciRuntime, tested: OciUnderTest, tmp_path: Path
) -> None:
    """Though the very same image, by its id, is back."""
    name = "localhost/ion-test/back:1"
    (tmp_path / "Containerfile").write_text(f"FROM {BUSYBOX}\nCOPY Containerfile /\n", encoding="utf-8")
    await asyncio.to_thread(tested.images.build, name, tmp_path)
    await asyncio.to_thread(tested.images.podman, "save", "--output", str(tmp_path / "saved"), name)
    for _ in range(2):
        assert (await run(runtime, tmp_path, "echo there", image=name)).stdout == ["there"]
        await asyncio.to_thread(tested.images.podman, "rmi", "--force", name)
        await asyncio.to_thread(tested.images.podman, "load", "--input", str(tmp_path / "saved"))
    assert len([*tested.directory.glob("roots/*/*/merged")]) == 2
    await asyncio.to_thread(tested.images.podman, "rmi", "--force", name)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(path: Path) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    with suppress(OSError):
        while os.write(file, bytes(4096)):
            pass
    os.close(file)


async def test_no_room_for_containers_is_said(tested: OciUnderTest, small: Path, tmp_path: Path) -> None:
    async with tested.open(directory=str(small)) as runtime:
        filler = small / "filler"
        fill(filler)
        for _ in range(2):
            with refused(StorageFull, naming=str(small)):
                await runtime.create(spec(tmp_path, "true"))
        filler.unlink()
        assert (await run(runtime, tmp_path, "echo room")).stdout == ["room"]


async def test_a_ref_of_one_that_was_made_anew_is_not_its(runtime: OciRuntime, tmp_path: Path) -> None:
    job = spec(tmp_path, "exit 3")
    async with started(runtime, job) as first:
        await runtime.wait(first)
    async with started(runtime, job) as second:
        assert second.id != first.id
        for ref in (first, ContainerRef(id=first.id, name=job.name)):
            with refused(ContainerNotFound):
                await runtime.wait(ref)
            await runtime.remove(ref)
        assert (await runtime.wait(second)).code == 3


@pytest.mark.parametrize(
    ("name", "number"),
    [("SIGINT", 2), ("int", 2), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("", 15), ("SIGNONE", 15), ("77", 15)],
)
def test_a_signal_is_named_in_many_ways(name: str, number: int) -> None:
    assert signal_of(name) == number
