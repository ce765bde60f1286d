"""The example, run as `make demo` runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.acceptance.pipeline import environment

ROOT = Path(__file__).resolve().parents[2]


def test_the_demo_ends_well_and_prints_the_flows() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "faces" / "demo.py")],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for text in ("photo.received", "face.detected", "face.blurred", "catalogue", "As expected"):
        assert text in done.stdout
