"""An entry that cannot be removed, such as an immutable or a foreign file: it is set aside, and work goes on."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from ion_core.contracts.messaging import RetryPolicy
from ion_core.embedded.local.blobs import open_local_blobs
from ion_core.embedded.process.notes import ContainerNotes
from ion_core.embedded.settings import LocalBlobsSettings
from ion_core.handler.given import GivenWorkspace
from ion_core.handler.workspace import Workspace
from ion_core.jobs import Verdict
from ion_core.rehearsal import scratch
from ion_core.state import State
from tests.acceptance.pipeline import Pipeline
from tests.support.worlds import World, does, messages

STAYS = "stays"
"""What no test can remove while the fixture of that name holds."""


@pytest.fixture
def stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel has it for an immutable file."""
    _refuse(monkeypatch)


def _refuse(patched: pytest.MonkeyPatch) -> None:
    unlink: Callable[..., None] = os.unlink

    def refuse(path: str, **more: int | None) -> None:
        if Path(path).name == STAYS:
            raise PermissionError(errno.EPERM, "Operation not permitted", path)
        unlink(path, **more)

    patched.setattr(os, "unlink", refuse)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def left_by_a_crash(world: World) -> Workspace:
    workspace = Workspace.make(world.workspaces, "ion-worker-1")
    (workspace.out / "data" / "deep" / "deeper").mkdir(parents=True)
    for name in (STAYS, "goes"):
        (workspace.out / "data" / "deep" / "deeper" / name).write_text("kept")
    (workspace.out / "data" / "large").write_text("gone")
    return workspace


def set_aside(world: World) -> list[Path]:
    return sorted((world.work / "aside").iterdir())


@pytest.mark.usefixtures("stays")
async def test_a_workspace_that_cannot_be_removed_does_not_keep_the_next_dispatcher_from_serving(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    left_by_a_crash(world)
    world.add(does(lambda workspace: None))
    await world.publish()
    await world.run()

    assert world.observed.verdicts == [Verdict.COMMITTED]
    assert world.left_behind() == [], "nothing of it is in the way of other workspaces"
    [aside] = set_aside(world)
    [said] = [it for it in messages(caplog) if "set aside" in it]
    assert str(aside) in said
    assert STAYS in said, "it says what did not go"
    assert "not permitted" in said


@pytest.mark.usefixtures("stays")
async def test_all_else_of_it_is_removed(world: World) -> None:
    left_by_a_crash(world)
    await world.run()
    [aside] = set_aside(world)
    assert [path.name for path in aside.rglob("*") if path.is_file()] == [STAYS]


async def test_what_was_set_aside_is_gone_at_the_start_after_it_can_be_removed(world: World) -> None:
    left_by_a_crash(world)
    with pytest.MonkeyPatch.context() as patched:
        _refuse(patched)
        await world.run()
        await world.run()  # it is tried again, and is still in nobody's way
    assert len(set_aside(world)) == 1
    await world.run()
    assert set_aside(world) == []


@pytest.mark.usefixtures("stays")
async def test_a_workspace_is_set_aside_as_soon_as_its_job_is_over(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def leave(workspace: Path) -> None:
        (workspace / "out" / STAYS).mkdir()
        (workspace / "out" / STAYS / STAYS).write_text("")

    world.add(does(leave))
    await world.publish()
    await world.run()
    assert world.observed.verdicts == [Verdict.COMMITTED]
    assert len(set_aside(world)) == 1
    assert any("set aside" in said for said in messages(caplog))


@pytest.mark.usefixtures("stays")
async def test_a_kept_workspace_that_cannot_be_removed_does_not_stop_those_after_it_from_being_kept(
    world: World,
) -> None:
    async def fails(workspace: Path, env: object) -> int:
        if not world.observed.finished:
            (workspace / "out" / "data" / STAYS).write_text("")
        return 3

    world.add(fails, keep_failed=1, retry=RetryPolicy(retries=2, initial=timedelta(0)))
    await world.publish()
    await world.run()
    kept = list((world.work / "failed" / "worker").iterdir())
    assert [path.name.split("-")[-2] for path in kept] == ["3"], "the newest attempt's, and no other"
    assert len(set_aside(world)) == 1


@pytest.mark.usefixtures("stays")
async def test_kept_workspaces_of_other_modules_are_trimmed_though_one_cannot_be_removed(world: World) -> None:
    for module in ("a", "b"):
        (world.work / "failed" / module).mkdir(parents=True)
        workspace = Workspace.make(world.work / "failed" / module, "1")
        (workspace.out / "data" / (STAYS if module == "a" else "goes")).write_text("")
    await world.run()
    assert list((world.work / "failed").iterdir()) == []


@pytest.mark.usefixtures("stays")
async def test_what_a_rehearsal_cannot_remove_does_not_end_the_next_one(world: World, tmp_path: Path) -> None:
    state = State.open(tmp_path / "state")
    for _ in range(2):
        async with scratch(state, "default", world.runtime) as place:
            (place.work / STAYS).write_text("")
    assert list((state.path / "rehearsals").iterdir()) == []
    assert len(list((state.path / "aside").iterdir())) == 2


@pytest.mark.usefixtures("stays")
async def test_what_stays_of_an_earlier_prepare_does_not_end_the_next_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = GivenWorkspace(tmp_path / "ion")
    for _ in range(3):
        given.clear()
        assert list(given.in_data.iterdir()) == []
        (given.in_data / STAYS).write_text("")
    assert any(STAYS in said for said in messages(caplog))


def test_an_old_note_that_cannot_be_removed_does_not_keep_the_process_runtime_from_opening(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".spare-1").mkdir()
    (tmp_path / ".spare-2").touch()
    ContainerNotes(tmp_path).sweep(older=(tmp_path / ".spare-2").stat().st_mtime + 1)
    assert [path.name for path in tmp_path.iterdir()] == [".spare-1"]
    assert any(".spare-1" in said for said in messages(caplog))


def test_a_link_to_a_directory_among_the_workspaces_is_not_followed(world: World, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    (world.workspaces / "link").symlink_to(outside)
    Workspace(world.workspaces / "link").remove()
    assert (outside / "file").read_text() == "precious"
    assert list(world.workspaces.iterdir()) == []


@pytest.fixture
def immutable(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Makes a file so for as long as the test runs; skips where that is not ours to do."""
    made: list[Path] = []

    def make(path: Path) -> None:
        if subprocess.run(["chattr", "+i", path], capture_output=True, check=False).returncode:
            pytest.skip("no file can be made immutable here")
        made.append(path)

    yield make
    for name in {path.name for path in made}:
        for left in tmp_path.rglob(name):
            subprocess.run(["chattr", "-i", left], check=True)


def test_serve_goes_on_beside_an_immutable_file(tmp_path: Path, immutable: Callable[[Path], None]) -> None:
    pipeline = Pipeline.make(tmp_path / "home")
    workspace = Workspace.make(_work(pipeline), "ion-split-1")
    (workspace.out / "data" / "immutable").write_text("")
    immutable(workspace.out / "data" / "immutable")
    pipeline.publish("whole.received", files=1)
    served = pipeline.ion("serve", "--until-idle")
    assert "set aside" in served.stderr
    assert pipeline.runs() == {"split": 1, "join": 3}


async def test_an_immutable_output_is_stored_as_a_copy(tmp_path: Path, immutable: Callable[[Path], None]) -> None:
    (tmp_path / "output").write_text("kept")
    immutable(tmp_path / "output")
    assert await stored(tmp_path, tmp_path / "output") == "kept"


async def test_an_output_in_a_directory_that_may_not_be_written_to_is_stored_as_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For root there is no such directory, so that it is rename that refuses here."""
    output = tmp_path / "output"
    output.write_text("kept")
    rename: Callable[[str, str], None] = os.rename

    def refuse(source: str, target: str) -> None:
        if source == str(output):
            raise PermissionError(errno.EACCES, "Permission denied", source)
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    assert await stored(tmp_path, output) == "kept"


async def stored(home: Path, output: Path) -> str:
    """The content under which a store has an output that was given to it."""
    async with open_local_blobs(LocalBlobsSettings(path=home / "blobs")) as blobs:
        await blobs.put("flow/event/module/output", output, consume=True)
        await blobs.get("flow/event/module/output", home / "fetched")
    return (home / "fetched").read_text()


def _work(pipeline: Pipeline) -> Path:
    work = pipeline.state / "work"
    work.mkdir(parents=True)
    return work
