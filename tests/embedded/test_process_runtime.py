"""What the process runtime promises beyond the contract: what it contains, what it hides, and what it leaves."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.runtime import (
    ContainerRef,
    ContainerRuntime,
    ContainerSpec,
    ContainerState,
    ExitStatus,
    Resources,
)
from ion_core.embedded.process.runtime import open_process_runtime
from ion_core.embedded.programs import ends
from ion_core.embedded.programs import table as process_table
from ion_core.embedded.settings import ProcessSettings
from ion_core.errors import ConfigError, ContainerNotFound, PermanentError
from ion_core.testing import ContainerRuntimeConformance

SOON = 20.0
NOW = timedelta(0)
OWNER = Path(__file__).with_name("process_owner.py")


@dataclass
class Place:
    """A runtime, a workspace and a source for modules."""

    runtime: ContainerRuntime
    settings: ProcessSettings
    workspace: Path
    source: Path

    def spec(self, *command: str, **changes: Any) -> ContainerSpec:
        given: dict[str, Any] = {"name": "c", "workspace": self.workspace, "source": self.source}
        return ContainerSpec(command=command, **(given | changes))

    def sh(self, script: str, **changes: Any) -> ContainerSpec:
        return self.spec("/bin/sh", "-c", script, **changes)

    async def started(self, spec: ContainerSpec) -> ContainerRef:
        ref = await self.runtime.create(spec)
        await self.runtime.start(ref)
        return ref

    async def run(self, spec: ContainerSpec) -> tuple[ExitStatus, list[str], list[str]]:
        """Its end, and what it printed to stdout and stderr."""
        async with asyncio.timeout(SOON):
            ref = await self.started(spec)
            status = await self.runtime.wait(ref)
            lines = [line async for line in self.runtime.logs(ref)]
            await self.runtime.remove(ref)
        return (
            status,
            [line.text for line in lines if line.stream == "stdout"],
            [line.text for line in lines if line.stream == "stderr"],
        )

    async def first_line(self, ref: ContainerRef) -> str:
        async with asyncio.timeout(SOON):
            async for line in self.runtime.logs(ref, follow=True):
                return line.text
        raise AssertionError("it printed nothing")

    def written(self, name: str) -> str:
        return (self.workspace / "out/data" / name).read_text().strip()


@asynccontextmanager
async def place(tmp_path: Path, isolation: str) -> AsyncIterator[Place]:
    settings = ProcessSettings.model_validate({"path": tmp_path / "run", "isolation": isolation})
    workspace, source = tmp_path / "workspace", tmp_path / "source"
    for directory in ("in/data", "out/data", "out/events"):
        (workspace / directory).mkdir(parents=True)
    source.mkdir()
    async with open_process_runtime(settings) as runtime:
        yield Place(runtime, settings, workspace, source)


@pytest.fixture
async def plain(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path, "none") as made:
        yield made


@pytest.fixture
async def isolated(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path, "bubblewrap") as made:
        yield made


async def gone(pid: int) -> None:
    async with asyncio.timeout(SOON):
        await ends.ended(pid)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


def state_of(pid: str) -> str:
    """As ps has it; '' while the number is not written yet."""
    return Path(f"/proc/{pid.strip()}/stat").read_text().rpartition(")")[2].split()[0] if pid.endswith("\n") else ""


def owner(place: Place, noted: str, *command: str) -> subprocess.Popen[str]:
    """Another process that runs the command under a runtime of the same directory, and prints what that prints."""
    settings = place.settings
    arguments = [settings.path, place.workspace, settings.isolation, noted, *command]
    return subprocess.Popen([sys.executable, OWNER, *arguments], stdout=subprocess.PIPE, text=True)


class TestWhatItStarts:
    async def test_what_can_never_start_is_refused_when_created(self, plain: Place) -> None:
        (plain.source / "plain.txt").write_text("no program")
        for spec, said in (
            (plain.spec(image="busybox"), "runs commands, not images"),
            (plain.spec("no-such-program"), "no program 'no-such-program'"),
            (plain.spec("./absent.sh"), "no program './absent.sh'"),
            (plain.spec("./plain.txt"), "is not executable"),
            (plain.spec("true", source=plain.source / "absent"), "is not a directory"),
            (plain.spec("true", workspace=plain.source / "absent"), "is not a directory"),
            (plain.spec("true", network="of my own"), "no network 'of my own'"),
            (plain.spec("true", "nul\0"), "no process can be given"),
            (plain.spec("true", env={"A": "\ud800"}), "no process can be given"),
            (plain.spec("true", env={"A=B": ""}), "no process can be given"),
            (plain.spec("true", name="../c"), "is no name"),
        ):
            with pytest.raises(PermanentError, match=said):
                await plain.runtime.create(spec)
        assert await plain.runtime.find({}) == []

    async def test_a_file_that_the_system_cannot_execute_is_refused_at_start(self, plain: Place) -> None:
        for name, content in (("no-shebang", "\0\1"), ("bad-shebang", "#!/no/such/interpreter\n")):
            program = plain.source / name
            program.write_text(content)
            program.chmod(0o755)
            ref = await plain.runtime.create(plain.spec(f"./{name}", name=name))
            with pytest.raises(PermanentError, match=f"container {name}: cannot be started"):
                await plain.runtime.start(ref)
            (status,) = await plain.runtime.find({})
            assert status.state is ContainerState.CREATED
            await plain.runtime.remove(ref)

    async def test_odd_names_reach_the_program_as_they_are(self, plain: Place, tmp_path: Path) -> None:
        source = tmp_path / "a source\nof 'odd' $NAMES; ü"
        source.mkdir()
        program = source / "run me;\t*.sh"
        program.write_text('#!/bin/sh\nfor a in "$@"; do printf "<%s>\\n" "$a"; done; pwd\n')
        program.chmod(0o755)
        arguments = ["", " ", "$HOME", "`x`", "a\nb", "ü", "--", "*"]
        status, out, _ = await plain.run(plain.spec(program.name, *arguments, source=source))
        assert status == ExitStatus(code=0)
        assert "\n".join(out) == "".join(f"<{one}>\n" for one in arguments) + str(source)

    async def test_the_environment_is_ours_only_where_it_must_be(
        self, plain: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a canary")
        monkeypatch.setenv("PYTHONPATH", "/a/canary")
        monkeypatch.setenv("LANG", "C.UTF-8")
        _, out, _ = await plain.run(plain.spec("env", env={"MODEL": "small"}))
        found = dict(line.split("=", 1) for line in out)
        assert "canary" not in "".join(out)
        assert found.keys() <= {
            "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "HANDLER_BASE_DIR", "ION_SLOT", "MODEL"
        }  # fmt: skip
        assert (found["MODEL"], found["LANG"]) == ("small", "C.UTF-8")
        assert found["HANDLER_BASE_DIR"] == f"{plain.workspace}/"

    async def test_standard_input_is_empty(self, plain: Place) -> None:
        status, out, _ = await plain.run(plain.spec("cat"))
        assert (status.code, out) == (0, [])

    async def test_no_secret_is_noted(self, plain: Place) -> None:
        await plain.started(plain.spec("sleep", "1000", env={"SHARED_SECRET": "a-canary"}, labels={"seen": "label"}))
        noted = "".join(path.read_text() for path in plain.settings.path.iterdir())
        assert "label" in noted
        assert "a-canary" not in noted


class TestWhatItContains:
    async def test_what_left_its_group_has_ended_when_wait_returns(self, plain: Place) -> None:
        for n, output in enumerate((">/dev/null 2>&1", "")):  # away, or holding on to the output
            script = (
                f"F=$HANDLER_BASE_DIR/out/data/pid{n}; "
                f"setsid sh -c 'echo $$ > $0.new; mv $0.new $0; exec sleep 1000' $F {output} & "
                "while [ ! -e $F ]; do :; done; echo done"
            )
            status, out, _ = await plain.run(plain.sh(script))
            assert (status.code, out) == (0, ["done"])
            assert process_table.identify(int(plain.written(f"pid{n}"))) is None

    def test_a_quick_look_says_that_nobody_is_left_only_where_it_can_tell(self) -> None:
        def child(mark: str) -> subprocess.Popen[bytes]:
            return subprocess.Popen(["sleep", "60"], env={process_table.MARK: mark, "PATH": os.environ["PATH"]})

        with child("first") as first, child("second") as second:
            try:
                assert not process_table.nobody_left("second", first.pid)
                assert not process_table.nobody_left("third", max(first.pid - 50, 0))  # too many to look at quickly
                process_table.kill_marked("second", first.pid)
                assert second.wait(30) == -signal.SIGKILL
                assert not process_table.marked("second", first.pid)
            finally:
                first.kill()
                second.kill()

    async def test_a_program_that_closed_its_output_still_runs(self, plain: Place) -> None:
        script = "exec >/dev/null 2>&1; echo $$ > $HANDLER_BASE_DIR/out/data/pid; kill -STOP $$; exit 5"
        ref = await plain.started(plain.sh(script))
        waiting = asyncio.create_task(plain.runtime.wait(ref))
        pid_file = plain.workspace / "out/data/pid"
        await until(lambda: pid_file.exists() and state_of(pid_file.read_text()) == "T")
        assert not waiting.done()
        os.kill(int(pid_file.read_text()), signal.SIGCONT)
        async with asyncio.timeout(SOON):
            assert (await waiting).code == 5

    async def test_endless_output_can_be_stopped_and_is_kept_up_to_the_limit(self, plain: Place) -> None:
        ref = await plain.started(plain.spec("yes", "0123456789", log_limit=100_000))
        async with asyncio.timeout(SOON):
            read = 0
            async for line in plain.runtime.logs(ref, follow=True):
                read += len(line.text) + 1
                if read > 1_000_000:
                    break
            await plain.runtime.stop(ref, grace=NOW)
            assert (await plain.runtime.wait(ref)).signal == signal.SIGKILL
        kept = sum([len(line.text) + 1 async for line in plain.runtime.logs(ref)])
        assert 90_000 < kept < 101_000

    async def test_of_much_output_the_first_and_the_last_is_kept(self, plain: Place) -> None:
        count = 6_000_000  # some 50 MB
        status, out, err = await plain.run(plain.spec("seq", str(count), log_limit=1 << 20))
        assert status.code == 0
        assert (out[0], out[-1]) == ("1", str(count))
        assert sum(len(line) + 1 for line in out) <= 1 << 20
        assert len(err) == 1
        assert "not kept" in err[0]

    async def test_memory_is_limited_and_the_limit_named(self, plain: Place) -> None:
        limited = Resources(memory=256 << 20)
        for code in ("x = bytearray(1 << 30)", "x = []\nwhile True: x.append(bytes(1 << 20))"):
            status, _, _ = await plain.run(plain.spec("python3", "-c", code, resources=limited))
            assert status == ExitStatus(code=1, limit="memory 256 MiB")

    async def test_memory_is_limited_from_the_very_start(self, plain: Place) -> None:
        for _ in range(5):
            script = "ulimit -Sd; (ulimit -Hd) & wait"
            status, out, _ = await plain.run(plain.sh(script, resources=Resources(memory=64 * 1024**2)))
            assert (status.code, out) == (0, ["65536", "65536"])

    async def test_a_death_without_a_word_near_the_limit_names_it(self, plain: Place) -> None:
        ours = (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        )  # a new process starts out with that as its peak
        limited = Resources(memory=(256 + ours) << 20)
        code = f"import os\nx = bytearray(b'x') * ({220 + ours} << 20)\nos.abort()"
        status, _, _ = await plain.run(plain.spec("python3", "-c", code, resources=limited))
        assert status == ExitStatus(code=134, signal=6, limit=f"memory {256 + ours} MiB")

    async def test_a_failure_well_below_the_limit_is_not_blamed_on_it(self, plain: Place) -> None:
        status, _, _ = await plain.run(plain.sh("exit 3", resources=Resources(memory=1 << 30)))
        assert status == ExitStatus(code=3)

    async def test_cpus_are_cores_rounded_up_and_handed_out_in_turn(self, plain: Place) -> None:
        before = os.sched_getaffinity(0)
        show = plain.spec("python3", "-c", "import os; print(*os.sched_getaffinity(0))", resources=Resources(cpus=0.5))
        found = [(await plain.run(show))[1] for _ in before]
        assert sorted(core for (core,) in found) == sorted(map(str, before))
        assert os.sched_getaffinity(0) == before

    async def test_closing_the_runtime_ends_and_removes_all(self, tmp_path: Path) -> None:
        async with place(tmp_path, "none") as made:
            script = "trap '' TERM HUP; echo $$; while :; do sleep 1; done"
            refs = [await made.started(made.sh(script, name=f"c{n}")) for n in range(3)]
            pids = [int(await made.first_line(ref)) for ref in refs]
            await made.runtime.create(made.sh("true", name="never-started"))
        assert [process_table.identify(pid) for pid in pids] == [None] * 3
        assert list(made.settings.path.iterdir()) == []


class TestOtherProcesses:
    @pytest.mark.parametrize("noted", ["noted", "unnoted"])
    async def test_what_a_killed_process_left_running_is_found_and_ended(self, plain: Place, noted: str) -> None:
        script = (
            "trap 'echo asked > $HANDLER_BASE_DIR/out/data/asked; exit' TERM; trap '' PIPE; echo $$ > $0; echo ready; "
            "while :; do sleep 1000 & wait; done"
        )
        pid_file = plain.workspace / "out/data/pid"
        command = ("/bin/sh", "-c", script, str(pid_file))
        other = owner(plain, noted, *command)
        assert other.stdout is not None
        with other.stdout:
            if noted == "noted":
                assert await asyncio.to_thread(other.stdout.readline) == "ready\n"
                other.kill()
        assert await asyncio.to_thread(other.wait) == -signal.SIGKILL
        await until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
        pid = int(pid_file.read_text())

        (status,) = await plain.runtime.find({"of": "the dead"})
        assert (status.state, status.ref.name) == (ContainerState.RUNNING, "orphan")
        assert process_table.identify(pid) is not None
        await plain.runtime.start(status.ref)
        async with asyncio.timeout(SOON):
            await plain.runtime.stop(status.ref, grace=timedelta(seconds=SOON))
        assert process_table.identify(pid) is None
        assert plain.written("asked") == "asked"
        (status,) = await plain.runtime.find({"of": "the dead"})
        assert status.state is ContainerState.EXITED
        with pytest.raises(PermanentError, match="exit code"):
            await plain.runtime.wait(status.ref)
        await plain.runtime.remove(status.ref)
        assert await plain.runtime.find({}) == []
        with pytest.raises(ContainerNotFound):
            await plain.runtime.wait(status.ref)

    async def test_two_processes_start_a_container_once(self, plain: Place) -> None:
        spec = plain.sh("echo ran >> $HANDLER_BASE_DIR/out/data/runs")
        async with open_process_runtime(plain.settings) as other:
            first, second = await plain.runtime.create(spec), await other.create(spec)
            assert first == second
            await plain.runtime.start(first)
            await other.start(second)
            await plain.runtime.wait(first)
            assert plain.written("runs") == "ran"
            with pytest.raises(PermanentError, match="labels"):
                await other.create(replace(spec, labels={"other": "label"}))
            await other.remove(second)
            assert await plain.runtime.find({}) == []
            assert (await plain.runtime.wait(first)).code == 0, "who started it still knows"

    async def test_a_number_used_again_is_not_taken_for_the_process(self, plain: Place) -> None:
        ref = await plain.started(plain.spec("sleep", "1000"))
        await plain.runtime.stop(ref, grace=NOW)
        note = plain.settings.path / "c.process"
        spec, process = note.read_text().splitlines()
        ours = process.replace(process.split()[1], f"{os.getpid()},")
        note.write_text(f"{spec}\n{ours}\n")
        async with open_process_runtime(plain.settings) as other:
            (status,) = await other.find({})
            assert status.state is ContainerState.EXITED
            await other.stop(status.ref, grace=NOW)

    async def test_what_was_left_half_made_is_swept_once_it_is_old(self, plain: Place) -> None:
        for name in (".spare-new", ".spare-old"):
            (plain.settings.path / name).touch()
        os.utime(plain.settings.path / ".spare-old", (0, 0))
        async with open_process_runtime(plain.settings):
            assert [path.name for path in plain.settings.path.iterdir()] == [".spare-new"]

    async def test_what_was_left_half_removed_is_swept_at_once(self, plain: Place) -> None:
        (plain.settings.path / "c.process").touch()
        async with open_process_runtime(plain.settings):
            assert list(plain.settings.path.iterdir()) == []


class TestBubblewrap(ContainerRuntimeConformance):
    """The contract holds inside too."""

    @pytest.fixture
    async def runtime(self, tmp_path: Path) -> AsyncIterator[ContainerRuntime]:
        self.settings = ProcessSettings(path=tmp_path / "run", isolation="bubblewrap")
        async with open_process_runtime(self.settings) as runtime:
            yield runtime

    def reopen(self) -> AbstractAsyncContextManager[ContainerRuntime]:
        return open_process_runtime(self.settings)

    outage = None


class TestIsolation:
    async def test_a_module_sees_its_files_and_programs_and_nothing_else(self, isolated: Place, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("a canary")
        (isolated.source / "own").write_text("own file\n")
        (isolated.workspace / "in/data/input").write_text("input\n")
        script = (
            f"cat own /ion/in/data/input; cat {tmp_path}/secret; ls ~ {Path.home()}/.ssh /home; "
            f"ls -A {tmp_path}; echo $HANDLER_BASE_DIR"
        )
        _, out, err = await isolated.run(isolated.sh(script))
        assert out[:2] == ["own file", "input"]
        assert out[-2:] == ["source", "/ion/"]
        assert "canary" not in "".join(out + err)
        assert sum("No such file" in line for line in err) == 3

    async def test_a_module_writes_to_out_only(self, isolated: Place) -> None:
        (isolated.workspace / "in/data/input").write_text("input")
        tries = ("/ion/in/data/input", "/ion/in/new", "own", "/usr/new", "/etc/new", "/ion/out/data/new", "/tmp/new")
        (isolated.source / "own").write_text("own")
        script = "for f in " + " ".join(tries) + "; do echo x 2>/dev/null > $f && echo $f; done; chmod 777 /ion/in"
        _, out, _ = await isolated.run(isolated.sh(script))
        assert [line for line in out if line.startswith("/")] == ["/ion/out/data/new", "/tmp/new"]
        assert (isolated.workspace / "in/data/input").read_text() == "input"
        assert isolated.written("new") == "x"

    async def test_a_module_reaches_the_network_only_where_it_may(self, isolated: Place) -> None:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
        async with server:
            for network, expected in (("none", 1), ("host", 0)):
                status, _, _ = await isolated.run(isolated.spec("python3", "-c", code, network=network))
                assert status.code == expected
        with pytest.raises(PermanentError, match="network"):
            await isolated.runtime.create(isolated.sh("true", network="bridge"))

    async def test_limits_reach_inside(self, isolated: Place) -> None:
        resources = Resources(memory=256 << 20, cpus=1)
        code = "import os; print(len(os.sched_getaffinity(0))); x = bytearray(1 << 30)"
        status, out, _ = await isolated.run(isolated.spec("python3", "-c", code, resources=resources))
        assert (status, out) == (ExitStatus(code=1, limit="memory 256 MiB"), ["1"])

    async def test_other_processes_are_out_of_sight(self, isolated: Place) -> None:
        _, out, _ = await isolated.run(isolated.sh("ls /proc | grep -c '^[0-9]'; id -u; ls /dev/shm"))
        assert int(out[0]) < 6

    async def test_nothing_outlives_a_killed_owner(self, isolated: Place) -> None:
        command = ("/bin/sh", "-c", "setsid sleep 1000 & echo ready; wait")
        other = owner(isolated, "noted", *command)
        assert other.stdout is not None
        with other.stdout:
            assert await asyncio.to_thread(other.stdout.readline) == "ready\n"
            (status,) = await isolated.runtime.find({"of": "the dead"})
            inside = list(process_table.marked(status.ref.id))
            assert len(inside) >= 3
            other.kill()
        await asyncio.to_thread(other.wait)
        for pid in inside:
            await gone(pid)
        await isolated.runtime.remove(status.ref)

    async def test_without_bubblewrap_it_is_said_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        settings = ProcessSettings(path=tmp_path / "run", isolation="bubblewrap")
        with pytest.raises(ConfigError, match="Install the package bubblewrap"):
            async with open_process_runtime(settings):
                pass

    async def test_a_bubblewrap_that_does_not_work_is_quoted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken = tmp_path / "bwrap"
        broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2; exit 1\n")
        broken.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        settings = ProcessSettings(path=tmp_path / "run", isolation="bubblewrap")
        with pytest.raises(ConfigError, match="does not work here: bwrap: No permissions"):
            async with open_process_runtime(settings):
                pass
