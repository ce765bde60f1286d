"""docs/modules.md, typed from top to bottom as a newcomer would."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

from ion_core.module_library import library
from ion_core.scaffold import ModuleNames, module_files
from tests.acceptance.pipeline import Pipeline, environment
from tests.docs.blocks import ROOT, blocks

PAGE = "docs/modules.md"


def test_everything_on_the_page_does_what_it_says(tmp_path: Path) -> None:
    """The first command makes the directory that all others are typed in."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    home, outputs = tmp_path, list[str]()
    for block in blocks(PAGE):
        if block.role == "file":
            (home / block.name).write_text(block.text, encoding="utf-8")
        elif block.role == "run":
            command = ["sh", "-eu", "-c", block.text]
            done = subprocess.run(command, cwd=home, env=environment(PATH=path), capture_output=True, text=True)
            assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
            outputs.append(done.stdout)
            home = tmp_path / "pipeline"

    pipeline = Pipeline(home)
    commits = {commit["context"]["name"]: commit for commit in pipeline.documents("commit")}
    assert set(commits) == {"welcome", "words"}
    [counted] = commits["words"]["events"]
    assert counted["files"] == ["README.md.json"]
    assert counted["data"][0] == {"key": "of", "value": "README.md"}
    assert counted["data"][1]["value"] == str((home / "README.md").stat().st_size)
    updated = next(it for it in outputs if "1 updated in" in it)
    assert "data/hello.txt.json: is not expected" in updated
    everything, chosen = outputs[-1].split(" recorded cases\n")[1:]
    assert "\n3 passed in " in everything
    assert [line.split()[0] for line in chosen.splitlines()] == ["welcome/readme", "words/first", "2"]
    assert "\n2 passed in " in chosen


def test_the_program_on_the_page_is_the_one_that_is_made() -> None:
    names = ModuleNames(name="welcome", subscribes=("welcome.requested",), publishes=("welcome.done",))
    made = module_files("python", names)["modules/welcome/main.py"].content.decode()
    shown = next(block.text for block in blocks(PAGE) if block.language == "python" and "def main" in block.text)
    assert shown in made


def test_the_table_has_every_function_of_the_module_library() -> None:
    rows = [line.split("|") for line in (ROOT / PAGE).read_text(encoding="utf-8").splitlines() if "ion_" in line]
    rows = [row for row in rows if len(row) == 5]
    in_python = {name for row in rows for name in re.findall(r"(\w+)\(", row[1])}
    functions = ast.parse(library("python")).body
    public = {it.name for it in functions if isinstance(it, ast.FunctionDef) and not it.name.startswith("_")}
    assert in_python == public - {"base"}
    in_sh = {name for row in rows for name in re.findall(r"\b(ion_[a-z]\w*)", row[2])}
    assert in_sh == set(re.findall(r"^(ion_[a-z]\w*)\(\)", library("sh"), re.M))


def test_the_page_is_found_from_where_modules_are_spoken_of() -> None:
    for page in ("docs/module-contract.md", "docs/configuration.md", "docs/glossary.md"):
        assert "](modules.md" in (ROOT / page).read_text(encoding="utf-8"), page
