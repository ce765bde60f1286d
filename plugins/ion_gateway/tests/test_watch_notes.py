"""What was published, as it is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ion_core.errors import StateError
from ion_gateway.watching import notes as module
from ion_gateway.watching.notes import KEPT_FOR, Notes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "services" / "published.sqlite"


def test_what_is_noted_is_there_after_a_restart(path: Path) -> None:
    hostile = os.fsdecode(b"\xff\n'; --")
    first = Notes(path)
    first.note("photos", "a", "1")
    first.note("photos", "a", "2")
    first.note("photos", hostile, "1")
    first.note("other", "b", "1")
    first.forget("other", "b")
    first.forget("other", "never there")
    first.close()
    again = Notes(path)
    assert again.published("photos") == {"a": "2", hostile: "1"}
    assert again.published("other") == {}
    again.close()


def test_a_process_that_is_killed_has_lost_nothing(path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from ion_gateway.watching.notes import Notes\n"
        "notes = Notes(Path(sys.argv[1]))\n"
        "for n in range(100): notes.note('photos', str(n), '1')\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], timeout=60, check=False).returncode == -9
    notes = Notes(path)
    assert len(notes.published("photos")) == 100
    notes.close()


ON_A_FULL_DISK = """
import sys
from pathlib import Path

from ion_core.errors import StorageFull
from ion_gateway.watching.notes import Notes

path, filling = Path(sys.argv[1]), Path(sys.argv[1] + ".filling")
notes = Notes(path)
notes.note("photos", "first", "1")
try:
    with filling.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
except OSError as error:
    print(error)
for make in (lambda: notes.note("photos", "x" * 100_000, "1"), lambda: Notes(path.parent / "another" / "db")):
    try:
        make()
    except StorageFull as error:
        print(error)
print(sorted(notes.published("photos")))
filling.unlink()
notes.note("photos", "second", "1")
print(sorted(notes.published("photos")))
"""


def test_a_full_disk_is_no_fault_of_the_file_and_is_left_when_there_is_room(tmp_path: Path) -> None:
    """In a process that sees a disk of 4 MiB there."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    script = f"mount -t tmpfs -o size=4m none '{tmp_path}' && exec \"$@\""
    argv = [sys.executable, "-c", ON_A_FULL_DISK, str(tmp_path / "db")]
    argv = ["unshare", *user, "--mount", "sh", "-c", script, "sh", *argv]
    filled, *told = subprocess.run(argv, timeout=60, check=True, capture_output=True, text=True).stdout.splitlines()
    assert "No space left" in filled
    assert told == [
        f"{tmp_path}/db: no space left. Free some; work goes on by itself then.",
        f"{tmp_path}/another/db: no space left. Free some; work goes on by itself then.",
        "['first']",
        "['first', 'second']",
    ]


def test_a_file_that_is_gone_is_remembered_for_a_while(path: Path) -> None:
    notes = Notes(path)
    for name in ("here", "comes back", "gone"):
        notes.note("photos", name, "1")
    notes.note("other", "of others", "1")
    assert notes.seen("photos", ["here"], 1000.0) == []
    assert notes.seen("photos", ["here", "comes back"], 1000.0 + KEPT_FOR - 1) == []
    assert notes.seen("photos", ["here"], 1000.0 + KEPT_FOR + 1) == ["gone"]
    assert sorted(notes.published("photos")) == ["comes back", "here"]
    assert notes.published("other") == {"of others": "1"}
    notes.close()


def test_no_more_than_so_many_are(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_AT_MOST", 3)
    notes = Notes(path)
    for n in range(6):
        notes.note("photos", str(n), "1")
        notes.seen("photos", [], 1000.0 + n)
    assert sorted(notes.published("photos")) == ["3", "4", "5"]
    notes.close()


def test_what_is_no_such_file_is_said_with_what_would_do(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StateError, match=r"published\.sqlite: cannot be used: .*Remove it"):
        Notes(path)
    path.unlink()
    (path.parent / "file").touch()
    with pytest.raises(StateError, match="cannot be used"):
        Notes(path.parent / "file" / "published.sqlite")


def test_a_newer_one_is_left_alone(path: Path) -> None:
    notes = Notes(path)
    notes._database.execute("PRAGMA user_version = 2")
    notes.close()
    with pytest.raises(StateError, match="newer Ion"):
        Notes(path)


def test_a_call_that_comes_after_the_end_is_refused(path: Path) -> None:
    """A thread whose caller was cancelled may come so late; SQLite itself would take the process with it."""
    notes = Notes(path)
    notes.close()
    with pytest.raises(StateError, match="closed"):
        notes.note("photos", "a", "1")
