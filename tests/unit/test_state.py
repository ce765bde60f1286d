"""The state directory: made, marked, and held by one process at a time."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ion_core.errors import StateBusy, StateError, StorageFull
from ion_core.state import State

HOLD = """
import sys
from pathlib import Path
from ion_core.state import State
with State.open(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """Another process that holds the directory until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_it_is_made_closed_to_others_and_kept_out_of_version_control(tmp_path: Path) -> None:
    state = State.open(tmp_path / "a" / ".ion")
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o700
    assert "*" in (state.path / ".gitignore").read_text().splitlines()


def test_its_mark_is_made_once(tmp_path: Path) -> None:
    first, second = State.open(tmp_path / "one"), State.open(tmp_path / "two")
    assert first.id() == State.open(tmp_path / "one").id() == first.id()
    assert first.id() != second.id()


@pytest.mark.parametrize("content", [b"", b"\n", b"../../etc", b"\xff\xfe", b"0123"])
def test_a_damaged_mark_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    state = State.open(tmp_path)
    (tmp_path / "id").write_bytes(content)
    with pytest.raises(StateError, match=f"{tmp_path}/id: is damaged"):
        state.id()


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_directory_that_cannot_be_is_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match=str(tmp_path / name)) as refused:
        State.open(tmp_path / name)
    assert "--state-dir" in str(refused.value)
    assert refused.value.exit_code == 78


def test_a_lock_that_cannot_be_opened_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "serve.lock").mkdir()
    with pytest.raises(StateError, match=r"serve\.lock"), State.open(tmp_path).locked():
        pass


def test_the_second_process_is_told_the_first_one_s_pid(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        with pytest.raises(StateBusy, match=f"pid {first.pid}") as refused, State.open(tmp_path).locked():
            pass
        assert refused.value.exit_code == 75
        first.communicate()
    with State.open(tmp_path).locked():
        assert (tmp_path / "work").is_dir()


def test_a_process_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        first.kill()
        first.wait()
        with State.open(tmp_path).locked():
            pass


def test_a_lock_is_let_go_of_on_an_error(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    with pytest.raises(RuntimeError), state.locked():
        raise RuntimeError
    with state.locked():
        pass


@pytest.mark.parametrize("call", ["open", "ftruncate", "write", "mkdir"])
def test_a_full_disk_is_told_as_that_wherever_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    state = State.open(tmp_path)

    def full(*arguments: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(StorageFull, match="no space left"), state.locked():
            pass
    with state.locked():  # and nothing is held
        pass
