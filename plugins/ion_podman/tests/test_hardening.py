"""The hardening as a module sees it from inside, and what loosens it."""

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
from ion_podman.runtime import open_podman_runtime
from ion_podman.settings import PodmanSettings
from ion_podman.spec import Wanted
from ion_podman.testing import PodmanService
from plugins.ion_podman.tests.running import run, spec


def fields(lines: list[str]) -> dict[str, str]:
    """``Name:  value`` lines as /proc has them."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def test_a_module_has_no_capabilities_and_cannot_gain_any(runtime: ContainerRuntime, tmp_path: Path) -> None:
    ran = await run(runtime, tmp_path, "cat /proc/self/status")
    status = fields(ran.stdout)
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2", "the default filter of system calls holds"


async def test_a_module_is_nobody(runtime: ContainerRuntime, tmp_path: Path) -> None:
    ran = await run(runtime, tmp_path, "id -u; id -g")
    assert ran.stdout == ["65534", "65534"]


async def test_a_module_writes_to_its_output_and_tmp_and_nowhere_else(
    runtime: ContainerRuntime, tmp_path: Path
) -> None:
    places = ("/ion/out/data/x", "/tmp/x", "/x", "/bin/x", "/ion/in/x", "/ion/in/data/x", "/proc/sys/kernel/hostname")
    script = "".join(f"if echo x 2>/dev/null > {it}; then echo {it}; fi; " for it in places)
    ran = await run(runtime, tmp_path, f"({script}) 2>/dev/null")
    assert ran.stdout == ["/ion/out/data/x", "/tmp/x"]
    assert (ran.workspace / "out/data/x").read_text() == "x\n"


async def test_its_mounts_are_what_was_asked_for(runtime: ContainerRuntime, tmp_path: Path) -> None:
    ran = await run(runtime, tmp_path, "cat /proc/self/mounts")
    options = {line.split()[1]: set(line.split()[3].split(",")) for line in ran.stdout}
    assert "ro" in options["/"]
    assert {"rw", "nosuid", "nodev"} <= options["/ion"]
    assert {"ro", "nosuid", "nodev"} <= options["/ion/in"]
    assert {"rw", "nosuid", "nodev"} <= options["/tmp"]


async def test_a_module_has_no_network(runtime: ContainerRuntime, tmp_path: Path) -> None:
    ran = await run(runtime, tmp_path, "cat /proc/net/route | tail -n +2; ls /sys/class/net")
    assert ran.stdout == ["lo"]


async def test_a_module_sees_no_process_but_its_own(runtime: ContainerRuntime, tmp_path: Path) -> None:
    ran = await run(runtime, tmp_path, "echo /proc/[0-9]*")
    assert ran.stdout == ["/proc/1"]


async def test_limits_hold_and_have_defaults(runtime: ContainerRuntime, tmp_path: Path) -> None:
    script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat " + (
        "/sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max"
    )
    assert (await run(runtime, tmp_path, script)).stdout == [str(512 * 1024**2), "256"]
    asked = Resources(memory=64 * 1024**2, pids=32, cpus=0.5)
    ran = await run(runtime, tmp_path, script, resources=asked)
    assert ran.stdout == [str(64 * 1024**2), "32"]


async def test_output_of_any_user_is_ours_to_collect_and_remove(runtime: ContainerRuntime, tmp_path: Path) -> None:
    script = "umask 077; mkdir /ion/out/data/closed; echo x > /ion/out/data/closed/file; chmod 000 /ion/out/data/closed"
    ran = await run(runtime, tmp_path, script)
    assert ran.status.code == 0
    made = ran.workspace / "out/data/closed/file"
    assert made.read_text() == "x\n"
    made.unlink()


async def test_no_device_is_made_and_no_set_user_id_works(runtime: ContainerRuntime, tmp_path: Path) -> None:
    script = (
        "mknod /ion/out/data/disk b 8 0 2>/dev/null && echo made; cp /bin/busybox /ion/out/data/; "
        "chmod 4755 /ion/out/data/busybox; /ion/out/data/busybox id -u"
    )
    ran = await run(runtime, tmp_path, script)
    assert ran.stdout == ["65534"]


async def test_the_hosts_network_must_be_allowed_by_name(
    runtime: ContainerRuntime, service: PodmanService, tmp_path: Path
) -> None:
    with refused(PermanentError, naming="allow.host_network"):
        await runtime.create(spec(tmp_path, "true", network="host"))
    given = PodmanSettings.model_validate({"url": service.url, "allow": {"host_network": ["probe"]}})
    async with open_podman_runtime(given) as loose:
        ran = await run(loose, tmp_path, "readlink /proc/self/ns/net", network="host")
        assert ran.stdout == [str(Path("/proc/self/ns/net").readlink())]  # noqa: ASYNC240
        assert loose.capabilities.notice
        with refused(PermanentError, naming="host"):
            await loose.create(spec(tmp_path, "true", network="host", module="other"))


async def test_mounts_of_the_host_are_given_by_the_configuration_only(service: PodmanService, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/model").write_text("weights\n")
    mount = f"{tmp_path}/shared:/models"
    given = PodmanSettings.model_validate({"url": service.url, "allow": {"mounts": {"probe": [mount]}}})
    script = "cat /models/model; echo x > /models/x || echo refused"
    async with open_podman_runtime(given) as loose:
        ran = await run(loose, tmp_path, script)
        assert ran.stdout == ["weights", "refused"]
        other = await run(loose, tmp_path, "ls /models", module="other")
        assert other.status.code != 0, "what one module is given, another does not see"


async def test_a_privileged_module_is_one_that_the_configuration_names(service: PodmanService, tmp_path: Path) -> None:
    given = PodmanSettings.model_validate({"url": service.url, "allow": {"privileged": ["probe"]}})
    async with open_podman_runtime(given) as loose:
        assert not loose.capabilities.isolates
        ran = await run(loose, tmp_path, "id -u; cat /proc/self/status")
        assert ran.stdout[0] == "0"
        assert int(fields(ran.stdout[1:])["CapEff"], 16) != 0


async def test_root_is_kept_where_it_is_allowed(service: PodmanService, tmp_path: Path) -> None:
    given = PodmanSettings.model_validate({"url": service.url, "allow": {"root": ["probe"]}})
    async with open_podman_runtime(given) as loose:
        ran = await run(loose, tmp_path, "id -u; cat /proc/self/status")
        assert ran.stdout[0] == "0"
        assert fields(ran.stdout[1:])["CapEff"] == "0" * 16


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
