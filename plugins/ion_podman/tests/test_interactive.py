"""A container on a terminal is hardened as any other, and its environment stays out of sight."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from ion_core.contracts.runtime import ContainerRef, ContainerSpec, Resources
from ion_core.errors import PermanentError
from ion_core.testing.kit import refused
from ion_podman.client import Client
from ion_podman.container import inspect
from ion_podman.images import Images
from ion_podman.interactive import foreground
from ion_podman.settings import PodmanSettings
from ion_podman.spec import Wanted
from ion_podman.testing import PodmanService
from tests.containers.running import PATIENCE, spec


async def wanted(service: PodmanService, settings: PodmanSettings, made: ContainerSpec) -> Wanted:
    image = await Images(Client(str(service.socket), PATIENCE), settings).resolve(made)
    return Wanted(spec=made, image=image, settings=settings)


@asynccontextmanager
async def in_front(service: PodmanService, wanted: Wanted) -> AsyncIterator[asyncio.subprocess.Process]:
    """The container with a shell that waits for its input."""
    run = foreground(wanted, str(service.socket), os.environ, terminal=False)
    process = await asyncio.create_subprocess_exec(*run.argv, env=dict(run.env), cwd=run.cwd, stdin=PIPE, stdout=PIPE)
    try:
        yield process
    finally:
        async with asyncio.timeout(PATIENCE):
            await process.communicate()


async def test_it_is_made_as_any_other(service: PodmanService, settings: PodmanSettings, tmp_path: Path) -> None:
    limits = Resources(cpus=0.5, memory=64 << 20, pids=17)
    made = spec(tmp_path, "echo up; cat", env={"SECRET": "canary"}, resources=limits, network="none")
    asked = await wanted(service, settings, made)
    async with in_front(service, asked) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert await process.stdout.readline() == b"up\n"
        client = Client(str(service.socket), PATIENCE)
        found: Mapping[str, Any] = await inspect(client, ContainerRef(id=made.name, name=made.name))
        assert asked.differences(found) == []
        assert "canary" not in Path(f"/proc/{process.pid}/cmdline").read_text()  # noqa: ASYNC240
        assert "SECRET=canary" in found["Config"]["Env"]
        tmpfs = found["HostConfig"]["Tmpfs"]
        assert list(tmpfs) == ["/tmp"]
        assert {"nosuid", "nodev", f"size={settings.tmp}"} <= set(tmpfs["/tmp"].split(","))
        process.stdin.close()
    assert process.returncode == 0
    assert made.name not in service.containers()


async def test_a_terminal_is_asked_for_where_there_is_one(
    service: PodmanService, settings: PodmanSettings, tmp_path: Path
) -> None:
    asked = await wanted(service, settings, spec(tmp_path, "true"))
    assert "--tty" in foreground(asked, "/x", os.environ, terminal=True).argv
    assert "--tty" not in foreground(asked, "/x", os.environ, terminal=False).argv


@pytest.mark.parametrize("name", ["PATH", "CONTAINERS_CONF", "XDG_RUNTIME_DIR"])
async def test_a_variable_that_would_steer_podman_itself_is_refused(
    service: PodmanService, settings: PodmanSettings, tmp_path: Path, name: str
) -> None:
    asked = await wanted(service, settings, spec(tmp_path, "true", env={name: "/elsewhere"}))
    with refused(PermanentError, naming=name):
        foreground(asked, "/x", os.environ, terminal=False)


async def test_without_a_podman_command_that_is_said(
    service: PodmanService, settings: PodmanSettings, tmp_path: Path
) -> None:
    asked = await wanted(service, settings, spec(tmp_path, "true"))
    with refused(PermanentError, naming="no command podman"):
        foreground(asked, "/x", {"PATH": str(tmp_path)}, terminal=False)
