"""Modules that call their handler: ``/ready``, ``/done``, and one event after the other in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from ion_core.embedded.memory.runtime import Program
from ion_core.jobs import Verdict
from tests.support.calls import call
from tests.support.worlds import Serving, World, does, emit, eventually, say


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def leave(workspace: Path, content: str = "made") -> None:
    (workspace / "out/data/file").write_text(content)
    emit(workspace, "out", ("is", content), files="file")


def files_in(workspace: Path) -> list[str]:
    return sorted(path.name for path in workspace.rglob("*") if not path.is_dir())


class Calling:
    """A module of the predecessor: ready, work, done. ``answers`` is what it was told."""

    def __init__(self, *, then: int = 0, rounds: int = 1) -> None:
        self.answers: list[tuple[str, int, str]] = []
        self.started = 0
        self.seen: list[list[str]] = []
        self._then = then
        self._rounds = rounds

    async def __call__(self, workspace: Path, env: Mapping[str, str]) -> int:
        self.started += 1
        for _ in range(self._rounds):
            if await self.ask(env, "/ready") != 200:
                return 0
            self.seen.append(files_in(workspace))
            say(f"round {len(self.seen)}")
            leave(workspace, f"made {len(self.seen)}")
            (workspace / "out/data/deep/er").mkdir(parents=True)
            await self.ask(env, "/done")
        return self._then

    async def ask(self, env: Mapping[str, str], path: str) -> int:
        status, message = await call(env, path)
        self.answers.append((path, status, message))
        return status


async def test_done_commits_while_the_module_runs(world: World) -> None:
    module = Calling()
    world.add(module)
    event = await world.publish(files={"input": b"in"})
    await world.run()
    assert module.answers == [("/ready", 200, ""), ("/done", 200, "")]
    [commit] = world.commits
    assert [file.name for file in commit.files] == ["file"]
    assert world.observed.verdicts == [Verdict.COMMITTED]
    assert "round 1" in world.log_of(event)["logs"]
    assert world.left_behind() == []


async def test_what_it_leaves_after_done_is_not_committed(world: World) -> None:
    async def module(workspace: Path, env: Mapping[str, str]) -> int:
        await call(env, "/ready")
        leave(workspace)
        await call(env, "/done")
        (workspace / "out/data/file").write_text("changed afterwards")
        (workspace / "out/data/late").write_text("too late")
        return 0

    world.add(module)
    await world.publish()
    await world.run()
    [commit] = world.commits
    assert [(file.name, file.size) for file in commit.files] == [("file", len("made"))]
    assert world.blobs.blobs[commit.files[0].key] == b"made"


async def test_a_module_that_fails_after_done_has_committed(world: World) -> None:
    module = Calling(then=3)
    world.add(module)
    event = await world.publish()
    await world.run()
    assert world.observed.verdicts == [Verdict.COMMITTED]
    assert len(world.commits) == 1
    assert "exit code 3" in world.log_of(event)["logs"]


async def test_a_module_that_hangs_after_done_is_ended_by_its_timeout(world: World) -> None:
    async def module(workspace: Path, env: Mapping[str, str]) -> int:
        await call(env, "/ready")
        await call(env, "/done")
        await asyncio.Event().wait()
        return 0

    world.add(module, timeout=timedelta(seconds=0.3))
    await world.publish()
    await world.run()
    assert world.observed.verdicts == [Verdict.COMMITTED]
    assert world.left_behind() == []


async def test_ready_without_done_is_committed_at_the_end(world: World) -> None:
    async def module(workspace: Path, env: Mapping[str, str]) -> int:
        assert await call(env, "/ready") == (200, "")
        leave(workspace)
        return 0

    world.add(module)
    await world.publish()
    await world.run()
    assert [file.name for file in world.commits[0].files] == ["file"]


async def test_what_is_refused_is_told_and_can_be_mended(world: World) -> None:
    answers = []

    async def module(workspace: Path, env: Mapping[str, str]) -> int:
        await call(env, "/ready")
        (workspace / "out/data/link").symlink_to("/etc/passwd")
        answers.append(await call(env, "/done"))
        (workspace / "out/data/link").unlink()
        emit(workspace, "undeclared")
        answers.append(await call(env, "/done"))
        (workspace / "out/events/0.json").unlink()
        leave(workspace)
        answers.append(await call(env, "/done"))
        return 0

    world.add(module)
    await world.publish()
    await world.run()
    assert [status for status, _ in answers] == [500, 500, 200]
    assert "out/data/link: is a symbolic link" in answers[0][1]
    assert "undeclared" in answers[1][1]
    assert len(world.commits) == 1


async def test_done_in_the_wrong_state_commits_nothing(world: World) -> None:
    answers = []

    async def module(workspace: Path, env: Mapping[str, str]) -> int:
        leave(workspace)
        answers.append(await call(env, "/done"))
        return 1

    world.add(module)
    await world.publish()
    await world.run()
    assert {status for status, _ in answers} == {400}
    assert world.commits == []
    assert world.blobs.blobs == {}


async def test_another_job_s_secret_is_another_job_s(world: World) -> None:
    """Two modules, each with its own: nobody commits for the other."""
    secrets: dict[str, str] = {}
    both = asyncio.Event()
    answers = []

    def module(name: str, other: str) -> Program:
        async def program(workspace: Path, env: Mapping[str, str]) -> int:
            secrets[name] = env["SHARED_SECRET"]
            if len(secrets) == 2:
                both.set()
            await both.wait()
            await call(env, "/ready")
            answers.append((await call(env, "/done"))[0])
            return 0

        return program

    world.add(module("one", "two"), "one")
    world.add(module("two", "one"), "two")
    await world.publish()
    await world.run()
    assert secrets["one"] != secrets["two"]
    assert answers == [200, 200]
    assert len({commit.job_id for commit in world.commits}) == 2


# reuse: true


async def test_one_process_is_given_one_event_after_the_other(world: World) -> None:
    module = Calling(rounds=100)
    world.add(module, reuse=True)
    events = [await world.publish(files={f"input-{n}": b"x", "a/b": b"y"}) for n in range(3)]
    dispatcher = await world.run()
    assert module.started == 1
    assert dispatcher.counts()[Verdict.COMMITTED] == 3
    [slots] = dispatcher.slots()
    assert (slots.found, slots.reused, slots.made) == (0, 2, 1)
    inputs = sorted(name for seen in module.seen for name in seen if name.startswith("input"))
    assert inputs == ["input-0", "input-1", "input-2"], "each once: the workspace was cleaned in between"
    assert all({"b", "eventmeta.json"} <= set(seen) for seen in module.seen)
    assert {file.name for commit in world.commits for file in commit.files} == {"file"}
    logs = [world.log_of(event)["logs"] for event in events]
    assert sorted(line for log in logs for line in log.splitlines() if line.startswith("round")) == [
        "round 1",
        "round 2",
        "round 3",
    ]
    assert module.answers[-1] == ("/ready", 410, "this job is over")
    assert world.left_behind() == []


async def test_as_many_processes_as_run_at_once(world: World) -> None:
    module = Calling(rounds=100)
    world.add(module, reuse=True, concurrency=3)
    for _ in range(20):
        await world.publish()
    dispatcher = await world.run()
    assert dispatcher.counts()[Verdict.COMMITTED] == 20
    assert 1 <= module.started <= 3
    assert world.left_behind() == []


async def test_a_module_that_does_not_ask_again_is_started_anew(world: World) -> None:
    module = Calling(rounds=1)
    world.add(module, reuse=True)
    for _ in range(3):
        await world.publish()
    dispatcher = await world.run()
    assert (module.started, dispatcher.counts()[Verdict.COMMITTED]) == (3, 3)
    assert world.left_behind() == []


async def test_a_module_that_never_calls_is_run_for_each_event(world: World) -> None:
    world.add(does(leave), reuse=True)
    for _ in range(3):
        await world.publish()
    dispatcher = await world.run()
    assert dispatcher.counts()[Verdict.COMMITTED] == 3


async def test_a_failure_in_a_later_round_is_an_attempt_of_that_event_only(world: World) -> None:
    failed = 0

    async def module(workspace: Path, env: Mapping[str, str]) -> int:
        nonlocal failed
        while (await call(env, "/ready"))[0] == 200:
            leave(workspace)
            if len(world.commits) == 1 and not failed:
                failed += 1
                return 9
            await call(env, "/done")
        return 0

    world.add(module, reuse=True)
    for _ in range(3):
        await world.publish()
    dispatcher = await world.run()
    counts = dispatcher.counts()
    assert (counts[Verdict.COMMITTED], counts[Verdict.RETRIED]) == (3, 1)
    assert world.left_behind() == []


@pytest.mark.parametrize("answered", [True, False])
async def test_one_that_ends_without_done_has_not_handled_a_further_event(world: World, answered: bool) -> None:
    """Perhaps its connection ended with the answer to /ready."""
    started = 0

    async def module(workspace: Path, env: Mapping[str, str]) -> int:
        nonlocal started
        started += 1
        await call(env, "/ready")
        leave(workspace)
        await call(env, "/done")
        if started == 1:
            asking = asyncio.create_task(call(env, "/ready"))
            if answered:
                await asking
            else:
                await eventually(lambda: len(world.observed.started) == 2)
                asking.cancel()
        return 0

    world.add(module, reuse=True)
    for _ in range(2):
        await world.publish()
    dispatcher = await world.run()
    assert dispatcher.counts()[Verdict.COMMITTED] == 2
    assert [len(commit.files) for commit in world.commits] == [1, 1], "none without what the module makes"
    assert started == 2


async def test_a_module_that_replaces_its_directories_gets_a_new_slot(world: World) -> None:
    started = 0

    async def module(workspace: Path, env: Mapping[str, str]) -> int:
        nonlocal started
        started += 1
        while (await call(env, "/ready"))[0] == 200:
            leave(workspace)
            await call(env, "/done")
            (workspace / "out/data").rename(workspace / "out/mine")
            (workspace / "out/data").symlink_to("/etc")
        return 0

    world.add(module, reuse=True)
    for _ in range(2):
        await world.publish()
    dispatcher = await world.run()
    assert dispatcher.counts()[Verdict.COMMITTED] == 2
    assert started == 2
    assert Path("/etc/passwd").exists()  # noqa: ASYNC240


async def test_one_that_waits_is_stopped_with_the_dispatcher(world: World) -> None:
    module = Calling(rounds=100)
    world.add(module, reuse=True)
    serving: Serving
    async with world.serving() as serving:
        await world.publish()
        await world.observed.finishes(1)
        await eventually(lambda: module.answers[-1][0] == "/done")
        assert world.alive() == 1
        serving.stop.set()
        await serving.ended()
    assert world.alive() == 0
    assert world.left_behind() == []
