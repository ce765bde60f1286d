"""One container from create to remove, for tests that look at it from inside."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ion_core.contracts.runtime import ContainerRef, ContainerRuntime, ContainerSpec, ExitStatus
from ion_podman.testing import BUSYBOX

PATIENCE = 30.0


@dataclass(frozen=True)
class Ran:
    """How it ended and what it printed."""

    status: ExitStatus
    stdout: list[str]
    stderr: list[str]
    workspace: Path


def spec(tmp_path: Path, script: str, **changes: Any) -> ContainerSpec:
    """A container that runs ``script`` in a shell, with a workspace as the handler makes it."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    workspace = tmp_path / name
    for directory, mode in (("in/data", 0o755), ("out", 0o777), ("out/data", 0o777), ("out/events", 0o777)):
        (workspace / directory).mkdir(parents=True)
        (workspace / directory).chmod(mode)
    given: dict[str, Any] = {
        "name": name,
        "image": BUSYBOX,
        "command": ("sh", "-c", script),
        "workspace": workspace,
        "module": "probe",
        "labels": {"ion-test": name},
    }
    return ContainerSpec(**(given | changes))


@asynccontextmanager
async def started(runtime: ContainerRuntime, spec: ContainerSpec) -> AsyncIterator[ContainerRef]:
    """Running while the body does, and removed afterwards."""
    async with asyncio.timeout(PATIENCE):
        ref = await runtime.create(spec)
    try:
        await runtime.start(ref)
        yield ref
    finally:
        async with asyncio.timeout(PATIENCE):
            await runtime.remove(ref)


async def said(runtime: ContainerRuntime, ref: ContainerRef, text: str) -> None:
    """Until a line of its output is ``text``."""
    async with asyncio.timeout(PATIENCE):
        async for line in runtime.logs(ref, follow=True):
            if line.text == text:
                return
    raise AssertionError(f"it never said {text!r}")


async def finished(runtime: ContainerRuntime, ref: ContainerRef, workspace: Path) -> Ran:
    async with asyncio.timeout(PATIENCE):
        status = await runtime.wait(ref)
        lines = [line async for line in runtime.logs(ref)]
    streams = {name: [line.text for line in lines if line.stream == name] for name in ("stdout", "stderr")}
    return Ran(status, streams["stdout"], streams["stderr"], workspace)


async def run(runtime: ContainerRuntime, tmp_path: Path, script: str, **changes: Any) -> Ran:
    made = spec(tmp_path, script, **changes)
    async with started(runtime, made) as ref:
        return await finished(runtime, ref, made.workspace)
