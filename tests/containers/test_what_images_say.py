"""What an image says of itself holds: its signal to stop, its volumes, its program; and its root's home is no one's."""

from __future__ import annotations

import asyncio
import io
import subprocess
import tarfile
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.runtime import ContainerRuntime, Resources
from ion_core.errors import PermanentError
from ion_core.testing.kit import refused
from ion_podman.testing import BUSYBOX
from tests.containers.running import finished, run, said, spec, started
from tests.support.containers import RuntimeUnderTest

MIB = 1024**2
LONG = timedelta(minutes=1)


@pytest.fixture
def built(tested: RuntimeUnderTest, tmp_path: Path) -> Callable[..., str]:
    """An image of these steps on top of busybox; ``files`` are in its context."""

    def build(name: str, steps: str, **files: bytes) -> str:
        context = tmp_path / f"context-{name}"
        context.mkdir()
        for file, content in files.items():
            (context / file).write_bytes(content)
        (context / "Containerfile").write_text(f"FROM {BUSYBOX}\n{steps}\n", encoding="utf-8")
        full = f"localhost/ion-test/{name}:latest"
        tested.images.build(full, context)
        return full

    return build


async def test_the_signal_that_an_image_names_stops_it(
    runtime: ContainerRuntime, tested: RuntimeUnderTest, built: Callable[..., str], tmp_path: Path
) -> None:
    image = await asyncio.to_thread(built, "interrupted", "STOPSIGNAL SIGINT")
    script = "trap 'exit 5' INT; trap 'exit 6' TERM; echo up; while :; do sleep 0.05; done"
    job = spec(tmp_path, script, image=image)
    async with started(runtime, job) as ref:
        await said(runtime, ref, "up")
        await runtime.stop(ref, grace=LONG)
        assert (await finished(runtime, ref, job.workspace)).status.code == 5
    other = spec(tmp_path, script, image=image)
    async with started(runtime, other) as ref, tested.open() as later:
        await said(runtime, ref, "up")
        await later.stop(ref, grace=LONG)
        assert (await finished(runtime, ref, other.workspace)).status.code == 5, "also by another process"


async def test_volumes_of_an_image_can_be_written_to_and_are_bounded(
    tested: RuntimeUnderTest, built: Callable[..., str], tmp_path: Path
) -> None:
    steps = "COPY given /data/\nVOLUME /data /cache/deep /tmp/x"
    image = await asyncio.to_thread(built, "volumes", steps, given=b"there\n")
    script = (
        "cat /data/given; echo x > /data/made; echo x > /cache/deep/made; ls /cache/deep; "
        "dd if=/dev/zero of=/cache/deep/x bs=1M count=8 2>/dev/null; wc -c < /cache/deep/x"
    )
    async with tested.open(tmp="1MiB") as small:
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


async def test_a_terminal_shows_the_same(runtime: ContainerRuntime, built: Callable[..., str], tmp_path: Path) -> None:
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


async def test_open_files_are_limited_as_set(tested: RuntimeUnderTest, tmp_path: Path) -> None:
    async with tested.open(nofile=100) as limited:
        ran = await run(limited, tmp_path, "ulimit -n; ulimit -Hn")
        assert ran.stdout == ["100", "100"]


async def test_users_are_who_the_image_says(
    runtime: ContainerRuntime, built: Callable[..., str], tmp_path: Path
) -> None:
    """By name or number, with their groups and their home, and never by a file of this machine."""
    passwd = b"root:x:0:0:root:/root:/bin/sh\napp:x:1234:55:app:/home/app:/bin/sh\n"
    group = b"root:x:0:\napps:x:55:\nmore:x:66:app\n"
    files = "COPY passwd group /etc/"
    for user, expected in (
        ("app", ["1234", "55", "55 66", "/home/app"]),
        ("1234", ["1234", "55", "55 66", "/home/app"]),
        ("app:more", ["1234", "66", "66", "/home/app"]),
        ("77:88", ["77", "88", "88", "/"]),
    ):
        name = f"user-{user.replace(':', '-')}"
        image = await asyncio.to_thread(built, name, f"{files}\nUSER {user}", passwd=passwd, group=group)
        ran = await run(runtime, tmp_path, "id -u; id -g; id -G; echo $HOME", image=image)
        assert ran.stdout == expected, user
    image = await asyncio.to_thread(built, "nobodys", f"{files}\nUSER nemo", passwd=passwd, group=group)
    with refused(PermanentError, naming="nemo"):
        await runtime.create(spec(tmp_path, "true", image=image))


async def test_an_image_cannot_lead_out_of_its_root(
    runtime: ContainerRuntime, built: Callable[..., str], tmp_path: Path
) -> None:
    """Links to where we would write as root, and a device where we would read."""
    archive = io.BytesIO()
    outside = tmp_path / "outside"
    outside.mkdir()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, target in (("etc", str(outside)), ("ion", str(outside)), ("tmp", str(outside))):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    image = await asyncio.to_thread(built, "leads-out", "ADD links.tar /", **{"links.tar": archive.getvalue()})
    with suppress(PermanentError):
        await run(runtime, tmp_path, "true", image=image)
    assert [*outside.iterdir()] == []
