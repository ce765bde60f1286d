"""A container on a terminal is hardened as any other, and its environment stays out of sight."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ion_core.contracts.runtime import ContainerRuntime, ContainerSpec, Foreground, Resources
from ion_core.errors import PermanentError
from ion_core.testing.kit import refused
from tests.containers.running import PATIENCE, run, spec
from tests.support.containers import RuntimeUnderTest

LOOK = "cat /proc/self/status | grep -E '^(Cap|NoNew|Seccomp|Uid|Gid)'; cat /proc/self/mounts | sort; cat "


@asynccontextmanager
async def in_front(shown: Foreground) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *shown.argv, env=dict(shown.env), cwd=shown.cwd, stdin=PIPE, stdout=PIPE
    )
    try:
        yield process
    finally:
        async with asyncio.timeout(PATIENCE):
            await process.communicate()


def without_names(lines: list[str], name: str) -> list[str]:
    """Without what each container has of its own: name, id and layer, which Podman need not flush for one like this."""
    own = re.compile(rf"{name}|[0-9a-f]{{64}}|(?<=/l/)[A-Z0-9]+|,fsync=volatile")
    return [own.sub("", line) for line in lines]


async def test_it_is_made_as_any_other(runtime: ContainerRuntime, tested: RuntimeUnderTest, tmp_path: Path) -> None:
    limits = Resources(cpus=0.5, memory=64 << 20, pids=17)
    cat = "/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max 2>/dev/null"
    other = await run(runtime, tmp_path, f"{LOOK} {cat}", resources=limits)
    made = spec(tmp_path, f"{LOOK} {cat}; echo up; read x", env={"SECRET": "canary"}, resources=limits)
    shown = await runtime.interactive(made, terminal=False)
    assert "canary" not in repr(shown)
    async with in_front(shown) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            lines = []
            while (line := (await process.stdout.readline()).decode().rstrip("\n")) != "up":
                lines.append(line)
        assert "canary" not in Path(f"/proc/{process.pid}/cmdline").read_text()  # noqa: ASYNC240
        (found,) = await runtime.find(made.labels)
        assert made.labels.items() <= found.labels.items()
        process.stdin.write(b"\n")
    assert without_names(lines, made.name) == without_names(other.stdout, other.workspace.name)
    assert process.returncode == 0
    assert made.name not in tested.containers()


async def test_it_has_the_terminal_where_there_is_one(
    runtime: ContainerRuntime, tested: RuntimeUnderTest, tmp_path: Path
) -> None:
    made = spec(tmp_path, "test -t 0 && echo is a terminal; exit 9")
    shown = await runtime.interactive(made, terminal=True)
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *shown.argv, env=dict(shown.env), cwd=shown.cwd, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    async with asyncio.timeout(PATIENCE):
        assert await process.wait() == 9
    assert b"is a terminal" in os.read(ours, 4096)
    os.close(ours)
    assert made.name not in tested.containers()


async def test_what_ends_it_ends_the_container(
    runtime: ContainerRuntime, tested: RuntimeUnderTest, tmp_path: Path
) -> None:
    made = spec(tmp_path, "trap 'exit 4' TERM; echo up; while :; do sleep 0.05; done")
    shown = await runtime.interactive(made, terminal=False)
    async with in_front(shown) as process:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert await process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 4
    assert made.name not in tested.containers()


async def test_one_whose_program_was_killed_is_found_and_removed(
    runtime: ContainerRuntime, tested: RuntimeUnderTest, tmp_path: Path
) -> None:
    made = spec(tmp_path, "echo up; sleep 100")
    shown = await runtime.interactive(made, terminal=False)
    process = await asyncio.create_subprocess_exec(
        *shown.argv, env=dict(shown.env), cwd=shown.cwd, stdin=PIPE, stdout=PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        assert await process.stdout.readline() == b"up\n"
        process.kill()
        (left,) = await runtime.find(made.labels)
        await runtime.remove(left.ref)
        await process.wait()
    assert made.name not in tested.containers()
    assert left.ref.id not in tested.in_state("running")


async def test_the_hosts_network_is_not_allowed_either(runtime: ContainerRuntime, tmp_path: Path) -> None:
    asked: ContainerSpec = spec(tmp_path, "true", network="host")
    with refused(PermanentError, naming="host is not allowed"):
        await runtime.interactive(asked, terminal=False)
