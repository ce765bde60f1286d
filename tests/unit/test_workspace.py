"""The workspace: clean at first, gone at last, whatever happened in between."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ion_core.handler.workspace import Workspace, workspaces
from tests.unit.test_output import deepen


def files(workspace: Workspace) -> list[str]:
    return sorted(str(path.relative_to(workspace.root)) for path in workspace.root.rglob("*"))


def test_it_starts_with_clean_directories_and_empty_insights(tmp_path: Path) -> None:
    workspace = Workspace.make(tmp_path, "job")
    assert files(workspace) == ["in", "in/data", "out", "out/data", "out/events", "out/insights.json"]
    assert (workspace.out / "insights.json").read_bytes() == b""


def test_any_user_may_write_to_out_and_none_but_ours_to_in(tmp_path: Path) -> None:
    workspace = Workspace.make(tmp_path, "job")
    for path in ("out", "out/data", "out/events"):
        assert stat.S_IMODE((workspace.root / path).stat().st_mode) == 0o777
    assert stat.S_IMODE((workspace.out / "insights.json").stat().st_mode) == 0o666
    for path in ("in", "in/data"):
        assert not stat.S_IMODE((workspace.root / path).stat().st_mode) & 0o022


def test_two_of_one_name_cannot_be(tmp_path: Path) -> None:
    first = Workspace.make(tmp_path, "job")
    with pytest.raises(FileExistsError):
        Workspace.make(tmp_path, "job")
    assert first.out.is_dir(), "the first one is left alone"


def test_one_that_does_not_fit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fchmod", full)
    with pytest.raises(OSError, match="No space"):
        Workspace.make(tmp_path, "job")
    assert list(tmp_path.iterdir()) == []


def test_its_note_is_read_back_and_out_of_the_module_s_sight(tmp_path: Path) -> None:
    workspace = Workspace.make(tmp_path, "job")
    assert workspace.read_note() is None
    workspace.note_job({"job": "j1"})
    assert workspace.read_note() == {"job": "j1"}
    assert "job.json" not in "".join(files(workspace))


@pytest.mark.parametrize("torn", [b"", b'{"job": "j', b"[]", b"\xff"])
def test_a_torn_note_is_none(torn: bytes, tmp_path: Path) -> None:
    workspace = Workspace.make(tmp_path, "job")
    (workspace.home / "job.json").write_bytes(torn)
    assert workspace.read_note() is None


def test_removing_is_repeatable(tmp_path: Path) -> None:
    workspace = Workspace.make(tmp_path, "job")
    workspace.remove()
    workspace.remove()
    assert list(tmp_path.iterdir()) == []


def test_removing_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "inner").mkdir(parents=True)
    (outside / "inner" / "file").touch()
    outside.chmod(0o555)
    workspace = Workspace.make(tmp_path, "job")
    (workspace.out / "data" / "directory").symlink_to(outside)
    (workspace.out / "data" / "file").symlink_to(outside / "inner" / "file")
    (workspace.out / "data" / "dangling").symlink_to("nowhere")

    workspace.remove()

    assert (outside / "inner" / "file").exists()
    assert stat.S_IMODE(outside.stat().st_mode) == 0o555
    assert list(tmp_path.iterdir()) == [outside]


def test_a_link_in_the_place_of_the_module_s_directory_is_removed_alone(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    workspace = Workspace.make(tmp_path, "job")
    workspace.root.rename(tmp_path / "outside" / "moved")
    workspace.root.symlink_to(tmp_path / "outside")
    workspace.remove()
    assert (tmp_path / "outside" / "moved" / "out" / "data").is_dir()
    assert not workspace.home.exists()


def test_whatever_a_module_leaves_goes(tmp_path: Path) -> None:
    workspace = Workspace.make(tmp_path, "job")
    data = workspace.out / "data"
    os.mkfifo(data / "fifo")
    (data / os.fsdecode(b"\xff\xfe\n")).mkdir()
    (data / "read only" / "inner").mkdir(parents=True)
    (data / "read only" / "inner" / "file").touch(0o400)
    for path in ("read only/inner", "read only", ""):
        (data / path).chmod(0o500)
    workspace.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(30)
def test_thousands_of_levels_and_files_go(tmp_path: Path) -> None:
    workspace = Workspace.make(tmp_path, "job")
    deepen(workspace.out / "data", 2_000)
    for n in range(10_000):
        (workspace.out / "events" / f"{n}").touch()
    workspace.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("added", ["out/data", "out/data/sub"])
def test_a_removal_that_was_cut_short_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, added: str
) -> None:
    workspace = Workspace.make(tmp_path, "job")
    (workspace.root / added).mkdir(exist_ok=True)
    with monkeypatch.context() as patched:
        patched.setattr("os.rmdir", lambda path, **more: exit("killed"))
        with pytest.raises(SystemExit):
            workspace.remove()
    for left in workspaces(tmp_path):
        left.remove()
    assert list(tmp_path.iterdir()) == []


def test_those_of_an_earlier_life_are_found(tmp_path: Path) -> None:
    for name in ("b", "a"):
        Workspace.make(tmp_path, name)
    (tmp_path / "a file").touch()
    assert [workspace.home.name for workspace in workspaces(tmp_path)] == ["a", "b"]
    assert list(workspaces(tmp_path / "nowhere")) == []


@pytest.mark.parametrize("name", ["ion", "ion/in", "ion/out", "ion/out/data"])
def test_a_link_in_the_place_of_a_directory_is_not_followed(tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    for directory in (elsewhere / "data", elsewhere / "out" / "data", elsewhere / "in"):
        directory.mkdir(parents=True)
        (directory / "x").touch()
    (elsewhere / "x").touch()
    before = sorted(elsewhere.rglob("*"))
    base = tmp_path / "base"
    base.mkdir()
    workspace = Workspace.make(base, "job")
    shutil.rmtree(workspace.home / name)
    (workspace.home / name).symlink_to(elsewhere)
    workspace.remove()
    assert sorted(elsewhere.rglob("*")) == before
    assert list(base.iterdir()) == []


def test_a_long_note_is_gone_when_another_one_is_made(tmp_path: Path) -> None:
    workspace = Workspace.make(tmp_path, "job")
    workspace.note_job({"job": "x" * 2000})
    workspace.note_job({"job": "another"})
    assert workspace.read_note() == {"job": "another"}


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_what_is_in_the_place_of_the_note_is_not_written_to(tmp_path: Path, make: Callable[[Path], object]) -> None:
    workspace = Workspace.make(tmp_path, "job")
    make(workspace.home / "job.json")
    with pytest.raises(OSError, match=r"job\.json"):
        workspace.note_job({"job": "another"})
