"""docs/debugging.md is run, command by command, and says what is printed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.acceptance.pipeline import environment
from tests.docs.blocks import blocks, write_files

PAGE = "docs/debugging.md"
CHANGING = {  # from run to run, or from machine to machine
    r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}": "ID",
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+\+00:00)?": "TIME",
    r"\d{8}T\d{6}\.\d{6}-ID-1-[0-9a-f]{12}": "KEPT",
    r"\b\d+\.\d{2,3}( s)?": "SECONDS",
    r"(?<=  )[0-9a-f]{8}(?=  )": "ID",
    r"/\S*(?=/dev/|/modules)": "HOME",
    r"(?<=eventmeta.json  )\d+": "BYTES",
}


def commands() -> Iterator[tuple[str, int, list[str]]]:
    """Each command of the page, the exit code that stands behind it, and the lines it is said to print."""
    for block in blocks(PAGE):
        if block.language != "console":
            continue
        for part in re.split(r"^\$ ", block.text, flags=re.M)[1:]:
            command, *lines = part.splitlines()
            command, _, code = command.partition("  # ")
            yield command, int(code or 0), [line for line in lines if line]


def unchanging(line: str) -> str:
    for pattern, word in CHANGING.items():
        line = re.sub(pattern, word, line)
    return line


def test_the_page_is_run_and_prints_what_it_says(tmp_path: Path) -> None:
    write_files(PAGE, tmp_path)
    path = f"{Path(sys.executable).parent}:{environment()['PATH']}"
    ids: dict[str, str] = {}
    count = 0
    for command, code, expected in commands():
        for named, real in ids.items():
            command = command.replace(named, real)
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=tmp_path,
            env=environment(PATH=path, PYTHONIOENCODING="utf-8"),
            capture_output=True,
            encoding="utf-8",
            timeout=60,
        )
        printed = done.stdout + done.stderr
        assert done.returncode == code, f"{command}\n{printed}"
        for line in expected:
            assert unchanging(line) in map(unchanging, printed.splitlines()), f"{command}\n{line}\nnot in:\n{printed}"
            if event := re.search(r"text\.received  ([0-9a-f]{8})", line):
                [real] = re.findall(r"text\.received  ([0-9a-f]{8})", printed)
                ids[event[1]] = real
        count += 1
    assert count == 10
