"""The pipeline of the page on what Ion does not do sorts as the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.pipeline import Pipeline
from tests.docs.blocks import write_files


@pytest.mark.parametrize(
    ("text", "module", "note"),
    [("INVOICE 17", "pay", "to be paid\n"), ("Dear Sir", "file", "to be filed\n")],
    ids=["invoice", "letter"],
)
def test_the_type_of_an_event_is_the_condition(tmp_path: Path, text: str, module: str, note: str) -> None:
    write_files("docs/not-in-ion.md", tmp_path)
    (tmp_path / "document.txt").write_text(text)
    pipeline = Pipeline(tmp_path)
    pipeline.ion("event", "publish", "document.received", "--file", "document.txt")
    pipeline.ion("serve", "--until-idle")

    commits = {commit["context"]["name"]: commit for commit in pipeline.documents("commit")}
    assert set(commits) == {"sort", module}
    [output] = commits[module]["outputs"]
    assert (pipeline.state / "blobs" / "files" / output["key"]).read_text() == note
