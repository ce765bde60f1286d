"""The hardening as a module sees it from inside, and what loosens it."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import pytest

from ion_core.contracts.runtime import ContainerRuntime, Resources
from ion_core.errors import PermanentError
from ion_core.testing.kit import refused
from ion_podman.testing import PodmanService
from tests.containers.running import run, spec
from tests.support.containers import RUNTIMES, RuntimeUnderTest, under_test


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
    runtime: ContainerRuntime, tested: RuntimeUnderTest, tmp_path: Path
) -> None:
    with refused(PermanentError, naming="allow.host_network"):
        await runtime.create(spec(tmp_path, "true", network="host"))
    allow = {"host_network": ["probe"]}
    async with tested.open(allow=allow) as loose:
        ran = await run(loose, tmp_path, "readlink /proc/self/ns/net", network="host")
        assert ran.stdout == [str(Path("/proc/self/ns/net").readlink())]  # noqa: ASYNC240
        assert loose.capabilities.notice
        with refused(PermanentError, naming="host"):
            await loose.create(spec(tmp_path, "true", network="host", module="other"))


async def test_mounts_of_the_host_are_given_by_the_configuration_only(tested: RuntimeUnderTest, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/model").write_text("weights\n")
    mount = f"{tmp_path}/shared:/models"
    allow = {"mounts": {"probe": [mount]}}
    script = "cat /models/model; echo x > /models/x || echo refused"
    async with tested.open(allow=allow) as loose:
        ran = await run(loose, tmp_path, script)
        assert ran.stdout == ["weights", "refused"]
        other = await run(loose, tmp_path, "ls /models", module="other")
        assert other.status.code != 0, "what one module is given, another does not see"


async def test_a_privileged_module_is_one_that_the_configuration_names(
    tested: RuntimeUnderTest, tmp_path: Path
) -> None:
    allow = {"privileged": ["probe"]}
    async with tested.open(allow=allow) as loose:
        assert not loose.capabilities.isolates
        ran = await run(loose, tmp_path, "id -u; cat /proc/self/status")
        assert ran.stdout[0] == "0"
        assert int(fields(ran.stdout[1:])["CapEff"], 16) != 0


async def test_root_is_kept_where_it_is_allowed(tested: RuntimeUnderTest, tmp_path: Path) -> None:
    allow = {"root": ["probe"]}
    async with tested.open(allow=allow) as loose:
        ran = await run(loose, tmp_path, "id -u; cat /proc/self/status")
        assert ran.stdout[0] == "0"
        assert fields(ran.stdout[1:])["CapEff"] == "0" * 16


LOOKS = {
    "user, groups": "id -u; id -g; id -G",
    "capabilities": "grep ^Cap /proc/self/status | tr -d '\\t'",
    "may gain any": "grep NoNewPrivs /proc/self/status | tr -d '\\t'",
    "filter of system calls": "grep Seccomp: /proc/self/status | tr -d '\\t'",
    "umask": "umask",
    "limit of memory": "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes 2>/dev/null || cat memory.max",
    "limit of swap": "cd /sys/fs/cgroup; cat memory/memory.memsw.limit_in_bytes 2>/dev/null || cat memory.swap.max",
    "limit of processes": "cd /sys/fs/cgroup; cat pids/pids.max 2>/dev/null || cat pids.max",
    "share of processors": "cd /sys/fs/cgroup; cat cpu/cpu.cfs_quota_us 2>/dev/null || cat cpu.max",
    "limits of a process": "cat /proc/self/limits | grep -v -e 'Max processes' -e 'pending signals' | tail -n +2",
    "kill before others": "cat /proc/self/oom_score_adj",
    "processes": "set -- /proc/[0-9]*; echo $# from $1",
    "interfaces": "ls /sys/class/net",
    "routes": "tail -n +2 /proc/net/route",
    "devices": "ls /dev | sort",
    "mounts": "grep -v -e ' / ' -e ' /etc/' -e ' /run/' -e /powercap /proc/self/mounts | cut -d' ' -f2-4 | sort",
    "root": "grep ' / ' /proc/self/mounts | cut -d' ' -f3,4 | cut -d, -f1",
    "writes to": "for it in / /bin /etc /ion /ion/in /ion/in/data /ion/out /ion/out/data /proc/sys /sys /tmp /dev "
    "/dev/shm /var /run; do (echo x > $it/probe) 2>/dev/null && echo $it; done",
    "reads": "for it in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug /sys/firmware/acpi /etc/shadow "
    "/dev/mem; do head -c 1 $it 2>/dev/null | grep -q . && echo $it; done",
    "device made": "mknod /tmp/disk b 8 0 2>&1",
    "mounted": "mount -t tmpfs none /tmp 2>&1",
    "namespaces made": "unshare -m true 2>&1; unshare -U true 2>&1",
    "root entered": "chroot / true 2>&1",
    "user changed": "cp /bin/busybox /ion/out/data/; chmod 4755 /ion/out/data/busybox; /ion/out/data/busybox id -u",
    "clock set": "date -s 2000-01-01 2>&1 | grep -v 2000",
    "host name set": "hostname other 2>&1",
    "name of the machine": "hostname | grep -c '^ion$'",
    "variables": "env | cut -d= -f1 | grep -v -e PWD -e SHLVL | sort",
    "variable container": "echo $container",
}
OTHERWISE = {"name of the machine", "variable container"}
"""What is told of the two as differing: README of ion-oci. Podman 4.3 does not mask powercap, 5.4 does."""


async def test_from_inside_containers_of_every_runtime_look_the_same(
    images: PodmanService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shown side by side by ``pytest -rP``."""
    script = "".join(f"echo '== {title}'; ({look}) 2>&1\n" for title, look in LOOKS.items())
    seen = []
    for provider in RUNTIMES:
        limits = Resources(memory=64 << 20, pids=17, cpus=0.5)
        async with under_test(provider, images, monkeypatch).open(nofile=1000) as runtime:
            ran = await run(runtime, tmp_path, script, resources=limits)
        assert ran.status.code == 0, ran.stderr
        parts = "\n".join(ran.stdout).replace(ran.workspace.name, "…").split("== ")[1:]
        seen.append({title: text.strip() for title, _, text in (part.partition("\n") for part in parts)})
        assert seen[-1].keys() == LOOKS.keys()
    first, second = seen
    for title in LOOKS:
        same = "equal" if first[title] == second[title] else "OTHERWISE"
        print(f"== {title}: {same}")
        for left, right in zip_longest(*(it[title].splitlines() for it in seen), fillvalue=""):
            print(f"   {left:<78} | {right}")
    assert {title for title in LOOKS if first[title] != second[title]} == OTHERWISE
