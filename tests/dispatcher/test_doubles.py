"""Several messages of one event: one round of attempts and one dead letter, whichever of them comes when."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.messaging import MESSAGE_HEADER, DeadLetter, RetryPolicy
from ion_core.contracts.storage import Document
from ion_core.dataplane import forget_rounds, forget_rounds_of
from ion_core.dispatcher import doubles
from ion_core.embedded.memory.documents import MemoryDocumentStore
from ion_core.errors import TransientError
from ion_core.events import COMMIT, ROUND, Event, encode_event
from ion_core.jobs import Outcome, Verdict
from ion_core.rounds import Round
from tests.support.worlds import Scene, World, attempt, eventually, exits, fails_first, messages, no_back_off

RUNS = 3
"""Of a module that always fails: once, and two retries."""


class Failing:
    """A program that fails, and counts how often it was run."""

    def __init__(self) -> None:
        self.runs = 0

    async def __call__(self, workspace: Path, env: Mapping[str, str]) -> int:
        self.runs += 1
        return 3


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(doubles, "WAIT_LEAST", timedelta(0))
    return World(tmp_path)


@pytest.fixture
def failing(world: World) -> Failing:
    failing = Failing()
    world.add(failing)
    return failing


async def doubled(world: World, times: int = 2, **more: Any) -> Event:
    """An event whose publish was made so often."""
    event = await world.publish(**more)
    for _ in range(times - 1):
        await world.dataplane.publish(event)
    return event


def record(world: World) -> Round:
    [document] = world.documents_of(ROUND)
    return Round.from_document(document)


def age(world: World, by: timedelta) -> None:
    """As if its message had failed that much earlier."""
    known = record(world)
    next_at = known.next_at and known.next_at - by
    document = replace(known, failed_at=known.failed_at - by, next_at=next_at).to_document()
    world.documents.documents[document.kind, document.id] = document


# One round, one dead letter


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("times", [1, 2, 7])
async def test_however_many_messages_there_is_one_round_of_attempts_and_one_dead_letter(
    times: int, concurrency: int, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Failing()
    world.add(failing, concurrency=concurrency)
    await doubled(world, times)
    dispatcher = await world.run()
    assert failing.runs == RUNS
    [letter] = await world.dead()
    assert letter.attempts == RUNS
    assert letter.headers[MESSAGE_HEADER] == record(world).message
    counts = dispatcher.counts()
    assert (counts[Verdict.RETRIED], counts[Verdict.DEAD_LETTERED]) == (2, 1)
    said = "\n".join(messages(caplog))
    assert ("this one waits for what becomes of it" in said) == (times > 1)
    assert ("`ion-core dlq list` shows it; redrive it, or purge it and publish the event anew" in said) == (times > 1)


async def test_many_events_each_twice_have_one_round_each(world: World, failing: Failing) -> None:
    world.modules[0] = replace(world.modules[0], concurrency=8)
    events = [await doubled(world) for _ in range(20)]
    await world.run()
    assert failing.runs == RUNS * 20
    assert sorted(letter.body for letter in await world.dead()) == sorted(map(encode_event, events))


async def test_what_commits_is_as_ever_and_leaves_no_record(world: World) -> None:
    world.add(exits(0))
    await doubled(world)
    await world.run()
    assert world.observed.verdicts == [Verdict.COMMITTED, Verdict.ALREADY_COMMITTED]
    assert world.documents_of(ROUND) == []


async def test_a_double_of_what_commits_in_the_end_finds_the_commit(world: World) -> None:
    world.add(fails_first(2, exits(0)))
    await doubled(world)
    await world.run()
    assert len(world.commits) == 1
    assert await world.dead() == []
    assert len(world.observed.started) == RUNS
    assert world.observed.verdicts[-1] is Verdict.ALREADY_COMMITTED


async def test_two_that_failed_at_once_with_two_dispatchers_go_on_as_one(world: World) -> None:
    """Neither could know of the other before: one run more, and no more than that."""
    scene = Scene(code=3)
    world.add(scene)
    await doubled(world)
    async with world.serving(), world.serving(state_id="other"):
        await scene.until(arrived=2)
        scene.go.set()
        async with asyncio.timeout(30):
            await world.broker.idle()
    assert scene.arrived == RUNS + 1
    assert len(await world.dead()) == 1


async def test_a_permanent_failure_has_one_dead_letter_too(world: World) -> None:
    world.add(exits(127))
    await doubled(world, 3)
    await world.run()
    assert len(world.observed.started) == 1
    assert len(await world.dead()) == 1


async def test_copies_of_one_message_end_as_one_dead_letter(world: World, failing: Failing) -> None:
    """As a settlement whose answer was lost leaves them."""
    await world.publish()
    [message] = await world.broker.peek("worker", limit=1)
    for _ in range(3):
        await world.broker.publish("in", message.body, headers=message.headers)
    await world.run()
    assert len(await world.dead()) == 1


async def test_an_older_copy_of_a_message_does_not_run_again(world: World, failing: Failing) -> None:
    world.modules[0] = replace(world.modules[0], retry=RetryPolicy(retries=2, initial=timedelta(hours=1)))
    await world.publish()
    [message] = await world.broker.peek("worker", limit=1)
    async with world.serving():
        await world.observed.finishes(1)
        world.documents.documents |= {
            (it.kind, it.id): it for it in [replace(record(world), attempt=2).to_document()]
        }  # its second attempt has failed by now
        await world.broker.publish("in", message.body, headers=message.headers)
        await world.observed.finishes(2)
    assert failing.runs == 1
    assert world.observed.verdicts == [Verdict.RETRIED, Verdict.DUPLICATE]
    assert world.broker.counts("worker").delayed == 2, "nothing is given away before the other is a dead letter"


class Held:
    """A program that fails; the runs that are in ``held`` do so when they are told."""

    def __init__(self, *held: int) -> None:
        self.runs = 0
        self.fails = {run: asyncio.Event() for run in held}

    async def __call__(self, workspace: Path, env: Mapping[str, str]) -> int:
        self.runs += 1
        if self.runs in self.fails:
            await self.fails[self.runs].wait()
        return 3


async def a_message_and_its_copy(world: World) -> Held:
    """Both wait; the first run of the module is held."""
    world.add(held := Held(1))
    await world.publish()
    [message] = await world.broker.peek("worker", limit=1)
    await world.broker.publish("in", message.body, headers=message.headers)
    return held


async def test_a_copy_that_fails_once_another_is_a_dead_letter_is_no_second_one(world: World) -> None:
    held = await a_message_and_its_copy(world)
    async with world.serving(), world.serving(state_id="other"):
        await world.observed.finishes(RUNS)
        assert record(world).next_at is None
        held.fails[1].set()
        await world.observed.finishes(RUNS + 1)
    assert world.observed.verdicts[-2:] == [Verdict.DEAD_LETTERED, Verdict.DUPLICATE]
    assert held.runs == RUNS + 1
    assert len(await world.dead()) == 1


async def test_a_copy_that_fails_for_longer_than_copies_come_is_no_second_dead_letter_either(world: World) -> None:
    held = await a_message_and_its_copy(world)
    async with world.serving(), world.serving(state_id="other"):
        await world.observed.finishes(RUNS)
        age(world, doubles.COPIES_WITHIN)
        held.fails[1].set()
        await world.observed.finishes(RUNS + 1)
    assert len(await world.dead()) == 1


async def test_a_copy_that_fails_behind_a_later_attempt_waits_for_what_becomes_of_that(world: World) -> None:
    held = Held(1, RUNS + 1)
    world.add(held)
    await world.publish()
    [message] = await world.broker.peek("worker", limit=1)
    await world.broker.publish("in", message.body, headers=message.headers)
    async with world.serving(), world.serving(state_id="other"):
        await eventually(lambda: held.runs == RUNS + 1)
        held.fails[1].set()
        await world.observed.finishes(RUNS)
        assert world.observed.verdicts == [Verdict.RETRIED, Verdict.RETRIED, Verdict.DUPLICATE]
        assert record(world).attempt == RUNS - 1
        held.fails[RUNS + 1].set()
        async with asyncio.timeout(30):
            await world.broker.idle()
    assert held.runs == RUNS + 1
    assert len(await world.dead()) == 1


async def test_messages_of_others_have_no_id_and_run_as_ever(world: World, failing: Failing) -> None:
    event = await world.publish()
    [message] = await world.broker.peek("worker", limit=1)
    others = {name: text for name, text in message.headers.items() if name != MESSAGE_HEADER}
    await world.broker.publish("in", encode_event(event), headers=others)
    await world.run()
    assert failing.runs == 2 * RUNS
    assert len(await world.dead()) == 2


async def test_a_store_that_takes_its_time_is_asked_for_both_records_at_once(world: World, failing: Failing) -> None:
    class Slow(MemoryDocumentStore):
        """Tells of a commit once it has been asked for the failure, too."""

        def __init__(self) -> None:
            super().__init__()
            self.asked = asyncio.Event()

        async def get(self, kind: str, id: str) -> Document:
            if kind == ROUND:
                self.asked.set()
            elif kind == COMMIT:
                await self.asked.wait()
                self.asked.clear()
            return await super().get(kind, id)

    world.documents = Slow()
    await doubled(world)
    await world.run()
    assert (failing.runs, len(await world.dead())) == (RUNS, 1)


# What goes on after it


async def test_what_is_redriven_runs(world: World, failing: Failing) -> None:
    await doubled(world)
    await world.run()
    for round in (2, 3):
        await world.redrive()
        await world.run()
        assert failing.runs == round * RUNS
        assert len(await world.dead()) == 1


async def test_what_is_moved_back_by_hand_runs(world: World, failing: Failing) -> None:
    """So does what was recorded as dead by a process that ended before it was settled: it is no letter, either."""
    await world.publish()
    await world.run()
    [letter] = await world.dead()
    world.broker.queue("worker").dead.clear()
    await world.broker.publish("in", letter.body, headers=letter.headers)
    await world.run()
    assert failing.runs == 2 * RUNS
    assert len(await world.dead()) == 1


@pytest.mark.parametrize("unseen", ["not told of", "told of as none"])
async def test_a_copy_of_a_dead_letter_that_is_not_seen_yet_waits_for_it(
    unseen: str, world: World, failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another dispatcher looks at the letters, and RabbitMQ shows them to nobody else; or nodes have yet to agree."""
    world.broker.letters_unseen_for = timedelta(minutes=1)
    await world.publish()
    await world.run()
    [letter] = await world.dead()
    seen = world.broker.dead_letters
    looks = 0

    async def dead_letters(queue: str, *, limit: int | None = None) -> Sequence[DeadLetter]:
        nonlocal looks
        looks += 1
        if looks > 3:
            return await seen(queue, limit=limit)
        if unseen == "not told of":
            raise TransientError("the broker is away")
        return []

    monkeypatch.setattr(world.broker, "dead_letters", dead_letters)
    await world.broker.publish("in", letter.body, headers=letter.headers)
    await world.run()
    assert failing.runs == RUNS
    assert looks == 4
    assert len(await seen("worker")) == 1


async def test_a_copy_does_not_run_again_while_nobody_says_whether_its_dead_letter_is_there(
    world: World, failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.publish()
    await world.run()
    [letter] = await world.dead()
    monkeypatch.setattr(doubles, "WAIT_MOST", timedelta(0))
    seen = world.broker.dead_letters
    looks = 0

    async def dead_letters(queue: str, *, limit: int | None = None) -> Sequence[DeadLetter]:
        nonlocal looks
        looks += 1
        if looks <= 3:
            raise TransientError("the broker is away")
        return await seen(queue, limit=limit)

    monkeypatch.setattr(world.broker, "dead_letters", dead_letters)
    await world.broker.publish("in", letter.body, headers=letter.headers)
    await world.run()
    assert (failing.runs, looks) == (RUNS, 4)
    assert len(await seen("worker")) == 1


async def test_an_event_published_anew_beside_its_dead_letter_is_none_of_its_own(
    world: World, failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    event = await world.publish()
    await world.run()
    caplog.clear()
    await world.dataplane.publish(event)
    await world.run()
    assert failing.runs == RUNS
    assert len(await world.dead()) == 1
    assert "redrive it, or purge it and publish the event anew" in "\n".join(messages(caplog))


async def test_after_a_purge_an_event_that_is_published_anew_runs(world: World, failing: Failing) -> None:
    event = await world.publish()
    await world.run()
    letters = await world.dead()
    await forget_rounds(world.documents, letters)
    await world.broker.purge("worker", [letter.id for letter in letters])
    await world.dataplane.publish(event)
    await world.run()
    assert failing.runs == 2 * RUNS
    assert len(await world.dead()) == 1


async def test_a_record_that_another_message_has_taken_over_is_not_forgotten(world: World, failing: Failing) -> None:
    event = await world.publish()
    await world.run()
    [letter] = await world.dead()
    age(world, doubles.BINDS_FOR)
    await world.dataplane.publish(event)
    await world.run()
    after = record(world)
    assert after.message != letter.headers[MESSAGE_HEADER]
    unreadable = replace(letter, body=b"no event")
    foreign = replace(letter, headers={})
    await forget_rounds(world.documents, [letter, unreadable, foreign])
    assert record(world) == after
    await forget_rounds_of(world.documents, "another")
    assert record(world) == after
    await forget_rounds_of(world.documents, "worker")
    assert world.documents_of(ROUND) == []


async def test_a_letter_that_was_removed_otherwise_binds_for_an_hour(world: World, failing: Failing) -> None:
    event = await world.publish()
    await world.run()
    world.broker.queue("worker").dead.clear()
    age(world, doubles.BINDS_FOR - timedelta(minutes=1))
    await world.dataplane.publish(event)
    await world.run()
    assert (failing.runs, await world.dead()) == (RUNS, [])
    age(world, timedelta(minutes=1))
    await world.dataplane.publish(event)
    await world.run()
    assert failing.runs == 2 * RUNS
    assert len(await world.dead()) == 1


async def test_a_double_takes_the_place_of_a_message_that_is_lost(world: World, failing: Failing) -> None:
    """Such as one that waited for its retry when somebody purged the queue."""
    world.modules[0] = replace(world.modules[0], retry=RetryPolicy(retries=2, initial=timedelta(hours=1)))
    event = await world.publish()
    async with world.serving():
        await world.observed.finishes(1)
        [delayed] = world.broker.queue("worker").delayed.values()
        delayed.timer.cancel()
        world.broker.queue("worker").delayed.clear()
        age(world, doubles.BINDS_FOR + timedelta(hours=2))
        await world.dataplane.publish(event)
        await world.observed.finishes(2)
    assert failing.runs == 2
    assert world.observed.verdicts == [Verdict.RETRIED, Verdict.RETRIED]


# Nothing is lost


class Refusing(MemoryDocumentStore):
    """Keeps no round record, as often as it is told."""

    left = 0

    async def create(self, document: Document) -> None:
        if document.kind == ROUND and self.left:
            self.left -= 1
            raise TransientError("documents: no answer")
        await super().create(document)


async def test_a_failure_that_cannot_be_recorded_waits_uncounted(
    world: World, failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.documents = documents = Refusing()
    documents.left = 2
    await doubled(world)
    with no_back_off(monkeypatch):
        await world.run()
    assert world.observed.verdicts.count(Verdict.RELEASED) == 2
    assert failing.runs == RUNS + 2
    assert len(await world.dead()) == 1


async def test_one_that_can_never_be_recorded_ends_all_the_same(
    world: World, failing: Failing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.documents = documents = Refusing()
    documents.left = 1000
    await world.publish()
    with no_back_off(monkeypatch):
        await world.run()
    assert len(await world.dead()) == 1
    assert "a failed attempt could not be recorded: documents: no answer" in "\n".join(messages(caplog))


class Unanswering(MemoryDocumentStore):
    """Keeps the round record, and does not say so."""

    async def create(self, document: Document) -> None:
        await super().create(document)
        if document.kind == ROUND:
            raise TransientError("documents: no answer")


async def test_a_failure_that_was_recorded_without_an_answer_is_no_copys(world: World) -> None:
    """Recorded once more, as own trouble is: it is the dead letter, and does not wait for another."""
    world.documents = Unanswering()
    world.broker.letters_unseen_for = timedelta(minutes=1)
    module = world.add(exits(3))
    await world.broker.declare(module.name, topics=module.subscribes, retry=module.retry)
    failed, died = replace(attempt(), message="m"), Outcome(verdict=Verdict.DEAD_LETTERED, reason="exit code 3")
    seen: list[Round] = []
    with pytest.raises(TransientError):
        await doubles.Doubles(module, world.dataplane).failed(failed, died, seen=seen)
    assert await doubles.Doubles(module, world.dataplane).failed(failed, died, seen=seen) == died
    copys = await doubles.Doubles(module, world.dataplane).failed(failed, died, seen=[])
    assert copys.verdict is Verdict.DUPLICATE
