"""A FIFO, a link or a directory where a file of ours should be: nothing waits for it, nothing follows it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ion_core.development.layout import Layout, Place
from ion_core.dispatcher.health import write_probe
from ion_core.embedded.process.notes import ContainerNote, ContainerNotes
from ion_core.embedded.programs.table import ProcessId
from ion_core.errors import IonError, StateError
from ion_core.handler.failed import FailedWorkspaces
from ion_core.handler.workspace import Workspace
from ion_core.jobs import Attempt, Job, Verdict
from ion_core.state import State
from tests.acceptance.pipeline import Pipeline
from tests.support.worlds import World, attempt, does

Put = Callable[[Path], None]


def fifo(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    elsewhere.write_text("0123456789abcdef")
    path.symlink_to(elsewhere)


def directory(path: Path) -> None:
    path.mkdir()


put = pytest.mark.parametrize("put", [fifo, endless, link, directory])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@put
async def test_a_note_of_an_earlier_life_that_is_no_file_does_not_hold_the_dispatcher(world: World, put: Put) -> None:
    put(Workspace.make(world.workspaces, "ion-worker-1").home / "job.json")
    world.add(does(lambda workspace: None))
    await world.publish()
    await world.run()
    assert world.observed.verdicts == [Verdict.COMMITTED]
    assert [name for name in world.left_behind() if name != "elsewhere"] == []


@put
def test_the_id_of_a_state_directory_is_a_file_or_an_error(tmp_path: Path, put: Put) -> None:
    state = State.open(tmp_path / "state")
    put(state.path / "id")
    with pytest.raises(StateError, match=str(state.path / "id")):
        state.id()


@put
def test_the_lock_of_a_state_directory_is_a_file_or_an_error(tmp_path: Path, put: Put) -> None:
    state = State.open(tmp_path / "state")
    put(state.path / "serve.lock")
    with pytest.raises(StateError, match=str(state.path / "serve.lock")), state.locked():
        pass


@put
def test_the_place_of_workspaces_is_a_directory_or_an_error(tmp_path: Path, put: Put) -> None:
    if put is directory:
        return
    state = State.open(tmp_path / "state")
    put(state.work)
    with pytest.raises(StateError, match=str(state.work)), state.locked():
        pass


def test_what_a_link_in_a_state_directory_points_to_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / ".gitignore").symlink_to(tmp_path / "made")
    State.open(tmp_path / "state")
    assert not (tmp_path / "made").exists()


@put
def test_a_note_of_the_process_runtime_that_is_no_file_is_none(tmp_path: Path, put: Put) -> None:
    notes = ContainerNotes(tmp_path / "run")
    (tmp_path / "run").mkdir()
    put(tmp_path / "run" / "one.spec")
    (tmp_path / "run" / "two.process").symlink_to("one.spec")
    assert notes.read("one") is None
    assert list(notes.all()) == []
    assert notes.process("two") is None


@put
def test_the_note_of_a_process_is_not_written_to_what_is_no_file(tmp_path: Path, put: Put) -> None:
    (tmp_path / "run").mkdir()
    notes = ContainerNotes(tmp_path / "run")
    note = ContainerNote(id="1", name="one", labels={}, command=(), workspace="", isolation="none")
    notes.add(note)
    put(tmp_path / "run" / "one.process")
    with pytest.raises(OSError, match=r"regular file|symbolic link|directory"):
        notes.started("one", ProcessId(pid=1, started="1", boot=""))


@put
async def test_what_a_kept_workspace_has_for_a_note_is_read_only_if_it_is_a_file(world: World, put: Put) -> None:
    kept = world.work / "failed" / "worker" / "1"
    kept.mkdir(parents=True)
    put(kept / "attempt.json")
    assert FailedWorkspaces(world.work / "failed").all("e1") == []


@put
async def test_a_module_cannot_have_the_note_of_its_kept_workspace_written_elsewhere(world: World, put: Put) -> None:
    workspace = Workspace.make(world.workspaces, "ion-worker-1")
    put(workspace.home / "attempt.json")
    await FailedWorkspaces(world.work / "failed").keep(workspace, attempt(), "it failed", most=1)
    elsewhere = world.workspaces / "elsewhere"
    assert not elsewhere.exists() or elsewhere.read_text() == "0123456789abcdef"


@put
def test_a_document_of_a_development_directory_is_a_file_or_an_error(tmp_path: Path, put: Put) -> None:
    place = Place(tmp_path / "dev" / "1")
    place.path.mkdir(parents=True)
    put(place.path / "_job.json")
    with pytest.raises(IonError, match=r"_job\.json"):
        place.read("_job.json")


@put
def test_what_is_selected_in_a_development_directory_is_a_file_or_an_error(tmp_path: Path, put: Put) -> None:
    (tmp_path / "dev").mkdir()
    put(tmp_path / "dev" / "_selected.json")
    with pytest.raises(IonError, match=r"_selected\.json"):
        _ = Layout(tmp_path / "dev").selected


@put
def test_the_probe_for_space_waits_for_nothing(tmp_path: Path, put: Put) -> None:
    (tmp_path / "work").mkdir()
    put(tmp_path / "work" / f".probe-{os.getpid()}")
    write_probe(tmp_path / "work")
    elsewhere = tmp_path / "elsewhere"
    assert not elsewhere.exists() or elsewhere.read_text() == "0123456789abcdef"


async def test_a_module_that_goes_on_cannot_hold_its_handler_by_what_it_puts_in_the_place_of_its_pairs(
    world: World,
) -> None:
    workspace = Workspace.make(world.workspaces, "ion-worker-1")
    os.mkfifo(workspace.eventmeta)
    world.add(does(lambda workspace: None))
    event = await world.publish(data=[("a", "b")])
    await world.handler.prepare(Attempt(job=Job(event=event, module="worker"), number=1), workspace, link=False)
    assert b'"a"' in workspace.eventmeta.read_bytes()


@pytest.mark.parametrize("place", ["id", "work/ion-1/job.json", "run/ion-1.spec", "failed/split/1/attempt.json"])
def test_serve_starts_and_ends_beside_a_fifo(tmp_path: Path, place: str) -> None:
    pipeline = Pipeline.make(tmp_path / "home")
    (pipeline.state / place).parent.mkdir(parents=True)
    os.mkfifo(pipeline.state / place)
    with pipeline.serving() as served:
        if place != "id":
            served.until("INFO serving")
            served.send(signal.SIGTERM)
        assert served.ended() == (78 if place == "id" else 143)
