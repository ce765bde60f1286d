"""``scripts/setup`` finds a Python that is new enough under whatever version it is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[2] / "scripts" / "setup"
OLD = "#!/bin/sh\nexit 1\n"
"""Is not new enough, whatever it is asked."""
NEW = f'#!/bin/sh\n[ "$1 $2" = "-m venv" ] && exit 7\nexec {sys.executable} "$@"\n'
"""Ends where a virtual environment would be made."""


def set_up(home: Path, **pythons: str) -> subprocess.CompletedProcess[str]:
    scripts, bin = home / "scripts", home / "bin"
    scripts.mkdir()
    bin.mkdir()
    shutil.copy(SETUP, scripts)
    for name, text in pythons.items():
        program = bin / name.replace("_", ".")
        program.write_text(text)
        program.chmod(0o755)
    for name in ("sh", "dirname", "seq", "id"):
        (bin / name).symlink_to(shutil.which(name) or name)
    return subprocess.run(
        [scripts / "setup", "demo"], env={"PATH": str(bin)}, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("version", ["3_11", "3_14", "3_15", "3_22"])
def test_a_python_of_any_newer_version_is_found(version: str, tmp_path: Path) -> None:
    done = set_up(tmp_path, python3=OLD, **{f"python{version}": NEW})
    assert f"making .venv with python{version.replace('_', '.')}\n" in done.stderr
    assert done.returncode == 7


def test_the_usual_one_is_taken_where_it_is_new_enough_and_of_others_the_newest(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    assert "with python3\n" in set_up(tmp_path / "one", python3=NEW, python3_15=NEW).stderr
    (tmp_path / "two").mkdir()
    assert "with python3.15\n" in set_up(tmp_path / "two", python3=OLD, python3_15=NEW, python3_12=NEW).stderr


def test_without_one_it_is_said(tmp_path: Path) -> None:
    done = set_up(tmp_path, python3=OLD, python3_10=OLD)
    assert "no Python of version 3.11 or newer on the PATH" in done.stderr
    assert done.returncode == 1
