"""The programs of docs/python.md are run as it says, and print what it says."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.pipeline import ION, environment
from tests.docs.blocks import ROOT, blocks, write_files

PAGE = "docs/python.md"


TOKEN = "page-canary-0123456789"


@pytest.fixture
def port() -> int:
    """One that is free, instead of the page's."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture
def served(tmp_path: Path, port: int) -> Iterator[Path]:
    """The example's directory, while `ion-core serve` runs in it, with the console that the page adds."""
    example = tmp_path / "faces"
    shutil.copytree(ROOT / "examples" / "faces", example, ignore=shutil.ignore_patterns(".ion*"))
    (console,) = (block.text for block in blocks(PAGE) if block.language == "yaml")
    with (example / "ion.yaml").open("a", encoding="utf-8") as config:
        config.write(console.replace("8090", str(port)))
    log = tmp_path / "log"
    with log.open("wb") as file:
        environ = environment(CONSOLE_TOKEN=TOKEN)
        serving = subprocess.Popen([*ION, "serve"], cwd=example, env=environ, stdout=file, stderr=file)
    try:
        while "the console listens" not in log.read_text():
            assert serving.poll() is None, log.read_text()
            time.sleep(0.02)
        yield example
    finally:
        serving.terminate()
        serving.wait(30)


def test_its_programs_print_what_it_says(served: Path, port: int) -> None:
    programs = write_files(PAGE, served)
    said = [block.text for block in blocks(PAGE) if block.language == "text"]
    assert len(programs) == len(said) == 3
    for program, expected in zip(programs, said, strict=True):
        program.write_text(program.read_text().replace("8090", str(port)))
        done = subprocess.run(
            [sys.executable, program.name],
            cwd=served,
            env=environment(CONSOLE_TOKEN=TOKEN),
            capture_output=True,
            text=True,
            timeout=150,
        )
        assert done.stdout == expected, done.stderr
