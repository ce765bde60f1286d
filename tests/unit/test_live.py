"""Workspaces whose module still runs: what is copied from them, how they are cleaned, and what leads nowhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ion_core.errors import OutputRefused
from ion_core.handler.live import clear, snapshot
from ion_core.handler.output import read_output
from ion_core.handler.workspace import Workspace
from ion_core.modules import Module, OutputLimits

MODULE = Module(name="worker", publishes=("out",))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.make(tmp_path, "live")


@pytest.fixture
def copy(tmp_path: Path) -> Workspace:
    return Workspace.make(tmp_path, "copy")


def listing(workspace: Workspace) -> dict[str, str]:
    root = workspace.root
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_snapshot_is_what_was_there(workspace: Workspace, copy: Workspace) -> None:
    (workspace.out / "data/a/b").mkdir(parents=True)
    (workspace.out / "data/a/b/c").write_text("deep")
    (workspace.out / "data/empty").touch()
    (workspace.out / "insights.json").write_text('[{"key": "k", "value": "v"}]')
    (workspace.out / "events/0.json").write_text('[{"key": "eventType", "value": "out"}]')
    snapshot(workspace, copy, MODULE)
    (workspace.out / "data/a/b/c").write_text("changed")
    output = read_output(copy, MODULE)
    assert output.files == {"a/b/c": 4, "empty": 0}
    assert (output.insights, [event.type for event in output.events]) == ((("k", "v"),), ["out"])
    assert (copy.out / "data/a/b/c").read_text() == "deep"


@pytest.mark.parametrize("what", ["link to a file", "link to a directory", "fifo"])
def test_what_is_no_file_is_refused_by_name(workspace: Workspace, copy: Workspace, what: str) -> None:
    odd = workspace.out / "data/odd"
    if what == "fifo":
        os.mkfifo(odd)
    else:
        odd.symlink_to("/etc/passwd" if what == "link to a file" else "/etc")
    with pytest.raises(OutputRefused, match=r"out/data/odd: is a (symbolic link|FIFO)"):
        snapshot(workspace, copy, MODULE)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (OutputLimits(max_files=2, max_events=1), "max_files"),
        (OutputLimits(max_output=100, max_insights=1), "max_output"),
        (OutputLimits(max_depth=1), "too deep"),
    ],
)
def test_a_snapshot_takes_no_more_than_the_limits(
    workspace: Workspace, copy: Workspace, limits: OutputLimits, said: str
) -> None:
    deep = workspace.out / "data/1/2/3/4/5"
    deep.mkdir(parents=True)
    for n in range(8):
        (deep / str(n)).write_text("x" * 50)
    with pytest.raises(OutputRefused, match=said):
        snapshot(workspace, copy, Module(name="worker", limits=limits))


@pytest.mark.parametrize("swapped", ["out", "out/data"])
def test_a_directory_that_became_a_link_leads_nowhere(workspace: Workspace, copy: Workspace, swapped: str) -> None:
    (workspace.root / swapped).rename(workspace.root / "aside")
    (workspace.root / swapped).symlink_to("/etc")
    with pytest.raises(OutputRefused, match="out"):
        snapshot(workspace, copy, MODULE)
    assert listing(copy) == {"out/insights.json": ""}


def test_a_cleared_workspace_is_as_at_first(workspace: Workspace, tmp_path: Path) -> None:
    at_first = listing(workspace)
    inodes = {path: path.stat().st_ino for path in workspace.root.rglob("*") if path.is_dir()}
    (workspace.in_data / "sub").mkdir()
    (workspace.in_data / "sub/input").write_text("old")
    workspace.eventmeta.write_text("[]")
    (workspace.out / "data/a/b").mkdir(parents=True)
    (workspace.out / "data/a/b/c").write_text("old")
    (workspace.out / "data/a/b").chmod(0)
    (workspace.out / "data/a").chmod(0)
    (workspace.out / "data/link").symlink_to("/etc")
    os.mkfifo(workspace.out / "events/fifo")
    (workspace.out / "more").write_text("old")
    (workspace.out / "insights.json").unlink()
    (workspace.out / "data").chmod(0o700)
    assert clear(workspace)
    assert listing(workspace) == at_first
    assert {path: path.stat().st_ino for path in workspace.root.rglob("*") if path.is_dir()} == inodes
    assert (workspace.out / "data").stat().st_mode & 0o777 == 0o777
    assert [path.name for path in tmp_path.iterdir()] == ["live"], "what was moved aside is gone"


@pytest.mark.parametrize("swapped", ["in", "out", "out/data", "out/events"])
def test_clearing_follows_no_link(workspace: Workspace, tmp_path: Path, swapped: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "data").mkdir()
    (elsewhere / "precious").write_text("stays")
    (workspace.root / swapped).rename(workspace.root / "aside")
    (workspace.root / swapped).symlink_to(elsewhere)
    assert not clear(workspace)
    assert (elsewhere / "precious").read_text() == "stays"


def test_a_directory_in_place_of_insights_is_cleared(workspace: Workspace) -> None:
    (workspace.out / "insights.json").unlink()
    (workspace.out / "insights.json").mkdir()
    (workspace.out / "insights.json/x").write_text("x")
    assert not clear(workspace), "then only a new workspace would do"
