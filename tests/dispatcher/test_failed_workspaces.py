"""Workspaces of failed attempts are kept to be looked at: bounded, and no part of any job."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from ion_core.contracts.messaging import RetryPolicy
from ion_core.handler import failed
from ion_core.handler.failed import FailedWorkspaces, home_in
from ion_core.jobs import Verdict
from tests.support.worlds import Scene, World, attempt, does, emit, exits

NO_RETRY = RetryPolicy(retries=0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def kept(world: World, module: str = "worker") -> list[Path]:
    base = world.work / "failed" / module
    return sorted(base.iterdir()) if base.exists() else []


def logs(world: World) -> list[str]:
    return [body["logs"] for body in world.logs.values()]


def leaves(code: int):  # type: ignore[no-untyped-def]
    async def program(workspace: Path, env: object) -> int:
        (workspace / "out" / "data" / "half").write_text("done so far")
        return code

    return program


async def test_the_workspace_of_a_failed_attempt_is_kept_as_it_was_left(world: World) -> None:
    world.add(leaves(3), retry=RetryPolicy(retries=1, initial=timedelta(0)))
    event = await world.publish(files={"note.txt": b"remember"})
    await world.run()
    first, second = kept(world)
    for home in (first, second):
        assert (home / "ion" / "in" / "data" / "note.txt").read_bytes() == b"remember"
        assert (home / "ion" / "out" / "data" / "half").read_text() == "done so far"
    note = json.loads((second / "attempt.json").read_text())
    assert (note["module"], note["eventId"], note["attempt"]) == ("worker", event.context.event_id, 2)
    assert note["reason"] == "exit code 3"
    assert [
        f"workspace kept in {home}, until 3 newer ones of worker are" in log
        for home, log in zip((first, second), logs(world), strict=True)
    ] == [
        True,
        True,
    ]
    assert world.left_behind() == [], "it is no leftover"


async def test_an_attempt_whose_output_is_refused_is_kept_too(world: World) -> None:
    world.add(does(lambda workspace: emit(workspace, "undeclared")))
    await world.publish()
    await world.run()
    [home] = kept(world)
    assert (home / "ion" / "out" / "events" / "0.json").exists()


async def test_what_committed_or_was_released_is_not_kept(world: World) -> None:
    world.add(exits(0))
    await world.publish()
    await world.run()
    assert kept(world) == []

    scene = world.programs["worker"] = Scene()
    await world.publish()
    async with world.serving() as serving:
        await scene.until(1)
        serving.stop.set()
        serving.hurry.set()
        await serving.ended()
    assert world.observed.verdicts == [Verdict.COMMITTED, Verdict.RELEASED]
    assert kept(world) == []


async def test_the_oldest_goes_when_there_is_one_too_many(world: World) -> None:
    world.add(leaves(3), retry=NO_RETRY, keep_failed=2)
    for _ in range(4):
        await world.publish()
        await world.run()
    events = [json.loads((home / "attempt.json").read_text())["eventId"] for home in kept(world)]
    assert events == [started.job.event.context.event_id for started in world.observed.started[-2:]]


async def test_none_is_kept_where_none_is_wanted(world: World) -> None:
    world.add(leaves(3), retry=NO_RETRY, keep_failed=0)
    await world.publish()
    await world.run()
    assert not (world.work / "failed").exists()
    assert "kept" not in logs(world)[0]


async def test_at_the_start_those_that_are_too_many_by_now_go(world: World) -> None:
    world.add(leaves(3), "worker", retry=NO_RETRY)
    world.add(leaves(3), "other", retry=NO_RETRY)
    for _ in range(2):
        await world.publish()
    await world.run()
    assert (len(kept(world)), len(kept(world, "other"))) == (2, 2)
    newest = kept(world)[-1]
    world.modules[:] = []
    world.add(leaves(3), "worker", keep_failed=1)
    await world.run()
    assert kept(world) == [newest]
    assert not (world.work / "failed" / "other").exists()


@pytest.mark.parametrize(
    ("limit", "value", "said"),
    [
        ("MOST_ENTRIES", 3, "workspace not kept: it has more than"),
        ("MOST_BYTES", 4096, "workspace not kept: it has more than"),
        ("LEAST_FREE", 2.0, "workspace not kept: little space is left"),
    ],
)
async def test_what_would_take_too_much_space_is_not_kept(
    world: World, monkeypatch: pytest.MonkeyPatch, limit: str, value: float, said: str
) -> None:
    monkeypatch.setattr(failed, limit, value)
    world.add(leaves(3), retry=NO_RETRY)
    await world.publish()
    await world.run()
    assert kept(world) == []
    assert said in logs(world)[0]
    assert world.left_behind() == []


async def test_where_little_space_is_left_those_that_are_kept_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add(leaves(3), retry=NO_RETRY)
    await world.publish()
    await world.run()
    assert len(kept(world)) == 1
    monkeypatch.setattr(failed, "LEAST_FREE", 2.0)
    await world.publish()
    await world.run()
    assert kept(world) == []


async def test_whatever_a_module_made_of_it_it_goes_in_the_end(world: World) -> None:
    def strange(workspace: Path) -> None:
        os.mkfifo(workspace / "out" / "data" / "pipe")
        (workspace / "out" / "data" / "link").symlink_to("/etc")
        closed = workspace / "out" / "data" / "closed"
        closed.mkdir()
        closed.chmod(0)

    world.add(does(strange), retry=NO_RETRY, keep_failed=1)
    await world.publish()
    await world.run()
    [first] = kept(world)
    await world.publish()
    await world.run()
    [second] = kept(world)
    assert first != second


async def test_a_place_that_cannot_be_written_is_said_and_changes_nothing(world: World) -> None:
    (world.work / "failed").write_text("in the way")
    world.add(leaves(3), retry=NO_RETRY)
    await world.publish()
    await world.run()
    assert world.observed.verdicts == [Verdict.DEAD_LETTERED]
    assert "workspace not kept: Not a directory" in logs(world)[0]
    assert world.left_behind() == []


async def test_ids_of_any_length_and_alphabet_become_a_name(world: World) -> None:
    world.add(leaves(3))
    workspace = await world.handler.open_workspace("job")
    odd = "../" + "ü\n" * 300
    keeping = FailedWorkspaces(world.work / "failed")
    said = await keeping.keep(workspace, attempt(odd), "because", most=1)
    home = home_in(said)
    assert home is not None
    assert home.parent == world.work / "failed" / "worker"
    [found] = keeping.all(odd)
    assert (found.workspace.home, found.reason, found.attempt) == (home, "because", 1)


async def test_inputs_that_are_links_to_stored_files_become_our_own(world: World) -> None:
    stored = world.inputs / "stored"
    stored.write_text("as it was stored")
    workspace = await world.handler.open_workspace("job")
    linked = workspace.in_data / "deep" / "input"
    linked.parent.mkdir()
    linked.hardlink_to(stored)
    failed.own_inputs(workspace)
    linked.write_text("changed while looking")
    assert stored.read_text() == "as it was stored"
    assert [path.name for path in linked.parent.iterdir()] == ["input"]
