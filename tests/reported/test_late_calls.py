"""Whoever calls ``/ready`` gets the workspace filled then: also a module that clears it first, as old ones do."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ion_core.errors import TransientError
from ion_core.handler import Session
from ion_core.handler.session import CallFailed
from ion_core.jobs import Verdict
from tests.acceptance.pipeline import Pipeline
from tests.support.calls import call
from tests.support.worlds import World, no_back_off

FILES = {"input": b"in", "sub/deep/other": b"more"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def clear(workspace: Path) -> None:
    """What the predecessor's example does."""
    for name in ("in/data", "out/data", "out/events"):
        for path in (workspace / name).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def remove(*names: str) -> Callable[[Path], None]:
    def mischief(workspace: Path) -> None:
        for name in names:
            path = workspace / name
            path.unlink() if path.is_file() else shutil.rmtree(path)

    return mischief


def directory_for_input(workspace: Path) -> None:
    (workspace / "in/data/input").unlink()
    (workspace / "in/data/input/x").mkdir(parents=True)


def emptied(workspace: Path) -> None:
    (workspace / "in/data/input").write_bytes(b"")


def fifo_for_pairs(workspace: Path) -> None:
    (workspace / "in/eventmeta.json").unlink()
    os.mkfifo(workspace / "in/eventmeta.json")


CLEARED: dict[str, Callable[[Path], None]] = {
    "files": clear,
    "directories": remove("in/data", "out/data", "out/events"),
    "in and out": remove("in", "out"),
    "everything": remove(""),
    "one file": remove("in/data/sub/deep/other"),
    "pairs": remove("in/eventmeta.json"),
    "insights": remove("out/insights.json"),
    "emptied file": emptied,
    "a directory for an input": directory_for_input,
    "a FIFO for the pairs": fifo_for_pairs,
}


class Copying:
    """Clears its workspace, calls, copies what it finds there, in every round."""

    def __init__(self, cleared: Callable[[Path], None], *, rounds: int = 1, done: bool = True) -> None:
        self._cleared, self._rounds, self._done = cleared, rounds, done
        self.pairs: list[dict[str, str]] = []

    async def __call__(self, workspace: Path, env: Mapping[str, str]) -> int:
        for _ in range(self._rounds):
            self._cleared(workspace)
            assert await call(env, "/ready") == (200, "")
            pairs = json.loads((workspace / "in/eventmeta.json").read_text())
            self.pairs.append({pair["key"]: pair["value"] for pair in pairs})
            assert (workspace / "out/insights.json").read_bytes() == b""
            assert list((workspace / "out/events").iterdir()) == []
            shutil.copytree(workspace / "in/data", workspace / "out/data", dirs_exist_ok=True)
            if self._done:
                assert await call(env, "/done") == (200, "")
        return 0


@pytest.mark.parametrize("done", [True, False], ids=["done", "ends"])
@pytest.mark.parametrize("cleared", CLEARED.values(), ids=CLEARED)
async def test_a_module_that_clears_its_workspace_and_then_calls_gets_its_inputs(
    world: World, cleared: Callable[[Path], None], done: bool
) -> None:
    module = Copying(cleared, done=done)
    world.add(module)
    await world.publish(files=FILES, data=[("n", "1")])
    await world.run()
    [commit] = world.commits
    assert {file.name: world.blobs.blobs[file.key] for file in commit.files} == FILES
    assert [pairs["n"] for pairs in module.pairs] == ["1"]
    assert world.observed.verdicts == [Verdict.COMMITTED]


async def test_every_event_of_one_process_is_there_when_it_calls(world: World) -> None:
    module = Copying(clear, rounds=3)
    world.add(module, reuse=True)
    for n in range(3):
        await world.publish(files={"input": str(n).encode()}, data=[("n", str(n))])
    await world.run()
    assert [pairs["n"] for pairs in module.pairs] == ["0", "1", "2"]
    assert [world.blobs.blobs[file.key] for commit in world.commits for file in commit.files] == [b"0", b"1", b"2"]


async def test_what_a_module_left_in_out_before_it_called_is_kept(world: World) -> None:
    async def module(workspace: Path, env: Mapping[str, str]) -> int:
        (workspace / "out/data/early").write_text("x")
        return 0 if await call(env, "/ready") == (200, "") else 1

    world.add(module)
    await world.publish()
    await world.run()
    assert [file.name for file in world.commits[0].files] == ["early"]


@pytest.mark.parametrize("name", ["in", "out", "in/data", "out/events"])
async def test_a_module_is_told_what_cannot_be_filled_and_may_call_again(world: World, name: str) -> None:
    answers: list[tuple[int, str]] = []

    async def module(workspace: Path, env: Mapping[str, str]) -> int:
        shutil.rmtree(workspace / name)
        (workspace / name).symlink_to(world.inputs)
        answers.append(await call(env, "/ready"))
        (workspace / name).unlink()
        answers.append(await call(env, "/ready"))
        return 0

    world.add(module)
    await world.publish(files=FILES)
    await world.run()
    (status, said), again = answers
    assert status == 500
    assert said.startswith(f"{name}: cannot be filled")
    assert again == (200, "")
    assert world.observed.verdicts == [Verdict.COMMITTED]


async def test_a_store_that_is_down_at_ready_releases_the_event(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    get = world.blobs.get
    fetched: list[str] = []

    async def down_when_put_back(key: str, target: Path, **more: Any) -> None:
        fetched.append(key)
        if len(fetched) == 2:
            raise TransientError("the store is down")
        await get(key, target, **more)

    calls: list[asyncio.Task[tuple[int, str]]] = []

    async def module(workspace: Path, env: Mapping[str, str]) -> int:
        clear(workspace)
        calls.append(asyncio.create_task(call(env, "/ready")))  # which outlives a module that is killed
        await asyncio.shield(calls[-1])
        shutil.copytree(workspace / "in/data", workspace / "out/data", dirs_exist_ok=True)
        return 0

    monkeypatch.setattr(world.blobs, "get", down_when_put_back)
    world.add(module)
    await world.publish(files={"input": b"in"})
    with no_back_off(monkeypatch):
        await world.run()
    assert [(await answer)[0] for answer in calls] == [500, 200]
    assert world.observed.verdicts == [Verdict.RELEASED, Verdict.COMMITTED]
    assert [file.name for file in world.commits[0].files] == ["input"]


async def test_a_call_that_is_given_up_while_the_workspace_is_filled_can_be_made_again() -> None:
    session = Session()
    session.prepared()
    first = asyncio.create_task(session.ready())
    await asyncio.sleep(0)
    assert session.filling
    first.cancel()
    await asyncio.wait({first})
    second = asyncio.create_task(session.ready())
    await asyncio.sleep(0)
    session.answer_filled()
    await second
    assert session.taken


async def test_nobody_was_told_of_an_event_whose_call_was_given_up() -> None:
    session = Session()
    session.prepared()
    only = asyncio.create_task(session.ready())
    await asyncio.sleep(0)
    only.cancel()
    await asyncio.wait({only})
    session.answer_filled()
    assert not session.taken
    assert not session.filling


async def test_who_waits_for_a_workspace_when_the_slot_ends_is_told() -> None:
    session = Session()
    session.prepared()
    asking = asyncio.create_task(session.ready())
    await asyncio.sleep(0)
    session.close()
    with pytest.raises(CallFailed, match="this job is over"):
        await asking


MODULE = """
import os, pathlib, shutil, time, urllib.error, urllib.request

base = pathlib.Path(os.environ["HANDLER_BASE_DIR"])
for name in ("in/data", "out/data", "out/events"):
    shutil.rmtree(base / name, ignore_errors=True)
request = urllib.request.Request(f"http://localhost:{os.environ['HANDLER_PORT']}/ready",
                                 headers={"secret": os.environ["SHARED_SECRET"]})
for _ in range(100):
    try:
        urllib.request.urlopen(request, timeout=60).read()
        break
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError:
        time.sleep(0.1)
shutil.copytree(base / "in/data", base / "out/data", dirs_exist_ok=True)
(base / "out/events/0.json").write_text('[{"key": "eventType", "value": "made"}]')
"""
CONFIG = """
runtimes: {{{{default: {{{{provider: process, isolation: {isolation}}}}}}}}}
modules:
  work:
    command: [python3, work.py]
    source: modules
    subscribes: [asked]
    publishes: [made]
"""


def pipeline_of(home: Path, isolation: str) -> Pipeline:
    pipeline = Pipeline.make(home, config=CONFIG.format(isolation=isolation), modules={})
    (pipeline.home / "modules/work.py").write_text(MODULE, encoding="utf-8")
    return pipeline


@pytest.mark.parametrize("isolation", ["none", "bubblewrap"])
def test_it_is_so_in_real_processes(tmp_path: Path, isolation: str) -> None:
    """Under bubblewrap it cannot clear its inputs, and gets back what it cleared beside them."""
    pipeline = pipeline_of(tmp_path / "home", isolation)
    pipeline.publish("asked")
    pipeline.ion("serve", "--until-idle")
    [commit] = pipeline.documents("commit")
    assert [file["name"] for file in commit["outputs"]] == ["input0.txt"]
    assert [event["type"] for event in commit["events"]] == ["made"]


@pytest.mark.parametrize("command", [("dev", "run", "asked"), ("module", "run", "work", "--type", "asked")])
def test_it_is_so_for_whoever_develops(tmp_path: Path, command: tuple[str, ...]) -> None:
    pipeline = pipeline_of(tmp_path / "home", "none")
    (pipeline.home / "input0.txt").write_text("input")
    said = pipeline.ion(*command, "--file", "input0.txt", "--json").stdout
    assert "input0.txt" in json.dumps(json.loads(said))
    assert '"made"' in said
