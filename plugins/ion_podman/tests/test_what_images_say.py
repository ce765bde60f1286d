"""What an image says of itself holds: its signal to stop, its volumes, its program; and its root's home is no one's."""

from __future__ import annotations

import asyncio
import io
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.runtime import ContainerRuntime, ContainerSpec, Resources
from ion_core.errors import PermanentError
from ion_core.testing.kit import refused
from ion_podman.images import Image
from ion_podman.interactive import foreground
from ion_podman.runtime import PodmanRuntime, open_podman_runtime
from ion_podman.settings import PodmanSettings
from ion_podman.spec import NOBODY, Wanted
from ion_podman.testing import BUSYBOX, PodmanService
from plugins.ion_podman.tests.running import finished, run, said, spec, started

MIB = 1024**2
LONG = timedelta(minutes=1)


@pytest.fixture
def built(service: PodmanService, tmp_path: Path) -> Callable[..., str]:
    """An image of these steps on top of busybox; ``files`` are in its context."""

    def build(name: str, steps: str, **files: bytes) -> str:
        context = tmp_path / f"context-{name}"
        context.mkdir()
        for file, content in files.items():
            (context / file).write_bytes(content)
        (context / "Containerfile").write_text(f"FROM {BUSYBOX}\n{steps}\n", encoding="utf-8")
        full = f"localhost/ion-test/{name}:latest"
        service.build(full, context)
        return full

    return build


async def test_the_signal_that_an_image_names_stops_it(
    runtime: ContainerRuntime, settings: PodmanSettings, built: Callable[..., str], tmp_path: Path
) -> None:
    image = await asyncio.to_thread(built, "interrupted", "STOPSIGNAL SIGINT")
    script = "trap 'exit 5' INT; trap 'exit 6' TERM; echo up; while :; do sleep 0.05; done"
    job = spec(tmp_path, script, image=image)
    async with started(runtime, job) as ref:
        await said(runtime, ref, "up")
        await runtime.stop(ref, grace=LONG)
        assert (await finished(runtime, ref, job.workspace)).status.code == 5
    other = spec(tmp_path, script, image=image)
    async with started(runtime, other) as ref, open_podman_runtime(settings) as later:
        await said(runtime, ref, "up")
        await later.stop(ref, grace=LONG)
        assert (await finished(runtime, ref, other.workspace)).status.code == 5, "also by another process"


async def test_volumes_of_an_image_can_be_written_to_and_are_bounded(
    service: PodmanService, built: Callable[..., str], tmp_path: Path
) -> None:
    steps = "COPY given /data/\nVOLUME /data /cache/deep /tmp/x"
    image = await asyncio.to_thread(built, "volumes", steps, given=b"there\n")
    given = PodmanSettings.model_validate({"url": service.url, "tmp": "1MiB"})
    script = (
        "cat /data/given; echo x > /data/made; echo x > /cache/deep/made; ls /cache/deep; "
        "dd if=/dev/zero of=/cache/deep/x bs=1M count=8 2>/dev/null; wc -c < /cache/deep/x"
    )
    async with open_podman_runtime(given) as small:
        ran = await run(small, tmp_path, script, image=image)
    *seen, size = ran.stdout
    assert seen == ["there", "made"]
    assert 0 < int(size) <= MIB


async def test_whoever_runs_instead_of_root_has_a_home_to_write_to(
    runtime: ContainerRuntime, built: Callable[..., str], tmp_path: Path
) -> None:
    script = "echo x > $HOME/made && echo $HOME"
    assert (await run(runtime, tmp_path, script)).stdout == ["/tmp"]
    image = await asyncio.to_thread(built, "home", "ENV HOME=/tmp/of-the-image")
    assert (await run(runtime, tmp_path, "echo $HOME", image=image)).stdout == ["/tmp/of-the-image"]
    assert (await run(runtime, tmp_path, "echo $HOME", env={"HOME": "/mine"})).stdout == ["/mine"]


async def test_arguments_alone_are_for_the_images_own_program(
    runtime: ContainerRuntime, built: Callable[..., str], tmp_path: Path
) -> None:
    image = await asyncio.to_thread(built, "entry", 'ENTRYPOINT ["echo", "entry"]\nCMD ["cmd"]')

    async def printed(**how: Any) -> list[str]:
        return (await run(runtime, tmp_path, "", image=image, **how)).stdout

    assert await printed(command=()) == ["entry cmd"]
    assert await printed(command=(), args=("one", "two")) == ["entry one two"]
    assert await printed(command=("echo", "mine")) == ["mine"]
    assert await printed(command=("echo", "mine"), args=("one",)) == ["mine one"]


async def test_shared_memory_is_as_large_as_asked_for(runtime: ContainerRuntime, tmp_path: Path) -> None:
    script = "df -k /dev/shm | tail -1 | awk '{print $2}'"
    asked = Resources(shm=128 * MIB)
    assert (await run(runtime, tmp_path, script, resources=asked)).stdout == [str(128 * 1024)]
    assert runtime.capabilities.shm_size


async def test_a_terminal_shows_the_same(runtime: PodmanRuntime, built: Callable[..., str], tmp_path: Path) -> None:
    image = await asyncio.to_thread(built, "shown", 'VOLUME /data\nENTRYPOINT ["sh", "-c"]')
    script = "echo $HOME; echo x > /data/made && df -k /dev/shm | tail -1 | awk '{print $2}'"
    job = spec(tmp_path, "", image=image, command=(), args=(script,), resources=Resources(shm=96 * MIB))
    shown = await runtime.interactive(job, terminal=False)
    done = await asyncio.to_thread(
        subprocess.run, shown.argv, env=dict(shown.env), cwd=shown.cwd, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["/tmp", str(96 * 1024)]


def closed_directory(name: str) -> bytes:
    """An archive of a directory that is root's alone, as /root is in most images."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o700
        tar.addfile(entry)
    return archive.getvalue()


async def test_a_working_directory_that_is_roots_alone_names_the_cure(
    runtime: ContainerRuntime, built: Callable[..., str], tmp_path: Path
) -> None:
    steps = "ADD closed.tar /\nWORKDIR /root"
    image = await asyncio.to_thread(built, "closed", steps, **{"closed.tar": closed_directory("root")})
    with refused(PermanentError, naming="allow.root"):
        async with started(runtime, spec(tmp_path, "", image=image, command=("./run.sh",))) as ref:
            await runtime.wait(ref)


async def test_open_files_are_limited_as_set(service: PodmanService, tmp_path: Path) -> None:
    given = PodmanSettings.model_validate({"url": service.url, "nofile": 100})
    async with open_podman_runtime(given) as limited:
        ran = await run(limited, tmp_path, "ulimit -n; ulimit -Hn")
        assert ran.stdout == ["100", "100"]


OURS = "1000:1000"


def wanted(user: str, *, own_user: str | None = OURS, **allow: Any) -> Wanted:
    image = Image(id="i", digest="d", user=user, labels={})
    settings = PodmanSettings.model_validate({"allow": allow})
    made = ContainerSpec(name="c", module="m", workspace=Path("/w"))
    return Wanted(spec=made, image=image, settings=settings, own_user=own_user)


@pytest.mark.parametrize("allow", [{"root": ["m"]}, {"privileged": ["m"]}])
@pytest.mark.parametrize("user", ["", "root", "0:0"])
def test_without_root_a_container_that_may_be_root_is_us(user: str, allow: dict[str, Any]) -> None:
    """Podman maps root inside to us by itself; with ``keep-id`` it sets our own user, which is not what was asked."""
    asked = wanted(user, **allow)
    assert asked.user == user
    assert "userns" not in asked.to_json()


@pytest.mark.parametrize("allow", [{}, {"root": ["m"]}, {"privileged": ["m"]}])
def test_without_root_all_others_are_us_by_number(allow: dict[str, Any]) -> None:
    """Also a user of the image: what another number writes would not be ours to remove."""
    asked = wanted("app", **allow)
    assert asked.user == OURS
    assert asked.to_json()["userns"] == {"nsmode": "keep-id"}
    assert wanted("").user == OURS


def test_as_root_users_are_what_they_were() -> None:
    assert wanted("", own_user=None).user == NOBODY
    assert wanted("app", own_user=None).user == "app"
    assert wanted("", own_user=None, root=["m"]).user == ""
    assert wanted("app", own_user=None, root=["m"]).user == "app"
    assert "userns" not in wanted("", own_user=None).to_json()


def test_without_root_a_terminal_has_the_same_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path: "/bin/podman")
    keeps = foreground(wanted("app"), "/s", {"PATH": "/bin"}, terminal=False).argv
    assert "--userns=keep-id" in keeps
    is_root = foreground(wanted("", root=["m"]), "/s", {"PATH": "/bin"}, terminal=False).argv
    assert "--userns=keep-id" not in is_root


def test_volumes_under_what_is_mounted_anyway_are_left_out() -> None:
    image = Image(id="i", digest="d", user="", labels={}, volumes=("/", "/ion/x", "/tmp", "/tmpfiles", "data/", "/m/a"))
    asked = replace(wanted("", mounts={"m": ["/srv:/m"]}), image=image)
    assert asked.tmpfs() == ["/tmp", "/tmpfiles", "/data"]
