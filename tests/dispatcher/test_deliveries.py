"""Deliveries that come twice, are lost, or whose broker goes away: one run, one commit, and the dispatcher lives."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from ion_core.contracts.messaging import RetryPolicy
from ion_core.contracts.runtime import ContainerRef
from ion_core.contracts.storage import Document
from ion_core.embedded.memory.broker import MemoryBroker, MemoryDelivery
from ion_core.embedded.memory.runtime import MemoryRuntime
from ion_core.errors import AlreadySettled, DeliveryLost, PermanentError, StorageFull, TransientError
from ion_core.jobs import Verdict
from tests.support.worlds import (
    PATIENCE,
    Clock,
    Scene,
    World,
    emit,
    eventually,
    exits,
    fails_first,
    messages,
    no_back_off,
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def held(world: World, queue: str = "worker") -> MemoryDelivery:
    [delivery] = world.broker.queue(queue).held
    return delivery


# Twice


async def test_the_same_event_twice_at_once_runs_and_commits_once(world: World) -> None:
    scene = Scene()
    world.add(scene, concurrency=4)
    async with world.serving():
        for _ in range(3):
            await world.publish(event_id="e", correlation_id="c")
        await scene.until(1)
        await world.broker.until(lambda: world.broker.counts("worker").unsettled == 3)
        scene.go.set()
        await world.broker.idle()
    assert scene.arrived == 1
    assert len(world.commits) == 1
    assert sorted(world.observed.verdicts, key=lambda verdict: verdict.value) == [
        Verdict.ALREADY_COMMITTED,
        Verdict.ALREADY_COMMITTED,
        Verdict.COMMITTED,
    ]


async def test_a_duplicate_of_a_job_that_fails_has_no_dead_letter_of_its_own(world: World) -> None:
    world.add(exits(1), concurrency=2)
    await world.publish(event_id="e")
    await world.publish(event_id="e")
    await world.run()
    assert len(await world.dead()) == 1
    assert world.commits == []


async def test_a_duplicate_after_the_commit_publishes_what_is_owed_and_runs_nothing(world: World) -> None:
    scene = Scene()
    scene.go.set()
    world.add(scene)
    event = await world.publish(event_id="e")
    await world.run()
    [record] = world.documents_of("commit")
    body = dict(record.body)
    body["events"] = [{"id": "child", "type": "out", "data": [], "files": [], "hops": 1}]
    await world.documents.put(Document(kind="commit", id=record.id, correlation_id="c", body=body, pending=True))
    world.add(exits(0), "next", takes="out")

    await world.publish(event_id="e", correlation_id=event.context.correlation_id)
    await world.run()

    assert scene.arrived == 1
    published = [event.context.event_id for event in world.observed.published if event.type == "out"]
    assert published == ["child"]
    assert not any(document.pending for document in world.documents_of("commit"))
    assert [commit.context.event_id for commit in world.commits] == ["e", "child"]


async def test_a_waiting_duplicate_is_given_back_when_hurried(world: World) -> None:
    scene = Scene()
    world.add(scene, concurrency=2)
    async with world.serving() as serving:
        for _ in range(2):
            await world.publish(event_id="e")
        await scene.until(1)
        await world.broker.until(lambda: world.broker.counts("worker").unsettled == 2)
        serving.stop.set()
        serving.hurry.set()
        await serving.ended()
    assert world.broker.counts("worker").ready == 2
    assert all(message.attempt == 1 for message in await world.broker.peek("worker", limit=5))


# Lost


async def test_a_lost_delivery_is_adopted_when_it_comes_back(world: World) -> None:
    scene = Scene()
    world.add(scene)
    async with world.serving():
        await world.publish()
        await scene.until(1)
        first = held(world)
        first.take_back()
        await world.broker.until(lambda: bool(world.broker.queue("worker").held))
        second = held(world)
        assert second is not first
        await asyncio.sleep(0)
        scene.go.set()
        await world.broker.idle()
    assert scene.arrived == 1
    assert len(world.commits) == 1
    assert world.observed.verdicts == [Verdict.COMMITTED]


async def test_a_failure_of_an_adopted_delivery_is_counted_on_it(world: World) -> None:
    scene = Scene(code=1)
    world.add(scene)
    async with world.serving():
        await world.publish()
        await scene.until(1)
        held(world).take_back()
        await world.broker.until(lambda: bool(world.broker.queue("worker").held))
        await asyncio.sleep(0)
        scene.go.set()
        await world.broker.idle()
    assert world.observed.verdicts == [Verdict.RETRIED, Verdict.RETRIED, Verdict.DEAD_LETTERED]
    assert scene.arrived == 3


async def test_a_job_whose_delivery_is_lost_for_good_commits_all_the_same(world: World) -> None:
    scene = Scene()
    world.add(scene)
    async with world.serving():
        await world.publish()
        await scene.until(1)
        held(world).take_back()
        world.broker.queue("worker").ready.clear()  # somebody else was given it
        scene.go.set()
        await world.observed.until(lambda: bool(world.observed.finished))
    assert world.observed.verdicts == [Verdict.LOST]
    assert len(world.commits) == 1


async def test_a_job_that_fails_once_its_delivery_is_lost_runs_again_as_soon_as_that_is_back(world: World) -> None:
    """Nobody has begun to settle it, so no dead letter of it can be on its way: its record says nothing of one."""
    scene = Scene(code=1)
    world.add(scene, retry=RetryPolicy(retries=0))
    async with world.serving():
        await world.publish()
        await scene.until(1)
        held(world).take_back()
        [stored] = world.broker.queue("worker").ready
        world.broker.queue("worker").ready.clear()  # it will be given out a little later
        scene.go.set()
        await world.observed.finishes(1)
        assert world.documents_of("round") == []
        await world.broker.publish("in", stored.message.body, headers=stored.message.headers)
        await world.broker.idle()
    assert world.observed.verdicts == [Verdict.LOST, Verdict.DEAD_LETTERED]
    assert scene.arrived == 2
    assert len(await world.dead()) == 1


class SlowToRemove(MemoryRuntime):
    """Containers go when the test says so."""

    def __init__(self, world: World) -> None:
        super().__init__(world.programs)
        self.removing, self.may_go = asyncio.Event(), asyncio.Event()

    async def remove(self, ref: ContainerRef) -> None:
        self.removing.set()
        await self.may_go.wait()
        await super().remove(ref)


async def test_a_redelivery_too_late_to_be_adopted_is_settled_too(world: World) -> None:
    """The job has given up its lost delivery and only removes its container: the new one must not be forgotten."""
    scene = Scene()
    world.add(scene)
    world.runtime = runtime = SlowToRemove(world)
    async with world.serving():
        await world.publish()
        await scene.until(1)
        held(world).take_back()
        kept = world.broker.queue("worker").ready.pop()
        scene.go.set()
        await runtime.removing.wait()
        await world.observed.until(lambda: world.observed.verdicts == [Verdict.LOST])

        world.broker._put_back("worker", kept, timedelta(0))
        await world.broker.until(lambda: bool(world.broker.queue("worker").held))
        await asyncio.sleep(0)
        runtime.may_go.set()
        async with asyncio.timeout(PATIENCE):
            await world.broker.idle()

    assert world.observed.verdicts == [Verdict.LOST, Verdict.ALREADY_COMMITTED]
    assert scene.arrived == 1


async def test_a_delivery_lost_while_it_is_settled_hands_over_to_the_adopted_one(world: World) -> None:
    class SlowToAck(MemoryDelivery):
        asked, may = asyncio.Event(), asyncio.Event()

        async def ack(self) -> None:
            self.asked.set()
            await self.may.wait()
            await super().ack()

    world.broker.delivery_type = SlowToAck
    world.add(exits(0))
    async with world.serving():
        await world.publish()
        await SlowToAck.asked.wait()
        held(world).take_back()
        await world.broker.until(lambda: bool(world.broker.queue("worker").held))
        await asyncio.sleep(0)
        SlowToAck.may.set()
        async with asyncio.timeout(PATIENCE):
            await world.broker.idle()
    assert world.observed.verdicts == [Verdict.COMMITTED]


async def test_a_lost_delivery_lets_no_more_jobs_run_than_allowed(world: World) -> None:
    """The broker thinks there is room for another one, while the job of the lost delivery still runs."""
    scene = Scene()
    world.add(scene, concurrency=1)
    async with world.serving():
        await world.publish(event_id="first")
        await scene.until(1)
        held(world).take_back()
        world.broker.queue("worker").ready.clear()
        await world.publish(event_id="second")
        await world.broker.until(lambda: bool(world.broker.queue("worker").held))
        for _ in range(50):  # what a workspace and a container take, and more
            await asyncio.to_thread(lambda: None)
        assert scene.running == 1
        scene.go.set()
        await world.broker.idle()
    assert scene.most == 1
    assert scene.arrived == 2


# Leases


class Renewing(MemoryDelivery):
    """Counts renewals, and refuses them as told."""

    refusals: list[Exception]
    renewed: int
    changed: asyncio.Event

    async def renew(self) -> None:
        type(self).renewed += 1
        self.changed.set()
        if self.refusals:
            raise self.refusals.pop(0)
        await super().renew()


def renewing(world: World, *refusals: Exception) -> type[Renewing]:
    class Mine(Renewing):
        pass

    Mine.refusals, Mine.renewed, Mine.changed = list(refusals), 0, asyncio.Event()
    world.broker = MemoryBroker(lease=timedelta(seconds=0.03), call_later=Clock().call_later)
    world.broker.delivery_type = Mine
    return Mine


async def renewals(kind: type[Renewing], count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while kind.renewed < count:
            kind.changed.clear()
            await kind.changed.wait()


async def test_leases_are_renewed_while_a_job_runs_and_while_draining(world: World) -> None:
    kind = renewing(world)
    scene = Scene()
    world.add(scene)
    async with world.serving(drain_timeout=timedelta(minutes=1)) as serving:
        await world.publish()
        await scene.until(1)
        await renewals(kind, 3)
        serving.stop.set()
        await renewals(kind, kind.renewed + 3)
        assert not serving.task.done()
        scene.go.set()
        await serving.ended()
    assert world.observed.verdicts == [Verdict.COMMITTED]


@pytest.mark.parametrize(
    "error",
    [TransientError("away"), DeliveryLost("gone"), PermanentError("no"), KeyError("foreign"), AlreadySettled("?")],
)
async def test_a_failed_renewal_kills_neither_job_nor_dispatcher(error: Exception, world: World) -> None:
    kind = renewing(world, error, error, error)
    scene = Scene()
    world.add(scene)
    async with world.serving():
        await world.publish(event_id="one")
        await scene.until(1)
        await renewals(kind, 5)
        scene.go.set()
        await world.broker.idle()
        await world.publish(event_id="two")
        await world.broker.idle()
    assert world.observed.verdicts == [Verdict.COMMITTED, Verdict.COMMITTED]


async def test_leases_of_waiting_duplicates_are_renewed_too(world: World) -> None:
    kind = renewing(world)
    scene = Scene()
    world.add(scene, concurrency=2)
    async with world.serving():
        for _ in range(2):
            await world.publish(event_id="e")
        await world.broker.until(lambda: world.broker.counts("worker").unsettled == 2)
        await scene.until(1)
        await renewals(kind, 6)
        scene.go.set()
        await world.broker.idle()
    assert scene.arrived == 1


async def test_what_is_settled_is_renewed_no_more(world: World, caplog: pytest.LogCaptureFixture) -> None:
    kind = renewing(world)
    world.add(exits(0))
    world.runtime = runtime = SlowToRemove(world)
    scene = Scene()
    world.add(scene, "other")
    async with world.serving():
        await world.publish()
        await runtime.removing.wait()
        await scene.until(1)
        await world.observed.until(lambda: bool(world.observed.finished))
        worker_renewed = kind.renewed
        await renewals(kind, worker_renewed + 4)  # the other module's
        runtime.may_go.set()
        scene.go.set()
        await world.broker.idle()
    assert messages(caplog) == []
    assert world.observed.verdicts == [Verdict.COMMITTED] * 2


# Settling


class Unsettling(MemoryDelivery):
    refusals: list[Exception]

    async def ack(self) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        await super().ack()


async def test_a_broker_that_does_not_settle_is_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    Unsettling.refusals = [TransientError("away")] * 4
    world.broker.delivery_type = Unsettling
    world.add(exits(0))
    await world.publish()
    with no_back_off(monkeypatch):
        await world.run()
    assert world.observed.verdicts == [Verdict.COMMITTED]
    assert Unsettling.refusals == []


async def test_a_settlement_without_end_is_given_up_and_the_event_comes_back(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ion_core.dispatcher.hold.SETTLE_WITHIN", 0.05)
    Unsettling.refusals = [TransientError("away")] * 10_000
    world.broker.delivery_type = Unsettling
    world.add(exits(0))
    await world.publish()
    async with world.serving():
        await world.observed.until(lambda: Verdict.LOST in world.observed.verdicts)
        Unsettling.refusals = []
        await world.broker.idle()
    *lost, last = world.observed.verdicts
    assert (set(lost), last) == ({Verdict.LOST}, Verdict.ALREADY_COMMITTED)
    assert "could not be settled" in caplog.text


async def test_a_bug_while_settling_is_reported_and_the_next_event_is_handled(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    Unsettling.refusals = [KeyError("foreign")]
    world.broker.delivery_type = Unsettling
    world.add(exits(0), concurrency=2)
    await world.publish(event_id="one")
    async with world.serving():
        await eventually(lambda: Unsettling.refusals == [])
        await world.publish(event_id="two")
        await world.broker.idle()
    assert Counter(world.observed.verdicts) == Counter([Verdict.LOST, Verdict.ALREADY_COMMITTED, Verdict.COMMITTED])
    assert "cannot be settled by a bug" in caplog.text
    assert "KeyError" in caplog.text
    assert len(world.commits) == 2


# The broker goes away


class Subscriptions(MemoryBroker):
    """A broker whose subscriptions the test can end, as a lost connection does."""

    def __init__(self) -> None:
        super().__init__()
        self.cut: dict[str, asyncio.Event] = {}
        self.entered = 0
        self.refusals: list[Exception] = []

    @asynccontextmanager
    async def subscribe(self, queue: str, *, prefetch: int) -> AsyncIterator[AsyncIterator[MemoryDelivery]]:
        if self.refusals:
            raise self.refusals.pop(0)
        self.cut[queue] = asyncio.Event()
        async with super().subscribe(queue, prefetch=prefetch) as deliveries:
            self.entered += 1
            self._changed_now()
            yield self._until_cut(deliveries, self.cut[queue])

    async def _until_cut(
        self, deliveries: AsyncIterator[MemoryDelivery], cut: asyncio.Event
    ) -> AsyncIterator[MemoryDelivery]:
        while True:
            cutting = asyncio.ensure_future(cut.wait())
            coming = asyncio.ensure_future(anext(deliveries))
            try:
                await asyncio.wait({cutting, coming}, return_when=asyncio.FIRST_COMPLETED)
                if cut.is_set():
                    raise TransientError("connection lost")
                yield coming.result()
            finally:
                cutting.cancel()
                coming.cancel()


async def test_a_broker_that_fails_is_subscribed_anew_while_jobs_go_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.broker = broker = Subscriptions()
    scene = Scene()
    world.add(scene)
    with no_back_off(monkeypatch):
        async with world.serving() as serving:
            await world.publish()
            await scene.until(1)
            broker.refusals = [TransientError("refused")]
            broker.cut["worker"].set()
            await broker.until(lambda: broker.entered == 2)
            await broker.until(lambda: bool(broker.queue("worker").held))
            await asyncio.sleep(0)
            assert serving.dispatcher.health.problems() == []
            scene.go.set()
            await broker.idle()
    assert scene.arrived == 1
    assert scene.cancelled == 0
    assert world.observed.verdicts == [Verdict.COMMITTED]


async def test_readiness_is_red_while_the_broker_is_away_and_green_again(world: World) -> None:
    world.broker = broker = Subscriptions()
    world.add(exits(0))
    red = asyncio.Event()
    async with world.serving() as serving:
        await broker.until(lambda: broker.entered == 1)
        health, remember = serving.dispatcher.health, serving.dispatcher.health.red

        def told(part: str, problem: str) -> None:
            remember(part, problem)
            red.set()

        health.red = told  # type: ignore[method-assign]
        broker.cut["worker"].set()
        await red.wait()
        assert list(health.problems()) == ["queue worker: connection lost"]
        async with asyncio.timeout(PATIENCE):
            await broker.until(lambda: broker.entered == 2)
        await asyncio.sleep(0)
        assert list(health.problems()) == []


async def test_a_subscription_that_ends_by_itself_is_made_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ending(MemoryBroker):
        entered = 0

        @asynccontextmanager
        async def subscribe(self, queue: str, *, prefetch: int) -> AsyncIterator[AsyncIterator[MemoryDelivery]]:
            self.entered += 1
            async with super().subscribe(queue, prefetch=prefetch) as deliveries:
                yield _none() if self.entered == 1 else deliveries

    async def _none() -> AsyncIterator[MemoryDelivery]:
        return
        yield

    world.broker = Ending()
    world.add(exits(0))
    await world.publish()
    with no_back_off(monkeypatch):
        await world.run()
    assert world.observed.verdicts == [Verdict.COMMITTED]


async def test_running_jobs_are_drained_though_the_broker_is_away(world: World) -> None:
    """The stop comes while nothing is subscribed: jobs finish and commit all the same."""
    world.broker = broker = Subscriptions()
    scene = Scene()
    world.add(scene)
    async with world.serving(drain_timeout=timedelta(minutes=1)) as serving:
        await world.publish()
        await scene.until(1)
        broker.refusals = [TransientError("refused")] * 1_000
        broker.cut["worker"].set()
        await broker.until(lambda: not broker.queue("worker").held)
        serving.stop.set()
        await asyncio.sleep(0)
        scene.go.set()
        await serving.ended()
    assert scene.cancelled == 0
    assert len(world.commits) == 1
    assert world.left_behind() == []


async def test_a_broker_away_at_the_commit_loses_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()

    async def program(workspace: Path, env: Mapping[str, str]) -> int:
        emit(workspace, "out")
        return await scene(workspace, env)

    world.add(program)
    world.add(exits(0), "next", takes="out")
    with no_back_off(monkeypatch):
        async with world.serving():
            await world.publish()
            await scene.until(1)
            world.broker.failing = TransientError("away")
            scene.go.set()
            await eventually(lambda: bool(world.commits))
            world.broker.failing = None
            async with asyncio.timeout(PATIENCE):
                await world.broker.until(lambda: len(world.commits) == 2)
                await world.broker.idle()
    assert scene.arrived == 1
    assert len(world.commits) == 2


# Storage


async def test_full_storage_stops_the_taking_until_there_is_room_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes = 0
    full = True

    def probe(directory: Path) -> None:
        nonlocal probes
        probes += 1
        if full:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("ion_core.dispatcher.dispatcher.write_probe", probe)
    world.add(exits(0), concurrency=2)
    world.blobs.failing = StorageFull("blobs: no space left")
    for n in range(5):
        await world.publish(event_id=str(n))
    for document in list(world.documents.documents.values()):
        document.body["blobs"] = [{"name": "a", "key": "a", "size": 0, "sha256": ""}]  # type: ignore[index]
    async with world.serving() as serving:
        await world.observed.until(lambda: len(world.observed.finished) >= 1)
        await eventually(lambda: probes >= 20)
        begun = len(world.observed.started)
        assert begun <= 2, "those under way when the gate closed, and none after"
        assert not serving.dispatcher.health.room.is_set()
        assert "storage" in serving.dispatcher.health.problems()[0]
        assert set(world.observed.verdicts) == {Verdict.RELEASED}

        for document in list(world.documents.documents.values()):
            if document.kind == "eventMeta":
                document.body["blobs"] = []  # type: ignore[index]
        world.blobs.failing = None
        full = False
        async with asyncio.timeout(PATIENCE):
            await world.broker.idle()
        assert serving.dispatcher.health.problems() == []
    assert len(world.commits) == 5
    assert {trying.number for trying in world.observed.started} == {1}


async def test_a_stop_while_storage_is_full_gives_everything_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def probe(directory: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ion_core.dispatcher.dispatcher.write_probe", probe)
    world.add(exits(0))

    async def full(name: str) -> None:
        raise StorageFull("workspace: no space left")

    async with world.serving(drain_timeout=timedelta(minutes=1)) as serving:
        serving.dispatcher._handler.open_workspace = full  # type: ignore[assignment,method-assign]
        for _ in range(3):
            await world.publish()
        await world.observed.until(lambda: bool(world.observed.finished))
        serving.stop.set()
        await serving.ended()
    assert world.broker.counts("worker").ready == 3
    assert set(world.observed.verdicts) == {Verdict.RELEASED}


async def test_a_failure_while_storage_is_full_is_not_the_module_s(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = True

    def probe(directory: Path) -> None:
        if full:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("ion_core.dispatcher.dispatcher.write_probe", probe)
    scene = Scene(code=1)
    scene.go.set()
    world.add(scene)
    async with world.serving():
        await world.publish()
        await world.observed.finishes(1)
        assert world.observed.verdicts == [Verdict.RELEASED]
        scene.code = 0
        full = False
        await world.broker.idle()
    assert world.observed.verdicts == [Verdict.RELEASED, Verdict.COMMITTED]
    assert {trying.number for trying in world.observed.started} == {1}


async def test_a_broker_without_room_to_settle_closes_the_gate(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    Unsettling.refusals = [StorageFull("broker: no space left")]
    world.broker.delivery_type = Unsettling
    world.add(exits(0))
    closed: list[str] = []
    with no_back_off(monkeypatch):
        async with world.serving() as serving:
            storage_full = serving.dispatcher.health.storage_full

            def noting(problem: str) -> None:
                closed.append(problem)
                storage_full(problem)

            serving.dispatcher.health.storage_full = noting  # type: ignore[method-assign]
            await world.publish()
            await world.broker.idle()
    assert closed == ["broker: no space left"]
    assert world.observed.verdicts == [Verdict.COMMITTED]


async def test_observers_are_told_when_each_step_ran_and_which_did_not(world: World) -> None:
    world.add(fails_first(1, exits(0)))
    await world.publish()
    await world.run()
    (_, failed), (_, committed) = world.observed.finished
    assert [step.name for step in failed.steps] == ["prepare", "module"]
    assert [step.name for step in committed.steps] == ["prepare", "module", "commit"]
    for outcome in (failed, committed):
        ends = [0.0, *(step.begun + step.seconds for step in outcome.steps)]
        begins = [*(step.begun for step in outcome.steps), outcome.seconds]
        assert all(
            end <= begin + 1e-5 for end, begin in zip(ends, begins, strict=True)
        )  # none before the last one's end


async def test_an_attempt_that_ran_nothing_has_no_steps(world: World) -> None:
    world.add(exits(0))
    for _ in range(2):
        await world.publish(event_id="e", correlation_id="c")
        await world.run()
    assert [outcome.verdict for _, outcome in world.observed.finished][1] is Verdict.ALREADY_COMMITTED
    assert world.observed.finished[1][1].steps == ()


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_the_trace_that_a_flow_came_with_is_that_of_all_its_events(world: World) -> None:
    """In messages, commit records and documents: whoever publishes one of them again, later, has it from there."""

    async def emits(workspace: Path, env: Mapping[str, str]) -> int:
        emit(workspace, "out")
        return 0

    world.add(emits)
    world.add(exits(0), "next", takes="out")
    event = await world.publish(event_id="e", traceparent=TRACE)
    await world.run()
    assert [it.traceparent for it in world.observed.published] == [TRACE, TRACE]
    assert [attempt.job.event.traceparent for attempt, _ in world.observed.finished] == [TRACE, TRACE]
    [commit] = [it for it in world.commits if it.events]
    assert [it.traceparent for it in commit.events] == [TRACE]
    for event_id in (event.context.event_id, commit.events[0].context.event_id):
        found = await world.dataplane.accepted(event_id)
        assert found is not None
        assert found.traceparent == TRACE
    again = await world.publish(event_id="e", traceparent=TRACE.replace("b7ad", "0000"))
    assert again.traceparent == TRACE  # it is that event, whoever sends it again


@pytest.mark.parametrize("said", ["", "none", "00-0-0-01"])
async def test_what_is_no_trace_leaves_nothing_behind(world: World, said: str) -> None:
    world.add(exits(0))
    await world.publish(traceparent=said)
    [message] = await world.broker.peek("worker", limit=1)
    assert "traceparent" not in message.headers
    assert "traceparent" not in world.documents_of("eventMeta")[0].body


async def test_the_trace_of_a_message_from_others_is_that_of_what_follows(world: World) -> None:
    world.add(exits(0))
    event = await world.publish()
    [message] = await world.broker.peek("worker", limit=1)
    await world.broker.publish("in", message.body, headers={"traceparent": TRACE})
    await world.broker.publish("in", message.body, headers={"traceparent": "../../etc"})
    await world.run()
    found = sorted(attempt.job.event.traceparent for attempt, _ in world.observed.finished)
    assert found == ["", "", TRACE]
    assert event.traceparent == ""
