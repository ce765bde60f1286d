"""Jobs that an engine runs whole: what comes of each end, who fetches them, and what a dispatcher leaves behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.executor import Cause, JobRef, JobSpec, JobStatus, ModuleSpec, Step, Ticket
from ion_core.contracts.messaging import RetryPolicy
from ion_core.dataplane import forget_rounds
from ion_core.dispatcher import Dispatcher
from ion_core.dispatcher.at_engine import LOST_IN_A_ROW
from ion_core.dispatcher.engine import FETCHED_WITHIN, Engine
from ion_core.embedded.memory.executor import MemoryEngine, MemoryExecutor, StepEnd, open_memory_engine
from ion_core.errors import TransientError
from ion_core.events import encode_event
from ion_core.intake import Intake
from ion_core.jobs import Verdict
from tests.support.steps import DataPlaneSteps
from tests.support.worlds import (
    PATIENCE,
    Scene,
    World,
    attempt,
    does,
    emit,
    eventually,
    exits,
    fails_first,
    messages,
    no_back_off,
)
from tests.support.worlds import say as prints

ONCE = RetryPolicy(retries=0)


@dataclass
class EngineWorld(World):
    """A world whose modules run at an engine in memory. It goes on when a dispatcher ends, as engines do."""

    engine: MemoryEngine = field(init=False)

    def dispatcher(self, **more: Any) -> Dispatcher:
        alone = more.pop("alone", True)
        engine = Engine(MemoryExecutor(self.engine), name="default", installation="ours", alone=alone)
        return super().dispatcher(**{"runtimes": {}, "engines": {"default": engine}, "settings_of": _settings, **more})

    async def job(self) -> JobStatus:
        """The one that is with the engine."""
        [status] = await MemoryExecutor(self.engine).find({})
        return status

    def left_behind(self) -> list[str]:
        return [path.name for path in self.workspaces.iterdir()] + list(self.engine.jobs)


def _settings(module: Any) -> bytes:
    return json.dumps({"modules": {module.name: {"publishes": list(module.publishes)}}}).encode()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[EngineWorld]:
    world = EngineWorld(tmp_path)
    async with open_memory_engine(DataPlaneSteps(world.dataplane), world.programs) as world.engine:
        yield world


def _greets(workspace: Path) -> None:
    prints("working")
    (workspace / "out" / "data" / "greeting.txt").write_text((workspace / "in" / "data" / "name.txt").read_text())
    emit(workspace, "out", ("k", "v"), files="greeting.txt")


async def test_a_job_at_an_engine_commits_and_its_events_are_published(world: EngineWorld) -> None:
    world.add(does(_greets))
    event = await world.publish(files={"name.txt": b"you"})
    await world.run()
    [commit] = world.commits
    assert [file.name for file in commit.files] == ["greeting.txt"]
    assert [it.type for it in commit.events] == ["out"]
    assert world.observed.verdicts == [Verdict.COMMITTED]
    log = world.log_of(event)
    assert log["token"] == commit.token
    assert log["logs"].splitlines() == [
        "Preparer logs",
        f"event {event.context.event_id} of type in from test",
        "input name.txt, 3 bytes",
        "1 file and 1 pair prepared",
        "",
        "Worker logs",
        "working",
        "",
        "Committer logs",
        "1 file, 3 bytes, 1 event, 0 insights",
    ]
    assert log["seconds"].keys() == {"prepare", "module", "commit", "all"}
    assert world.left_behind() == []


async def test_what_it_leaves_is_what_a_container_leaves(tmp_path: Path, world: EngineWorld) -> None:
    """But for ids of its own, times and where files lie."""
    beside = World(tmp_path / "beside")
    found = []
    for it in (world, beside):
        it.add(fails_first(1, does(_greets)), keep_failed=0)
        await it.publish(files={"name.txt": b"you"}, event_id="e1", correlation_id="c1")
        await it.run()
        found.append([_told(document.body) for document in it.documents.documents.values()])
    assert found[0] == found[1]


def _told(value: Any, key: str = "") -> Any:
    if key in ("id", "key", "message", "seconds", "token") or key.endswith("At"):
        return None
    if isinstance(value, Mapping):
        return {name: _told(it, name) for name, it in value.items()}
    return [_told(it, key) for it in value] if isinstance(value, list) else value


# How it ends


async def test_a_module_that_fails_is_tried_again_and_counted(world: EngineWorld) -> None:
    world.add(fails_first(2, exits(0)))
    event = await world.publish()
    await world.run()
    assert world.observed.verdicts == [Verdict.RETRIED, Verdict.RETRIED, Verdict.COMMITTED]
    assert world.log_of(event, number=1)["reason"] == "exit code 3"
    assert "about to fail, 1 to go" in world.log_of(event, number=1)["logs"]
    assert world.left_behind() == []


async def test_a_module_that_takes_too_long_fails_and_says_which_setting(world: EngineWorld) -> None:
    world.add(Scene(), timeout=timedelta(milliseconds=20))
    await world.publish()
    await world.run()
    [letter] = await world.dead()
    assert letter.reason == "timed out after 0.02 s (modules.worker.timeout) (attempt 3, the last)"


async def test_output_that_is_refused_is_a_dead_letter_at_once_with_the_reasons(world: EngineWorld) -> None:
    world.add(does(lambda workspace: emit(workspace, "unknown")))
    await world.publish()
    await world.run()
    [letter] = await world.dead()
    assert "unknown" in letter.reason
    assert world.observed.verdicts == [Verdict.DEAD_LETTERED]


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (Cause.IMAGE, "no such image"),
        (Cause.REFUSED, "runtime default refuses its job: no such image"),
        (Cause.CANCELLED, "its job was cancelled at the engine: no such image. If it is to run after all: "),
    ],
)
async def test_what_no_try_helps_is_a_dead_letter_in_the_engine_s_words(
    cause: Cause, said: str, world: EngineWorld
) -> None:
    scene = Scene()
    world.add(scene)
    await world.publish()
    async with world.serving():
        await scene.until(1)
        await world.engine.end((await world.job()).ref, cause, "no such image")
        await world.observed.finishes(1)
    [letter] = await world.dead()
    assert letter.reason.startswith(said)
    assert world.observed.verdicts == [Verdict.DEAD_LETTERED]


async def test_a_job_that_its_engine_loses_is_tried_again_at_once_and_is_no_attempt(world: EngineWorld) -> None:
    scene = Scene()
    world.add(scene, retry=ONCE)
    event = await world.publish()
    async with world.serving():
        for n in range(LOST_IN_A_ROW):
            await scene.until(n + 1)
            await world.engine.end((await world.job()).ref, Cause.INFRASTRUCTURE, "node lost")
        await scene.until(LOST_IN_A_ROW + 1)
        scene.go.set()
        await world.observed.finishes(1)
    assert world.observed.verdicts == [Verdict.COMMITTED]
    assert world.log_of(event)["logs"].count("the engine lost the job, which is no failed attempt: node lost") == 10
    assert world.left_behind() == []


async def test_a_job_that_is_lost_too_often_has_failed(world: EngineWorld) -> None:
    scene = Scene()
    world.add(scene, retry=ONCE)
    await world.publish()
    async with world.serving():
        for n in range(LOST_IN_A_ROW + 1):
            await scene.until(n + 1)
            await world.engine.end((await world.job()).ref, Cause.INFRASTRUCTURE, "node lost")
        await world.observed.finishes(1)
    [letter] = await world.dead()
    assert letter.reason == "the engine lost its job 11 times in a row: node lost (attempt 1, the last)"


async def test_a_full_engine_is_waited_for_and_is_no_attempt(
    world: EngineWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.add(exits(0), retry=ONCE)
    world.engine.full = "the quota is used up"
    await world.publish()
    with no_back_off(monkeypatch):
        async with world.serving() as serving:
            await eventually(lambda: any("quota" in it for it in serving.dispatcher.health.problems()))
            world.engine.full = ""
            await world.observed.finishes(1)
            assert serving.dispatcher.health.problems() == []
    assert world.observed.verdicts == [Verdict.COMMITTED]
    said = [it for it in messages(caplog) if "quota" in it]
    assert len(said) == 1, "it is said once, however often it is tried"


async def test_who_stops_while_the_engine_is_full_gives_the_event_back(world: EngineWorld) -> None:
    world.add(exits(0))
    world.engine.full = "the quota is used up"
    await world.publish()
    async with world.serving() as serving:
        await eventually(lambda: bool(serving.dispatcher.health.problems()))
    assert world.observed.verdicts == [Verdict.RELEASED]
    assert world.left_behind() == []


async def test_a_job_that_the_engine_refuses_to_make_is_a_dead_letter(world: EngineWorld) -> None:
    world.add(exits(0))
    world.engine.forbids = "violates PodSecurity"
    await world.publish()
    await world.run()
    [letter] = await world.dead()
    assert "violates PodSecurity" in letter.reason


async def test_stores_that_are_away_for_a_step_cost_no_attempt(
    world: EngineWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add(exits(0), retry=ONCE)
    event = await world.publish(files={"name.txt": b"you"})
    away, get = True, world.blobs.get

    async def sometimes(*given: Any, **how: Any) -> None:
        if away:
            raise TransientError("the bucket does not answer")
        await get(*given, **how)

    world.blobs.get = sometimes  # type: ignore[method-assign]
    with no_back_off(monkeypatch):
        async with world.serving():
            await world.observed.finishes(2)
            away = False
            await world.observed.until(lambda: Verdict.COMMITTED in world.observed.verdicts)
    assert world.observed.verdicts[:2] == [Verdict.RELEASED] * 2
    assert event.context.event_id
    assert await world.dead() == []


async def test_whatever_the_engine_says_a_job_that_has_committed_is_done(world: EngineWorld) -> None:
    """Its node is lost in the very moment after its commit record: nothing is done twice."""
    scene, runs, commit = Scene(), Scene(), world.engine.steps.commit
    runs.go.set()
    world.add(runs)

    async def commits_and_hangs(*given: Any) -> Any:
        await commit(*given)
        await scene(*given[2:])

    world.engine.steps.commit = commits_and_hangs  # type: ignore[method-assign]
    event = await world.publish()
    async with world.serving():
        await scene.until(1)
        await world.engine.end((await world.job()).ref, Cause.INFRASTRUCTURE, "node lost")
        await world.observed.finishes(1)
    assert world.observed.verdicts == [Verdict.COMMITTED]
    assert runs.arrived == 1
    assert "after its commit the job did not end well: node lost" in world.log_of(event)["logs"]


async def test_a_job_that_says_that_it_committed_elsewhere_is_told(world: EngineWorld) -> None:
    world.add(exits(0))

    async def elsewhere(*given: Any) -> Any:
        return StepEnd()

    world.engine.steps.commit = elsewhere  # type: ignore[method-assign]
    await world.publish()
    await world.run()
    [letter] = await world.dead()
    assert letter.reason.startswith("its job says that it has committed, and there is no commit in")


# Who fetches it


async def test_a_job_goes_on_when_its_dispatcher_ends_and_is_fetched_by_the_next(world: EngineWorld) -> None:
    scene = Scene()
    world.add(scene)
    event = await world.publish()
    async with world.serving(drain_timeout=timedelta(0)) as serving:
        await scene.until(1)
        serving.stop.set()
        await serving.ended()
    assert scene.running == 1, "nobody stopped it"
    assert world.observed.verdicts == [Verdict.RELEASED]
    first = (await world.job()).ticket
    scene.go.set()
    async with world.serving():
        await world.observed.finishes(2)
    [commit] = world.commits
    assert scene.arrived == 1, "it ran once"
    assert first is not None
    assert (commit.token, commit.attempt) == (first.token, 1)
    assert world.log_of(event)["token"] == first.token
    assert world.observed.verdicts[1:] == [Verdict.COMMITTED]
    assert world.left_behind() == []


@pytest.mark.parametrize("code", [0, 3])
async def test_a_job_whose_attempt_is_one_too_many_by_now_is_fetched_all_the_same(
    world: EngineWorld, code: int
) -> None:
    """It runs, and may commit: a dead letter beside that would be one too many."""
    scene = Scene(code=code)
    world.add(fails_first(1, scene), retry=RetryPolicy(retries=1, initial=timedelta(0)))
    await world.publish()
    async with world.serving(drain_timeout=timedelta(0)) as serving:
        await scene.until(1)
        serving.stop.set()
        await serving.ended()
    world.modules[:] = [replace(world.modules[0], retry=ONCE)]
    async with world.serving():
        scene.go.set()
        await world.observed.finishes(3)
    assert world.observed.verdicts[2] is (Verdict.DEAD_LETTERED if code else Verdict.COMMITTED)
    assert [letter.reason for letter in await world.dead()] == (["exit code 3 (attempt 2, the last)"] if code else [])
    assert scene.arrived == 1
    assert world.left_behind() == []


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("ends", ["before", "meanwhile"])
async def test_a_job_of_an_event_that_its_module_takes_no_more_is_fetched_all_the_same(
    world: EngineWorld, code: int, ends: str
) -> None:
    scene = Scene(code=code)

    async def emits(workspace: Path, env: Mapping[str, str]) -> int:
        emit(workspace, "out")
        return await scene(workspace, env)

    world.add(emits, retry=ONCE)
    world.add(exits(0), "next", takes="out", emits=())
    event = await world.publish()
    async with world.serving(drain_timeout=timedelta(0)) as serving:
        await scene.until(1)
        serving.stop.set()
        await serving.ended()
    world.modules[0] = replace(world.modules[0], subscribes=("other",))
    if ends == "before":
        scene.go.set()
        await MemoryExecutor(world.engine).wait((await world.job()).ref)
    async with world.serving():
        scene.go.set()
        await world.broker.idle()
    assert world.observed.verdicts[1] is (Verdict.DEAD_LETTERED if code else Verdict.COMMITTED)
    assert [letter.reason for letter in await world.dead()] == (["exit code 3 (attempt 1, the last)"] if code else [])
    assert [it.type for it in world.observed.published].count("out") == (0 if code else 1)
    assert world.log_of(event)["outcome"] == ("dead-lettered" if code else "committed")
    assert scene.arrived == 1
    assert world.left_behind() == []


async def test_a_job_that_failed_while_nobody_looked_is_fetched_with_its_log(world: EngineWorld) -> None:
    async def fails(workspace: Path, env: Mapping[str, str]) -> int:
        prints("in vain")
        await scene(workspace, env)
        return 7

    scene = Scene()
    world.add(fails, retry=ONCE)
    event = await world.publish()
    async with world.serving(drain_timeout=timedelta(0)) as serving:
        await scene.until(1)
        serving.stop.set()
        await serving.ended()
    scene.go.set()
    executor = MemoryExecutor(world.engine)
    await executor.wait((await world.job()).ref)
    async with world.serving():
        await world.observed.finishes(2)
    [letter] = await world.dead()
    assert letter.reason == "exit code 7 (attempt 1, the last)"
    assert "in vain" in world.log_of(event)["logs"]
    assert scene.arrived == 1


async def test_a_job_that_committed_while_nobody_looked_is_fetched_with_its_log(world: EngineWorld) -> None:
    scene = Scene()
    world.add(scene)
    event = await world.publish()
    async with world.serving(drain_timeout=timedelta(0)) as serving:
        await scene.until(1)
        serving.stop.set()
        await serving.ended()
    scene.go.set()
    await MemoryExecutor(world.engine).wait((await world.job()).ref)
    await world.run()
    [commit] = world.commits
    log = world.log_of(event)
    assert (log["token"], log["outcome"]) == (commit.token, "committed")
    assert "0 files, 0 bytes, 0 events, 0 insights" in log["logs"]
    assert world.left_behind() == []


@pytest.mark.parametrize(
    ("clock", "began", "least"),
    [(0, {Step.PREPARE: 1000.0, Step.MODULE: 1010.0, Step.COMMIT: 4590.0}, 3600), (86400, {}, 7200)],
    ids=["as its engine tells it", "as its ticket tells it"],
)
@pytest.mark.parametrize("code", [0, 7])
async def test_a_job_that_is_fetched_has_taken_as_long_as_since_its_start(
    world: EngineWorld, clock: float, began: Mapping[Step, float], least: float, code: int
) -> None:
    """The engine's clock may be any: no time of it is compared with ours."""
    scene = Scene(code=code)
    world.add(scene, retry=ONCE)
    event = await world.publish()
    async with world.serving(drain_timeout=timedelta(0)) as serving:
        await scene.until(1)
        serving.stop.set()
        await serving.ended()
    status = await world.job()
    job = world.engine.jobs[status.ref.id]
    assert job.ticket is not None
    if not began:
        ago = datetime.now(UTC) - timedelta(seconds=least)
        job.ticket = replace(job.ticket, started_at=ago.isoformat(timespec="milliseconds"))
    scene.go.set()
    await MemoryExecutor(world.engine).wait(status.ref)
    assert job.end is not None
    job.end = replace(job.end, began=began, ended_at=clock + 4600.0)
    async with world.serving():
        await world.observed.finishes(2)
    log = world.log_of(event)
    assert log["startedAt"] == job.ticket.started_at
    assert least <= log["seconds"]["all"] < least + 1800
    assert log["seconds"].keys() >= {it.value for it in began}
    outcome = world.observed.finished[1][1]
    assert least <= outcome.seconds < least + 1800
    ran = [*began.items(), (None, 4600.0)] if began else []
    expected = [(step.value, at - 1000, until - at) for (step, at), (_, until) in pairwise(ran) if step is not None]
    assert [(it.name, round(it.begun, 1), it.seconds) for it in outcome.steps] == expected


async def test_the_second_signal_stops_what_runs(world: EngineWorld) -> None:
    scene = Scene()
    world.add(scene)
    await world.publish()
    async with world.serving() as serving:
        await scene.until(1)
        serving.stop.set()
        serving.hurry.set()
        await serving.ended()
    assert (scene.running, scene.cancelled) == (0, 1)
    assert world.left_behind() == []
    assert world.observed.verdicts == [Verdict.RELEASED]


async def test_another_dispatcher_fetches_the_job_of_one_that_died(world: EngineWorld) -> None:
    scene = Scene()
    world.add(scene)
    await world.publish()
    async with world.serving(alone=False) as first:
        await scene.until(1)
        async with world.serving(alone=False):
            first.task.cancel()  # as far as the engine sees: it asks no more
            await first.ended()
            scene.go.set()
            await world.observed.until(lambda: Verdict.COMMITTED in world.observed.verdicts)
        first.task = asyncio.create_task(asyncio.sleep(0))
    assert scene.arrived == 1


async def test_a_job_of_an_attempt_that_is_settled_is_removed(world: EngineWorld) -> None:
    world.add(exits(0))
    world.programs["failing"] = exits(3)
    event = await world.publish()
    executor = MemoryExecutor(world.engine)
    ref = await executor.create(_spec(world, image="failing"))
    await executor.start(ref, _ticket(event.context.event_id, attempt=7))
    await executor.wait(ref)
    await world.run()
    assert world.left_behind() == []


async def test_a_job_of_an_earlier_attempt_that_still_runs_is_no_reason_to_wait(world: EngineWorld) -> None:
    """Its node was given up: it may never end. If it commits after all, that changes nothing."""
    scene = Scene()
    world.add(scene)
    world.programs["zombie"] = zombie = Scene()
    event = await world.publish()
    executor = MemoryExecutor(world.engine)
    ref = await executor.create(_spec(world, image="zombie"))
    await executor.start(ref, _ticket(event.context.event_id, attempt=7))
    await zombie.until(1)
    async with world.serving():
        await scene.until(1)
        scene.go.set()
        await world.observed.finishes(1)
    assert world.observed.verdicts == [Verdict.COMMITTED]
    zombie.go.set()
    await executor.wait(ref)
    assert len(world.commits) == 1


def _spec(world: EngineWorld, image: str = "worker") -> Any:
    return JobSpec(
        name=f"of-another-{image}",
        module=ModuleSpec(name="worker", image=image),
        settings=_settings(world.modules[0]),
        labels={"ion.installation": "ours", "ion.module": "worker"},
    )


def _ticket(event_id: str, *, attempt: int) -> Ticket:
    return Ticket(event_id=event_id, correlation_id="", module="worker", attempt=attempt, token="t")


async def test_an_event_from_others_without_a_document_runs_too(world: EngineWorld) -> None:
    """Step 1 knows an event by its document alone: it is stored for it, once."""
    world.add(fails_first(1, exits(0)))
    event = attempt().job.event
    await Intake(world.dataplane, world.modules).declare()
    await world.broker.publish("in", encode_event(event), headers={})
    await world.run()
    [commit] = world.commits
    assert commit.context.event_id == event.context.event_id


async def test_who_stops_while_a_job_is_made_leaves_none(world: EngineWorld) -> None:
    made, go = asyncio.Event(), asyncio.Event()

    class Slow(MemoryExecutor):
        async def create(self, spec: JobSpec) -> JobRef:
            ref = await super().create(spec)
            made.set()
            await go.wait()
            return ref

    world.add(exits(0))
    await world.publish()
    engine = Engine(Slow(world.engine), name="default", installation="ours", alone=True)
    async with world.serving(engines={"default": engine}, drain_timeout=timedelta(0)) as serving:
        await made.wait()
        serving.stop.set()
        await serving.ended()
    assert world.left_behind() == []
    assert world.observed.verdicts == [Verdict.RELEASED]


# What an engine does not answer


async def test_an_engine_that_is_away_costs_no_attempt_and_no_job(
    world: EngineWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene()
    world.add(scene, retry=ONCE)
    await world.publish()
    with no_back_off(monkeypatch):
        async with world.serving():
            world.engine.failing = TransientError("the API server does not answer")
            await world.observed.finishes(2)
            assert set(world.observed.verdicts) == {Verdict.RELEASED}
            world.engine.failing = None
            await scene.until(1)
            scene.go.set()
            await world.observed.until(lambda: Verdict.COMMITTED in world.observed.verdicts)
    assert scene.arrived == 1


async def test_a_log_that_cannot_be_had_changes_nothing(world: EngineWorld) -> None:
    world.add(does(_greets))
    event = await world.publish(files={"name.txt": b"you"})

    class Mute(MemoryExecutor):
        def logs(self, ref: Any, *, follow: bool = False) -> Any:
            raise TransientError("the node does not answer")

    engine = Engine(Mute(world.engine), name="default", installation="ours", alone=True)
    await world.run(engines={"default": engine})
    assert world.observed.verdicts == [Verdict.COMMITTED]
    assert "[… output is lost from here on: the node does not answer …]" in world.log_of(event)["logs"]


async def test_what_a_module_prints_can_be_followed(world: EngineWorld) -> None:
    scene = Scene()

    async def program(workspace: Path, env: Mapping[str, str]) -> int:
        prints("first")
        return await scene(workspace, env)

    world.add(program)
    async with world.serving() as serving:
        event = await world.publish()
        lines = serving.dispatcher.attempts.follow(event.context.event_id, wait=True)
        async with asyncio.timeout(PATIENCE):
            assert (await anext(lines)).text == "first"
        scene.go.set()
        await world.observed.finishes(1)
        assert [line.text async for line in lines] == []


# What is left behind


async def test_jobs_made_ahead_are_used_and_gone_at_the_end(world: EngineWorld) -> None:
    world.add(exits(0), warm=2, concurrency=2)
    async with world.serving() as serving:
        await eventually(lambda: serving.dispatcher.warm == 2)
        made = set(world.engine.jobs)
        await world.publish()
        await eventually(lambda: len(made - set(world.engine.jobs)) == 1)  # the event took one that was made
        [slots] = serving.dispatcher.slots()
        assert (slots.warm, slots.found, slots.made) == (2, 1, 0)
    assert world.left_behind() == []


@pytest.mark.parametrize("alone", [True, False])
async def test_what_an_earlier_life_made_and_never_started_is_removed_where_nobody_else_may_start_it(
    alone: bool, world: EngineWorld
) -> None:
    world.add(exits(0))
    ref = await MemoryExecutor(world.engine).create(_spec(world))
    async with world.serving(alone=alone):
        pass
    assert (ref.id in world.engine.jobs) is not alone


async def test_a_job_whose_event_is_settled_is_removed_at_the_next_start(world: EngineWorld) -> None:
    """Its dispatcher died in between."""
    world.add(exits(0))
    event = await world.publish()

    class Forgetful(MemoryExecutor):
        async def remove(self, ref: JobRef) -> None:
            raise TransientError("the API server does not answer")

    await world.run(engines={"default": Engine(Forgetful(world.engine), name="d", installation="ours", alone=False)})
    assert len(world.engine.jobs) == 1
    logs = dict(world.logs)
    await world.run(alone=False)
    assert world.left_behind() == []
    assert world.logs == logs
    assert world.log_of(event)["outcome"] == "committed"


class _KeepsEnded(MemoryExecutor):
    """An engine that does not answer when its jobs are to be removed."""

    async def remove(self, ref: JobRef) -> None:
        raise TransientError("the API server does not answer")


@pytest.mark.parametrize("lives", [1, 2])
async def test_what_is_left_of_a_dead_letter_s_job_is_not_what_its_redrive_ends_with(
    world: EngineWorld, lives: int
) -> None:
    """Numbers of attempts begin again."""
    world.add(fails_first(1, exits(0)), retry=ONCE)
    await world.publish()
    engine = Engine(_KeepsEnded(world.engine), name="default", installation="ours", alone=True)
    async with world.serving(engines={"default": engine}):
        await world.observed.finishes(1)
        if lives == 1:
            await _redrive(world)
            await world.observed.finishes(2)
    if lives == 2:
        await _redrive(world)
        await world.run()
    assert world.observed.verdicts == [Verdict.DEAD_LETTERED, Verdict.COMMITTED]


async def _redrive(world: EngineWorld) -> None:
    letters = await world.dead()
    await forget_rounds(world.documents, letters)
    assert await world.broker.redrive(world.modules[0].name, [letter.id for letter in letters]) == 1


async def test_a_job_that_was_lost_and_cannot_be_removed_is_lost_once(world: EngineWorld) -> None:
    scene = Scene()
    world.add(scene, retry=ONCE)
    await world.publish()
    engine = Engine(_KeepsEnded(world.engine), name="default", installation="ours", alone=True)
    async with world.serving(engines={"default": engine}):
        await scene.until(1)
        await world.engine.end((await world.job()).ref, Cause.INFRASTRUCTURE, "node lost")
        await scene.until(2)
        scene.go.set()
        await world.observed.finishes(1)
    assert world.observed.verdicts == [Verdict.COMMITTED]


async def test_a_job_that_nobody_fetches_for_long_is_removed(world: EngineWorld) -> None:
    world.programs["worker"] = exits(0)
    world.programs["scene"] = scene = Scene()
    world.add(exits(0))
    executor = MemoryExecutor(world.engine)
    ended, created, running = [
        await executor.create(_spec(world, image=image)) for image in ("worker", "idle", "scene")
        if world.programs.setdefault(image, exits(0))
    ]  # fmt: skip
    event = await world.publish()
    await executor.start(ended, _ticket(event.context.event_id, attempt=7))
    await executor.wait(ended)
    await executor.start(running, _ticket(event.context.event_id, attempt=8))
    await scene.until(1)
    engine = Engine(executor, name="default", installation="ours", alone=False)
    await engine.tidy(now=0.0)
    await engine.tidy(now=FETCHED_WITHIN - 1)
    assert set(world.engine.jobs) == {ended.id, created.id, running.id}
    await engine.tidy(now=FETCHED_WITHIN)
    assert set(world.engine.jobs) == {running.id}, "what runs is left to its engine"


async def test_however_many_ask_the_engine_lists_its_jobs_one_at_a_time(world: EngineWorld) -> None:
    asked, at_once, go = 0, 0, asyncio.Event()

    class Counting(MemoryExecutor):
        async def find(self, labels: Mapping[str, str]) -> Any:
            nonlocal asked, at_once
            asked += 1
            at_once += 1
            assert at_once == 1
            await go.wait()
            at_once -= 1
            return await super().find(labels)

    engine = Engine(Counting(world.engine), name="default", installation="ours", alone=True)
    asking = [asyncio.create_task(engine.started("worker", str(n))) for n in range(50)]
    await eventually(lambda: asked == 1)
    go.set()
    await asyncio.gather(*asking)
    assert asked == 2, "the first, and one for all who asked meanwhile"
