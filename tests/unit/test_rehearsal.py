"""One step outside of the dispatcher: run as there, and nothing of it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from ion_core.errors import BlobNotFound, ImageUnavailable, ModuleFailed, OutputRefused
from ion_core.events import Event
from ion_core.modules import Module
from ion_core.rehearsal import Rehearsal, rehearse
from tests.support.calls import call
from tests.support.worlds import Scene, World, does, emit, exits, say


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def rehearsed(world: World, module: Module, event: Event, said: list[str] | None = None) -> Rehearsal:
    async with rehearse(
        module,
        event,
        dataplane=world.dataplane,
        runtime=world.runtime,
        work=world.workspaces,
        mark="here",
        said=([] if said is None else said).append,
        grace=timedelta(0),
    ) as rehearsal:
        assert rehearsal.workspace.root.is_dir()
    assert world.left_behind() == []
    return rehearsal


def leave(workspace: Path) -> None:
    (workspace / "out/data/file").write_text("made")
    (workspace / "out/insights.json").write_text('[{"key": "n", "value": "1"}]')
    emit(workspace, "out", ("is", "made"), files="file")
    say("left")


async def test_it_is_what_the_dispatcher_would_commit(world: World) -> None:
    module = world.add(does(leave))
    event = await world.publish(files={"input": b"in"})
    before = (dict(world.documents.documents), dict(world.blobs.blobs), len(world.observed.published))
    said: list[str] = []
    rehearsal = await rehearsed(world, module, event, said)
    assert (dict(world.documents.documents), dict(world.blobs.blobs), len(world.observed.published)) == before
    assert (rehearsal.failure, said, rehearsal.lines) == (None, ["left"], ["left"])
    await world.run()
    [commit] = world.commits
    assert [(it.name, it.size, it.sha256) for it in commit.files] == [
        (it.name, it.size, it.sha256) for it in rehearsal.files
    ]
    assert (commit.insights, commit.events) == (rehearsal.insights, rehearsal.events)


async def test_a_module_that_calls_its_handler_is_answered(world: World) -> None:
    answers: list[tuple[int, str]] = []

    async def calls(workspace: Path, env: Mapping[str, str]) -> int:
        answers.append(await call(env, "/ready"))
        leave(workspace)
        answers.append(await call(env, "/done"))
        (workspace / "out/data/late").write_text("too late")
        answers.append(await call(env, "/ready"))
        return 0

    module = world.add(calls, reuse=True, warm=3)
    rehearsal = await rehearsed(world, module, await world.publish())
    assert [status for status, _ in answers] == [200, 200, 400]
    assert [file.name for file in rehearsal.files] == ["file"]
    assert rehearsal.failure is None
    assert world.commits == []


@pytest.mark.parametrize(
    ("program", "error", "said"),
    [
        (exits(3), ModuleFailed, "exit code 3"),
        (does(lambda workspace: emit(workspace, "undeclared")), OutputRefused, "undeclared"),
        (Scene(), ModuleFailed, "timed out after 0.05 s"),
    ],
)
async def test_failing_is_a_result(world: World, program: object, error: type[Exception], said: str) -> None:
    module = world.add(program, timeout=timedelta(seconds=0.05))  # type: ignore[arg-type]
    rehearsal = await rehearsed(world, module, await world.publish())
    assert isinstance(rehearsal.failure, error)
    assert said in str(rehearsal.failure)
    assert (rehearsal.files, rehearsal.insights, rehearsal.events) == ((), (), ())


async def test_what_kept_it_from_running_is_an_error(world: World) -> None:
    module = world.add(exits(0))
    event = await world.publish(files={"input": b"in"})
    world.blobs.blobs.clear()
    with pytest.raises(BlobNotFound):
        await rehearsed(world, module, event)
    assert world.left_behind() == []
    del world.programs["worker"]
    with pytest.raises(ImageUnavailable):
        await rehearsed(world, module, await world.publish())
    assert world.left_behind() == []
