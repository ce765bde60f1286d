"""A file with holes keeps them on its way from module to module, and one that may be executed still may."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from ion_core.commits import Commit
from ion_core.contracts.storage import BlobStore
from ion_core.development.blobs import PlaceBlobs
from ion_core.development.layout import Layout
from ion_core.embedded.local.blobs import open_local_blobs
from ion_core.embedded.memory.blobs import open_memory_blobs
from ion_core.embedded.settings import LocalBlobsSettings
from ion_core.handler import Workspace
from ion_core.handler.live import snapshot
from ion_core.jobs import Attempt, Job
from ion_core.modules import Module
from ion_fsspec_storage.blobs import open_fsspec_blobs
from ion_fsspec_storage.settings import FsspecBlobsSettings
from tests.acceptance.pipeline import Pipeline
from tests.support.worlds import World, attempt, does, emit

SIZE = 32 << 20
Opening = Callable[[Path], AbstractAsyncContextManager[BlobStore]]
STORES: dict[str, Opening] = {
    "local": lambda path: open_local_blobs(LocalBlobsSettings(path=path)),
    "fsspec": lambda path: open_fsspec_blobs(FsspecBlobsSettings.model_validate({"url": f"file://{path}"})),
}


@pytest.fixture(params=["begins with one", "ends with one", "nothing else"])
def holes(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file that is nearly all holes."""
    path = tmp_path / "holes"
    with path.open("wb") as file:
        file.truncate(SIZE)
        if request.param == "begins with one":
            os.pwrite(file.fileno(), b"end", SIZE - 3)
        elif request.param == "ends with one":
            os.pwrite(file.fileno(), b"begin", 0)
            os.pwrite(file.fileno(), b"middle", SIZE // 2 + 1)
    if on_disk(path) > SIZE // 4:
        pytest.skip("this file system has no holes")
    return path


def on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512


def assert_the_same(path: Path, holes: Path) -> None:
    assert path.read_bytes() == holes.read_bytes()
    assert on_disk(path) <= SIZE // 4


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("store", STORES)
async def test_holes_stay_holes_through_a_store(store: str, link: bool, holes: Path, tmp_path: Path) -> None:
    async with STORES[store](tmp_path / "store") as blobs:
        info = await blobs.put("a/b", holes)
        await blobs.get("a/b", tmp_path / "target", expect=info, link=link)
    assert_the_same(tmp_path / "target", holes)
    stored = [path for path in (tmp_path / "store").rglob("*") if path.is_file() and path.stat().st_size == SIZE]
    assert [on_disk(path) <= SIZE // 4 for path in stored] == [True]


async def test_holes_stay_holes_in_a_development_directory(holes: Path, tmp_path: Path) -> None:
    place = Layout(tmp_path / ".dev").place_for("e", "")
    place.make()
    blobs = PlaceBlobs(place)
    await blobs.put("_blobs/a", holes)
    await blobs.get("_blobs/a", tmp_path / "target")
    assert_the_same(tmp_path / "target", holes)


def test_holes_stay_holes_in_what_a_running_module_commits(holes: Path, tmp_path: Path) -> None:
    running, copy = Workspace.make(tmp_path, "running"), Workspace.make(tmp_path, "copy")
    holes.rename(running.out / "data" / "a")
    snapshot(running, copy, Module(name="m"))
    assert_the_same(copy.out / "data" / "a", running.out / "data" / "a")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


STORES_OF_ALL_KINDS: dict[str, Opening] = {**STORES, "memory": lambda path: open_memory_blobs()}


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("given", [0o700, 0o744, 0o755, 0o600, 0o644, 0o655])
@pytest.mark.parametrize("store", STORES_OF_ALL_KINDS)
async def test_what_a_module_could_execute_the_next_one_can(store: str, given: int, link: bool, tmp_path: Path) -> None:
    world = World(tmp_path)
    worker = world.add(does(lambda workspace: None))
    async with STORES_OF_ALL_KINDS[store](tmp_path / "store") as world.blobs:  # type: ignore[assignment]
        first = await world.handler.open_workspace("first")
        for name in ("tool", "notes/plain"):
            (first.out / "data" / name).parent.mkdir(exist_ok=True)
            (first.out / "data" / name).write_text("#!/bin/sh\n")
        (first.out / "data" / "tool").chmod(given)
        (first.out / "data" / "notes" / "plain").chmod(0o644)
        emit(first.root, "out", files="tool,notes/plain")
        done = await world.handler.commit(attempt(), worker, first, image=None, started_at="")
        for document in done.commit.documents():
            await world.documents.put(document)
        second = await world.handler.open_workspace("second")
        job = Job(event=done.commit.events[0], module="worker")
        await world.handler.prepare(Attempt(job=job, number=1), second, link=link)
        assert bool(mode(second.in_data / "tool") & 0o111) == bool(given & 0o100)
        assert mode(second.in_data / "tool") & 0o444 == 0o444
        assert mode(second.in_data / "notes" / "plain") & 0o111 == 0
    assert Commit.from_document(done.commit.to_document()) == done.commit
    said = {item["name"]: item.get("executable") for item in done.commit.to_document().body["outputs"]}
    assert said == {"tool": True if given & 0o100 else None, "notes/plain": None}


async def test_executing_what_is_given_changes_no_stored_file(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add(does(lambda workspace: None))
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    async with STORES["local"](tmp_path / "store") as world.blobs:  # type: ignore[assignment]
        (blob,) = await _publish_and_prepare(world, tmp_path)
        assert mode(blob) == 0o444


async def _publish_and_prepare(world: World, tmp_path: Path) -> list[Path]:
    from ion_core.intake import Intake

    intake = Intake(world.dataplane, world.modules)
    await intake.declare()
    event = await intake.publish("in", name="test", files={"tool": tmp_path / "tool"})
    workspace = await world.handler.open_workspace("job")
    await world.handler.prepare(Attempt(job=Job(event=event, module="worker"), number=1), workspace, link=True)
    assert mode(workspace.in_data / "tool") == 0o755
    return [path for path in (tmp_path / "store" / "files").rglob("*") if path.is_file()]


def test_a_running_modules_programs_are_committed_as_such(tmp_path: Path) -> None:
    running, copy = Workspace.make(tmp_path, "running"), Workspace.make(tmp_path, "copy")
    for name, given in (("tool", 0o755), ("plain", 0o644)):
        (running.out / "data" / name).write_text("x")
        (running.out / "data" / name).chmod(given)
    snapshot(running, copy, Module(name="m"))
    assert mode(copy.out / "data" / "tool") & 0o100
    assert not mode(copy.out / "data" / "plain") & 0o111


CONFIG = """
modules:
  makes:
    command: [sh, makes.sh]
    source: modules
    subscribes: [start]
    publishes: [made]
  uses:
    command: [sh, uses.sh]
    source: modules
    subscribes: [made]
"""
MAKES = """
printf '#!/bin/sh\\necho executed\\n' > "$HANDLER_BASE_DIR/out/data/tool"
chmod +x "$HANDLER_BASE_DIR/out/data/tool"
printf '[{"key":"eventType","value":"made"},{"key":"files","value":"tool"}]' > "$HANDLER_BASE_DIR/out/events/0"
"""
USES = '"$HANDLER_BASE_DIR/in/data/tool" > "$HANDLER_BASE_DIR/out/data/said"'


def test_a_program_is_taken_from_module_to_module_and_out_of_a_recorded_case(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "home", config=CONFIG, modules={"makes": MAKES, "uses": USES})
    flow = json.loads(pipeline.ion("event", "publish", "start", "--json").stdout)["context"]["correlationId"]
    pipeline.ion("serve", "--until-idle")
    documents = json.loads(pipeline.ion("trace", "flow", flow, "--json").stdout)
    made = next(it["id"] for it in documents if it["context"]["documentType"] == "eventMeta" and it["type"] == "made")
    pipeline.ion("module", "record", made, "--module", "uses", "--name", "one")
    assert mode(pipeline.home / "cases" / "uses" / "one" / "in" / "data" / "tool") == 0o755
    pipeline.ion("module", "test", "uses")
