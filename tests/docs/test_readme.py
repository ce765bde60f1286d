"""The README's pipeline is written down and run as a newcomer would; its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.pipeline import Pipeline, environment
from tests.docs.blocks import ROOT, blocks, write_files
from tests.support.wheels import make_wheel

PAGES = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md")),
]


def test_the_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in text
    assert "make test" in text


def test_the_pipeline_of_the_readme_does_what_it_says(tmp_path: Path) -> None:
    write_files("README.md", tmp_path)
    pipeline = Pipeline(tmp_path)
    commands = next(block.text for block in blocks("README.md") if block.role == "run")

    for line in commands.splitlines():
        program, *arguments = line.split()
        if program == "ion-core":
            pipeline.ion(*arguments)
            continue
        assert program == "cat"
        shown = subprocess.run(["sh", "-c", line], cwd=tmp_path, check=True, capture_output=True, text=True)
        assert shown.stdout == '[{"KEY":"NAME","VALUE":"WORLD"}]'

    [commit] = pipeline.documents("commit")
    [output] = commit["outputs"]
    shouted = pipeline.state / "blobs" / "files" / output["key"]
    assert shouted.read_text() == '[{"KEY":"NAME","VALUE":"WORLD"}]'
    assert [event["type"] for event in commit["events"]] == ["hello.shouted"]


def test_all_of_it_typed_in_one_shell_ends_with_what_it_says(tmp_path: Path) -> None:
    """Its package is one that is made here: no index is asked."""
    naturalsize = '\n\ndef naturalsize(size):\n    return f"{size} Bytes"\n'
    make_wheel(tmp_path / "wheels", "humanize", more=naturalsize)
    home = tmp_path / "hello"
    home.mkdir()
    write_files("README.md", home)
    lines = "".join(block.text for block in blocks("README.md") if block.role == "run")
    wheels = {"FIND_LINKS": str(tmp_path / "wheels"), "NO_INDEX": "1"}
    installs_from = {f"{tool}_{name}": value for tool in ("PIP", "UV") for name, value in wheels.items()}
    path = f"{Path(sys.executable).parent}:{environment()['PATH']}"
    typed = subprocess.run(
        ["/bin/sh", "-c", f"set -v\n{lines}"],
        cwd=home,
        env=environment(PATH=path, **installs_from),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=100,
    )
    assert typed.returncode == 0, typed.stdout
    before, _, after = typed.stdout.partition("1 put back.")
    assert "module measure may not publish 'hello.mesured'" in before, typed.stdout
    assert '[{"KEY":"NAME","VALUE":"WORLD"}]' in before
    assert typed.stdout.endswith("\n30 Bytes\n"), typed.stdout
    assert "dead" not in after


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}"
