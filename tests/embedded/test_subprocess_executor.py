"""What the executor of local processes promises beyond the contract: who may die when, and what is left."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.executor import Cause, JobEnd, JobRef, JobSpec, JobState, ModuleSpec, Step, Ticket
from ion_core.contracts.runtime import PythonEnvironment, Resources
from ion_core.embedded.jobs import executor as job_executor
from ion_core.embedded.jobs import kept, layout
from ion_core.embedded.jobs.executor import SubprocessExecutor, open_subprocess_executor
from ion_core.embedded.jobs.printed import Printed
from ion_core.embedded.programs import ends, table
from ion_core.embedded.settings import SubprocessSettings
from ion_core.errors import ConfigError, JobNotFound, PermanentError, StorageFull, TransientError
from ion_core.python_environments import remove_unused
from ion_core.removal import remove_directory
from tests.support.away import a_file_in_place_of

SOON = 60.0
NOW = timedelta(0)
STANDING_IN = Path(__file__).with_name("standing_in.py")
STARTER = Path(__file__).with_name("job_starter.py")
TICKET = Ticket(event_id="an-event", correlation_id="a-flow", module="m", attempt=1, token="a-token")


@dataclass
class Place:
    """An executor, and what its steps are told to do."""

    executor: SubprocessExecutor
    settings: SubprocessSettings
    told: Path
    source: Path

    def tell(self, step: str, script: str) -> None:
        """What step 1 or 3 does besides."""
        self.told.mkdir(exist_ok=True)
        (self.told / step).write_text(script)

    def spec(self, script: str = "true", *, name: str = "a-job", **changes: Any) -> JobSpec:
        given: dict[str, Any] = {"settings": b"a secret", "labels": {"of": "mine"}, "timeout": timedelta(minutes=1)}
        of_module = {key: changes.pop(key) for key in [*changes] if key in ModuleSpec.__dataclass_fields__}
        module = ModuleSpec(**({"name": "m", "command": ("/bin/sh", "-c", script), "source": self.source} | of_module))
        return JobSpec(name=name, module=module, **(given | changes))

    async def started(self, script: str = "true", **changes: Any) -> JobRef:
        ref = await self.executor.create(self.spec(script, **changes))
        await self.executor.start(ref, TICKET)
        return ref

    async def end(self, ref: JobRef) -> JobEnd:
        async with asyncio.timeout(SOON):
            return await self.executor.wait(ref)

    async def run(self, script: str = "true", **changes: Any) -> tuple[JobEnd, list[str]]:
        """Its end, and what its module printed."""
        ref = await self.started(script, **changes)
        end = await self.end(ref)
        lines = [line.text async for line in self.executor.logs(ref) if line.step is Step.MODULE]
        await self.executor.remove(ref)
        return end, lines

    async def says(self, ref: JobRef, step: Step, text: str) -> None:
        async with asyncio.timeout(SOON):
            async for line in self.executor.logs(ref, follow=True):
                if (line.step, line.text) == (step, text):
                    return
        raise AssertionError(f"it never said {text!r}")

    def leaves_a_daemon(self) -> str:
        """A script that leaves a process which belongs to nobody."""
        pid = self.source / "pid"
        return f"(setsid env -i sh -c 'echo $$ > {pid}; exec sleep 600' &)\nuntil [ -s {pid} ]; do :; done"

    def daemon_lives(self) -> bool:
        return Path("/proc", (self.source / "pid").read_text().strip()).exists()

    def directory(self, ref: JobRef) -> Path:
        return self.settings.path / ref.name

    async def supervisor(self, ref: JobRef) -> table.ProcessId:
        found: list[table.ProcessId] = []

        def noted() -> bool:
            process, _ = layout.supervised(str(self.directory(ref)))
            found.extend([process] if process else [])
            return bool(found)

        await until(noted)
        return found[-1]

    def another(self) -> AbstractAsyncContextManager[SubprocessExecutor]:
        """As another process would have it."""
        return opened(self.settings, self.told)


@asynccontextmanager
async def opened(settings: SubprocessSettings, told: Path) -> AsyncIterator[SubprocessExecutor]:
    handler = (sys.executable, "-S", str(STANDING_IN), str(told))
    async with open_subprocess_executor(settings, handler=handler) as executor:
        assert isinstance(executor, SubprocessExecutor)
        yield executor


@asynccontextmanager
async def place_at(tmp_path: Path, isolation: str = "none", **given: Any) -> AsyncIterator[Place]:
    settings = SubprocessSettings.model_validate(
        {"path": tmp_path / "jobs", "environments": tmp_path / "python", "isolation": isolation} | given
    )
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    async with opened(settings, tmp_path / "told") as executor:
        place = Place(executor, settings, tmp_path / "told", source)
        yield place
        for status in await executor.find({}):
            await executor.remove(status.ref)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with place_at(tmp_path) as made:
        yield made


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def gone(pid: int) -> None:
    async with asyncio.timeout(SOON):
        await ends.ended(pid)


HANGS = "echo ready; while :; do sleep 1; done"
HELD = {
    # What a job does so that it stays at a step, and how that shows.
    Step.PREPARE: ({"prepare": HANGS}, "true"),
    Step.MODULE: ({}, HANGS),
    Step.COMMIT: ({"commit": HANGS}, "true"),
}


async def held(place: Place, step: Step, **changes: Any) -> JobRef:
    """A job that stays at that step."""
    told, script = HELD[step]
    for name, its in told.items():
        place.tell(name, its)
    ref = await place.started(script, **changes)
    await place.says(ref, step, "ready")
    return ref


def running(place: Place, ref: JobRef) -> list[int]:
    return table.marked(layout.mark(str(place.directory(ref)), ref.id), by=layout.MARK)


class TestWhoDies:
    @pytest.mark.parametrize("step", HELD)
    async def test_a_supervisor_that_is_killed_at_any_step_is_infrastructure(self, place: Place, step: Step) -> None:
        ref = await held(place, step)
        os.kill((await place.supervisor(ref)).pid, signal.SIGKILL)
        end = await place.end(ref)
        assert (end.step, end.cause, end.status) == (step, Cause.INFRASTRUCTURE, None)
        assert "its supervisor was killed" in end.reason
        assert running(place, ref) == [], "a process of it runs on"
        assert await place.end(ref) == end, "it ends once"

    @pytest.mark.parametrize("step", HELD)
    async def test_find_ends_what_nobody_supervises(self, place: Place, step: Step) -> None:
        ref = await held(place, step)
        os.kill((await place.supervisor(ref)).pid, signal.SIGKILL)
        await gone((await place.supervisor(ref)).pid)
        async with place.another() as another:
            (status,) = await another.find({"of": "mine"})
        assert (status.state, status.ticket) == (JobState.ENDED, TICKET)
        assert running(place, ref) == [], "what is said to have ended runs"

    @pytest.mark.parametrize("step", HELD)
    async def test_a_supervisor_that_is_asked_to_end_by_others_is_infrastructure(
        self, place: Place, step: Step
    ) -> None:
        ref = await held(place, step)
        os.kill((await place.supervisor(ref)).pid, signal.SIGTERM)
        end = await place.end(ref)
        assert (end.step, end.cause) == (step, Cause.INFRASTRUCTURE)
        assert "SIGTERM" in end.reason
        assert running(place, ref) == []

    @pytest.mark.parametrize("step", [Step.PREPARE, Step.COMMIT])
    async def test_a_step_around_the_module_that_is_killed_is_infrastructure(self, place: Place, step: Step) -> None:
        place.tell(step.value, "kill -9 $$")
        end, _ = await place.run()
        assert (end.step, end.cause, end.reason) == (
            step,
            Cause.INFRASTRUCTURE,
            f"handler {step.value}: killed by signal 9",
        )

    @pytest.mark.parametrize("step", [Step.PREPARE, Step.COMMIT])
    async def test_a_step_around_the_module_that_hangs_is_infrastructure_after_its_allowance(
        self, tmp_path: Path, step: Step
    ) -> None:
        async with place_at(tmp_path, **{f"{step.value}_allowance": "300ms"}) as place:
            place.tell(step.value, HANGS)
            ref = await place.executor.create(place.spec())
            await place.executor.start(ref, TICKET)
            end = await place.end(ref)
            assert (end.step, end.cause) == (step, Cause.INFRASTRUCTURE)
            assert end.reason == f"handler {step.value}: timed out after 0.3 s ({step.value}_allowance)"
            assert running(place, ref) == []

    async def test_a_commit_that_comes_to_its_end_when_its_allowance_is_over_counts(self, tmp_path: Path) -> None:
        async with place_at(tmp_path, commit_allowance="3s") as place:
            place.tell("commit", "trap 'exit 0' TERM; " + HANGS)
            end, _ = await place.run()
            assert (end.step, end.cause) == (Step.COMMIT, None)

    async def test_a_starter_that_is_killed_before_there_is_a_supervisor_leaves_an_end(self, place: Place) -> None:
        ref = await place.executor.create(place.spec())
        arguments = [str(place.settings.path), ref.name, TICKET.encode().decode()]
        starter = await asyncio.create_subprocess_exec(sys.executable, str(STARTER), *arguments)
        assert await starter.wait() == -signal.SIGKILL
        (status,) = await place.executor.find({})
        assert (status.state, status.ticket) == (JobState.ENDED, TICKET)
        await place.executor.start(ref, TICKET)
        end = await place.end(ref)
        assert (end.step, end.cause) == (Step.QUEUED, Cause.INFRASTRUCTURE)

    async def test_jobs_go_on_when_their_executor_is_closed_and_its_children_are_no_zombies(self, place: Place) -> None:
        async with place.another() as starter:
            ref = await starter.create(place.spec("while [ ! -e go ]; do sleep 0.02; done"))
            await starter.start(ref, TICKET)
        (place.source / "go").touch()
        assert (await place.end(ref)).cause is None
        quick = await place.started(name="quick")
        supervisor = await place.supervisor(quick)
        await place.end(quick)
        await until(lambda: not Path(f"/proc/{supervisor.pid}").exists())

    async def test_two_processes_start_a_job_once(self, place: Place) -> None:
        ref = await place.executor.create(place.spec("echo ran >> runs"))
        async with place.another() as another:
            await asyncio.gather(*(it.start(ref, TICKET) for it in (another, place.executor) for _ in range(4)))
            await another.wait(ref)
        assert (place.source / "runs").read_text() == "ran\n"

    async def test_a_number_used_again_is_not_taken_for_the_supervisor(self, place: Place) -> None:
        ref = await held(place, Step.MODULE)
        supervisor = await place.supervisor(ref)
        stranger = await asyncio.create_subprocess_exec("sleep", "60")
        lock = os.open(place.directory(ref) / layout.SUPERVISOR, os.O_RDWR)
        layout.note(lock, replace(supervisor, pid=stranger.pid), {"prepare": 1.0, "module": 2.0})
        os.close(lock)
        os.kill(supervisor.pid, signal.SIGKILL)
        assert (await place.end(ref)).cause is Cause.INFRASTRUCTURE
        assert stranger.returncode is None, "a stranger was killed"
        stranger.kill()
        await stranger.wait()

    async def test_a_python_environment_stays_for_as_long_as_a_job_needs_it(self, place: Place) -> None:
        requirements = place.source / "requirements.txt"
        requirements.write_text("")
        python = PythonEnvironment(requirements=requirements)
        async with place.another() as starter:
            ref = await starter.create(place.spec(HANGS, python=python))
            await starter.start(ref, TICKET)
            await place.says(ref, Step.MODULE, "ready")

        def unused() -> int:
            return remove_unused(place.settings.environments, [], before=time.time() + 1, dry_run=True).environments

        assert unused() == 0
        await place.executor.stop(ref, grace=NOW)
        assert unused() == 1


class TestStopping:
    async def test_stop_right_after_the_start_is_heard(self, place: Place) -> None:
        for _ in range(5):
            ref = await place.started(HANGS)
            await place.executor.stop(ref, grace=timedelta(seconds=SOON))
            end = await place.end(ref)
            assert end.cause is Cause.CANCELLED
            assert end.step in (Step.QUEUED, Step.PREPARE, Step.MODULE)
            await place.executor.remove(ref)

    async def test_a_stop_with_less_grace_overtakes_one_with_more(self, place: Place) -> None:
        ref = await place.started("trap '' TERM; " + HANGS)
        await place.says(ref, Step.MODULE, "ready")
        patient = asyncio.create_task(place.executor.stop(ref, grace=timedelta(hours=1)))
        await until((place.directory(ref) / layout.STOP).exists)
        async with asyncio.timeout(SOON):
            await place.executor.stop(ref, grace=NOW)
            await patient
        assert (await place.end(ref)).cause is Cause.CANCELLED

    async def test_a_halted_supervisor_is_stopped_all_the_same(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(job_executor, "_DEATH", 1.0)
        ref = await held(place, Step.MODULE)
        os.kill((await place.supervisor(ref)).pid, signal.SIGSTOP)
        await place.executor.stop(ref, grace=NOW)
        assert running(place, ref) == []
        end = await place.end(ref)
        assert (end.step, end.cause) == (Step.MODULE, Cause.CANCELLED)

    async def test_a_commit_that_comes_to_its_end_in_its_grace_counts(self, place: Place) -> None:
        place.tell("commit", "trap 'exit 0' TERM; " + HANGS)
        ref = await place.started()
        await place.says(ref, Step.COMMIT, "ready")
        await place.executor.stop(ref, grace=timedelta(seconds=SOON))
        end = await place.end(ref)
        assert (end.step, end.cause) == (Step.COMMIT, None)

    async def test_a_module_that_ends_well_when_it_is_stopped_is_not_committed(self, place: Place) -> None:
        ref = await place.started("trap 'exit 0' TERM; " + HANGS)
        await place.says(ref, Step.MODULE, "ready")
        await place.executor.stop(ref, grace=timedelta(seconds=SOON))
        end = await place.end(ref)
        assert (end.step, end.cause) == (Step.MODULE, Cause.CANCELLED)
        assert Step.COMMIT not in end.began


class TestWhatItContains:
    async def test_nothing_of_a_module_gets_away(self, place: Place) -> None:
        """Not by a session of its own, not by an empty environment, not by being nobody's child any more."""
        end, _ = await place.run(place.leaves_a_daemon())
        assert end.cause is None
        assert not place.daemon_lives()

    async def test_nothing_of_the_steps_around_it_gets_away(self, place: Place) -> None:
        place.tell("prepare", place.leaves_a_daemon())
        end, _ = await place.run()
        assert end.cause is None
        assert not place.daemon_lives()

    async def test_memory_and_cores_are_limited_as_those_of_the_process_runtime(self, place: Place) -> None:
        end, lines = await place.run("nproc", resources=Resources(cpus=0.5))
        assert (end.cause, lines) == (None, ["1"])
        end, lines = await place.run("ulimit -Sd; (ulimit -Hd) & wait", resources=Resources(memory=64 << 20))
        assert (end.cause, lines) == (None, ["65536", "65536"])
        greedy = (sys.executable, "-S", "-c", "x = []\nwhile True: x.append(bytearray(1 << 20))")
        end, _ = await place.run(command=greedy, resources=Resources(memory=64 << 20))
        assert (end.step, end.cause, end.reason) == (Step.MODULE, Cause.LIMIT, "memory 64 MiB")

    async def test_settings_and_ticket_are_for_us_only(self, place: Place) -> None:
        ref = await place.executor.create(place.spec(env={"PASSWORD": "in a spec"}))
        await place.executor.start(ref, TICKET)
        await place.end(ref)
        directory = place.directory(ref)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        for name in (layout.SPEC, layout.SETTINGS, layout.TICKET):
            assert stat.S_IMODE((directory / name).stat().st_mode) & 0o077 == 0, name

    async def test_in_bubblewrap_a_module_sees_nothing_of_its_job_but_the_workspace(self, tmp_path: Path) -> None:
        async with place_at(tmp_path, "bubblewrap") as place:
            script = f"ls {place.settings.path} 2>&1 >/dev/null | wc -l; echo $HANDLER_BASE_DIR; ls /ion"
            end, lines = await place.run(script)
        assert (end.cause, lines) == (None, ["1", "/ion/", "in", "out"])

    async def test_in_bubblewrap_nothing_outlives_a_killed_supervisor(self, tmp_path: Path) -> None:
        async with place_at(tmp_path, "bubblewrap") as place:
            ref = await place.started(HANGS)
            await place.says(ref, Step.MODULE, "ready")
            supervisor = await place.supervisor(ref)
            inside = table.descendants(supervisor.pid)
            os.kill(supervisor.pid, signal.SIGKILL)
            assert (await place.end(ref)).cause is Cause.INFRASTRUCTURE
            for pid in inside:
                await gone(pid)


class TestWhatItTells:
    async def test_a_step_tells_why_it_failed_by_its_result_or_its_last_line(self, place: Place) -> None:
        for script, cause, reason in (
            ("""echo '{"reasons": ["out/a: bad", "out/b: worse"]}' > $RESULT; exit 65""", Cause.OUTPUT_REFUSED,
             "out/a: bad; out/b: worse"),
            ("echo 'documents: away' >&2; exit 69", Cause.INFRASTRUCTURE, "documents: away"),
            ("echo '[' > $RESULT; echo 'the last line' >&2; exit 75", Cause.INFRASTRUCTURE, "the last line"),
            ("exit 78", Cause.REFUSED, "step commit"),
            ("exit 70", Cause.MODULE, "step commit"),
        ):  # fmt: skip
            place.tell("commit", script)
            end, _ = await place.run()
            assert (end.step, end.cause, end.reason) == (Step.COMMIT, cause, reason)

    async def test_a_program_that_went_away_since_is_refused_with_its_name(self, place: Place) -> None:
        program = place.source / "run"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        ref = await place.executor.create(place.spec(command=("./run",)))
        program.unlink()
        await place.executor.start(ref, TICKET)
        end = await place.end(ref)
        assert (end.step, end.cause) == (Step.MODULE, Cause.REFUSED)
        assert str(program) in end.reason

    async def test_what_can_never_start_is_refused_when_created(self, place: Place) -> None:
        for spec, said in (
            (place.spec(command=(), image="busybox"), "subprocess executor runs commands, not images"),
            (place.spec(command=("no-such-program",)), "no program 'no-such-program'"),
            (place.spec(network="of my own"), "no network 'of my own'"),
            (place.spec(name="Not-A-Name"), "is no name for a job"),
            (place.spec(name="ends-in-a-dash-"), "is no name for a job"),
            (place.spec(name="n" * 53), "is no name for a job"),
            (place.spec(name="../up"), "is no name for a job"),
        ):
            with pytest.raises(PermanentError, match=said):
                await place.executor.create(spec)
        assert list(place.settings.path.iterdir()) == []

    async def test_endless_output_takes_a_bounded_room(self, place: Place) -> None:
        ref = await place.started("while :; do echo 0123456789abcdef0123456789abcdef; done", log_limit=1 << 16)
        latest = place.directory(ref) / "module.earlier"
        await until(latest.exists)
        await place.executor.stop(ref, grace=NOW)
        size = sum(it.stat().st_size for it in place.directory(ref).glob("module.*"))
        assert size < 4 * (1 << 16)
        lines = [line.text async for line in place.executor.logs(ref) if line.step is Step.MODULE]
        assert lines[0] == "0123456789abcdef0123456789abcdef"
        assert sum("are not kept" in line for line in lines) == 1


class TestWhatIsLeft:
    async def test_what_was_left_half_made_is_swept_unless_a_job_is_being_made(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        left = place.settings.path / ".new-1"
        left.mkdir()
        (left / layout.SETTINGS).write_bytes(b"a secret")
        goes_on, keep_room = threading.Event(), layout.keep_room

        def held_up(file: str) -> None:
            goes_on.wait(SOON)
            keep_room(file)

        monkeypatch.setattr(layout, "keep_room", held_up)
        making = asyncio.create_task(place.executor.create(place.spec()))
        await until(lambda: len([*place.settings.path.glob(".new-*/" + layout.SETTINGS)]) == 2)
        async with place.another():
            assert len([*place.settings.path.iterdir()]) == 2, "which of them is being made nobody can tell"
        goes_on.set()
        ref = await making
        async with place.another() as another:
            assert [it.name for it in place.settings.path.iterdir()] == [ref.name]
            assert [it.ref.name for it in await another.find({})] == [ref.name]

    async def test_where_directories_cannot_be_locked_jobs_are_made_all_the_same(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flock = fcntl.flock

        def of_files_only(fd: int, how: int) -> None:
            if stat.S_ISDIR(os.fstat(fd).st_mode) and how & fcntl.LOCK_EX:
                raise OSError(errno.EBADF, "Bad file descriptor")  # as NFS does
            flock(fd, how)

        monkeypatch.setattr(kept.fcntl, "flock", of_files_only)
        async with place.another():
            end, _ = await place.run()
        assert end.cause is None

    async def test_what_was_left_half_removed_is_swept_at_once(self, place: Place) -> None:
        (place.settings.path / ".gone-1" / "workspace-1").mkdir(parents=True)
        async with place.another():
            assert list(place.settings.path.iterdir()) == []

    @pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"name": "another"}', b"\0" * 100])
    async def test_what_cannot_be_read_as_a_job_is_no_job_and_makes_room_for_one(
        self, place: Place, content: bytes | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        directory = place.settings.path / "a-job"
        directory.mkdir()
        if content is not None:
            (directory / layout.SPEC).write_bytes(content)
        assert await place.executor.find({}) == []
        with pytest.raises(JobNotFound):
            await place.executor.wait(JobRef(id="0" * 32, name="a-job"))
        end, _ = await place.run()
        assert end.cause is None
        assert ("no job that can be read" in caplog.text) is (content is not None)

    async def test_a_torn_ticket_runs_nothing_again(self, place: Place) -> None:
        """As a power cut may leave it: whether the job ran nobody can tell."""
        ref = await place.executor.create(place.spec())
        (place.directory(ref) / layout.TICKET).write_bytes(b"")
        with pytest.raises(PermanentError, match="was started for another attempt"):
            await place.executor.start(ref, TICKET)
        (status,) = await place.executor.find({})
        assert (status.state, status.ticket) == (JobState.ENDED, None)
        assert (await place.end(ref)).cause is Cause.INFRASTRUCTURE

    async def test_what_cannot_be_started_now_can_be_later(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        ref = await place.executor.create(place.spec())

        def no_memory(*_: Any, **__: Any) -> int:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

        with monkeypatch.context() as patched:
            patched.setattr(subprocess, "Popen", no_memory)
            with pytest.raises(TransientError):
                await place.executor.start(ref, TICKET)
        (status,) = await place.executor.find({})
        assert (status.state, status.ticket) == (JobState.CREATED, None)
        await place.executor.start(ref, TICKET)
        assert (await place.end(ref)).cause is None

    async def test_a_module_may_leave_what_is_hard_to_delete(self, place: Place) -> None:
        script = 'cd "$HANDLER_BASE_DIR/out" && mkdir -p a/b && touch a/b/c && chmod 500 a/b && chmod 0 a'
        end, _ = await place.run(script)
        assert end.cause is None
        assert list(place.settings.path.iterdir()) == []

    async def test_a_directory_that_is_away_makes_no_job_gone(self, place: Place) -> None:
        ref = await held(place, Step.MODULE)
        waiting = asyncio.create_task(place.executor.wait(ref))
        with a_file_in_place_of(place.settings.path):
            for call in (
                place.executor.create(place.spec(name="another")),
                place.executor.start(ref, TICKET),
                place.executor.stop(ref, grace=NOW),
                place.executor.remove(ref),
                place.executor.find({}),
            ):
                with pytest.raises(TransientError, match="no more the directory that it was"):
                    await call
            await asyncio.wait({waiting}, timeout=0.3)
        assert not waiting.done(), "it waits for the directory too"
        await place.executor.stop(ref, grace=NOW)
        assert (await waiting).cause is Cause.CANCELLED

    async def test_where_jobs_cannot_be_kept_is_said_with_its_key(self, tmp_path: Path) -> None:
        (tmp_path / "jobs").write_text("a file")
        with pytest.raises(ConfigError, match="cannot keep jobs in"):
            async with place_at(tmp_path):
                pass

    async def test_so_is_a_directory_that_may_not_be_written_to(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who may write everywhere is told the same by the system of a read-only mount."""
        monkeypatch.setattr(os, "access", lambda path, mode, **_: not mode & os.W_OK)
        monkeypatch.setattr(os, "supports_effective_ids", {os.access})
        with pytest.raises(ConfigError, match="it may not be written to"):
            async with place_at(tmp_path):
                pass


class TestAFullDisk:
    def test_a_job_that_is_made_can_be_ended_and_stopped_on_a_full_disk(self, tmp_path: Path) -> None:
        """In a mount namespace of its own, where that disk is small."""
        path = f"import sys; sys.path.insert(0, {str(Path.cwd())!r})"
        code = f"{path}; from {__name__} import on_a_full_disk; on_a_full_disk()"
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        script = f"mount -t tmpfs -o size=4m none '{tmp_path}' && exec '{sys.executable}' -c \"$1\" '{tmp_path}'"
        done = subprocess.run(
            ["unshare", *user, "--mount", "sh", "-c", script, "sh", code],
            capture_output=True, text=True, timeout=SOON, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"create": "StorageFull", "ended": None, "stopped": "cancelled"}


def on_a_full_disk() -> None:
    """What ``TestAFullDisk`` runs; its argument is a disk that is full soon."""
    print(json.dumps(asyncio.run(_on_a_full_disk(Path(sys.argv[1])))))


async def _on_a_full_disk(disk: Path) -> dict[str, str | None]:
    said: dict[str, str | None] = {}
    async with place_at(disk) as place:
        place.tell("commit", "exit 0")
        waits = "until [ -e go ]; do sleep 0.02; done; i=0; while [ $i -lt 999 ]; do echo $i; i=$((i+1)); done"
        first = await place.executor.create(place.spec(waits, name="first"))
        second = await place.executor.create(place.spec(HANGS, name="second"))
        for ref in (first, second):
            await place.executor.start(ref, TICKET)
        await place.says(second, Step.MODULE, "ready")
        (place.source / "go").touch()
        fd = os.open(disk / "ballast", os.O_WRONLY | os.O_CREAT)
        for size in (1 << 16, 4096, 1):
            try:
                while True:
                    os.write(fd, b"\0" * size)
            except OSError:
                continue
        try:
            await place.executor.create(place.spec(name="third"))
        except StorageFull as error:
            said["create"] = type(error).__name__
        end = await place.end(first)
        said["ended"] = None if end.cause is None else f"{end}"
        await place.executor.stop(second, grace=NOW)
        end = await place.end(second)
        said["stopped"] = end.cause.value if end.cause else None
        os.unlink(disk / "ballast")  # noqa: PTH108
        os.close(fd)
    return said


def a_fifo(file: Path) -> None:
    os.mkfifo(file)


def a_directory(file: Path) -> None:
    file.mkdir()
    (file / "entry").touch()


def a_link(file: Path) -> None:
    file.symlink_to("/dev/zero")


def nothing(file: Path) -> None:
    """It is removed."""


def written(content: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(content)


SPOILT = {
    "fifo": a_fifo,
    "directory": a_directory,
    "link": a_link,
    "nothing": nothing,
    "empty object": written(b"{}"),
    "other shape": written(b"[1]"),
    "wrong types": written(
        b'{"step": 1, "how": [], "status": 3, "began": {"module": "x"}, "ended": NaN, "process": {"pid": 1}, '
        b'"grace": "x", "name": "a-job", "id": 1, "labels": [], "log_limit": "x", "reasons": 5}'
    ),
    "deep": written(b"[" * 4096),
    "no text": written(b"\xff\xfe\x00"),
}
FILES = (
    layout.SPEC, layout.SUPERVISOR, layout.TICKET, layout.STOP, layout.END, layout.END + ".room", "module.first",
    layout.result_of("prepare"),
)  # fmt: skip


class TestWhatAModuleSpoils:
    """Nothing keeps one that is not isolated from the files of its job: it costs that job, and no other."""

    @pytest.mark.parametrize("file", FILES)
    @pytest.mark.parametrize("how", SPOILT)
    async def test_the_others_are_found_and_it_can_be_removed(self, place: Place, file: str, how: str) -> None:
        other = await place.started("true", name="other")
        await place.end(other)
        ref = await held(place, Step.MODULE)
        supervisor = await place.supervisor(ref)
        os.kill(supervisor.pid, signal.SIGKILL)
        await gone(supervisor.pid)
        spoilt = place.directory(ref) / file
        spoilt.unlink(missing_ok=True)
        SPOILT[how](spoilt)
        async with asyncio.timeout(SOON), place.another() as another:
            found = {status.ref.name: status.state for status in await another.find({"of": "mine"})}
            assert found["other"] is JobState.ENDED
            assert found.get(ref.name) in (None, JobState.ENDED, JobState.CREATED)
            for status in await another.find({}):
                await another.remove(status.ref)
        assert [*place.settings.path.iterdir()] == []
        assert running(place, ref) == [], "what nobody finds any more runs on"

    @pytest.mark.parametrize("how", ["workspace too", "all of it"])
    async def test_a_job_that_nobody_finds_is_ended_and_told_of(
        self, place: Place, how: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Whatever is left to know it by."""
        ref = await held(place, Step.MODULE)
        left = running(place, ref)
        other = await held(place, Step.MODULE, name="a-job-too")
        if how == "all of it":  # with the lock: its supervisor lives, and nobody can tell
            remove_directory(str(place.directory(ref)))
            place.directory(ref).mkdir()
        else:
            supervisor = await place.supervisor(ref)
            os.kill(supervisor.pid, signal.SIGKILL)
            await gone(supervisor.pid)
            (place.directory(ref) / layout.SPEC).unlink()
            (place.directory(ref) / f"workspace-{ref.id}").rename(place.directory(ref) / "elsewhere")
        async with place.another() as another:
            assert {status.ref.name for status in await another.find({})} == {other.name}
        assert not place.directory(ref).exists()
        assert left
        assert running(place, ref) == []
        assert f"{place.directory(ref)} is no job that can be read" in caplog.text
        assert running(place, other), "it is another's"

    async def test_who_knows_it_sees_to_it(self, place: Place) -> None:
        ref = await held(place, Step.MODULE)
        (place.directory(ref) / layout.SPEC).unlink()
        waiting = asyncio.create_task(place.executor.wait(ref))
        with suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await asyncio.shield(waiting)
        assert not waiting.done(), "it runs, and is told to have ended"
        await place.executor.stop(ref, grace=NOW)
        assert (await waiting).cause is Cause.CANCELLED
        assert [line.text async for line in place.executor.logs(ref) if line.step is Step.MODULE] == ["ready"]
        await place.executor.remove(ref)
        assert [*place.settings.path.iterdir()] == []

    async def test_who_has_no_descriptor_left_takes_no_job_for_a_spoilt_one(
        self, place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        ref = await place.executor.create(place.spec())

        def too_many(*_: Any, **__: Any) -> bytes:
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as patched:
            patched.setattr(layout, "read_regular", too_many)
            with pytest.raises(TransientError):
                await place.executor.find({})
            with pytest.raises(TransientError):
                await place.executor.start(ref, TICKET)
            async with place.another():
                pass
        assert "Too many open files" in caplog.text
        assert [status.ref.name for status in await place.executor.find({})] == [ref.name]

    async def test_it_has_not_ended_because_it_says_so(self, place: Place) -> None:
        ref = await held(place, Step.MODULE)
        said = {"step": "commit", "status": None, "how": "stopped", "reason": "", "began": {}, "ended": 1.0}
        (place.directory(ref) / layout.END).write_text(json.dumps(said))
        async with place.another() as another:
            (status,) = await another.find({})
            assert status.state is JobState.STARTED
            await another.remove(ref)
        assert running(place, ref) == []
        assert not place.directory(ref).exists()

    @pytest.mark.parametrize("file", FILES)
    @pytest.mark.parametrize("how", SPOILT)
    async def test_its_job_comes_to_an_end(self, place: Place, file: str, how: str) -> None:
        ref = await held(place, Step.MODULE)
        supervisor = (await place.supervisor(ref)).pid
        spoilt = place.directory(ref) / file
        spoilt.unlink(missing_ok=True)
        SPOILT[how](spoilt)
        await place.executor.find({})
        if file != layout.SUPERVISOR:
            os.kill(supervisor, signal.SIGTERM)
        async with asyncio.timeout(SOON):
            with suppress(JobNotFound):  # of a job that cannot be told from none
                await place.executor.wait(ref)
                [line async for line in place.executor.logs(ref)]
        with suppress(ProcessLookupError):  # nothing is left of the test, though nobody finds it any more
            os.kill(supervisor, signal.SIGTERM)


def test_what_does_not_fit_on_the_disk_is_a_gap_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = Printed(str(tmp_path / "module"), 1000)
    printed.add("stdout", b"one\n", 1.0)
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:10]))
    printed.add("stdout", b"two\n", 2.0)
    monkeypatch.undo()
    printed.add("stderr", b"three\n", 3.0)
    printed.close()
    found = kept.pieces((tmp_path / "module.first").read_bytes())
    assert found == [(0, "stdout", 1.0, b"one\n"), (8, "stderr", 3.0, b"three\n")]


async def test_the_steps_of_a_job_are_started_without_click(tmp_path: Path) -> None:
    """Whatever a supervisor says in its environment."""
    code = "import os, sys; from ion_core.cli import ticket_line as it; sys.exit(not it.read(sys.argv[1:], os.environ))"
    settings = SubprocessSettings.model_validate({"path": tmp_path / "jobs", "environments": tmp_path / "python"})
    async with open_subprocess_executor(settings, handler=(sys.executable, "-c", code)) as executor:
        assert isinstance(executor, SubprocessExecutor)
        place = Place(executor, settings, tmp_path / "told", tmp_path)
        end, _ = await place.run()
        assert (end.step, end.cause) == (Step.COMMIT, None)


def test_what_supervisors_are_forked_from_imports_little() -> None:
    """It is there for as long as we are, and each of them begins with what it has."""
    said = subprocess.run(
        [sys.executable, "-P", "-c", "import sys, ion_core.embedded.jobs.fork_server; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    heavy = {"asyncio", "pydantic", "click", "ssl", "logging", "ion_core.contracts", "ion_core.errors"}
    assert not heavy & set(said)
