"""The example, run as `make demo` runs it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.acceptance.pipeline import environment

ROOT = Path(__file__).resolve().parents[2]


def test_the_demo_ends_well_prints_the_flows_and_how_to_look_at_them(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "faces" / "demo.py")],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for text in ("photo.received", "face.detected", "face.blurred", "catalogue", "As expected"):
        assert text in done.stdout
    looks = [
        line.strip() for line in done.stdout.partition("To look at them:\n")[2].splitlines() if " --state-dir " in line
    ]
    assert len(looks) == 3
    shown = [
        subprocess.run(look, shell=True, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
        for look in looks
    ]
    assert [it.returncode for it in shown] == [0, 0, 0], shown
    listed, tree, fetched = (it.stdout for it in shown)
    assert [listed.count(photo) for photo in ("astronaut.jpg", "cat.jpg", "collage.jpg")] == [1, 1, 1]
    assert tree.count("face.blurred") == 3
    assert all((tmp_path / line).is_file() for line in fetched.splitlines())


def test_one_line_gives_its_jobs_to_the_executor_of_this_machine(tmp_path: Path) -> None:
    example = tmp_path / "faces"
    shutil.copytree(ROOT / "examples" / "faces", example, ignore=shutil.ignore_patterns(".ion*"))
    config = example / "ion.yaml"
    config.write_text(
        "runtimes: {default: {provider: subprocess}}\n" + config.read_text(encoding="utf-8"), encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, str(example / "demo.py")],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "As expected" in done.stdout
    assert list((example / ".ion-demo" / "jobs").iterdir()) == []
