"""The dispatcher's life: what it finds at its start, how much it does at once, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ion_core.commits import Commit, child_event
from ion_core.contracts.runtime import ContainerRef, ContainerSpec
from ion_core.contracts.storage import Document
from ion_core.dispatcher.outbox import Outbox
from ion_core.embedded.memory.broker import MemoryBroker, MemoryDelivery
from ion_core.embedded.memory.runtime import MemoryRuntime
from ion_core.errors import ConfigError, PermanentError, TransientError
from ion_core.intake import Intake
from ion_core.jobs import Verdict
from tests.support.worlds import PATIENCE, Scene, World, attempt, does, emit, eventually, exits, no_back_off


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


MINUTE = timedelta(minutes=1)


# Concurrency


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_module_does_no_more_at_once_than_configured(concurrency: int, world: World) -> None:
    scene = Scene()
    world.add(scene, concurrency=concurrency)
    async with world.serving() as serving:
        for _ in range(8):
            await world.publish()
        await scene.until(concurrency)
        assert serving.dispatcher.running == concurrency
        assert world.broker.counts("worker").ready == 8 - concurrency, "the rest is there for other dispatchers"
        scene.go.set()
        await world.broker.idle()
    assert scene.most == concurrency
    assert scene.arrived == 8


async def test_modules_do_not_wait_for_each_other(world: World) -> None:
    busy = Scene()
    world.add(busy, "busy")
    world.add(exits(0), "quick")
    async with world.serving():
        for _ in range(5):
            await world.publish()
        await busy.until(1)
        await world.observed.until(lambda: len(world.observed.finished) == 5)
        assert {trying.job.module for trying, _ in world.observed.finished} == {"quick"}
        busy.go.set()


async def test_one_module_s_failures_do_not_disturb_another(world: World) -> None:
    def breaks(workspace: Path) -> None:
        raise RuntimeError("the program raises")

    world.add(does(breaks), "broken")
    world.add(exits(0), "good")
    for _ in range(5):
        await world.publish()
    await world.run()
    assert len(await world.dead("broken")) == 5
    assert len(world.commits) == 5
    assert await world.dead("good") == []


async def test_one_module_s_runtime_that_hangs_does_not_disturb_another(world: World) -> None:
    class Hanging(MemoryRuntime):
        async def create(self, spec: ContainerSpec) -> ContainerRef:
            if spec.image == "stuck":
                await asyncio.Event().wait()
            return await super().create(spec)

    world.add(exits(0), "stuck")
    world.add(exits(0), "good")
    world.runtime = Hanging(world.programs)
    async with world.serving(drain_timeout=timedelta(0)):
        for _ in range(3):
            await world.publish()
        await world.observed.until(lambda: len(world.commits) == 3)
    assert world.broker.counts("stuck").ready == 3
    assert world.left_behind() == []


async def test_each_module_runs_where_it_is_configured_to(world: World) -> None:
    world.add(exits(0), "here")
    world.add(exits(0), "there", runtime="other")
    other = MemoryRuntime({"there": exits(0)})
    created: list[str | None] = []
    create = other.create

    async def noting(spec: ContainerSpec) -> ContainerRef:
        created.append(spec.image)
        return await create(spec)

    other.create = noting  # type: ignore[method-assign]
    await world.publish()
    async with world.serving(runtimes={"default": world.runtime, "other": other}):
        await world.broker.idle()
    assert created == ["there"]
    assert len(world.commits) == 2


# The end


async def test_a_drain_lets_running_jobs_finish_and_takes_nothing_more(world: World) -> None:
    scene = Scene()
    world.add(scene)
    async with world.serving(drain_timeout=MINUTE) as serving:
        await world.publish(event_id="first")
        await scene.until(1)
        await world.publish(event_id="second")
        serving.stop.set()
        await asyncio.sleep(0)
        assert not serving.task.done()
        scene.go.set()
        await serving.ended()
        assert serving.task.exception() is None
    assert [commit.context.event_id for commit in world.commits] == ["first"]
    assert world.broker.counts("worker").ready == 1
    assert world.left_behind() == []


async def test_a_drain_ends_after_its_time_and_gives_back_uncounted(world: World) -> None:
    scene = Scene()
    world.add(scene, concurrency=2)
    async with world.serving(drain_timeout=timedelta(seconds=0.05)) as serving:
        for _ in range(2):
            await world.publish()
        await scene.until(2)
        serving.stop.set()
        await serving.ended()
    assert world.observed.verdicts == [Verdict.RELEASED] * 2
    assert [message.attempt for message in await world.broker.peek("worker", limit=5)] == [1, 1]
    assert world.commits == []
    assert world.left_behind() == []


async def test_hurry_stops_at_once(world: World) -> None:
    scene = Scene()
    world.add(scene)
    async with world.serving(drain_timeout=MINUTE) as serving:
        await world.publish()
        await scene.until(1)
        serving.stop.set()
        await asyncio.sleep(0)
        serving.hurry.set()
        await serving.ended()
    assert world.alive() == 0
    assert world.observed.verdicts == [Verdict.RELEASED]
    assert world.broker.counts("worker").ready == 1


class Order(MemoryBroker):
    """Writes down, when a delivery is given back, whichever way, how many containers are running then."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.given_back: list[int] = []

        class Noting(MemoryDelivery):
            async def release(self) -> None:
                self._broker.given_back.append(world.alive())  # type: ignore[attr-defined]
                await super().release()

            async def postpone(self, *, delay: timedelta) -> None:
                self._broker.given_back.append(world.alive())  # type: ignore[attr-defined]
                await super().postpone(delay=delay)

            def take_back(self) -> None:
                if self in self._broker.queue(self._name).held:
                    self._broker.given_back.append(world.alive())  # type: ignore[attr-defined]
                super().take_back()

        self.delivery_type = Noting


@pytest.mark.parametrize("how", ["cancel", "hurry", "drain timeout"])
async def test_a_module_is_stopped_before_anybody_else_can_be_given_its_event(how: str, world: World) -> None:
    scene = Scene()
    world.add(scene)
    world.broker = broker = Order(world)
    async with world.serving(drain_timeout=MINUTE if how == "hurry" else timedelta(0)) as serving:
        await world.publish()
        await scene.until(1)
        if how == "cancel":
            serving.task.cancel()
            await asyncio.wait({serving.task}, timeout=PATIENCE)
            assert serving.task.cancelled()
            serving.task = asyncio.create_task(asyncio.sleep(0))
        else:
            serving.stop.set()
            serving.hurry.set()
        await serving.ended()
    assert broker.given_back == [0]
    assert world.observed.verdicts == [Verdict.RELEASED]
    assert broker.counts("worker").ready == 1
    assert world.left_behind() == []


async def test_a_failed_provider_s_container_is_gone_before_the_event_goes_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene()
    world.add(scene)
    world.broker = broker = Order(world)
    errors = [TransientError("no answer")]

    class Forgetful(MemoryRuntime):
        async def start(self, ref: ContainerRef) -> None:
            await super().start(ref)
            if errors:
                await scene.until(1)
                raise errors.pop()

    world.runtime = Forgetful(world.programs)
    scene_ends = asyncio.create_task(scene.until(2))
    with no_back_off(monkeypatch):
        async with world.serving():
            await world.publish()
            await scene_ends
            scene.go.set()
            await broker.idle()
    assert broker.given_back == [0]
    assert scene.arrived == 2
    assert len(world.commits) == 1


async def test_an_exit_that_ignores_sigterm_is_bounded_by_grace(world: World) -> None:
    running = asyncio.Event()

    async def ignores(workspace: Path, env: Mapping[str, str]) -> int:
        while True:
            running.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    world.add(ignores)
    async with world.serving(drain_timeout=timedelta(0)) as serving:
        await world.publish()
        await running.wait()
        serving.stop.set()
        await serving.ended()
    assert world.observed.verdicts == [Verdict.RELEASED]
    assert world.left_behind() == []


async def test_clean_up_that_hangs_is_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ion_core.dispatcher.slots.CLEAN_WITHIN", 0.05)

    class Stuck(MemoryRuntime):
        async def remove(self, ref: ContainerRef) -> None:
            await asyncio.Event().wait()

    world.add(exits(0))
    world.runtime = Stuck(world.programs)
    await world.publish()
    await world.run()
    assert world.observed.verdicts == [Verdict.COMMITTED]
    assert "left behind until the next start" in caplog.text


@pytest.mark.parametrize("error", [TransientError("no answer"), PermanentError("no"), KeyError("foreign")])
async def test_clean_up_that_fails_changes_no_result(
    error: Exception, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    class Stuck(MemoryRuntime):
        async def remove(self, ref: ContainerRef) -> None:
            raise error

    world.add(exits(0))
    world.runtime = Stuck(world.programs)
    for _ in range(2):
        await world.publish()
    await world.run()
    assert world.observed.verdicts == [Verdict.COMMITTED] * 2
    assert "left behind until the next start" in caplog.text

    world.runtime = MemoryRuntime(world.programs)
    await world.run()
    assert world.left_behind() == [], "the next start removes it"


async def test_a_create_that_was_cancelled_half_way_leaves_no_container(world: World) -> None:
    class SlowToTell(MemoryRuntime):
        async def create(self, spec: ContainerSpec) -> ContainerRef:
            ref = await super().create(spec)
            await asyncio.Event().wait()
            return ref

    world.add(exits(0))
    world.runtime = SlowToTell(world.programs)
    async with world.serving(drain_timeout=timedelta(0)) as serving:
        await world.publish()
        await eventually(lambda: bool(world.runtime.containers))
        serving.stop.set()
        await serving.ended()
    assert world.left_behind() == []
    assert world.broker.counts("worker").ready == 1


async def test_without_anything_to_do_it_ends_at_once(world: World) -> None:
    world.add(exits(0))
    async with world.serving(drain_timeout=MINUTE) as serving:
        serving.stop.set()
        await serving.ended()
        assert serving.task.exception() is None


async def test_no_task_is_left_running(world: World) -> None:
    world.add(exits(0))
    before = asyncio.all_tasks()
    await world.publish()
    await world.run()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


# Idle


async def test_it_is_idle_when_nothing_is_pending_anywhere(world: World) -> None:
    scene = Scene()
    world.add(scene)
    async with world.serving() as serving:
        assert await serving.dispatcher.idle()
        await world.publish()
        await scene.until(1)
        assert not await serving.dispatcher.idle()
        scene.go.set()
        await world.broker.idle()
        await eventually(lambda: serving.dispatcher.running == 0)
        assert await serving.dispatcher.idle()


async def test_a_retry_that_waits_is_pending(world: World) -> None:
    world.add(exits(1), retry=replace(world.add(exits(1)).retry, initial=timedelta(hours=1)))
    world.modules.pop(0)
    async with world.serving() as serving:
        await world.publish()
        await world.observed.until(lambda: world.observed.verdicts == [Verdict.RETRIED])
        await eventually(lambda: serving.dispatcher.running == 0)
        assert not await serving.dispatcher.idle()
    world.broker._close()


# The start


async def test_containers_of_an_earlier_life_are_removed_those_of_others_kept(world: World) -> None:
    world.add(exits(0))
    hang = Scene()
    world.programs["hang"] = hang

    async def container(name: str, **labels: str) -> ContainerRef:
        known = {key.replace("_", "."): value for key, value in labels.items()}
        return await world.runtime.create(ContainerSpec(name=name, image="hang", workspace=world.work, labels=known))

    ours = [
        await container("ours-1", ion_state="ours", ion_module="worker"),
        await container("ours-2", ion_state="ours"),
    ]
    for ref in ours[:1]:
        await world.runtime.start(ref)
    others = [
        await container("theirs", ion_state="another"),
        await container("no-ion"),
        await container("m", ion_module="worker"),
    ]
    for ref in others:
        await world.runtime.start(ref)

    await world.dispatcher().recover()

    assert set(world.runtime.containers) == {ref.id for ref in others}
    assert hang.cancelled <= 1
    for ref in others:
        await world.runtime.remove(ref)


async def test_workspaces_of_an_earlier_life_are_removed(world: World) -> None:
    world.add(exits(0))
    await world.handler.open_workspace("ion-worker-before")
    await world.dispatcher().recover()
    assert world.left_behind() == []


async def test_recovering_is_repeatable_and_declares_every_queue(world: World) -> None:
    world.add(exits(0), "one")
    world.add(exits(0), "two", takes="other")
    for _ in range(2):
        await world.dispatcher().recover()
    assert world.broker.queue("one").topics == {"in"}
    assert world.broker.queue("two").topics == {"other"}


async def test_a_queue_it_cannot_use_is_an_error_at_the_start(world: World) -> None:
    async def declare(queue: str, **known: object) -> None:
        raise ConfigError(f"queue {queue}: exists with x-max-length 5")

    world.add(exits(0))
    world.broker.declare = declare  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="x-max-length"):
        await world.dispatcher().recover()


# The outbox


async def owing(world: World, event_id: str = "e", committed_at: str = "2020-01-01T00:00:00.000+00:00") -> Commit:
    """A commit whose events are not published, as a crash between S9 and S10 leaves it."""
    trying = attempt(event_id)
    commit = Commit(
        job_id=trying.job.id,
        context=replace(trying.job.event.context, name="worker", document_type="commit"),
        attempt=1,
        token=trying.token,
        image=None,
        started_at=committed_at,
        committed_at=committed_at,
        events=(child_event(trying, "0.json", event_type="out", data=(), files=()),),
    )
    await Intake(world.dataplane, world.modules).declare()
    await world.dataplane.commit(commit)
    return commit


@pytest.fixture
def chain(world: World) -> World:
    world.add(exits(0))
    world.add(exits(0), "next", takes="out")
    return world


async def test_the_start_publishes_what_commits_still_owe(chain: World) -> None:
    commit = await owing(chain)
    await chain.run()
    assert [event.context.event_id for event in chain.observed.published if event.type == "out"] == [
        commit.events[0].context.event_id
    ]
    assert [commit.context.name for commit in chain.commits] == ["worker", "next"]
    assert not any(document.pending for document in chain.documents_of("commit"))


async def test_the_sweeper_leaves_commits_alone_that_are_being_published(chain: World) -> None:
    await owing(chain, "old")
    await owing(chain, "fresh", committed_at="2999-01-01T00:00:00.000+00:00")
    assert await Outbox(chain.dataplane).sweep() == 1
    assert {document.body["context"]["eventId"] for document in chain.documents_of("commit") if document.pending} == {
        "fresh"
    }


async def test_a_commit_that_cannot_be_published_does_not_stop_the_others(
    chain: World, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = await owing(chain, "bad"), await owing(chain, "good")
    put = chain.documents.put

    async def refuse_one(document: Document) -> None:
        if document.id == bad.events[0].context.event_id:
            raise PermanentError("refused")
        await put(document)

    chain.documents.put = refuse_one  # type: ignore[method-assign]
    outbox = Outbox(chain.dataplane)
    assert outbox.view.looked_at is None
    assert await outbox.sweep() == 1
    assert (outbox.view.owed, outbox.view.published) == (1, 1)
    assert outbox.view.looked_at is not None
    assert {document.id for document in chain.documents_of("commit") if document.pending} == {bad.job_id}
    assert good.job_id != bad.job_id
    assert "refused" in caplog.text


@pytest.mark.parametrize("error", [TransientError("away"), PermanentError("no"), KeyError("foreign")])
async def test_the_sweeper_lives_through_any_failure(
    error: Exception, chain: World, caplog: pytest.LogCaptureFixture
) -> None:
    await owing(chain)
    sweeps = 0
    find = chain.documents.find

    def failing_first(*args: object, **known: object) -> object:
        nonlocal sweeps
        sweeps += 1
        if sweeps < 3:
            raise error
        return find(*args, **known)  # type: ignore[arg-type]

    chain.documents.find = failing_first  # type: ignore[method-assign,assignment]
    running = asyncio.create_task(Outbox(chain.dataplane).run(every=0.0))
    await eventually(lambda: not any(document.pending for document in chain.documents_of("commit")))
    running.cancel()
    assert "outbox could not be swept" in caplog.text


async def test_a_commit_is_never_kept_aside_because_it_cannot_be_published(
    chain: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work is done: whatever is wrong with publishing, more attempts or a dead letter would be lies."""
    chain.programs["worker"] = does(lambda workspace: emit(workspace, "out"))
    publish, failures = chain.broker.publish, [KeyError("foreign"), PermanentError("no")] * 4

    async def failing(topic: str, body: bytes, *, headers: Mapping[str, str]) -> None:
        if topic == "out" and failures:
            raise failures.pop()
        await publish(topic, body, headers=headers)

    chain.broker.publish = failing  # type: ignore[method-assign]
    await chain.publish()
    with no_back_off(monkeypatch):
        await chain.run()
    assert await chain.dead() == []
    assert {trying.number for trying in chain.observed.started} == {1}
    assert {commit.context.name for commit in chain.commits} == {"worker", "next"}
