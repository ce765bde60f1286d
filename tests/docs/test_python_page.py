"""The programs of docs/python.md are run as it says, and print what it says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.pipeline import ION, environment
from tests.docs.blocks import ROOT, blocks, write_files

PAGE = "docs/python.md"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """The example's directory, while `ion-core serve` runs in it."""
    example = tmp_path / "faces"
    shutil.copytree(ROOT / "examples" / "faces", example, ignore=shutil.ignore_patterns(".ion*"))
    with (tmp_path / "log").open("wb") as log:
        serving = subprocess.Popen([*ION, "serve"], cwd=example, env=environment(), stdout=log, stderr=log)
    try:
        yield example
    finally:
        serving.terminate()
        serving.wait(30)


def test_its_programs_print_what_it_says(served: Path) -> None:
    programs = write_files(PAGE, served)
    said = [block.text for block in blocks(PAGE) if block.language == "text"]
    assert len(programs) == len(said) == 2
    for program, expected in zip(programs, said, strict=True):
        done = subprocess.run(
            [sys.executable, program.name], cwd=served, env=environment(), capture_output=True, text=True, timeout=150
        )
        assert done.stdout == expected, done.stderr
