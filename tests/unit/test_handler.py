"""Prepare fills a workspace, commit keeps what a module left: whole, once, and under the same ids."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ion_core import crash
from ion_core.commits import Commit
from ion_core.contracts.storage import BlobInfo, Document
from ion_core.embedded.local.blobs import open_local_blobs
from ion_core.embedded.memory.blobs import MemoryBlobStore
from ion_core.embedded.settings import LocalBlobsSettings
from ion_core.errors import (
    BlobCorrupt,
    BlobNotFound,
    OutputRefused,
    PermanentError,
    ProviderError,
    StorageFull,
    TransientError,
)
from ion_core.events import Event
from ion_core.handler import Committed, Workspace
from ion_core.jobs import Attempt, Job
from tests.support.worlds import World, attempt, does, emit

STARTED = "2030-01-01T00:00:00.000+00:00"


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.add(does(lambda workspace: None))
    return world


async def prepared(world: World, event: Event, *, link: bool = False) -> Workspace:
    workspace = await world.handler.open_workspace("job")
    await world.handler.prepare(Attempt(job=Job(event=event, module="worker"), number=1), workspace, link=link)
    return workspace


async def commit(world: World, trying: Attempt, workspace: Workspace) -> Committed:
    return await world.handler.commit(trying, world.modules[0], workspace, image=None, started_at=STARTED)


async def left_by_module(world: World, files: Sequence[str] = ("a",), *, name: str = "job") -> Workspace:
    """A workspace in which a module has run: these files, and one event that names them all."""
    workspace = await world.handler.open_workspace(name)
    for file in files:
        path = workspace.out / "data" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {file}")
    emit(workspace.root, "out", ("size", "3"), files=",".join(files))
    (workspace.out / "insights.json").write_text('[{"key": "n", "value": "1"}]')
    return workspace


def in_data(workspace: Workspace) -> dict[str, bytes]:
    found = (path for path in workspace.in_data.rglob("*") if path.is_file())
    return {str(path.relative_to(workspace.in_data)): path.read_bytes() for path in found}


def files_called(name: str, base: Path) -> list[Path]:
    return list(base.rglob(name))


def eventmeta(workspace: Workspace) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(workspace.eventmeta.read_bytes())
    return found


# Prepare


async def test_files_lie_in_their_directories(world: World) -> None:
    files = {"a": b"1", "frames/0001.png": b"2", "frames/left/0001.png": b"3", "frames/right/0001.png": b"4"}
    event = await world.publish(files=files)
    assert in_data(await prepared(world, event)) == files


async def test_pairs_keep_their_order_and_files_follow_with_their_uri(world: World) -> None:
    event = await world.publish(data=[("b", "1"), ("a", "2"), ("b", "3")], files={"z": b"", "y": b""})
    workspace = await prepared(world, event)
    correlation_id = event.context.correlation_id
    assert eventmeta(workspace) == [
        {"key": "b", "value": "1"},
        {"key": "a", "value": "2"},
        {"key": "b", "value": "3"},
        {"key": "z", "value": f"memory:///{correlation_id}/{event.context.event_id}/_/z"},
        {"key": "y", "value": f"memory:///{correlation_id}/{event.context.event_id}/_/y"},
    ]


async def test_without_pairs_there_is_no_eventmeta(world: World) -> None:
    assert not (await prepared(world, await world.publish())).eventmeta.exists()


async def test_nothing_of_an_earlier_job_is_left(world: World) -> None:
    first = await prepared(world, await world.publish(data=[("a", "b")], files={"a": b"1"}))
    (first.out / "insights.json").write_text("[]")
    await world.handler.close_workspace(first)

    second = await prepared(world, await world.publish())

    assert in_data(second) == {}
    assert not second.eventmeta.exists()
    assert (second.out / "insights.json").read_bytes() == b""


async def test_an_event_without_a_document_brings_its_own_data(world: World) -> None:
    event = replace(attempt().job.event, data=(("a", "b"),))
    workspace = await prepared(world, event)
    assert eventmeta(workspace) == [{"key": "a", "value": "b"}]
    assert in_data(workspace) == {}


async def test_the_data_of_the_document_counts_not_that_of_the_message(world: World) -> None:
    event = await world.publish(data=[("stored", "1")])
    workspace = await prepared(world, replace(event, data=(("sent", "2"),)))
    assert eventmeta(workspace) == [{"key": "stored", "value": "1"}]


async def test_a_missing_blob_is_named(world: World) -> None:
    event = await world.publish(files={"a": b"1", "gone": b"2"})
    [key] = [key for key in world.blobs.blobs if key.endswith("/gone")]
    await world.blobs.delete(key)
    with pytest.raises(BlobNotFound, match=key):
        await prepared(world, event)


async def test_a_changed_blob_is_named(world: World) -> None:
    event = await world.publish(files={"a": b"1"})
    [key] = world.blobs.blobs
    world.blobs.blobs[key] = b"2"
    with pytest.raises(BlobCorrupt, match=key):
        await prepared(world, event)


async def test_names_in_a_document_are_checked_once_more(world: World, tmp_path: Path) -> None:
    event = await world.publish(files={"a": b"1"})
    [document] = world.documents_of("eventMeta")
    body = json.loads(json.dumps(document.body).replace('"a"', '"../../../../escaped"'))
    await world.documents.put(replace(document, body=body))
    with pytest.raises(PermanentError, match="escaped"):
        await prepared(world, event)
    assert files_called("escaped", tmp_path) == []


class Linking(MemoryBlobStore):
    asked: bool | None = None

    async def get(self, key: str, target: Path, *, expect: BlobInfo | None = None, link: bool = False) -> None:
        self.asked = link
        await super().get(key, target, expect=expect, link=link)


@pytest.mark.parametrize("link", [True, False])
async def test_inputs_are_links_only_when_asked_for(link: bool, world: World) -> None:
    world.blobs = Linking()
    await prepared(world, await world.publish(files={"a": b"1"}), link=link)
    assert world.blobs.asked is link


async def test_what_prepare_says_is_bounded(world: World) -> None:
    event = await world.publish(files={f"{n:03}": b"" for n in range(150)})
    workspace = await world.handler.open_workspace("job")
    lines = await world.handler.prepare(Attempt(job=Job(event=event, module="worker"), number=1), workspace, link=False)
    assert len(lines) < 110
    assert "and 50 more inputs" in lines
    assert "150 files and 150 pairs" in lines[-1]


# Commit


async def test_a_commit_is_one_record_with_sizes_and_hashes(world: World) -> None:
    trying = attempt()
    committed = await commit(world, trying, await left_by_module(world, ["a", "sub/a"]))

    assert committed.ours
    [record] = world.commits
    assert record == committed.commit
    assert record.job_id == trying.job.id
    assert (record.attempt, record.token, record.insights) == (1, trying.token, (("n", "1"),))
    assert [file.name for file in record.files] == ["a", "sub/a"]
    for file in record.files:
        content = f"content of {file.name}".encode()
        assert world.blobs.blobs[file.key] == content
        assert file.size == len(content)
        assert file.key == f"c1/e1/worker/1-{trying.token}/{file.name}"
    [event] = record.events
    assert (event.type, event.data, event.files, event.hops) == ("out", (("size", "3"),), ("a", "sub/a"), 1)


async def test_ids_are_the_same_in_every_attempt(world: World) -> None:
    first = await commit(world, attempt(), await left_by_module(world))
    world.documents.documents.clear()
    second = await commit(world, attempt(number=2), await left_by_module(world, name="again"))
    assert [event.context for event in first.commit.events] == [event.context for event in second.commit.events]
    assert first.commit.job_id == second.commit.job_id


async def test_the_loser_changes_nothing_and_is_given_the_winner_s_commit(world: World) -> None:
    winner = await commit(world, attempt(), await left_by_module(world, ["a"]))
    kept = dict(world.blobs.blobs)

    loser = await commit(world, attempt(number=2), await left_by_module(world, ["a", "b"], name="again"))

    assert not loser.ours
    assert loser.commit == winner.commit
    assert world.commits == [winner.commit]
    assert world.blobs.blobs == kept
    assert "attempt 1 had committed already" in loser.lines[-1]


async def test_of_two_at_once_one_wins(world: World) -> None:
    workspaces = [await left_by_module(world, ["a", "b"], name=str(n)) for n in range(8)]
    done = await asyncio.gather(*(commit(world, attempt(number=n), space) for n, space in enumerate(workspaces)))
    assert sum(one.ours for one in done) == 1
    assert len({one.commit.token for one in done}) == 1
    assert sorted(world.blobs.blobs) == [file.key for file in done[0].commit.files]


async def test_a_module_that_leaves_nothing_commits_that(world: World) -> None:
    workspace = await world.handler.open_workspace("job")
    committed = await commit(world, attempt(), workspace)
    assert (committed.commit.files, committed.commit.events, committed.commit.insights) == ((), (), ())
    assert world.documents_of("commit")[0].pending is False


async def test_output_that_is_refused_leaves_nothing(world: World) -> None:
    workspace = await left_by_module(world)
    (workspace.out / "data" / "link").symlink_to("/etc/passwd")
    with pytest.raises(OutputRefused, match="link"):
        await commit(world, attempt(), workspace)
    assert world.blobs.blobs == {}
    assert world.commits == []


class FailingOn(MemoryBlobStore):
    """Stores ``bad`` and then says it failed: what a lost answer looks like."""

    def __init__(self, bad: str, error: Exception) -> None:
        super().__init__()
        self._bad, self._error = bad, error

    async def put(self, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
        info = await super().put(key, source, consume=consume)
        if key.endswith(self._bad):
            raise self._error
        return info


@pytest.mark.parametrize("error", [TransientError("slow"), StorageFull("full"), RuntimeError("foreign")])
async def test_an_upload_that_fails_leaves_nothing(error: Exception, world: World) -> None:
    world.blobs = FailingOn("/b", error)
    with pytest.raises(type(error)):
        await commit(world, attempt(), await left_by_module(world, ["a", "b", "c"]))
    assert world.blobs.blobs == {}
    assert world.commits == []


class Hanging(MemoryBlobStore):
    def __init__(self) -> None:
        super().__init__()
        self.hangs = asyncio.Event()

    async def put(self, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
        info = await super().put(key, source, consume=consume)
        if key.endswith("/b"):
            self.hangs.set()
            await asyncio.Event().wait()
        return info


async def test_an_upload_that_is_cancelled_leaves_nothing(world: World) -> None:
    world.blobs = hanging = Hanging()
    committing = asyncio.create_task(commit(world, attempt(), await left_by_module(world, ["a", "b"])))
    await hanging.hangs.wait()
    committing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await committing
    assert world.blobs.blobs == {}


async def test_what_cannot_be_deleted_hides_no_error(world: World, caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(FailingOn):
        async def delete(self, key: str) -> None:
            raise TransientError("no answer")

    world.blobs = Stuck("/a", TransientError("slow"))
    with pytest.raises(TransientError, match="slow"):
        await commit(world, attempt(), await left_by_module(world))
    assert "left behind: no answer" in caplog.text


async def test_an_error_after_the_record_was_created_keeps_its_files(world: World) -> None:
    create = world.documents.create

    async def lost_answer(document: Document) -> None:
        await create(document)
        raise TransientError("no answer")

    world.documents.create = lost_answer  # type: ignore[method-assign]
    with pytest.raises(TransientError):
        await commit(world, attempt(), await left_by_module(world))
    [record] = world.commits
    assert sorted(world.blobs.blobs) == [file.key for file in record.files]


async def test_ids_of_any_alphabet_never_become_names_as_they_are(world: World) -> None:
    trying = attempt("../../etc/passwd", correlation_id="ü/\n" * 300)
    await commit(world, trying, await left_by_module(world))
    [key] = world.blobs.blobs
    correlation, event, worker, *_ = key.split("/")
    assert worker == "worker"
    for segment in (correlation, event):
        assert segment.startswith("~")
        assert len(segment) == 65


async def test_the_longest_names_and_ids_fit(world: World) -> None:
    name = "/".join(["x" * 250] * 3)
    trying = attempt("e" * 1024, correlation_id="c" * 1024, number=99_999, worker="w" * 63)
    committed = await commit(world, trying, await left_by_module(world, [name]))
    assert committed.commit.files[0].name == name


@pytest.mark.parametrize("mode", [0o4755, 0o6777, 0o000, 0o222])
async def test_modes_do_not_travel(mode: int, world: World, tmp_path: Path) -> None:
    async with open_local_blobs(LocalBlobsSettings(path=tmp_path / "blobs")) as blobs:
        world.blobs = blobs  # type: ignore[assignment]
        workspace = await left_by_module(world, ["a"])
        (workspace.out / "data" / "a").chmod(mode)
        [child] = (await commit(world, attempt(), workspace)).commit.events
        await world.dataplane.documents.put((await commit_of(world)).documents()[0])
        fetched = await world.handler.open_workspace("next")
        await world.handler.prepare(Attempt(job=Job(event=child, module="next"), number=1), fetched, link=False)
        assert in_data(fetched) == {"a": b"content of a"}
        assert not (fetched.in_data / "a").stat().st_mode & 0o7000


async def commit_of(world: World) -> Commit:
    [found] = world.commits
    return found


# Workspaces and what a crash leaves


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, StorageFull), (errno.EIO, TransientError)])
async def test_errors_of_our_own_disk_say_what_they_mean(
    number: int, kind: type[ProviderError], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **known: Any) -> None:
        raise OSError(number, os.strerror(number), "/somewhere")

    event = await world.publish(data=[("a", "b")])
    workspace = await world.handler.open_workspace("job")
    with monkeypatch.context() as patched:
        patched.setattr(os, "mkdir", fail)
        with pytest.raises(kind, match="/somewhere"):
            await world.handler.open_workspace("another")
    with monkeypatch.context() as patched:
        patched.setattr("ion_core.handler.preparer.write_new", fail)
        with pytest.raises(kind, match="/somewhere"):
            await world.handler.prepare(Attempt(job=Job(event=event, module="worker"), number=1), workspace, link=False)


async def test_a_workspace_is_opened_in_one_go_so_that_no_cancellation_leaves_one_that_nobody_knows(
    world: World,
) -> None:
    opening = asyncio.create_task(world.handler.open_workspace("job"))
    await asyncio.sleep(0)
    assert not opening.cancel()
    await world.handler.close_workspace(opening.result())
    assert world.left_behind() == []


async def test_the_sweep_removes_workspaces_and_what_was_never_committed(world: World) -> None:
    done, crashed = attempt("done"), attempt("crashed")
    for trying in (done, crashed):
        workspace = await left_by_module(world, ["a", "b"], name=trying.job.event.context.event_id)
        await world.handler.prepare(trying, workspace, link=False)
        await commit(world, trying, workspace)
    await world.documents.delete("commit", crashed.job.id)
    await left_by_module(world, name="never prepared")

    assert await world.handler.sweep() == 3

    assert world.left_behind() == []
    [record] = world.commits
    assert sorted(world.blobs.blobs) == [file.key for file in record.files]
    assert await world.handler.sweep() == 0


async def test_the_sweep_removes_files_of_an_attempt_that_lost(world: World) -> None:
    winner = await commit(world, attempt(), await left_by_module(world, name="winner"))
    loser = attempt(number=2)
    workspace = await left_by_module(world, name="loser")
    await world.handler.prepare(loser, workspace, link=False)
    stray = f"c1/e1/worker/2-{loser.token}/a"
    world.blobs.blobs[stray] = b"uploaded before the crash"

    await world.handler.sweep()

    assert sorted(world.blobs.blobs) == [file.key for file in winner.commit.files]


@pytest.mark.parametrize("error", [PermanentError("is locked"), TransientError("access is denied")], ids=str)
async def test_a_file_that_cannot_be_deleted_does_not_keep_serve_from_starting(
    error: ProviderError, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trying = attempt()
    await world.handler.prepare(trying, await left_by_module(world), link=False)
    uploaded = [f"c1/e1/worker/1-{trying.token}/{name}" for name in "abc"]
    world.blobs.blobs |= dict.fromkeys(uploaded, b"")
    delete = world.blobs.delete

    async def refusing(key: str) -> None:
        if key == uploaded[0]:
            raise error
        await delete(key)

    monkeypatch.setattr(world.blobs, "delete", refusing)
    assert await world.handler.sweep() == 1
    assert list(world.blobs.blobs) == uploaded[:1]
    assert f"stay until `ion-core gc`: {error}" in caplog.text
    assert world.left_behind() == []


async def test_a_failed_sweep_can_be_repeated(world: World) -> None:
    trying = attempt()
    workspace = await left_by_module(world)
    await world.handler.prepare(trying, workspace, link=False)
    world.blobs.blobs[f"c1/e1/worker/1-{trying.token}/a"] = b""
    world.blobs.failing = TransientError("away")
    with pytest.raises(TransientError):
        await world.handler.sweep()
    world.blobs.failing = None
    await world.handler.sweep()
    assert world.blobs.blobs == {}
    assert world.left_behind() == []


async def test_steps_are_reached_in_their_order(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[str] = []
    monkeypatch.setattr(crash, "reached", reached.append)
    event = await world.publish(files={"a": b"1", "b": b"2"})
    workspace = await prepared(world, event)
    await commit(world, attempt(), await left_by_module(world, ["a", "b"], name="other"))
    await world.handler.close_workspace(workspace)
    assert list(dict.fromkeys(reached)) == ["S4", "S8", "S9", "S12"]
    assert reached.count("S8") == 3, "after each file, so that a crash there leaves some uploaded and some not"
