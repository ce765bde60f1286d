"""What modules of the predecessor leave in ``out/``: it is read as they mean it, and what means nothing is named."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ion_core.errors import OutputRefused
from ion_core.handler.output import read_output
from ion_core.handler.workspace import Workspace
from ion_core.module_library import library
from ion_core.modules import Module
from tests.cli.running import Ion
from tests.support.worlds import World, does, emit

MODULE = Module(name="detect", publishes=("face.detected",))
META = '[{"key": "faces", "value": "2"}]'


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.make(tmp_path, "job")


@pytest.mark.parametrize("text", ["null", " null\n"])
def test_insights_that_are_null_are_none(text: str, workspace: Workspace) -> None:
    """The predecessor's Go helper writes a list that nothing was added to."""
    (workspace.out / "insights.json").write_text(text)
    assert read_output(workspace, MODULE).insights == ()


@pytest.mark.parametrize("text", ["nul", "[null]", "false", "0", '""'])
def test_insights_that_are_something_else_are_refused_as_before(text: str, workspace: Workspace) -> None:
    (workspace.out / "insights.json").write_text(text)
    with pytest.raises(OutputRefused, match=r"out/insights\.json"):
        read_output(workspace, MODULE)


@pytest.mark.parametrize("language", ["python", "sh"])
def test_our_module_library_adds_to_insights_that_are_null(
    language: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANDLER_BASE_DIR", str(workspace.root))
    (workspace.out / "insights.json").write_text("null\n")
    ADDS[language](workspace.home)
    assert read_output(workspace, MODULE).insights == (("n", "1"),)


def _add_in_python(home: Path) -> None:
    (home / "library.py").write_text(library("python"))
    spec = importlib.util.spec_from_file_location("library", home / "library.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    found.insight("n", 1)


def _add_in_sh(home: Path) -> None:
    (home / "library.sh").write_text(library("sh"))
    subprocess.run(["sh", "-euc", ". ./library.sh; ion_insight n 1"], cwd=home, check=True, timeout=60)


ADDS: dict[str, Callable[[Path], None]] = {"python": _add_in_python, "sh": _add_in_sh}


def test_files_may_be_named_as_find_prints_them(workspace: Workspace) -> None:
    for name in ("a", "frames/b"):
        path = workspace.out / "data" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = subprocess.run(
        ["find", ".", "-type", "f"], cwd=workspace.out / "data", capture_output=True, text=True, check=True, timeout=60
    )
    emit(workspace.root, "face.detected", files=" , ".join(sorted(found.stdout.split())) + ",")
    emit(workspace.root, "face.detected", files="././a,a, ./a", name="1.json")
    first, second = read_output(workspace, MODULE).events
    assert (first.files, second.files) == (("a", "frames/b"), ("a",))


@pytest.mark.parametrize("files", [".", "./", "./,a", "./../a", ".//a", "a/.", ".././a", "./missing"])
def test_a_dot_in_front_opens_no_way_out(files: str, workspace: Workspace) -> None:
    (workspace.out / "data" / "a").touch()
    (workspace.out / "a").touch()
    emit(workspace.root, "face.detected", files=files)
    with pytest.raises(OutputRefused, match="files"):
        read_output(workspace, MODULE)


async def test_the_next_module_finds_the_file_under_its_plain_name(tmp_path: Path) -> None:
    world, seen = World(tmp_path), []

    def make(workspace: Path) -> None:
        (workspace / "out/data/a").write_text("made")
        emit(workspace, "middle", files="./a")

    def look(workspace: Path) -> None:
        pairs = json.loads((workspace / "in/eventmeta.json").read_text())
        seen.append(((workspace / "in/data/a").read_text(), [pair["key"] for pair in pairs]))

    world.add(does(make), emits=["middle"])
    world.add(does(look), "next", takes="middle")
    await world.publish()
    await world.run()
    assert seen == [("made", ["a"])]


async def test_names_in_out_that_mean_nothing_are_named_in_the_attempts_log(tmp_path: Path) -> None:
    world = World(tmp_path)

    def leave(workspace: Path) -> None:
        (workspace / "out/result.csv").write_text("1,2")
        (workspace / "out/meta.json").write_text(META)
        (workspace / "out/dat\udce9").mkdir()

    world.add(does(leave))
    await world.publish()
    await world.run()
    [log] = world.logs.values()
    assert log["succeeded"]
    committer = log["logs"].partition("Committer logs")[2]
    assert "'result.csv'" in committer
    assert "'meta.json'" in committer
    assert r"'dat\udce9'" in committer
    assert "Files to keep belong in out/data, facts in out/insights.json" in committer


def test_of_very_many_names_some_are_named_and_the_rest_is_counted_on(workspace: Workspace) -> None:
    for number in range(5_000):
        (workspace.out / f"{number}.csv").touch()
    [remark] = read_output(workspace, MODULE, most=20).remarks
    assert remark.count(".csv") == 8
    assert "and more" in remark
    assert len(remark) < 1_000


def test_nothing_is_remarked_where_everything_means_something(workspace: Workspace) -> None:
    (workspace.out / "data" / "result.csv").touch()
    assert read_output(workspace, MODULE).remarks == ()


def test_module_run_says_so_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ion.yaml").write_text("modules: {up: {command: [sh, up.sh], source: ., subscribes: [start]}}")
    (tmp_path / "up.sh").write_text('echo 1 > "$HANDLER_BASE_DIR"/out/result.csv')
    result = Ion(tmp_path, capsys).process("module", "run", "up", "--type", "start")
    assert result.code == 0
    assert "'result.csv' not kept" in result.err
