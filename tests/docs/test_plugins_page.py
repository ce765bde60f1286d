"""docs/plugins.md shows the plugin that `ion-core plugins new shelf --kind blobs` writes."""

from __future__ import annotations

import re

from ion_core.cli.installed.new_plugin import KINDS
from ion_core.scaffold import SKELETONS, plugin_files
from tests.docs.blocks import ROOT, blocks

PAGE = "docs/plugins.md"
SHOWN_ONLY_BY_NAME = {"README.md", ".gitignore", ".github/workflows/test.yml", "tests/test_pipeline.py"}


def test_it_is_the_plugin_that_is_written() -> None:
    written = {path: file.content.decode() for path, file in plugin_files("blobs", "shelf").items()}
    shown = {block.name: block.text for block in blocks(PAGE) if block.role == "file"}
    assert set(written) == {*shown, *SHOWN_ONLY_BY_NAME}
    for path, text in shown.items():
        assert text == written[path], path


def test_the_layout_names_every_file() -> None:
    layout = next(block.text for block in blocks(PAGE) if block.text.startswith("ion-shelf/"))
    files = {path.rpartition("/")[2] for path in plugin_files("blobs", "shelf")}
    assert {line.strip() for line in layout.splitlines() if not line.endswith("/")} == files


def test_it_names_each_kind_that_can_be_begun_with() -> None:
    assert set(SKELETONS) == set(KINDS)
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / PAGE).read_text().partition("## To begin with")[2], re.MULTILINE)
    assert listed[: len(KINDS)] == list(KINDS)
