"""The umask of whoever starts Ion: what is made for a module is open to it all the same, and nothing to everybody."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

import pytest

from ion_core.contracts.storage import BlobStore
from ion_core.embedded.local.blobs import open_local_blobs
from ion_core.embedded.memory.blobs import open_memory_blobs
from ion_core.embedded.settings import LocalBlobsSettings
from ion_core.handler.failed import own_inputs
from ion_core.handler.given import GivenWorkspace
from ion_core.jobs import Attempt, Job
from tests.acceptance.pipeline import Pipeline
from tests.support.worlds import World, does

Opening = Callable[[Path], AbstractAsyncContextManager[BlobStore]]


def _fsspec(path: Path) -> AbstractAsyncContextManager[BlobStore]:
    from ion_fsspec_storage.blobs import open_fsspec_blobs
    from ion_fsspec_storage.settings import FsspecBlobsSettings

    return open_fsspec_blobs(FsspecBlobsSettings.model_validate({"url": f"file://{path}"}))


STORES: dict[str, Opening] = {
    "memory": lambda path: open_memory_blobs(),
    "local": lambda path: open_local_blobs(LocalBlobsSettings(path=path)),
    "fsspec": _fsspec,
}


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture(params=[0o027, 0o077])
def strict(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of somebody who keeps others out."""
    with umask(request.param):
        yield


def closed(root: Path) -> dict[str, str]:
    """What a user who is neither owner nor of the group cannot read, or enter, below ``root``."""
    found = {}
    for path in (root, *root.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        needed = 0o005 if path.is_dir() else 0o004
        if mode & needed != needed:
            found[str(path.relative_to(root))] = f"{mode:o}"
    return found


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("files", [2, 20])
@pytest.mark.parametrize("store", STORES)
async def test_any_user_can_read_what_is_prepared_whatever_the_umask_and_the_store(
    store: str, files: int, link: bool, tmp_path: Path, strict: None
) -> None:
    world = World(tmp_path)
    world.add(does(lambda workspace: None))
    async with STORES[store](tmp_path / "store") as world.blobs:  # type: ignore[assignment]
        content = {f"deep/er/{n}": b"x" * n for n in range(files - 1)} | {"top": b""}
        event = await world.publish(data=[("a", "b")], files=content)
        workspace = await world.handler.open_workspace("job")
        await world.handler.prepare(Attempt(job=Job(event=event, module="worker"), number=1), workspace, link=link)
        assert closed(workspace.root) == {}
        assert len([path for path in workspace.in_data.rglob("*") if path.is_file()]) == files
        own_inputs(workspace)
        assert closed(workspace.root) == {}


def test_any_user_can_enter_a_workspace_that_the_handler_makes_on_its_own(tmp_path: Path, strict: None) -> None:
    workspace = GivenWorkspace(tmp_path / "ion")
    workspace.clear()
    assert closed(workspace.root) == {}


def test_the_mode_of_a_workspace_that_its_user_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ion").mkdir(mode=0o700)
    GivenWorkspace(tmp_path / "ion").clear()
    assert stat.S_IMODE((tmp_path / "ion").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "command",
    [
        ("event", "publish", "whole.received", "--file", "ion.yaml", "--state-dir", "new/.ion"),
        ("serve", "--until-idle", "--state-dir", "new/.ion"),
        ("dev", "run", "whole.received", "--file", "ion.yaml"),
        ("init", "project"),
    ],
    ids=lambda command: command[0],
)
def test_nothing_is_made_that_everybody_may_write_to(command: tuple[str, ...], tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "home")
    known = {*pipeline.home.rglob("*"), pipeline.home / "runs"}
    with umask(0):
        pipeline.ion(*command)
    made = set(pipeline.home.rglob("*")) - known
    assert made, "the command makes something"
    assert [path for path in made if stat.S_IMODE(path.lstat().st_mode) & 0o002] == []
