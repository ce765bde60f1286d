"""The executor kit's scripts look where they say: run by hand, they see what is there to be seen."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from ion_core.testing.job_commands import JobCommands

SECRET = "secret-0123456789ab"


def said(command: Sequence[str], workspace: Path, **env: str) -> list[str]:
    given = {"PATH": "/usr/bin:/bin", "HANDLER_BASE_DIR": str(workspace), **env}
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    for name in ("in/data", "out/data", "out/events"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "in/data/other").write_text("secret-of another")
    return tmp_path


def test_what_is_nowhere_is_not_seen(workspace: Path) -> None:
    assert said(JobCommands().looks_for(SECRET), workspace, HOME="/") == ["looked"]


def test_what_is_in_the_environment_is_seen(workspace: Path) -> None:
    found = said(JobCommands().looks_for(SECRET), workspace, TICKET=f"{{{SECRET}}}")
    assert found == ["seen in env", "looked"]


def test_what_is_among_the_arguments_is_seen(workspace: Path) -> None:
    found = said([*JobCommands().looks_for(SECRET), f"--ticket={SECRET}"], workspace)
    assert found == ["seen in arguments", "looked"]


def test_what_is_in_a_file_is_seen(workspace: Path) -> None:
    hidden = workspace / "in/.a name"
    hidden.write_bytes(b"\0" + SECRET.encode() + b"\n")
    found = said(JobCommands().looks_for(SECRET), workspace)
    assert found == [f"seen in {hidden}", "looked"]


def test_what_is_in_a_file_elsewhere_is_seen(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("run") / "settings"
    elsewhere.write_text(SECRET)
    command = JobCommands().looks_for(SECRET, below=str(elsewhere.parent))
    assert said(command, workspace) == [f"seen in {elsewhere}", "looked"]


def test_files_are_written_byte_for_byte(workspace: Path) -> None:
    content = bytes(range(256)) + b"%s \\n 'quoted' $(id)"
    assert said(JobCommands().leaves({"out/data/made": content}), workspace) == ["ready"]
    assert (workspace / "out/data/made").read_bytes() == content


def test_names_of_files_are_listed_with_their_directories(workspace: Path) -> None:
    assert said(JobCommands().prints_names_of_files(), workspace) == ["in/data/other"]
