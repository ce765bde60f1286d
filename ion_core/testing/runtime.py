"""The runtime kit: ``docs/contracts/runtime.md`` as tests, one for each rule and of its name."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import timedelta
from pathlib import Path
from signal import SIGKILL, SIGSEGV
from subprocess import PIPE

import pytest

from ion_core.contracts.runtime import ContainerRef, ContainerRuntime, ContainerState, ExitStatus, InteractiveRuntime
from ion_core.errors import ContainerNotFound, ImageUnavailable, IonError, PermanentError
from ion_core.testing.kit import needs, refused
from ion_core.testing.programs import RuntimeKit

NOTHING = timedelta(0)
LONG = timedelta(minutes=10)
ODD = """two  words, "quotes", 'more', $HOME and a\ttab"""


class LifeRules(RuntimeKit):
    """From create to remove."""

    async def test_a_runtime_that_isolates_nothing_says_so(self, runtime: ContainerRuntime) -> None:
        capabilities = runtime.capabilities
        assert capabilities.isolates or capabilities.notice, "a runtime that does not isolate must have a notice"
        assert capabilities.images or self.image is None

    async def test_exit_codes_are_data(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        for code in (0, 1, 3, 126, 127, 255):
            ran = await self.run(runtime, tmp_path, self.exits_with(code))
            assert ran.status.code == code

    async def test_a_death_by_signal_is_told(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        ran = await self.run(runtime, tmp_path, self.dies_by(SIGSEGV))
        assert (ran.status.code, ran.status.signal) == (128 + SIGSEGV, SIGSEGV)

    async def test_create_runs_nothing(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        spec = self.spec(tmp_path, self.appends("ran", "out/data/runs"))
        async with self.made(runtime, spec) as ref:
            await self.stays_quiet(runtime.wait(ref), "a created container does not run")
            assert not (spec.workspace / "out/data/runs").exists()
            assert await self.state(runtime, spec) is ContainerState.CREATED

    async def test_create_again_gives_the_same_container(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        spec = self.spec(tmp_path, self.hangs(on_term=0))
        async with self.running(runtime, spec) as ref:
            again = await runtime.create(spec)
            assert (again.id, again.name) == (ref.id, spec.name)
            assert await self.state(runtime, spec) is ContainerState.RUNNING

    async def test_create_with_other_labels_is_refused(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        spec = self.spec(tmp_path, self.exits_with(0))
        other = self.spec(tmp_path, self.exits_with(0), name=spec.name)
        async with self.made(runtime, spec):
            with refused(PermanentError, naming=spec.name):
                await runtime.create(other)
            assert await self.state(runtime, spec) is ContainerState.CREATED

    async def test_a_missing_program_is_refused(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        spec = self.spec(tmp_path, ("/no/such/program",))
        with refused(PermanentError):
            async with self.made(runtime, spec) as ref:
                await self.within(runtime.start(ref), "start")

    @needs("missing_image")
    async def test_a_missing_image_is_refused(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        assert self.missing_image is not None
        spec = self.spec(tmp_path, self.exits_with(0), image=self.missing_image)
        with refused(ImageUnavailable, naming=self.missing_image):
            await self.within(runtime.create(spec), "create")
        assert await self.state(runtime, spec) is None

    async def test_a_directory_that_makes_no_image_is_refused(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        empty = tmp_path / "no-image-in-here"
        empty.mkdir()
        spec = self.spec(tmp_path, self.exits_with(0), build=empty)
        if not runtime.capabilities.builds:
            async with self.made(runtime, spec):
                return
        with refused(ImageUnavailable, naming=empty.name):
            await self.within(runtime.create(spec), "create")
        assert await self.state(runtime, spec) is None

    @needs("takes_source")
    async def test_a_missing_source_is_refused(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        spec = self.spec(tmp_path, self.exits_with(0), source=tmp_path / "no-such-directory")
        with refused(PermanentError, naming="no-such-directory"):
            await self.within(runtime.create(spec), "create")
        assert await self.state(runtime, spec) is None

    async def test_starting_twice_runs_it_once(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        spec = self.spec(tmp_path, self.appends("ran", "out/data/runs"))
        async with self.made(runtime, spec) as ref:
            await asyncio.gather(runtime.start(ref), runtime.start(ref))
            await self.ended(runtime, ref)
            await runtime.start(ref)
            await self.ended(runtime, ref)
            await self.a_while()
            assert (spec.workspace / "out/data/runs").read_text() == "ran\n"

    async def test_wait_is_for_many_and_again(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        spec = self.spec(tmp_path, self.hangs(on_term=7))
        async with self.running(runtime, spec) as ref:
            waiting = [asyncio.create_task(self.ended(runtime, ref)) for _ in range(3)]
            await runtime.stop(ref, grace=LONG)
            found = [*(await asyncio.gather(*waiting)), await self.ended(runtime, ref), await self.ended(runtime, ref)]
            assert found == [ExitStatus(code=7)] * 5

    async def test_cancelling_wait_stops_nothing(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        spec = self.spec(tmp_path, self.hangs(on_term=7))
        async with self.running(runtime, spec) as ref:
            await self.stays_quiet(runtime.wait(ref), "it goes on")  # and then cancels
            await self.stays_quiet(runtime.wait(ref), "it goes on after a wait was cancelled")
            assert await self.state(runtime, spec) is ContainerState.RUNNING
            await runtime.stop(ref, grace=LONG)
            assert (await self.ended(runtime, ref)).code == 7

    async def test_nothing_runs_after_wait(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        spec = self.spec(tmp_path, self.leaves_a_child_writing("out/data/tick"))
        async with self.made(runtime, spec) as ref:
            await runtime.start(ref)
            assert (await self.ended(runtime, ref)).code == 0
            await self.nothing_writes(spec.workspace / "out/data/tick")

    async def test_an_unknown_container_is_not_found(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        async with self.made(runtime, self.spec(tmp_path, self.exits_with(0))) as removed:
            pass
        for ref in (removed, ContainerRef(id="0" * 64, name="no-such-container")):
            for call in (runtime.start, runtime.wait):
                with refused(ContainerNotFound, of=f"{call.__name__} of {ref.name}"):
                    await self.within(call(ref), "refusing it")
            with refused(ContainerNotFound, of=f"listen of {ref.name}"):
                await self.within(runtime.listen(ref, 1), "refusing it")

    async def test_stop_asks_first(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        async with self.running(runtime, self.spec(tmp_path, self.hangs(on_term=7))) as ref:
            await self.within(runtime.stop(ref, grace=LONG), "the end of what ends by SIGTERM")
            assert await self.ended(runtime, ref) == ExitStatus(code=7)

    async def test_stop_kills_what_does_not_listen(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        spec, grace = self.spec(tmp_path, self.ignores_term()), timedelta(seconds=self.quiet)
        async with self.running(runtime, spec) as ref:
            asked = asyncio.get_running_loop().time()
            await self.within(runtime.stop(ref, grace=grace), "the end of what ignores SIGTERM")
            assert asyncio.get_running_loop().time() - asked >= self.quiet - 0.01, "the grace must be waited for"
            assert await self.state(runtime, spec) is ContainerState.EXITED, "stop returns once it has ended"
            assert await self.ended(runtime, ref) == ExitStatus(code=128 + SIGKILL, signal=SIGKILL)

    async def test_stop_of_what_does_not_run_is_fine(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        async with self.made(runtime, self.spec(tmp_path, self.exits_with(3))) as ended:
            await runtime.start(ended)
            await self.ended(runtime, ended)
            for _ in range(2):
                await self.within(runtime.stop(ended, grace=NOTHING), "stop of what has ended")
            assert await self.ended(runtime, ended) == ExitStatus(code=3)
        async with self.made(runtime, self.spec(tmp_path, self.exits_with(3))) as created:
            await self.within(runtime.stop(created, grace=NOTHING), "stop of what was never started")
        for gone in (ended, ContainerRef(id="0" * 64, name="no-such-container")):
            await self.within(runtime.stop(gone, grace=NOTHING), "stop of what is gone")

    async def test_remove_kills_what_runs(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        spec = self.spec(tmp_path, self.keeps_writing("out/data/tick"))
        async with self.running(runtime, spec) as ref:
            await self.within(runtime.remove(ref), "remove")
            assert await self.state(runtime, spec) is None
            await self.nothing_writes(spec.workspace / "out/data/tick")

    async def test_remove_of_what_is_gone_is_fine(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        spec = self.spec(tmp_path, self.exits_with(0))
        async with self.made(runtime, spec) as ref:
            for _ in range(2):
                await self.within(runtime.remove(ref), "remove")
            assert await self.state(runtime, spec) is None
        await self.within(runtime.remove(ContainerRef(id="0" * 64, name="no-such-container")), "remove")

    async def nothing_writes(self, path: Path) -> None:
        path.unlink(missing_ok=True)  # noqa: ASYNC240
        await self.a_while()
        assert not path.exists(), f"a process of the container still writes {path.name}"  # noqa: ASYNC240


class LogRules(RuntimeKit):
    """What is kept of what a container prints."""

    async def test_logs_are_complete_and_in_order(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        ran = await self.run(runtime, tmp_path, self.prints_lines(3000))
        assert ran.text("stdout") == [f"line {n}" for n in range(3000)]
        assert ran.text("stderr") == []

    async def test_both_streams_are_told_apart(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        ran = await self.run(
            runtime, tmp_path, self.prints(stdout=b"out\n\n  out again\t\n", stderr=b"err\nerr again\n")
        )
        assert ran.text("stdout") == ["out", "", "  out again\t"]
        assert ran.text("stderr") == ["err", "err again"]

    async def test_a_last_line_needs_no_newline(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        ran = await self.run(runtime, tmp_path, self.prints(stdout=b"one\ntwo", stderr=b"three"))
        assert (ran.text("stdout"), ran.text("stderr")) == (["one", "two"], ["three"])

    async def test_bytes_that_are_no_utf8_are_replaced(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        ran = await self.run(runtime, tmp_path, self.prints(stdout="grüß 🙂 ".encode() + b"\xff\xfe|\ngood\n"))
        lines = ran.text("stdout")
        assert lines[1:] == ["good"]
        assert re.fullmatch("grüß 🙂 \ufffd+\\|", lines[0]), lines[0]

    async def test_a_long_line_stays_one_line(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        ran = await self.run(runtime, tmp_path, self.prints_long_line(300_000))
        assert [len(text) for text in ran.text("stdout")] == [300_000]
        assert set(ran.text("stdout")[0]) == {"x"}

    async def test_output_beyond_the_limit_loses_its_middle(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        limit, printed = 4096, [f"line {n}" for n in range(3000)]
        ran = await self.run(runtime, tmp_path, self.prints_lines(3000), log_limit=limit)
        texts = [line.text for line in ran.lines]
        kept = [text for text in texts if text in set(printed)]
        assert kept == sorted(kept, key=printed.index), "what is kept stays in order"
        assert (texts[0], texts[-1]) == (printed[0], printed[-1])
        size = sum(len(text) + 1 for text in kept)
        assert limit // 2 <= size <= limit, f"{size} bytes are kept of a limit of {limit}"
        cut = next(n for n, text in enumerate(texts) if text != printed[n])
        assert texts[cut] not in printed, "where lines were dropped a line must say so"
        assert texts[cut + 1 :] == printed[-len(texts) + cut + 1 :], "one piece is dropped, no more"

    async def test_following_shows_lines_as_they_come(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        spec = self.spec(tmp_path, self.hangs(on_term=0))
        async with self.running(runtime, spec) as ref:  # which follows until the first line
            assert [line.text for line in await self.lines(runtime, ref)] == ["ready"], "what it printed so far"

    async def test_following_ends_with_the_container(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        async with self.made(runtime, self.spec(tmp_path, self.prints_lines(100))) as ref:
            following = asyncio.create_task(self.lines(runtime, ref, follow=True))
            await asyncio.sleep(0)  # it follows before the start
            await runtime.start(ref)
            await self.ended(runtime, ref)
            expected = [f"line {n}" for n in range(100)]
            assert [line.text for line in await self.within(following, "the end of the log")] == expected
            assert [line.text for line in await self.lines(runtime, ref, follow=True)] == expected

    async def test_each_line_tells_its_time(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        before = time.time()
        ran = await self.run(runtime, tmp_path, self.prints_lines(3))
        times = [line.at for line in ran.lines]
        assert len(times) == 3, "lines are missing"
        assert times == sorted(times)
        assert before - 1 <= times[0] <= times[-1] <= time.time() + 1


class HandlerRules(RuntimeKit):
    """Listening where the program calls."""

    async def test_a_program_reaches_its_handler(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        async with self.handler_api() as (port, serve):
            spec = self.spec(tmp_path, self.calls(port))
            async with self.made(runtime, spec) as ref:
                listening = asyncio.create_task(runtime.listen(ref, port))
                await self.within(runtime.start(ref), "start")
                if (inside := await self.within(listening, "listen")) is not None:
                    await serve(inside)
                status = await self.ended(runtime, ref)
                if runtime.capabilities.handler_api:
                    assert status.code == 0, "the program could not call its handler"
                    assert [line.text for line in await self.lines(runtime, ref)] == ["called"]
                else:
                    assert status.code != 0, "the program called its handler, and handler_api is not offered"


class InteractiveRules(RuntimeKit):
    """Kept by runtimes that have ``interactive``; for others there is nothing to keep."""

    async def test_what_is_interactive_is_the_same_container(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        if not isinstance(runtime, InteractiveRuntime):
            return
        spec = self.spec(tmp_path, self.listens("in/data/there", "out/data/heard", code=5), env={"ODD": ODD})
        (spec.workspace / "in/data/there").write_text("was there\n")
        foreground = await self.within(runtime.interactive(spec, terminal=False), "interactive")
        assert not any(ODD in argument for argument in foreground.argv), "its environment is for all to see in argv"
        assert not (spec.workspace / "out/data/heard").exists(), "it ran already"
        process = await asyncio.create_subprocess_exec(
            *foreground.argv, env=dict(foreground.env), cwd=foreground.cwd, stdin=PIPE, stdout=PIPE
        )
        try:
            said, _ = await self.within(process.communicate(b"hello\n"), "the end of it")
        finally:
            if process.returncode is None:
                process.kill()
        assert said.decode() == f"was there\n{ODD}\n"
        assert (spec.workspace / "out/data/heard").read_text() == "hello\n"
        assert process.returncode == 5
        assert await self.state(runtime, spec) is None, "it is left behind"


class ContainerRuntimeConformance(LifeRules, HandlerRules, InteractiveRules, LogRules):
    """Every rule of the runtime contract. Subclass it, give it the fixture and the hooks::

        class TestMyRuntime(ContainerRuntimeConformance):
            image = "busybox"                   # None, as it is, where modules are plain commands
            missing_image = "no/such:image"     # None, as it is, where there are no images
            takes_source = False                # True, as it is, where commands start in spec.source

            @pytest_asyncio.fixture
            async def runtime(self):
                async with open_my_runtime(MySettings()) as runtime:
                    yield runtime

            def reopen(self):                   # None where containers end with the process
                return open_my_runtime(MySettings())

            def outage(self, runtime):          # None where the backend cannot be made to fail
                return backend_that_fails(self.settings)

    ``runtime``   an open runtime; containers of others may be in it.
    ``patience``  seconds to wait for what must happen (10); ``quiet`` for what must not (0.3).
    Commands are ``/bin/sh`` scripts; without one, override every method of ``ion_core.testing.programs.Commands``.
    """

    async def test_env_reaches_the_program(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        env = {"PLAIN": "value", "WIDE": "grüß 🙂", "EMPTY": "", "QUOTED": " \"$HOME\" '`x`' \\ "}
        ran = await self.run(runtime, tmp_path, self.prints_env(*env), env=env)
        assert ran.text("stdout") == list(env.values())

    async def test_the_dispatchers_environment_stays_outside(
        self, runtime: ContainerRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ION_KIT_CANARY", "a secret of the dispatcher")
        ran = await self.run(runtime, tmp_path, self.prints_env("ION_KIT_CANARY"))
        assert ran.text("stdout") == [""]

    async def test_the_workspace_is_the_programs_base(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        spec = self.spec(tmp_path, self.copies("in/data/sub/given", "out/data/made"))
        async with self.made(runtime, spec) as ref:  # what comes after create is seen too: slots are made ahead
            given = spec.workspace / "in/data/sub/given"
            given.parent.mkdir()
            given.write_bytes(b"\x00content\xff")
            await runtime.start(ref)
            assert (await self.ended(runtime, ref)).code == 0
            assert (spec.workspace / "out/data/made").read_bytes() == b"\x00content\xff"

    async def test_arguments_stand_behind_the_command(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        *command, last = self.exits_with(7)
        ran = await self.run(runtime, tmp_path, command, args=(last,))
        assert ran.status.code == 7

    @needs("takes_source")
    async def test_a_command_starts_in_its_source(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        source = tmp_path / "source of a module"
        source.mkdir()
        (source / "file").write_text("found\n")
        ran = await self.run(runtime, tmp_path, self.prints_file("file"), source=source)
        assert (ran.text("stdout"), ran.status.code) == (["found"], 0)

    async def test_containers_run_side_by_side(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        async with self.running(runtime, self.spec(tmp_path, self.hangs(on_term=7))) as hanging:
            many = await asyncio.gather(*(self.run(runtime, tmp_path, self.exits_with(n)) for n in range(4)))
            assert [ran.status.code for ran in many] == [0, 1, 2, 3]
            await runtime.stop(hanging, grace=LONG)
            assert (await self.ended(runtime, hanging)).code == 7

    async def test_find_needs_every_label(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        mine = {"ion-kit": self.fresh("label")}
        one = self.spec(tmp_path, self.exits_with(0), labels=mine | {"slot": "1", "module": "blur"})
        two = self.spec(tmp_path, self.exits_with(0), labels=mine | {"slot": "2", "module": "blur"})
        async with self.made(runtime, one) as first, self.made(runtime, two) as second:
            for labels, expected in (
                (mine, {first.id, second.id}),
                (mine | {"module": "blur"}, {first.id, second.id}),
                (mine | {"slot": "2"}, {second.id}),
                (mine | {"slot": "3"}, set()),
                (mine | {"slot": "1", "absent": "label"}, set()),
            ):
                found = await runtime.find(labels)
                assert {status.ref.id for status in found} == expected, labels

    async def test_find_tells_state_and_labels(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        spec = self.spec(tmp_path, self.hangs(on_term=0))
        async with self.made(runtime, spec) as ref:
            status = await self.status(runtime, spec)
            assert status is not None
            assert (status.state, status.ref.id, status.ref.name) == (ContainerState.CREATED, ref.id, spec.name)
            assert status.labels.items() >= spec.labels.items()
            await runtime.start(ref)
            assert await self.state(runtime, spec) is ContainerState.RUNNING
            await runtime.stop(ref, grace=NOTHING)
            assert await self.state(runtime, spec) is ContainerState.EXITED
        assert await self.state(runtime, spec) is None

    @needs("reopen")
    async def test_find_sees_those_of_an_earlier_process(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        assert self.reopen is not None
        spec = self.spec(tmp_path, self.keeps_writing("out/data/tick"))
        async with self.running(runtime, spec), self.reopen() as second:
            status = await self.status(second, spec)
            assert status is not None
            assert (status.state, status.ref.name) == (ContainerState.RUNNING, spec.name)
            assert status.labels.items() >= spec.labels.items()
            await self.within(second.stop(status.ref, grace=NOTHING), "stop by a later process")
            await self.nothing_writes(spec.workspace / "out/data/tick")
            await self.within(second.remove(status.ref), "remove by a later process")
            assert await self.state(second, spec) is None

    @needs("outage")
    async def test_errors_of_the_backend_become_ours(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        assert self.outage is not None
        spec = self.spec(tmp_path, self.exits_with(0))
        async with self.outage(runtime):
            with refused(IonError):
                await self.within(runtime.create(spec), "create during an outage")
