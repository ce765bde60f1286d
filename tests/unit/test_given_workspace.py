"""A workspace where its user wants it: cleared of what a module left, and of nothing else."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ion_core.errors import OutOfTurn, UsageError
from ion_core.handler.given import GivenWorkspace


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


FRESH = ["in", "in/data", "out", "out/data", "out/events", "out/insights.json"]


def test_it_is_made_with_its_parents(tmp_path: Path) -> None:
    root = tmp_path / "a" / "ion"
    GivenWorkspace(root).clear()
    assert names(root) == FRESH
    assert stat.S_IMODE((root / "out" / "data").stat().st_mode) == 0o777


def test_nothing_that_a_module_made_is_left(tmp_path: Path) -> None:
    workspace = GivenWorkspace(tmp_path)
    workspace.clear()
    (workspace.in_data / "old").write_text("1")
    workspace.eventmeta.write_text("[]")
    (workspace.out / "junk" / "deep").mkdir(parents=True)
    (workspace.out / "events" / "0").write_text("[]")
    (workspace.out / "data").rmdir()
    (workspace.out / "data").symlink_to("/etc")
    (workspace.out / "junk").chmod(0)
    (workspace.out / "insights.json").unlink()
    workspace.clear()
    assert names(tmp_path) == FRESH


def test_what_else_lies_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("print()")
    workspace = GivenWorkspace(tmp_path)
    workspace.clear()
    workspace.clear()
    assert names(tmp_path) == sorted([*FRESH, "module.py"])


def test_a_directory_of_somebody_elses_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.pdf").write_text("years of work")
    with pytest.raises(UsageError, match=r"out: holds 'thesis\.pdf' and nothing of a module's.*--basedir"):
        GivenWorkspace(tmp_path).clear()
    assert names(tmp_path) == ["out", "out/thesis.pdf"]


def test_a_part_that_a_module_replaced_by_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("1")
    root = tmp_path / "ion"
    root.mkdir()
    (root / "out").symlink_to(tmp_path / "precious")
    GivenWorkspace(root).clear()
    assert names(root) == FRESH
    assert (tmp_path / "precious" / "file").read_text() == "1"


def test_a_file_in_its_place_is_said_to_be_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "ion").write_text("")
    with pytest.raises(UsageError, match=r"ion: cannot be the base directory: .*--basedir"):
        GivenWorkspace(tmp_path / "ion").clear()


def test_what_was_never_prepared_is_no_workspace(tmp_path: Path) -> None:
    with pytest.raises(OutOfTurn, match="Run prepare first"):
        GivenWorkspace(tmp_path / "ion").check()
    GivenWorkspace(tmp_path / "ion").clear()
    GivenWorkspace(tmp_path / "ion").check()
