"""The hardening is what Podman's is, and where the two differ."""

from __future__ import annotations

import asyncio
import json
import subprocess
import uuid
from pathlib import Path
from typing import Any

from ion_core.contracts.runtime import Resources
from ion_core.errors import PermanentError
from ion_core.testing.kit import refused
from ion_oci.runtime import OciRuntime
from ion_podman.testing import BUSYBOX, PodmanService
from tests.containers.running import run, spec
from tests.support.containers import OciUnderTest


async def test_a_network_is_none_or_a_namespace_that_somebody_has_made(runtime: OciRuntime, tmp_path: Path) -> None:
    name = f"ion-test-{uuid.uuid4().hex[:8]}"
    await asyncio.to_thread(subprocess.run, ["ip", "netns", "add", name], check=True)
    try:
        inside = await run(runtime, tmp_path, "readlink /proc/self/ns/net", network=name)
        number = (Path("/run/netns") / name).stat().st_ino
        assert inside.stdout == [f"net:[{number}]"]
    finally:
        await asyncio.to_thread(subprocess.run, ["ip", "netns", "delete", name], check=True)
    for network in ("elsewhere", "bridge", "../../proc/1/ns/net"):
        with refused(PermanentError, naming="network namespace"):
            await runtime.create(spec(tmp_path, "true", network=network))


async def test_its_configuration_is_as_podman_makes_one(
    runtime: OciRuntime, images: PodmanService, tmp_path: Path
) -> None:
    """Podman is asked to make a container as ion-podman does, and what it hands to the OCI runtime is read."""
    job = spec(tmp_path, "true", env={"A": "b"}, resources=Resources(memory=64 << 20, pids=17, cpus=0.5))
    ref = await runtime.create(job)
    try:
        bundle = runtime._kept.of(job.name)
        assert bundle is not None
        ours = json.loads((bundle.path / "config.json").read_text(encoding="utf-8"))
    finally:
        await runtime.remove(ref)
    theirs = await asyncio.to_thread(made_by_podman, images, job.workspace)
    for place in PLACES:
        assert of(ours, place) == of(theirs, place), place
    assert {*of(theirs, "linux.maskedPaths")} <= {*of(ours, "linux.maskedPaths")}, "newer ones of Podman mask more"
    assert {it["type"] for it in of(ours, "linux.namespaces")} == {it["type"] for it in of(theirs, "linux.namespaces")}
    assert "annotations" not in ours
    mounts = {it["destination"]: it for it in ours["mounts"]}
    for mount in theirs["mounts"]:
        mine = mounts.pop(mount["destination"], None)
        if mine is None:
            assert mount["destination"] in MOUNTED_BY_PODMAN
        elif mount["destination"] != "/dev/shm":
            assert (mine["type"], sorted(mine["options"])) == (mount["type"], sorted(mount["options"]))
    assert not mounts, "nothing is mounted besides"
    assert {"nosuid", "noexec", "nodev"} <= set(
        next(it for it in ours["mounts"] if it["destination"] == "/dev/shm")["options"]
    )


PLACES = [
    "process.user",
    "process.args",
    "process.cwd",
    "process.capabilities",
    "process.noNewPrivileges",
    "root.readonly",
    "linux.resources",
    "linux.seccomp",
    "linux.readonlyPaths",
]
MOUNTED_BY_PODMAN = {"/etc/hosts", "/etc/hostname", "/etc/passwd", "/etc/group", "/run/.containerenv"}
"""Files of each container; here the first four are in the root that all containers of an image share."""


def of(config: Any, place: str) -> Any:
    for name in place.split("."):
        config = config[name]
    return config


def made_by_podman(images: PodmanService, workspace: Path) -> Any:
    name = f"theirs-{uuid.uuid4().hex[:8]}"
    options = ["--user", "65534:65534", "--umask", "0022", "--image-volume", "ignore", "--cap-drop", "ALL"]
    options += ["--security-opt", "no-new-privileges", "--read-only", "--read-only-tmpfs=false", "--network", "none"]
    options += [
        f"--volume={workspace}:/ion:rw,rbind,nosuid,nodev",
        f"--volume={workspace}/in:/ion/in:ro,rbind,nosuid,nodev",
    ]
    options += ["--tmpfs=/tmp:rw,nosuid,nodev,mode=1777,size=67108864", "--memory=64m", "--memory-swap=64m"]
    options += ["--pids-limit=17", "--cpu-period=100000", "--cpu-quota=50000", "--entrypoint="]
    images.podman("create", "--name", name, *options, BUSYBOX, "sh", "-c", "true")
    try:
        images.podman("init", name)
        path = images.podman("inspect", "--format", "{{.OCIConfigPath}}", name).strip()
        return json.loads(Path(path).read_text(encoding="utf-8"))
    finally:
        images.podman("rm", "--force", "--time", "0", name)


async def test_the_environment_is_what_image_module_and_runtime_say(runtime: OciRuntime, tmp_path: Path) -> None:
    """Nothing that was meant for the OCI runtime or for conmon."""
    ran = await run(runtime, tmp_path, "env; cat /proc/1/environ | tr '\\0' '\\n'", env={"MINE": "1"})
    names = {line.partition("=")[0] for line in ran.stdout if line}
    assert names <= {"PATH", "TERM", "container", "HOME", "HOSTNAME", "MINE", "PWD", "SHLVL"}
    assert "MINE" in names


async def test_programs_of_the_machines_own_architecture_alone(tested: OciUnderTest, tmp_path: Path) -> None:
    async with tested.open(architectures="own") as own:
        ran = await run(own, tmp_path, "grep Seccomp: /proc/self/status; echo runs; mkdir /tmp/x && unshare -m true")
    assert ran.stdout == ["Seccomp:\t2", "runs"]
    assert "not permitted" in ran.stderr[0]


async def test_all_containers_share_one_root_that_none_can_write_to(tested: OciUnderTest, tmp_path: Path) -> None:
    script = "stat -c %d:%i /bin/busybox; cat /etc/hosts /etc/hostname; grep 65534 /etc/passwd; echo x > /bin/x"
    async with tested.open(allow={"root": ["probe"]}) as rooted:
        seen = await asyncio.gather(*(run(rooted, tmp_path, script, module=name) for name in ("probe", "one", "two")))
        assert len([*tested.directory.glob("roots/*/*/merged")]) == 2, "one for root, one for nobody"
    assert seen[1].stdout == seen[2].stdout
    assert any(line.startswith("65534:") for line in seen[1].stdout)
    assert all("Read-only file system" in ran.stderr[-1] for ran in seen), "not even root"
    assert [*tested.directory.glob("roots/*")] == [], "nothing is left of them"
