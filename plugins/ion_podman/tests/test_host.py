"""What a machine lacks for containers: told when the runtime is opened, and never called the module's fault."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.runtime import ContainerRuntime
from ion_core.errors import ConfigError, PermanentError, StorageFull, TransientError
from ion_core.testing.kit import refused
from ion_podman.host import check_host, most_files
from ion_podman.refusals import readable, refusal
from ion_podman.runtime import open_podman_runtime
from ion_podman.settings import PodmanSettings
from tests.containers.running import spec

ALL = ["cpuset", "cpu", "io", "memory", "pids"]


def info(controllers: list[str] | None, *, version: str = "v2", runtime: str = "crun", rootless: bool = False) -> Any:
    """As ``/info`` has it."""
    host = {
        "cgroupControllers": controllers,
        "cgroupVersion": version,
        "ociRuntime": {"name": runtime},
        "security": {"rootless": rootless},
    }
    return {"host": host, "version": {"Version": "5.4.2"}}


@asynccontextmanager
async def answering(directory: Path, said: Any) -> AsyncIterator[PodmanSettings]:
    """A service that says ``said`` of itself, and takes nothing else."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps(said).encode()
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    socket = directory / "podman.sock"
    async with await asyncio.start_unix_server(answer, socket):
        yield PodmanSettings.model_validate({"url": f"unix://{socket}"})


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        (info([], version="v1", runtime="runc", rootless=True), "unified_cgroup_hierarchy=1"),
        (info(None, rootless=True), "Delegate="),
        (info(["cpu", "memory"], rootless=True), "for pids here"),
        (info(["cpu", "pids"]), "cgroup_enable=memory"),
    ],
)
async def test_a_missing_controller_is_refused_when_the_runtime_is_opened(tmp_path: Path, said: Any, cure: str) -> None:
    async with answering(tmp_path, said) as settings:
        with refused(ConfigError, naming=cure):
            async with open_podman_runtime(settings):
                raise AssertionError("it opened")


async def test_a_processor_share_is_offered_where_its_controller_is_there(tmp_path: Path) -> None:
    """A systemd user session has memory and pids and no more: only who asks for cpus is refused."""
    async with (
        answering(tmp_path, info(["memory", "pids"], rootless=True)) as settings,
        open_podman_runtime(settings) as runtime,
    ):
        assert not runtime.capabilities.cpu_limit
        assert runtime.capabilities.memory_limit


async def test_more_open_files_than_the_service_may_give_are_refused_at_start(tmp_path: Path) -> None:
    """The service is this process: what a process may give, whatever its rights, ends at the kernel's own limit."""
    most = most_files(os.getpid())
    assert most is not None
    async with answering(tmp_path, info(ALL)) as settings:
        for nofile in (1, most):
            async with open_podman_runtime(settings.model_copy(update={"nofile": nofile})):
                pass
        with refused(ConfigError, naming=f"{most:,} open files at most"):
            async with open_podman_runtime(settings.model_copy(update={"nofile": most + 1})):
                raise AssertionError("it opened")


@pytest.mark.parametrize(
    ("name", "capabilities", "users", "most"),
    [
        ("podman", "000001fffeffffff", "0 0 4294967295", 20_000),
        ("podman", "000001ffffffffff", "         0          0 4294967295", 1_048_576),
        ("podman", "000001ffffffffff", "0 1000 1\n1 100000 65536", 20_000),
        ("systemd", "000001ffffffffff", "0 0 4294967295", None),
    ],
    ids=["root without the right to raise limits", "root", "in a user namespace", "started by systemd later"],
)
def test_how_many_open_files_a_service_may_give(
    tmp_path: Path, name: str, capabilities: str, users: str, most: int | None
) -> None:
    process = tmp_path / "7"
    process.mkdir()
    (process / "limits").write_text(
        "Max processes  1  2  processes\nMax open files            1024      20000     files\n"
    )
    (process / "status").write_text(f"Name:\t{name}\nCapEff:\t{capabilities}\n")
    (process / "uid_map").write_text(users)
    (tmp_path / "sys/fs").mkdir(parents=True)
    (tmp_path / "sys/fs/nr_open").write_text("1048576\n")
    assert most_files(7, tmp_path) == most
    assert most_files(8, tmp_path) is None


def test_crun_on_hybrid_control_groups_is_refused_at_start(tmp_path: Path) -> None:
    hybrid = tmp_path / "hybrid"
    hybrid.write_text(
        "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
    )
    pure = tmp_path / "pure"
    pure.write_text("cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n")
    with refused(ConfigError, naming='runtime = "runc"'):
        check_host(info(ALL, version="v1"), "runtimes.default", hybrid)
    check_host(info(ALL, version="v1", runtime="runc"), "runtimes.default", hybrid)
    check_host(info(ALL, version="v1"), "runtimes.default", pure)
    check_host(info(ALL), "runtimes.default", hybrid)
    check_host(info(ALL), "runtimes.default", tmp_path / "none")


NOT_FOUND = "OCI runtime attempted to invoke a command that was not found"


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        (f"crun: opening file `memory.max` for writing: No such file or directory: {NOT_FOUND}", "delegated"),
        (f"crun: opening file `pids.max` for writing: No such file or directory: {NOT_FOUND}", "delegated"),
        ("runc: error setting cgroup config for procHooks process: no such file or directory: unknown", "delegated"),
        ("crun: cgroups in hybrid mode not supported, drop all controllers from cgroupv2: OCI runtime error", "runc"),
        ("crun: setrlimit `RLIMIT_NOFILE`: Operation not permitted: OCI permission denied", "default_ulimits"),
        ("runc: error setting rlimit type 7: operation not permitted: OCI permission denied", "nofile"),
    ],
)
def test_what_a_machine_lacks_is_not_called_the_modules_program(said: str, cure: str) -> None:
    error = refusal("container c", said, 500)
    assert type(error) is TransientError, "no event is a dead letter for it"
    before, _, after = str(error).rpartition(said)
    assert cure in before, "where a reason is cut it is seen"
    assert after == ""
    assert "program cannot be executed" not in str(error)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (f'runc: exec: "pids.max": executable file not found in $PATH: {NOT_FOUND}', PermanentError),
        (f"crun: executable file `/x` not found: No such file or directory: {NOT_FOUND}", PermanentError),
        ("exec /bin/x: exec format error", PermanentError),
        ('runc: exec: "/bin": is a directory: OCI runtime error', PermanentError),
        ("unable to find user nemo: no matching entries in passwd file", PermanentError),
        ("resolve /etc in the container: SecureJoin /x/merged/etc: too many levels of symbolic links", PermanentError),
        ("write /var/lib/x: no space left on device", StorageFull),
        ("database is locked", TransientError),
    ],
)
def test_other_refusals_mean_what_they_meant(said: str, kind: type[Exception]) -> None:
    assert type(refusal("container c", said, 500)) is kind


def test_an_error_is_one_line_of_words() -> None:
    said = (
        'crun: {"msg":"exec of \\"x\\" failed:\\n no such file","level":"error","time":"2026"}: OCI runtime error\n'
        f"preparing container {'0f' * 32} for attach: again\\nand again"
    )
    text = readable(said)
    assert text == 'crun: exec of "x" failed: no such file: OCI runtime error again and again'


async def test_a_closed_working_directory_names_the_cure(runtime: ContainerRuntime, tmp_path: Path) -> None:
    for said in (
        'runc: chdir to cwd ("/root") set in config.json failed: permission denied: OCI permission denied',
        "crun: chdir to `/root`: Permission denied: OCI permission denied",
        'runc: exec: "./run.sh": stat ./run.sh: permission denied: OCI permission denied',
    ):
        error = refusal("container c", said, 500)
        assert isinstance(error, PermanentError)
        assert "allow.root" in str(error), said
    with refused(PermanentError, naming="its program cannot be executed"):
        await runtime.create(spec(tmp_path, "", command=("no-such-program",)))
