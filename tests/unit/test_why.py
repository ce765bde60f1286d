"""What is told of an event at each module, for every state that it may be in."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from ion_core.contracts.messaging import RetryPolicy
from ion_core.errors import (
    BlobNotFound,
    CannotBeExecuted,
    DocumentNotFound,
    EngineLostJob,
    EngineRefused,
    EventRefused,
    HandlerBug,
    HandlerUnreachable,
    ImageUnavailable,
    MessageRefused,
    ModuleFailed,
    NoRoom,
    OutputRefused,
    StorageFull,
    TooManyAttempts,
    TransientError,
)
from ion_core.rules import rule_of
from ion_core.why import EventTold, JobState, JobTold, Runs, advice, look
from tests.support.worlds import World, does, emit, exits

LATER = RetryPolicy(retries=2, initial=timedelta(hours=1))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def told(world: World, event_id: str = "e1", **more: object) -> EventTold:
    how = {"documents": world.documents, "broker": world.broker, **more}
    return await look(event_id, "c1", world.modules, **how)  # type: ignore[arg-type]


async def job(world: World, **more: object) -> JobTold:
    [found] = (await told(world, **more)).jobs
    return found


async def publish(world: World) -> None:
    await world.publish(event_id="e1", correlation_id="c1")


async def test_a_retry_is_told_with_when_it_is_due(world: World) -> None:
    world.add(exits(3), retry=LATER)
    await publish(world)
    async with world.serving():
        await world.observed.finishes(1)
    found = await job(world)
    assert (found.state, found.attempt, found.reason) == (JobState.RETRIED, 2, "exit code 3")
    assert found.rule is not None
    assert found.rule.name == "module-failed"
    assert found.until > found.since


async def test_what_is_postponed_says_so_and_counts_nothing(world: World) -> None:
    world.add(exits(0))
    await world.publish(event_id="e1", correlation_id="c1", files={"poisoned": b"1"})
    world.blobs.failing = TransientError("away")
    async with world.serving():
        await world.observed.finishes(1)
    found = await job(world)
    assert (found.state, found.attempt) == (JobState.POSTPONED, 1)
    assert found.rule is not None
    assert found.rule.name == "no-answer"


async def test_a_commit_that_could_not_be_published_owes(world: World) -> None:
    world.add(does(lambda workspace: emit(workspace, "out")))
    world.add(exits(0), name="next", takes="out")
    await publish(world)
    publish_it = world.broker.publish

    async def refuse(topic: str, body: bytes, **more: object) -> None:
        if topic == "out":
            raise MessageRefused("larger than may be")
        await publish_it(topic, body, **more)  # type: ignore[arg-type]

    world.broker.publish = refuse  # type: ignore[method-assign]
    async with world.serving():
        await world.observed.finishes(1)
    found = next(it for it in (await told(world)).jobs if it.module == "worker")
    assert found.state is JobState.OWING
    assert found.rule is not None
    assert found.rule.name == "message-refused"
    assert found.letter is not None
    assert [it.type for it in found.emitted] == ["out"]


@pytest.mark.parametrize(
    ("files", "rule"), [({}, "cannot-run"), ({"a": b"1"}, "refused-for-good")], ids=["the runtime", "a store"]
)
async def test_who_says_no_for_good_tells_which_rule_it_is(world: World, files: dict[str, bytes], rule: str) -> None:
    world.add(exits(0))
    await world.publish(event_id="e1", correlation_id="c1", files=files)
    if files:
        world.blobs.blobs.clear()
    else:
        world.programs.clear()
    await world.run()
    found = await job(world)
    assert (found.state, found.rule and found.rule.name) == (JobState.DEAD, rule)
    assert ("check",) in advice(await told(world))


async def test_what_somebody_holds_is_not_called_gone(world: World) -> None:
    world.add(exits(0))
    await publish(world)
    async with world.broker.subscribe("worker", prefetch=1) as deliveries:
        await anext(aiter(deliveries))
        assert (await job(world)).state is JobState.HELD
        runs = [Runs(module="worker", attempt=1, since="2026-11-30T10:00:00.000+00:00")]
        running = await job(world, running=runs)
        assert (running.state, running.since) == (JobState.RUNNING, runs[0].since)
    assert (await job(world)).state is JobState.WAITING


async def test_what_is_in_no_queue_is_called_absent(world: World) -> None:
    world.add(exits(0))
    await publish(world)
    world.broker.queue("worker").ready.clear()
    told_of_it = await told(world)
    assert told_of_it.jobs[0].state is JobState.ABSENT
    assert advice(told_of_it)[0][:2] == ("event", "republish")


async def test_without_a_broker_documents_say_what_they_can(world: World) -> None:
    world.add(exits(3), retry=LATER)
    await publish(world)
    assert (await job(world, broker=None, unseen="away")).state is JobState.UNKNOWN
    async with world.serving():
        await world.observed.finishes(1)
    world.broker.failing = TransientError("the broker is away")
    found = await told(world)
    assert (found.jobs[0].state, found.unseen) == (JobState.RETRIED, "the broker is away")
    assert ("check", "--connect") in advice(found)


async def test_of_logs_that_kept_no_rule_none_is_told(world: World) -> None:
    world.add(exits(3), retry=RetryPolicy(retries=0))
    await publish(world)
    await world.run()
    for document in world.documents_of("modulelogs"):
        body = {key: it for key, it in document.body.items() if key not in ("rule", "nextAttemptAt")}
        await world.documents.put(type(document)(**{**vars(document), "body": body}))
    found = await job(world)
    assert (found.state, found.rule, found.attempts[0].rule) == (JobState.DEAD, None, None)


async def test_nothing_is_told_of_what_is_nowhere(world: World) -> None:
    world.add(exits(0))
    await publish(world)
    with pytest.raises(DocumentNotFound, match="no event 'other'"):
        await look("other", None, world.modules, documents=world.documents, broker=world.broker)


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ModuleFailed("x"), "module-failed"),
        (HandlerUnreachable("x"), "handler-unreachable"),
        (CannotBeExecuted("x"), "cannot-run"),
        (ImageUnavailable("x"), "cannot-run"),
        (OutputRefused("x"), "output-refused"),
        (DocumentNotFound("x"), "document-missing"),
        (EventRefused("x"), "event-refused"),
        (TooManyAttempts("x"), "too-many-attempts"),
        (MessageRefused("x"), "message-refused"),
        (BlobNotFound("x"), "refused-for-good"),
        (EngineLostJob("x"), "engine-lost"),
        (EngineRefused("x"), "engine-refused"),
        (HandlerBug("x"), "bug"),
        (NoRoom("x"), "engine-full"),
        (StorageFull("x"), "no-space"),
        (TransientError("x"), "no-answer"),
        (KeyError("x"), "bug"),
    ],
)
def test_what_went_wrong_has_its_rule(error: Exception, name: str) -> None:
    assert rule_of(error).name == name
