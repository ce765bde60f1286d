"""Distributions installed for a test, beside everything else."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path


def install(source: Path, target: Path) -> None:
    """pip install, into a directory of its own so that nothing of ours is changed; uv where pip is not there."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    uv = shutil.which("uv")
    if importlib.util.find_spec("pip") is None and uv is not None:
        pip = [uv, "pip"]
    command = [*pip, "install", "--quiet", "--no-deps", "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
