"""Hardening that Podman was asked for is looked at once more, and networks are Podman's."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.runtime import ContainerRuntime, Resources
from ion_core.errors import PermanentError
from ion_core.testing.kit import refused
from ion_podman.client import Client
from ion_podman.container import inspect
from ion_podman.images import Images
from ion_podman.settings import PodmanSettings
from ion_podman.spec import Wanted
from ion_podman.testing import PodmanService
from tests.containers.running import run, spec


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"network": "bridge"}, "network is 'none' instead of 'bridge'"),
        ({"resources": Resources(memory=1 << 27)}, "memory is 536870912 instead of 134217728"),
        ({"resources": Resources(pids=7)}, "pids is 256 instead of 7"),
        ({"resources": Resources(cpus=1)}, "cpu quota is 0 instead of 100000"),
        ({"workspace": Path("/elsewhere")}, "mounts is"),
    ],
)
async def test_a_container_that_is_not_as_asked_for_is_named(
    runtime: ContainerRuntime, settings: PodmanSettings, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    asked = spec(tmp_path, "true")
    client = Client(str(settings.url).removeprefix("unix://"))
    ref = await runtime.create(asked)
    try:
        found = await inspect(client, ref)
        image = await Images(client, settings).resolve(asked)
        assert Wanted(spec=asked, image=image, settings=settings).differences(found) == []
        problems = Wanted(spec=replace(asked, **change), image=image, settings=settings).differences(found)
        assert any(problem.startswith(named) for problem in problems), problems
    finally:
        await runtime.remove(ref)


async def test_a_network_is_none_a_bridge_or_one_that_somebody_has_made(
    runtime: ContainerRuntime, service: PodmanService, tmp_path: Path
) -> None:
    await asyncio.to_thread(service.podman, "network", "create", "lan")
    try:
        for network, interfaces in (("none", ["lo"]), ("bridge", ["eth0", "lo"]), ("lan", ["eth0", "lo"])):
            ran = await run(runtime, tmp_path, "ls /sys/class/net", network=network)
            assert sorted(set(ran.stdout) & {"lo", "eth0"}) == interfaces, network
        with refused(PermanentError, naming="elsewhere"):
            await runtime.create(spec(tmp_path, "true", network="elsewhere"))
    finally:
        await asyncio.to_thread(service.podman, "network", "rm", "--force", "lan")


async def test_a_difference_stops_the_job_and_nothing_is_left(
    runtime: ContainerRuntime, service: PodmanService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Wanted.to_json
    monkeypatch.setattr(Wanted, "to_json", lambda self: made(self) | {"cap_drop": [], "no_new_privileges": False})
    with refused(PermanentError, naming="capabilities is ["):
        await runtime.create(spec(tmp_path, "true"))
    assert await asyncio.to_thread(service.containers) == []
