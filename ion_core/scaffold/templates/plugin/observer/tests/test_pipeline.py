"""The pipeline of ``ion.yaml``, with this plugin as it is installed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFIGURATION = Path(__file__).parents[1] / "ion.yaml"


@pytest.mark.parametrize("how", [[], ["--workers", "2"]])
def test_its_pipeline_runs_and_is_told_of(tmp_path: Path, how: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ION_")}

    def ion(*arguments: str) -> None:
        command = [sys.executable, "-m", "ion_core", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    shutil.copy(CONFIGURATION, tmp_path)
    ion("event", "publish", "file.received")
    ion("serve", "--until-idle", *how)
    (line,) = map(json.loads, (tmp_path / ".ion/observers/sample/attempts.jsonl").read_text().splitlines())
    assert (line["module"], line["outcome"]) == ("copy", "committed")
