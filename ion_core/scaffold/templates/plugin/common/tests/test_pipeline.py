"""The pipeline of ``ion.yaml``, with this plugin as it is installed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

CONFIGURATION = Path(__file__).parents[1] / "ion.yaml"


def test_its_pipeline_runs(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ION_")}

    def ion(*arguments: str) -> str:
        command = [sys.executable, "-m", "ion_core", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    shutil.copy(CONFIGURATION, tmp_path)
    (tmp_path / "note.txt").write_text("noted")
    ion("event", "publish", "file.received", "--file", "note.txt")
    ion("serve", "--until-idle")
    (flow,) = json.loads(ion("trace", "list", "--json"))
    assert flow["outcome"] == "done"
    ion("files", flow["correlationId"], "--get", "fetched")
    assert [path.read_text() for path in (tmp_path / "fetched" / "copy").rglob("note.txt")] == ["noted"]
