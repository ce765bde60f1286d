"""What a machine lacks for containers: told when the runtime is opened, with what would do."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ion_core.errors import ConfigError, PermanentError, StorageFull, TransientError
from ion_core.testing.kit import refused
from ion_oci import seccomp
from ion_oci.host import Groups, Tools, check_host, most_files, tools_of
from ion_oci.refusals import refusal, said_of
from ion_oci.runtime import open_oci_runtime
from ion_oci.settings import OciSettings
from tests.support.containers import OciUnderTest

TOOLS = Tools(oci="/usr/bin/runc", conmon="/usr/bin/conmon", podman="/usr/bin/podman", mount="mount", umount="umount")
ALL = Groups(unified=False, hybrid=True, controllers=frozenset({"cpu", "memory", "pids"}))
NONE = OciSettings.model_validate({})


def program(directory: Path, name: str, said: str) -> None:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\necho '{said}'\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("name", "said", "cure"),
    [
        ("runc", "runc version 1.0.3", "1.1 or newer is needed"),
        ("conmon", "conmon version 2.0.25", "2.1 or newer is needed"),
        ("podman", "podman version 3.4.4", "4.3 or newer is needed"),
        ("runc", "something else", "is none of runc"),
    ],
)
async def test_an_old_program_is_refused(tmp_path: Path, name: str, said: str, cure: str) -> None:
    program(tmp_path / "bin", name, said)
    with refused(ConfigError, naming=cure):
        await tools_of(NONE, {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"})


async def test_a_missing_program_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ion_oci.host._BESIDE", str(tmp_path))
    program(tmp_path / "bin", "runc", "runc version 1.1.5")
    with refused(ConfigError, naming="there is no conmon on this machine. Install it"):
        await tools_of(NONE, {"PATH": f"{tmp_path}/bin"})
    with refused(ConfigError, naming="there is no runc or crun"):
        await tools_of(NONE, {"PATH": str(tmp_path)})
    with refused(ConfigError, naming="there is no crun"):
        await tools_of(OciSettings.model_validate({"runtime": "crun"}), {"PATH": f"{tmp_path}/bin"})


@pytest.mark.parametrize(
    ("groups", "user", "oci", "cure"),
    [
        (ALL, 1000, "/usr/bin/runc", "use the runtime podman"),
        (Groups(unified=True, hybrid=False, controllers=frozenset({"cpu", "memory"})), 0, "/usr/bin/runc", "for pids"),
        (Groups(unified=True, hybrid=False, controllers=frozenset()), 0, "/usr/bin/runc", "Delegate="),
        (ALL, 0, "/usr/bin/crun", "`runtime: runc`"),
    ],
)
def test_a_machine_where_none_would_start_is_refused(groups: Groups, user: int, oci: str, cure: str) -> None:
    tools = Tools(**{**vars(TOOLS), "oci": oci})
    with refused(ConfigError, naming=cure):
        check_host(NONE, tools, groups, user)


def test_a_machine_with_all_of_it_is_not() -> None:
    check_host(NONE, TOOLS, ALL, 0)
    unified = Groups(unified=True, hybrid=False, controllers=frozenset({"cpu", "memory", "pids"}))
    check_host(NONE, Tools(**{**vars(TOOLS), "oci": "/usr/bin/crun"}), unified, 0)


def test_control_groups_are_told_apart(tmp_path: Path) -> None:
    for name in ("memory", "cpu,cpuacct", "systemd", "unified"):
        (tmp_path / "hybrid" / name).mkdir(parents=True)
        (tmp_path / "hybrid" / name / "cgroup.procs").touch()
    assert Groups.found(tmp_path / "hybrid") == Groups(
        unified=False,
        hybrid=True,
        controllers=frozenset({"memory", "cpu", "cpuacct"}),
        conmons=tmp_path / "hybrid/systemd/ion-oci/conmon",
    )
    (tmp_path / "pure").mkdir()
    (tmp_path / "pure/cgroup.controllers").write_text("cpu io memory pids\n")
    assert Groups.found(tmp_path / "pure").unified
    assert Groups.found(tmp_path / "pure").controllers == {"cpu", "io", "memory", "pids"}
    assert Groups.found(tmp_path / "pure").conmons == tmp_path / "pure/ion-oci/conmon"
    assert Groups.found(tmp_path / "none").controllers == frozenset()


async def test_more_open_files_than_we_may_give_are_refused(tested: OciUnderTest) -> None:
    given = {"directory": str(tested.directory)}
    async with open_oci_runtime(OciSettings.model_validate({**given, "nofile": most_files()})):
        pass
    with refused(ConfigError, naming="open files at most"):
        async with open_oci_runtime(OciSettings.model_validate({**given, "nofile": most_files() + 1})):
            raise AssertionError("it opened")


async def test_a_directory_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with refused(ConfigError, naming="cannot be used"):
        async with open_oci_runtime(OciSettings.model_validate({"directory": str(tmp_path / "file/x")})):
            raise AssertionError("it opened")


async def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    """Whoever made it could put a container's configuration there, which is read as root."""
    for mode, user in ((0o777, 0), (0o755, 65534)):
        place = tmp_path / f"{mode}"
        place.mkdir()
        place.chmod(mode)
        os.chown(place, user, user)
        with refused(ConfigError, naming="others may write to it"):
            async with open_oci_runtime(OciSettings.model_validate({"directory": str(place)})):
                raise AssertionError("it opened")


def test_serve_says_so_and_ends_with_78(tested: OciUnderTest, tmp_path: Path) -> None:
    runtime = {"provider": "oci", "directory": str(tested.directory), "runtime": "no-such-runtime"}
    module = {"image": "localhost/x:1", "subscribes": ["a"]}
    config = {"runtimes": {"default": runtime}, "modules": {"m": module}}
    (tmp_path / "ion.yaml").write_text(json.dumps(config), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("ion-core")), "serve", "--until-idle"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 78
    assert "there is no no-such-runtime on this machine" in done.stderr
    assert "runtimes.default.runtime" in done.stderr


async def test_a_filter_of_system_calls_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="there is no filter"):
        seccomp.load((tmp_path / "none",))
    broken = tmp_path / "broken"
    broken.write_text("{}")
    with pytest.raises(ValueError, match="cannot be read as a filter"):
        seccomp.load((broken,))
    monkeypatch.setattr(seccomp.load, "__defaults__", ((tmp_path / "none",),))
    with refused(ConfigError, naming="containers-common"):
        async with open_oci_runtime(OciSettings.model_validate({"directory": str(tmp_path / "x")})):
            raise AssertionError("it opened")


def test_a_filter_is_read_for_a_machine_and_a_kernel() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["arm"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
            {"names": ["not-arm"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["arm64"]}},
            {"names": ["new"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "5.10"}},
            {"names": ["admin"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["others"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_ADMIN"]}, "errnoRet": 1},
        ],
    }
    intel = seccomp.filter_of(profile, "x86_64", "5.9.0-1")
    assert intel["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert [it["names"] for it in intel["syscalls"]] == [["not-arm"], ["others"]]
    assert seccomp.filter_of(profile, "x86_64", "5.9", own_alone=True)["architectures"] == ["SCMP_ARCH_X86_64"]
    arm = seccomp.filter_of(profile, "aarch64", "5.10.1+deb")
    assert arm["architectures"] == ["SCMP_ARCH_AARCH64"]
    assert [it["names"] for it in arm["syscalls"]] == [["arm"], ["new"], ["others"]]
    with pytest.raises(ValueError, match="no filter for z80"):
        seccomp.filter_of(profile, "z80", "6.1")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ('exec: "no-such": executable file not found in $PATH', PermanentError),
        ("unable to start container process: exec /bin/x: exec format error", PermanentError),
        ('exec: "/no/such/program": stat /no/such/program: no such file or directory', PermanentError),
        ('chdir to cwd ("/root") set in config.json failed: permission denied', PermanentError),
        ("crun: executable file `/x` not found: No such file or directory", PermanentError),
        ("write /run/ion-oci/x: no space left on device", StorageFull),
        ("error setting cgroup config for procHooks process: no such file or directory", TransientError),
        ("opening file `memory.max` for writing: No such file or directory", TransientError),
        ('error mounting "/a" to rootfs at "/b": stat /a: no such file or directory', TransientError),
        ("setrlimit `RLIMIT_NOFILE`: Operation not permitted", TransientError),
        ("crun: cgroups in hybrid mode not supported", TransientError),
        ("unable to apply caps: operation not permitted", TransientError),
    ],
)
def test_what_a_refusal_means(said: str, kind: type[Exception]) -> None:
    assert type(refusal("container c", said, pids=256)) is kind


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        ("error setting cgroup config for procHooks process: no such file or directory", "/sys/fs/cgroup"),
        ("setrlimit `RLIMIT_NOFILE`: Operation not permitted", "nofile"),
        ("crun: cgroups in hybrid mode not supported", "runtime: runc"),
        ('chdir to cwd ("/root") set in config.json failed: permission denied', "allow.root"),
    ],
)
def test_what_would_do_is_seen_where_a_reason_is_cut(said: str, cure: str) -> None:
    before, _, after = str(refusal("container c", said, pids=256)).rpartition(said)
    assert cure in before
    assert after == ""


def test_a_refusal_says_that_so_few_processes_leave_no_room() -> None:
    assert "`pids` is 15" in str(refusal("container c", "signal: killed", pids=15))
    assert "`pids`" not in str(refusal("container c", "signal: killed", pids=16))


def test_an_error_is_one_line_of_words() -> None:
    log = '{"level":"warning","msg":"careful"}\n{"level":"error","msg":"it\\nfailed"}\nnot json\n{"level":"info"}\n'
    assert said_of(log, "other") == "it failed"
    assert said_of("", "it\n  failed\n") == "it failed"


async def test_files_that_nobody_reads_do_not_hold_a_program_up(tmp_path: Path) -> None:
    """More than any pipe holds."""
    from ion_oci.programs import run

    said = await run(["sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x; exit 3"], timeout=20)
    assert (said.code, len(said.stdout)) == (3, 1_000_000)
    begun = asyncio.get_running_loop().time()
    with refused(TransientError, naming="took longer than 0.2 s"):
        await run(["sh", "-c", "sleep 60"], timeout=0.2)
    assert asyncio.get_running_loop().time() - begun < 10
