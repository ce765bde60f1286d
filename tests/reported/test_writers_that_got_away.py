"""A process that got away from its job changes no later one: what it holds of a workspace is no other job's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ion_core.handler.spares import Workspaces
from ion_core.handler.workspace import FIXED, Workspace
from tests.acceptance.pipeline import Pipeline
from tests.unit.test_kept_spares import kept

DIRECTORIES = ("", *FIXED)
"""Of a workspace, seen from its home."""


def content(workspace: Workspace) -> dict[str, bytes]:
    return {
        str(path.relative_to(workspace.home)): path.read_bytes() if path.is_file() else b""
        for path in workspace.home.rglob("*")
    }


@pytest.mark.parametrize("name", DIRECTORIES)
async def test_a_directory_that_is_held_open_is_none_of_a_later_job(name: str, tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path)
    async with kept(workspaces):
        one = await workspaces.open("one")
        new = content(one)
        held = os.open(one.home / name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            await workspaces.close(one)
            two, three = await workspaces.open("two"), await workspaces.open("three")
            for path in ("x", "out/data/x", "ion/out/data/x", "../out/data/x"):
                with pytest.raises(FileNotFoundError):
                    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, dir_fd=held))
        finally:
            os.close(held)
        assert content(two) == content(three) == new


async def test_an_insights_file_that_is_held_open_is_none_of_a_later_job(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path)
    async with kept(workspaces):
        one = await workspaces.open("one")
        new = content(one)
        with (one.out / "insights.json").open("w") as held:
            await workspaces.close(one)
            two = await workspaces.open("two")
            held.write('[{"key": "of", "value": "another job"}]')
        assert content(two) == new


# The first job leaves a process that has a group, a session and an environment of its own, works in out/data and has
# the insights open. It writes while the third job runs, which waits for that: the second may have begun before the
# workspace of the first was cleared away.
LEAVES = r"""
import os, sys

base, top = os.environ["HANDLER_BASE_DIR"], os.environ["TOP"]
turn = len(os.listdir(f"{top}/turns"))
open(f"{top}/turns/{turn}", "w").close()
if turn == 1:
    sys.exit()
if turn == 2:
    with open(f"{top}/go", "w"):
        pass
    with open(f"{top}/written") as written:
        written.read()
    sys.exit()
held = os.open(f"{base}/out/insights.json", os.O_WRONLY)
os.chdir(f"{base}/out/data")
away, getting_away = os.pipe()
if os.fork():
    os.close(getting_away)
    os.read(away, 1)  # its end, once the other program has begun
    sys.exit()
os.setsid()
if os.fork():
    os._exit(0)
null = os.open(os.devnull, os.O_RDWR)
for stream in (0, 1, 2):
    os.dup2(null, stream)
os.set_inheritable(held, True)
os.execve(sys.executable, [sys.executable, "-c", WRITES, top, str(held)], {})
"""
WRITES = r"""
import os, sys

top, held = sys.argv[1], int(sys.argv[2])
with open(f"{top}/go") as go:
    go.read()
for path in ("x", "../events/x.json", "../../in/data/x", "../../../job.json"):
    try:
        open(path, "w").close()
    except OSError:
        pass
os.write(held, b'[{"key": "of", "value": "another job"}]')
with open(f"{top}/written", "w"):
    pass
"""


def outputs(pipeline: Pipeline) -> list[tuple[object, object, object]]:
    return [(it["outputs"], it["insights"], it["events"]) for it in pipeline.documents("commit")]


def test_a_writer_that_got_away_changes_no_later_job(tmp_path: Path) -> None:
    config = """
modules:
  leaves:
    command: [python3, leaves.py]
    source: modules
    subscribes: [asked]
    retries: 0
    env: {{TOP: "{runs}"}}
"""
    pipeline = Pipeline.make(tmp_path / "home", config=config, modules={})
    top = pipeline.home / "runs"
    (top / "turns").mkdir(parents=True)
    for name in ("go", "written"):
        os.mkfifo(top / name)
    (pipeline.home / "modules/leaves.py").write_text(f"WRITES = {WRITES!r}\n{LEAVES}", encoding="utf-8")
    for _ in range(3):
        pipeline.publish("asked", files=0)
    pipeline.ion("serve", "--until-idle")
    assert outputs(pipeline) == [([], [], [])] * 3
    assert pipeline.dead_letters() == []
