"""The README's pipeline is written down and run as a newcomer would; its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.pipeline import Pipeline
from tests.docs.blocks import ROOT, blocks, write_files

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
    [commands] = [block.text for block in blocks("README.md") if block.role == "run"]

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


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}"
