"""Who counts as alive."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ion_core.embedded.sqlite import owners as sqlite_owners
from ion_core.embedded.sqlite.owners import Owner, dead_owners, forget

LIST = """
import pathlib, sys
from ion_core.embedded.sqlite.owners import dead_owners
print(*dead_owners(pathlib.Path(sys.argv[1])))
"""


def dead_for_others(directory: Path) -> list[str]:
    """What another process thinks of those in ``directory``."""
    run = subprocess.run([sys.executable, "-c", LIST, directory], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_an_owner_is_alive_until_it_is_removed(tmp_path: Path) -> None:
    directory = tmp_path / "owners"
    assert dead_owners(directory) == []
    one, two = Owner(directory), Owner(directory)
    assert one.id != two.id
    for _ in range(2):  # looking must not let go of the lock
        assert dead_owners(directory) == []
        assert dead_for_others(directory) == []
    one.remove()
    one.remove()
    assert [file.name for file in directory.iterdir()] == [two.id]
    assert dead_for_others(directory) == []
    two.abandon()
    assert dead_for_others(directory) == dead_owners(directory) == [two.id]
    forget(directory, [two.id, "gone already"])
    assert list(directory.iterdir()) == []


def test_a_file_that_was_left_behind_is_dead_whatever_pid_it_names(tmp_path: Path) -> None:
    (tmp_path / "left").write_text("1\n")
    assert dead_owners(tmp_path) == ["left"]


def test_an_owner_taken_for_dead_before_it_was_locked_becomes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, made = sqlite_owners._locked, list[Path]()

    def swept(path: Path) -> int:
        file = lock(path)
        if not made:
            path.unlink()
        made.append(path)
        return file

    monkeypatch.setattr(sqlite_owners, "_locked", swept)
    owner = Owner(tmp_path)
    assert len(made) == 2
    assert [file.name for file in tmp_path.iterdir()] == [owner.id]
    assert dead_for_others(tmp_path) == []
    owner.remove()


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "directory").mkdir()
    assert dead_owners(tmp_path) == []
