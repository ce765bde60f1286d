"""The pipeline of ``ion.yaml``, with this plugin as it is installed."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

CONFIGURATION = Path(__file__).parents[1] / "ion.yaml"
PATIENCE = 60.0


def test_its_pipeline_runs(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ION_")}
    command = [sys.executable, "-m", "ion_core"]
    shutil.copy(CONFIGURATION, tmp_path)
    serving = subprocess.Popen([*command, "serve"], cwd=tmp_path, env=environment)
    try:
        outcomes, deadline = set[str](), time.monotonic() + PATIENCE
        while "done" not in outcomes:
            assert serving.poll() is None, "serve has ended"
            assert time.monotonic() < deadline, f"no flow is done within {PATIENCE:g} s"
            listed = subprocess.run(
                [*command, "trace", "list", "--json"],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            outcomes = {flow["outcome"] for flow in json.loads(listed.stdout or "[]")}
    finally:
        serving.terminate()
        serving.wait(PATIENCE)
