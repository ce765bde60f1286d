"""Garbage collection: what is old and over goes, whole; what something still waits for stays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ion_core.commits import Commit
from ion_core.contracts.messaging import Message, RetryPolicy
from ion_core.contracts.storage import Document
from ion_core.dataplane import DataPlane
from ion_core.errors import PermanentError, ProviderError, TransientError
from ion_core.events import Event, encode_event
from ion_core.retention import Removed, collect
from ion_core.stores import job_prefix
from tests.support.worlds import Scene, World, does, emit, exits, module

NEVER = datetime(2000, 1, 1, tzinfo=UTC)


def later() -> datetime:
    """By then everything that these tests store is old."""
    return datetime.now(UTC) + timedelta(days=1)


def leave_a_file(workspace: Path) -> None:
    (workspace / "out" / "data" / "result").write_bytes(b"result")
    emit(workspace, "out", files="result")


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.add(does(leave_a_file))
    return world


async def gc(world: World, before: datetime | None = None, *, dry_run: bool = False) -> Removed:
    return await collect(world.dataplane, world.modules, before=before or later(), dry_run=dry_run)


async def keys(world: World) -> list[str]:
    return [key async for key in world.blobs.list("")]


async def lost_attempt(world: World, event: Event, name: str = "worker") -> str:
    """A file that an attempt uploaded before it died."""
    source = world.inputs / "lost"
    source.write_bytes(b"lost")
    key = f"{job_prefix(event, name, '1-dead')}/result"
    await world.blobs.put(key, source)
    return key


async def test_an_old_flow_goes_with_its_documents_and_files(world: World) -> None:
    event = await world.publish(files={"input": b"input"})
    await world.run()
    await lost_attempt(world, event)
    would = await gc(world, dry_run=True)
    assert (len(await keys(world)), len(world.documents.documents)) == (3, 4)
    assert await gc(world) == would == Removed(flows=1, documents=4, files=2, uncommitted_files=1)
    assert await keys(world) == []
    assert world.documents.documents == {}
    assert await gc(world) == Removed()


async def test_files_of_an_event_that_is_just_being_added_stay(world: World) -> None:
    event = await world.publish()
    await world.run()
    added = replace(event, context=replace(event.context, event_id="added"))
    left = await lost_attempt(world, added)
    assert (await gc(world)).flows == 1
    assert await keys(world) == [left]


async def test_files_of_a_flow_are_listed_once_however_many_events_it_has(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await world.publish(files={"input": b"input"})
    for n in range(3):
        await world.publish(event_id=f"event-{n}", correlation_id=first.context.correlation_id)
    await world.run()
    listed: list[str] = []
    find = world.blobs.list

    def noted(prefix: str) -> AsyncIterator[str]:
        listed.append(prefix)
        return find(prefix)

    monkeypatch.setattr(world.blobs, "list", noted)
    assert (await gc(world)).flows == 1
    assert len(listed) == 1


async def test_a_young_flow_stays(world: World) -> None:
    await world.publish()
    await world.run()
    assert await gc(world, NEVER) == Removed()
    assert len(world.commits) == 1


async def test_a_flow_with_anything_young_stays(world: World) -> None:
    event = await world.publish()
    await world.run()
    before = later()
    young = {"finishedAt": (before + timedelta(days=1)).isoformat()}
    log = Document(kind="modulelogs", id="x", correlation_id=event.context.correlation_id, body=young)
    await world.documents.put(log)
    assert await gc(world, before) == Removed()
    undated = replace(log, kind="eventMeta", body={"id": "x", "type": "of nobody"})
    await world.documents.put(undated)
    await world.documents.delete("modulelogs", "x")
    assert await gc(world, before) == Removed(), "nothing says how old the last document is"


async def test_a_flow_that_waits_stays_and_what_attempts_at_committed_jobs_left_goes(world: World) -> None:
    event = await world.publish(files={"input": b"input"})
    await world.run()
    await world.publish("in", event_id="second", correlation_id=event.context.correlation_id)
    second = world.documents.documents["eventMeta", "second"]
    log = {"finishedAt": datetime.now(UTC).isoformat()}
    await world.documents.put(replace(second, kind="modulelogs", body=log))
    left = await lost_attempt(world, event)
    kept = await keys(world)
    documents = dict(world.documents.documents)
    assert await gc(world) == Removed(uncommitted_files=1, kept=1)
    assert await keys(world) == [key for key in kept if key != left]
    assert world.documents.documents == documents


@pytest.mark.parametrize("dead", [False, True])
async def test_an_attempt_that_has_lost_its_delivery_keeps_its_files(world: World, dead: bool) -> None:
    """Nobody holds the message, and no queue has anything that cannot be looked at: it may commit all the same."""
    event = await world.publish(files={"input": b"input"})
    log = Document(kind="modulelogs", id="x", correlation_id=event.context.correlation_id, body=dated(NEVER))
    await world.documents.put(log)
    if dead:  # by another dispatcher
        world.programs["worker"] = exits(1)
        await world.run()
    left = await lost_attempt(world, event)
    assert await gc(world) == Removed(kept=1)
    assert left in await keys(world)
    if dead:
        await world.broker.purge("worker", [letter.id for letter in await world.dead()])
        assert await gc(world) == Removed(flows=1, documents=7, files=1, uncommitted_files=1), "with the flow"
    else:
        await world.run()
        assert await gc(world) == Removed(flows=1, documents=5, files=2, uncommitted_files=1), "it has lost"
    assert await keys(world) == []


async def test_a_job_under_way_keeps_its_flow_and_its_files(world: World) -> None:
    """The delivery is held by a dispatcher: nobody can see of which flow it is."""
    event = await world.publish()
    await world.run()
    slow = Scene()
    world.add(slow, "slow")
    await world.broker.declare("slow", topics=["in"], retry=RetryPolicy())
    async with world.serving():
        await world.broker.publish("in", encode_event(event), headers={})
        await slow.until(1)
        left, other = await lost_attempt(world, event, "slow"), await lost_attempt(world, event)
        assert await gc(world) == Removed(uncommitted_files=1, kept=1)
        assert left in await keys(world), "it may be of the attempt under way"
        assert other not in await keys(world), "that job has committed"
        slow.go.set()
        await world.broker.idle()
    assert (await gc(world)).flows == 1


async def test_where_nobody_can_tell_what_others_hold_a_job_may_be_under_way(world: World) -> None:
    """RabbitMQ tells no client: a flow that has an event without a commit is kept while somebody consumes the queue."""
    event = await world.publish()
    await world.run()
    await world.broker.declare("slow", topics=["in"], retry=RetryPolicy())
    world.add(exits(0), "slow")
    left = await lost_attempt(world, event, "slow")
    known = world.broker.counts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.broker, "counts", lambda queue: replace(known(queue), unsettled=None))
        assert await gc(world) == Removed(kept=1)
        assert left in await keys(world)
    assert (await gc(world)).flows == 1, "nobody consumes it"


async def test_a_busy_module_does_not_keep_flows_that_it_has_committed(world: World) -> None:
    await world.publish()
    await world.run()
    world.programs["worker"] = slow = Scene()
    async with world.serving():
        await world.publish()
        await slow.until(1)
        assert (await gc(world)).flows == 1
        slow.go.set()
        await world.broker.idle()
    assert len(world.commits) == 1


async def test_a_commit_that_still_owes_events_stays(world: World) -> None:
    await world.publish()
    await world.run()
    [commit] = world.documents_of("commit")
    await world.documents.put(replace(commit, pending=True))
    assert await gc(world) == Removed(kept=1)


async def test_what_an_operator_purged_is_over(world: World) -> None:
    world.programs["worker"] = exits(1)
    await world.publish()
    await world.run()
    await world.broker.purge("worker", [letter.id for letter in await world.dead()])
    assert len(world.documents_of("round")) == 1
    assert (await gc(world)).flows == 1
    assert world.documents.documents == {}


async def test_queues_that_were_never_declared_hold_nothing(world: World) -> None:
    await world.publish()
    await world.run()
    world.modules.append(module("new", takes="another"))
    assert (await gc(world)).flows == 1


async def test_cut_short_it_is_run_again_and_commits_go_last(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.publish()
    await world.run()
    removed: list[str] = []

    class Crash(Exception):
        pass

    delete = world.documents.delete

    async def dying(kind: str, id: str) -> None:
        if kind == "commit":
            raise Crash
        removed.append(kind)
        await delete(kind, id)

    monkeypatch.setattr(world.documents, "delete", dying)
    with pytest.raises(Crash):
        await gc(world)
    assert await keys(world) == []
    assert len(world.commits) == 1
    monkeypatch.setattr(world.documents, "delete", delete)
    assert await gc(world) == Removed(flows=1, documents=1)
    assert isinstance(world.dataplane, DataPlane)


def refuses(
    world: World, monkeypatch: pytest.MonkeyPatch, refused: Callable[[str], bool], error: type[ProviderError]
) -> None:
    """Its blob store will not delete those keys."""
    delete = world.blobs.delete

    async def refusing(key: str) -> None:
        if refused(key):
            raise error(f"blob {key}: is locked.")
        await delete(key)

    monkeypatch.setattr(world.blobs, "delete", refusing)


@pytest.mark.parametrize("error", [PermanentError, TransientError])
async def test_a_file_that_cannot_be_removed_keeps_its_flow_and_no_other(
    error: type[ProviderError], world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = await world.publish(files={"input": b"input"})
    await world.publish(files={"input": b"input"})
    await world.run()
    [bad] = [key async for key in world.blobs.list(first.context.correlation_id) if key.endswith("/input")]
    with monkeypatch.context() as locked:
        refuses(world, locked, lambda key: key == bad, error)
        removed = await gc(world)
    assert removed == Removed(flows=1, documents=4, files=3, failed=1)
    assert await keys(world) == [bad]
    assert f"cannot be removed, so its flow stays: blob {bad}: is locked." in caplog.text
    assert len(world.commits) == 1
    assert await gc(world) == Removed(flows=1, documents=4, files=1), "once it can be"
    assert (await keys(world), world.documents.documents) == ([], {})


async def test_of_many_the_first_are_named_and_the_others_counted(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ion_core.retention._SAID", 2)
    for _ in range(5):
        await world.publish(files={"input": b"input"})
    await world.run()
    whole = dict(world.documents.documents)
    for key, it in whole.items():
        if it.kind == "eventMeta":
            world.documents.documents[key] = replace(it, body={"type": "start", "blobs": 7})

    def told() -> list[str]:
        said = [record.getMessage().partition(":")[0] for record in caplog.records if record.levelname == "WARNING"]
        caplog.clear()
        return said

    told()
    assert (await gc(world)).failed == 10
    assert told() == ["its flow stays"] * 2 + ["and 8 more that are damaged"]
    world.documents.documents.update(whole)
    refuses(world, monkeypatch, lambda key: key.endswith("/input"), PermanentError)
    assert (await gc(world)).failed == 5
    assert told() == ["cannot be removed, so its flow stays"] * 2 + ["and 3 more that cannot be removed"]


async def test_a_document_that_cannot_be_removed_keeps_the_commit_of_its_flow(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = await world.publish()
    await world.publish()
    await world.run()
    delete = world.documents.delete

    async def refusing(kind: str, id: str) -> None:
        if id == event.context.event_id:
            raise PermanentError(f"{kind} {id}: is locked.")
        await delete(kind, id)

    with monkeypatch.context() as locked:
        locked.setattr(world.documents, "delete", refusing)
        removed = await gc(world)
    assert (removed.flows, removed.failed) == (1, 1)
    assert sorted(kind for kind, _ in world.documents.documents) == ["commit", "eventMeta"]
    assert (await gc(world)).flows == 1
    assert world.documents.documents == {}


async def test_a_flow_of_which_every_file_is_locked_stops_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = await world.publish(files={f"input-{n}": b"input" for n in range(100)})
    await world.publish()
    await world.run()
    refuses(world, monkeypatch, lambda key: key.startswith(first.context.correlation_id), TransientError)
    removed = await gc(world)
    assert removed.flows == 1
    assert removed.failed > 100
    assert caplog.text.count("is locked") == 20, "the others are not named"


async def test_a_store_that_is_away_is_not_asked_for_everything(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.publish(files={f"input-{n}": b"input" for n in range(1_000)})
    await world.run()
    asked = 0

    async def away(*_: object, **__: object) -> None:
        nonlocal asked
        asked += 1
        raise TransientError("the store is away.")

    for name in ("delete", "put"):
        monkeypatch.setattr(world.blobs, name, away)
    with pytest.raises(TransientError, match="the store is away"):
        await gc(world)
    assert asked < 100


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("commit", None),
        ("commit", {"committedAt": "2020-01-01T00:00:00+00:00"}),
        ("eventMeta", None),
        ("eventMeta", {"type": "start", "blobs": 7}),
        ("eventMeta", {"type": "start", "blobs": [{"name": "x"}]}),
        ("modulelogs", None),
    ],
)
async def test_a_damaged_document_keeps_its_flow_and_no_other(
    world: World, kind: str, body: dict[str, object] | None, caplog: pytest.LogCaptureFixture
) -> None:
    events = [await world.publish(files={"input": b"input"}) for _ in range(3)]
    await world.run()
    flow = events[1].context.correlation_id
    key, document = next((key, it) for key, it in world.documents.documents.items() if it.kind == kind
                         and it.correlation_id == flow)  # fmt: skip
    world.documents.documents[key] = replace(document, body=body)  # type: ignore[arg-type]
    before = {key: it for key, it in world.documents.documents.items() if it.correlation_id == flow}
    assert await gc(world, dry_run=True) == Removed(flows=2, documents=8, files=4, failed=1)
    caplog.clear()
    assert await gc(world) == Removed(flows=2, documents=8, files=4, failed=1)
    assert world.documents.documents == before
    assert len(await keys(world)) == 2
    [said] = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert said.startswith(f"its flow stays: {kind} {document.id[:80]!r}: is damaged")
    # Once it is restored, or removed, the rest goes.
    world.documents.documents[key] = document
    assert (await gc(world)).flows == 1
    assert world.documents.documents == {}


async def test_what_waits_is_read_one_after_the_other_and_of_flows_that_are_not_old_nothing_is_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.publish()
    await world.run()
    for n in range(30):
        await world.publish(event_id=f"waits-{n}", correlation_id=f"flow-{n}")

    async def everything(*_: object, **__: object) -> None:
        raise AssertionError("holds all there is")

    monkeypatch.setattr(world.broker, "peek", everything)
    world.documents.looked_at = 0
    before = datetime.now(UTC)
    assert (await gc(world, before)).flows == 1
    assert world.documents.looked_at < 2 * 30, "what waits behind all that is old is looked at once at most"


async def test_what_is_taken_while_gc_looks_keeps_its_flow(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    event = await world.publish(files={"input": b"input"})
    log = Document(kind="modulelogs", id="x", correlation_id=event.context.correlation_id, body=dated(NEVER))
    await world.documents.put(log)
    reading = world.broker.each_message

    @asynccontextmanager
    async def taken_just_before(queue: str) -> AsyncIterator[AsyncIterator[Message]]:
        world.broker._take(queue)
        async with reading(queue) as messages:
            yield messages

    monkeypatch.setattr(world.broker, "each_message", taken_just_before)
    assert await gc(world) == Removed(kept=1)


async def test_what_is_paid_while_gc_looks_keeps_its_flow(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its messages are ready behind the look at their queue, and nothing is owed any more when the commit is read."""
    await world.publish(files={"input": b"input"})
    await world.run()
    [commit] = world.documents_of("commit")
    await world.documents.put(replace(commit, pending=True))
    world.add(exits(0), "sink", takes="out")
    await world.broker.declare("sink", topics=["out"], retry=RetryPolicy())
    reading = world.broker.each_message

    @asynccontextmanager
    async def paid_just_behind(queue: str) -> AsyncIterator[AsyncIterator[Message]]:
        async with reading(queue) as messages:
            yield messages
        if queue == "sink":
            await world.dataplane.publish_commit(Commit.from_document(commit))

    monkeypatch.setattr(world.broker, "each_message", paid_just_behind)
    assert await gc(world) == Removed(kept=1)


@pytest.mark.parametrize("look", ["each_message", "each_dead_letter"])
@pytest.mark.parametrize("behind", [False, True])
async def test_what_is_redriven_while_gc_looks_keeps_its_flow(
    world: World, look: str, behind: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.programs["worker"] = exits(1)
    await world.publish(files={"input": b"input"})
    await world.run()
    reading = getattr(world.broker, look)

    async def redrive() -> None:
        await world.broker.redrive("worker", [letter.id for letter in await world.dead()])

    @asynccontextmanager
    async def redriven(queue: str) -> AsyncIterator[AsyncIterator[object]]:
        if not behind:
            await redrive()
        async with reading(queue) as found:
            yield found
        if behind:
            await redrive()

    monkeypatch.setattr(world.broker, look, redriven)
    assert await gc(world) == Removed(kept=1)


async def test_what_dies_while_gc_looks_keeps_its_flow(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    event = await world.publish(files={"input": b"input"})
    log = Document(kind="modulelogs", id="x", correlation_id=event.context.correlation_id, body=dated(NEVER))
    await world.documents.put(log)
    reading = world.broker.each_message

    @asynccontextmanager
    async def dead_just_before(queue: str) -> AsyncIterator[AsyncIterator[Message]]:
        async with world.broker.subscribe(queue, prefetch=1) as deliveries:
            await (await anext(deliveries)).dead_letter("as the test has it")
        await world.publish()  # as many are ready as had been
        async with reading(queue) as messages:
            yield messages

    monkeypatch.setattr(world.broker, "each_message", dead_just_before)
    assert await gc(world, datetime.now(UTC)) == Removed(kept=1)


def dated(time: datetime) -> dict[str, str]:
    return {"finishedAt": time.isoformat()}
