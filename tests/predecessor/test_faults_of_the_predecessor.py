"""Faults the Go predecessor had (``docs/module-contract.md`` §5): each test fails on its behaviour."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from ion_core.contracts.messaging import RetryPolicy
from ion_core.contracts.runtime import ContainerSpec
from ion_core.contracts.storage import BlobInfo
from ion_core.development import steps
from ion_core.development.layout import Layout
from ion_core.embedded.local.blobs import open_local_blobs
from ion_core.embedded.memory.blobs import MemoryBlobStore
from ion_core.embedded.memory.broker import MemoryBroker, MemoryDelivery
from ion_core.embedded.memory.runtime import Program, this_container
from ion_core.embedded.settings import LocalBlobsSettings
from ion_core.errors import TransientError
from ion_core.events import Context
from ion_core.handler.given import GivenWorkspace
from ion_core.jobs import Verdict
from tests.support.worlds import Clock, Scene, World, does, emit, exits, fails_first, no_back_off, say


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def _say_who_it_is(name: str, workspace: Path) -> None:
    say(f"I am {name}")


def leaves(*files: str, named: str | None = None, content: str = "content") -> Program:
    """A program that leaves these files and one event naming them, or what ``named`` says instead."""

    def work(workspace: Path) -> None:
        for file in files:
            path = workspace / "out" / "data" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content} of {file}")
        emit(workspace, "out", files=",".join(files) if named is None else named)

    return does(work)


class Inputs:
    """What a module found in its workspace."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.eventmeta: list[dict[str, str]] | None = None

    async def __call__(self, workspace: Path, env: Mapping[str, str]) -> int:
        data = workspace / "in" / "data"
        self.files = {str(path.relative_to(data)): path.read_text() for path in data.rglob("*") if path.is_file()}
        meta = workspace / "in" / "eventmeta.json"
        self.eventmeta = json.loads(meta.read_bytes()) if meta.exists() else None
        return 0


# Commit was neither atomic nor repeatable: fresh ids every time


async def test_commit_is_atomic(world: World) -> None:
    class BreaksAtTheSecondFile(MemoryBlobStore):
        async def put(self, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
            if key.endswith("/b"):
                raise RuntimeError("a bug in the middle of a commit")
            return await super().put(key, source, consume=consume)

    world.blobs = BreaksAtTheSecondFile()
    world.add(leaves("a", "b"))
    world.add(exits(0), "next", takes="out")
    await world.publish()
    await world.run()
    assert world.blobs.blobs == {}
    assert world.commits == []
    of_attempts = {"modulelogs", "failure", "round"}
    kinds = [document.kind for document in world.documents.documents.values()]
    assert [kind for kind in kinds if kind not in of_attempts] == ["eventMeta"]
    assert world.broker.counts("next").ready == 0


async def test_commit_is_repeatable_under_the_same_ids(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker fails in the middle of publishing: the second time the same two events come, no third and fourth."""

    def work(workspace: Path) -> None:
        for n in range(2):
            emit(workspace, "out", name=f"event{n}.json")

    world.add(does(work))
    world.add(exits(0), "next", takes="out")
    publish, sent, failures = world.broker.publish, list[str](), [TransientError("away")]

    async def fails_once(topic: str, body: bytes, *, headers: Mapping[str, str]) -> None:
        if topic == "out":
            if sent and failures:
                raise failures.pop()
            sent.append(json.loads(body)["context"]["eventId"])
        await publish(topic, body, headers=headers)

    world.broker.publish = fails_once  # type: ignore[method-assign]
    await world.publish()
    with no_back_off(monkeypatch):
        await world.run()
    assert len(sent) == 3
    assert len(set(sent)) == 2
    assert len([commit for commit in world.commits if commit.context.name == "next"]) == 2


# Retries


async def test_a_retry_limit_changed_later_has_an_effect(world: World) -> None:
    clock = Clock()
    world.broker = MemoryBroker(call_later=clock.call_later)
    world.add(exits(1), retry=RetryPolicy(retries=9, initial=timedelta(minutes=1)))
    await world.publish()
    async with world.serving():
        await world.observed.until(lambda: world.observed.verdicts == [Verdict.RETRIED])
    world.modules[0] = replace(world.modules[0], retry=RetryPolicy(retries=1))
    async with world.serving():
        clock.pass_to_next()
        await world.observed.until(lambda: world.observed.verdicts == [Verdict.RETRIED, Verdict.DEAD_LETTERED])
    assert len(await world.dead()) == 1


async def test_what_is_above_the_limit_is_dead_lettered_and_not_run(world: World) -> None:
    scene = Scene(code=1)
    scene.go.set()
    clock = Clock()
    world.broker = MemoryBroker(call_later=clock.call_later)
    world.add(scene, retry=RetryPolicy(retries=9, initial=timedelta(minutes=1)))
    await world.publish()
    async with world.serving():
        await world.observed.until(lambda: len(world.observed.verdicts) == 1)
    world.modules[0] = replace(world.modules[0], retry=RetryPolicy(retries=0))
    async with world.serving():
        clock.pass_to_next()
        await world.observed.until(lambda: len(world.observed.verdicts) == 2)
    assert scene.arrived == 1
    [dead] = await world.dead()
    assert "retries is 0" in dead.reason


# The dispatcher


async def test_one_unreadable_message_does_not_kill_the_dispatcher(world: World) -> None:
    world.add(exits(0))
    async with world.serving() as serving:
        await world.broker.publish("in", b"\xff not an event", headers={})
        await world.publish()
        await world.broker.idle()
        assert not serving.task.done()
    assert len(world.commits) == 1
    assert len(await world.dead()) == 1


async def test_one_failed_renewal_does_not_kill_the_dispatcher(world: World) -> None:
    renewed = 0

    class Failing(MemoryDelivery):
        async def renew(self) -> None:
            nonlocal renewed
            renewed += 1
            raise TransientError("no answer")

    world.broker = MemoryBroker(lease=timedelta(seconds=0.02), call_later=Clock().call_later)
    world.broker.delivery_type = Failing

    async def until_renewed(workspace: Path) -> None:
        async with asyncio.timeout(30):
            while renewed < 2:  # noqa: ASYNC110
                await asyncio.sleep(0)

    world.add(does(until_renewed))
    await world.publish()
    await world.run()
    assert world.observed.verdicts == [Verdict.COMMITTED]


async def test_a_restart_does_not_forget_running_jobs(world: World) -> None:
    """kill -9: the container runs on; the new life stops it, and the event is handled as if nothing had happened."""
    scene = Scene()
    world.programs["worker"] = scene
    before = await world.runtime.create(
        ContainerSpec(name="before", image="worker", workspace=world.work, labels={"ion.state": "ours"})
    )
    await world.runtime.start(before)
    await scene.until(1)
    world.add(exits(0))
    await world.publish()
    await world.run()
    assert world.left_behind() == []
    assert world.observed.verdicts == [Verdict.COMMITTED]


# Logs


async def test_logs_of_siblings_do_not_overwrite_each_other(world: World) -> None:
    for name in ("one", "other"):
        world.add(does(partial(_say_who_it_is, name)), name)
    event = await world.publish()
    await world.run()
    for name in ("one", "other"):
        body = world.log_of(event, name)
        assert body["context"]["name"] == name
        assert f"I am {name}" in body["logs"]


# Files of events


@pytest.mark.parametrize(("named", "expected"), [("", []), ("a,", ["a"]), ("a, sub/b,", ["a", "sub/b"])])
async def test_no_files_and_a_trailing_comma_do_not_break_the_consumer(
    named: str, expected: list[str], world: World
) -> None:
    world.add(leaves("a", "sub/b", named=named))
    inputs = Inputs()
    world.add(inputs, "next", takes="out")
    await world.publish()
    await world.run()
    assert sorted(inputs.files) == expected


async def test_files_in_sub_directories_are_passed_on(world: World) -> None:
    world.add(leaves("frames/left/0001.png"))
    inputs = Inputs()
    world.add(inputs, "next", takes="out")
    await world.publish()
    await world.run()
    assert inputs.files == {"frames/left/0001.png": "content of frames/left/0001.png"}
    assert inputs.eventmeta is not None
    [pair] = inputs.eventmeta
    assert pair["key"] == "frames/left/0001.png"


async def test_files_of_one_name_in_two_sub_directories_do_not_collide(world: World) -> None:
    world.add(leaves("left/0001.png", "right/0001.png"))
    inputs = Inputs()
    world.add(inputs, "next", takes="out")
    await world.publish()
    await world.run()
    assert inputs.files == {name: f"content of {name}" for name in ("left/0001.png", "right/0001.png")}


async def test_files_cannot_name_what_lies_outside(world: World, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    world.add(leaves("a", named="a,../../../../../secret"))
    await world.publish()
    await world.run()
    assert world.commits == []
    [dead] = await world.dead()
    assert "'../../../../../secret'" in dead.reason


async def test_a_type_that_is_not_allowed_is_told_so(world: World) -> None:
    world.add(does(lambda workspace: emit(workspace, "not.allowed")), emits=["face.detected"])
    await world.publish()
    await world.run()
    [dead] = await world.dead()
    assert "may not publish 'not.allowed' (declared: face.detected)" in dead.reason
    assert "is required" not in dead.reason


# Preparing


async def test_no_eventmeta_of_an_earlier_job_is_left(world: World) -> None:
    inputs = Inputs()
    world.add(inputs)
    await world.publish(data=[("a", "b")], files={"x": b"x"})
    await world.run()
    assert inputs.eventmeta is not None
    await world.publish()
    await world.run()
    assert inputs.eventmeta is None
    assert inputs.files == {}


async def test_files_are_not_held_in_memory(world: World, tmp_path: Path) -> None:
    size = 64 * 1024**2

    def work(workspace: Path) -> None:
        with (workspace / "out" / "data" / "big").open("wb") as file:
            for _ in range(64):
                file.write(b"x" * 1024**2)
        emit(workspace, "out", files="big")

    found: list[int] = []
    world.add(does(work))
    world.add(
        does(lambda workspace: found.append((workspace / "in" / "data" / "big").stat().st_size)), "next", takes="out"
    )
    async with open_local_blobs(LocalBlobsSettings(path=tmp_path / "blobs")) as blobs:
        world.blobs = blobs  # type: ignore[assignment]
        await world.publish()
        tracemalloc.start()
        try:
            await world.run()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert found == [size]
    assert peak < size / 4


# Secrets and ids


async def test_the_secret_is_no_id_anybody_knows(world: World) -> None:
    secrets: list[str] = []

    async def program(workspace: Path, env: Mapping[str, str]) -> int:
        secrets.append(env["SHARED_SECRET"])
        return 0

    world.add(fails_first(1, program))
    world.add(program, "sibling")
    event = await world.publish()
    await world.run()
    known = json.dumps(event.context.to_json()) + "".join(started.job.id for started in world.observed.started)
    assert len(set(secrets)) == 2
    for secret in secrets:
        assert secret not in known
        assert secret not in str(world.documents.documents)


@pytest.mark.parametrize("id", ["x" * 1024, "/" * 64, "../" * 100, "ünïcödé " * 20, "\n\x00"])
async def test_ids_longer_than_a_label_allows_are_handled(id: str, world: World) -> None:
    seen: list[ContainerSpec] = []
    inputs, leave_a = Inputs(), leaves("a")

    async def program(workspace: Path, env: Mapping[str, str]) -> int:
        seen.append(this_container().spec)
        return await leave_a(workspace, env)

    world.add(program)
    world.add(inputs, "next", takes="out")
    await world.publish(event_id=id, correlation_id=id)
    await world.run()
    assert len(world.commits) == 2
    assert inputs.files == {"a": "content of a"}
    [spec] = seen
    for value in (spec.name, *spec.labels.values()):
        assert len(value) <= 63
        assert id not in value


# Development


def test_every_development_event_has_a_file_of_its_own(tmp_path: Path) -> None:
    context = Context(name="worker", event_id="1", correlation_id="dev")
    layout, workspace = Layout(tmp_path / ".dev"), GivenWorkspace(tmp_path / "ion")
    steps.prepare(layout, context, ["out"], workspace)
    for n in range(3):
        emit(tmp_path / "ion", "out", ("n", str(n)), name=f"event{n}.json")
    steps.commit(layout, context, ["out"], workspace)
    events = [json.loads(path.read_bytes()) for path in sorted((tmp_path / ".dev/1/_events").iterdir())]
    assert [event["data"] for event in events] == [[{"key": "n", "value": str(n)}] for n in range(3)]
    assert len({event["context"]["eventId"] for event in events}) == 3
