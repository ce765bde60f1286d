"""The module library against the real handler: modules that stay, and the same programs given one event each."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from ion_core.module_library import LIBRARY, library
from tests.acceptance.pipeline import Pipeline

EVENTS = 4
PROGRAMS = {
    "python": """
import os, ion_module
for event in ion_module.events():
    for path in event.inputs:
        ion_module.output(ion_module.name_of(path)).write_bytes(path.read_bytes())
    ion_module.emit("went", files=[path.name for path in event.inputs], pairs={"pid": os.getpid()})
    ion_module.insights(event.metadata)
print("over")
""",
    "sh": """
set -eu
. ./ion_module.sh
while ion_next; do
    for path in $(ion_inputs); do cp "$path" "$(ion_output "${path##*/}")"; done
    ion_emit went input0.txt pid $$
    ion_insight n "$(ion_meta n)" input0.txt "$(ion_meta input0.txt)"
done
echo over
""",
}
COMMANDS = {"python": "python3", "sh": "sh"}


@pytest.mark.parametrize("language", PROGRAMS)
@pytest.mark.parametrize("reuse", [True, False])
def test_a_loop_is_given_every_event_and_ends_well(tmp_path: Path, language: str, reuse: bool) -> None:
    config = f"""
modules:
  loop:
    command: [{COMMANDS[language]}, loop.{language}]
    source: modules
    subscribes: [go]
    publishes: [went]
    retries: 0
    timeout: 30s
    reuse: {str(reuse).lower()}
"""
    pipeline = Pipeline.make(tmp_path / "home", config=config, modules={})
    modules = pipeline.home / "modules"
    (modules / LIBRARY[language]).write_text(library(language), encoding="utf-8")
    (modules / f"loop.{language}").write_text(PROGRAMS[language], encoding="utf-8")
    for n in range(EVENTS):
        (pipeline.home / "input0.txt").write_text(f"input {n}\n", encoding="utf-8")
        pipeline.ion("event", "publish", "go", "--file", "input0.txt", "--data", f"n={n}", "--event-id", f"e-{n}")

    pipeline.ion("serve", "--until-idle")

    commits = pipeline.documents("commit")
    assert Counter(commit["context"]["eventId"] for commit in commits) == {f"e-{n}": 1 for n in range(EVENTS)}
    pids = defaultdict(list)
    for commit in commits:
        [event], [output] = commit["events"], commit["outputs"]
        n = commit["context"]["eventId"].removeprefix("e-")
        stored = pipeline.state / "blobs" / "files" / output["key"]
        assert stored.read_text(encoding="utf-8") == f"input {n}\n"
        assert event["files"] == ["input0.txt"]
        insights = {pair["key"]: pair["value"] for pair in commit["insights"]}
        assert insights["n"] == n
        assert insights["input0.txt"].startswith("file://")
        pids[{pair["key"]: pair["value"] for pair in event["data"]}["pid"]].append(n)
    assert len(pids) == (1 if reuse else EVENTS)


@pytest.mark.parametrize("language", PROGRAMS)
def test_an_error_in_the_loop_keeps_nothing_of_that_event(tmp_path: Path, language: str) -> None:
    program = {
        "python": "import ion_module\nfor event in ion_module.events():\n    ion_module.emit('went')\n"
        "    if event.metadata['n'] == '1':\n        raise SystemExit('no')\n",
        "sh": "set -eu\n. ./ion_module.sh\nwhile ion_next; do\n    ion_emit went ''\n"
        '    [ "$(ion_meta n)" != 1 ]\ndone\n',
    }[language]
    config = f"""
modules:
  loop:
    command: [{COMMANDS[language]}, loop.{language}]
    source: modules
    subscribes: [go]
    publishes: [went]
    retries: 0
    reuse: true
"""
    pipeline = Pipeline.make(tmp_path / "home", config=config, modules={})
    modules = pipeline.home / "modules"
    (modules / LIBRARY[language]).write_text(library(language), encoding="utf-8")
    (modules / f"loop.{language}").write_text(program, encoding="utf-8")
    for n in range(3):
        pipeline.ion("event", "publish", "go", "--data", f"n={n}", "--event-id", f"e-{n}")

    pipeline.ion("serve", "--until-idle", code=1)

    assert sorted(commit["context"]["eventId"] for commit in pipeline.documents("commit")) == ["e-0", "e-2"]
    [letter] = pipeline.dead_letters()
    assert letter["eventId"] == "e-1"
