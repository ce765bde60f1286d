"""docs/debugging.md is run, command by command, and says what is printed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.pipeline import environment
from tests.docs.blocks import blocks, write_files

PAGE = "docs/debugging.md"
LEFT_OUT = "…"
CHANGING = {  # from run to run, or from machine to machine
    r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}": "ID",
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+\+00:00)?": "TIME",
    r"\d{8}T\d{6}\.\d{6}-ID-1-[0-9a-f]{12}": "KEPT",
    r"\b\d+(\.\d+)? s\b|\b\d+\.\d{2,3}": "SECONDS",
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


def says(expected: list[str], printed: str) -> bool:
    """Whether that is all that was printed; ``…`` stands for any lines, and empty ones do not count."""
    lines = [line for line in printed.splitlines() if line]
    if not expected:  # the command alone is shown
        return not lines
    wanted = (r"(?:.*\n)*" if line == LEFT_OUT else re.escape(unchanging(line)) + r"\n" for line in expected)
    return re.fullmatch("".join(wanted), "".join(f"{unchanging(line)}\n" for line in lines)) is not None


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        (["a", "b"], "a\n\nb\n", True),
        (["a"], "a\nb\n", False),
        (["b", "a"], "a\nb\n", False),
        (["…", "b"], "a\nc\nb\n", True),
        (["a", "…", "d"], "a\nb\nc\nd\n", True),
        ([], "a\n", False),
        (["took 0.123 s"], "took 4.56 s\n", True),
    ],
)
def test_what_the_page_shows_is_all_of_it_or_says_so(expected: list[str], printed: str, same: bool) -> None:
    assert says(expected, printed) == same


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
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=60,
        )
        printed = done.stdout
        assert done.returncode == code, f"{command}\n{printed}"
        assert says(expected, printed), f"{command}\n{expected}\nare not all of:\n{printed}"
        for line in expected:
            if event := re.search(r"text\.received  ([0-9a-f]{8})", line):
                [real] = re.findall(r"text\.received  ([0-9a-f]{8})", printed)
                ids[event[1]] = real
        count += 1
    assert count == 10
