"""The walk-through of docs/development.md is run as a reader would run it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

from tests.acceptance.pipeline import ION, environment
from tests.docs.blocks import blocks, write_files

PAGE = "docs/development.md"


def test_the_walk_through_does_what_the_page_says(tmp_path: Path) -> None:
    write_files(PAGE, tmp_path)
    script = "\n".join(block.text for block in blocks(PAGE) if block.role == "run")
    done = subprocess.run(
        ["sh", "-eu", "-c", script],
        cwd=tmp_path,
        env=environment(PATH=f"{Path(ION[0]).parent}:{os.environ['PATH']}"),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    face, pairs, *_ = done.stdout.splitlines()
    assert face == "a face"
    assert pairs.startswith('[{"key":"x","value":"17"},{"key":"face.txt","value":"file:///')
    [event] = [line for line in done.stdout.splitlines() if '"type":"face.detected"' in line]
    [root] = [path for path in (tmp_path / ".dev").iterdir() if (path / "2").is_dir()]
    assert json.loads(event)["context"]["parentEventId"] == "2"
    assert (root / "2" / "_blobs" / "face.txt").read_text() == "a face\n"
    [next_place] = [path for path in (tmp_path / ".dev/1").iterdir() if (path / "prepared").exists()]
    assert f"{next_place.name}  blur " in done.stdout
    for marker in ("prepared", "committed"):
        assert (tmp_path / ".dev/1" / marker).read_text() == "{}"
    [layout] = [block.text for block in blocks(PAGE) if block.language == "text"]
    shown = set(re.findall(r"\b(_[a-z]+|prepared|committed)\b", layout))
    made = {path.name for path in (tmp_path / ".dev/1").iterdir() if path != next_place}
    assert made - shown == {"_job.json", "_commit.json"}
    assert shown <= made
