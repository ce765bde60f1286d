"""An event that was published with a document runs with it, or not at all: what Ion stored before is a promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ion_core.app import App
from ion_core.config import load_config
from ion_core.contracts.messaging import RetryPolicy
from ion_core.dataplane import DOCUMENT_HEADER, DOCUMENT_STORED
from ion_core.errors import DocumentNotFound
from ion_core.events import encode_event
from ion_core.jobs import Verdict
from ion_core.stores import DOCUMENT_WAITS, REMEMBERED, Patience
from tests.support.worlds import World, attempt, does, emit


class Pauses:
    """Waits that take no time but that of ``clock``; ``during`` says what happens in the n-th."""

    def __init__(self) -> None:
        self.now = 0.0
        self.seconds: list[float] = []
        self.during: dict[int, Callable[[], None]] = {}

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self.now += seconds
        self.during.get(len(self.seconds), lambda: None)()

    def clock(self) -> float:
        return self.now


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
def world(tmp_path: Path, pauses: Pauses) -> World:
    world = World(tmp_path, patience=Patience(pauses, pauses.clock))
    world.add(does(lambda workspace: None))
    return world


def lose_documents(world: World) -> None:
    """As when the dispatcher has another store than the publisher."""
    world.documents.documents.clear()


async def test_an_event_whose_document_is_missing_does_not_run(world: World) -> None:
    event = await world.publish(files={"f.txt": b"content"})
    lose_documents(world)
    await world.run()
    assert world.commits == [], "it would have been committed without its file"
    [letter] = await world.dead()
    assert letter.attempts == 1
    assert event.context.event_id in letter.reason
    assert world.observed.verdicts == [Verdict.DEAD_LETTERED]
    assert world.left_behind() == []


async def test_an_event_whose_document_names_files_and_no_place_of_them_does_not_run(world: World) -> None:
    event = await world.publish(files={"f.txt": b"content"})
    document = await world.documents.get("eventMeta", event.context.event_id)
    lose_documents(world)
    body = {key: value for key, value in document.body.items() if key != "blobs"}
    await world.documents.put(replace(document, body=body))
    await world.run()
    assert world.commits == [], "it would have been committed without its file"
    [letter] = await world.dead()
    assert "says nowhere where its files lie: 'f.txt'" in letter.reason


async def test_the_dead_letter_says_which_store_was_asked_and_what_would_do(world: World, pauses: Pauses) -> None:
    await world.publish()
    lose_documents(world)
    await world.run()
    [letter] = await world.dead()
    waited = f"{sum(pauses.seconds):g} s"
    assert "not in the document store" in letter.reason
    assert waited in letter.reason
    assert "same document store" in letter.reason
    assert "dlq redrive" in letter.reason


async def test_a_document_that_comes_late_is_waited_for(world: World, pauses: Pauses) -> None:
    await world.publish(files={"f.txt": b"content"})
    away = dict(world.documents.documents)
    lose_documents(world)
    pauses.during[2] = lambda: world.documents.documents.update(away)
    await world.run()
    assert len(world.commits) == 1
    assert len(pauses.seconds) == 2
    assert world.observed.verdicts == [Verdict.COMMITTED]


async def test_the_wait_for_a_document_is_bounded_and_grows(world: World, pauses: Pauses) -> None:
    await world.publish()
    lose_documents(world)
    await world.run()
    assert pauses.seconds == sorted(pauses.seconds)
    assert 5 <= sum(pauses.seconds) <= 60


async def test_many_that_will_not_come_do_not_hold_up_those_that_have_theirs(world: World, pauses: Pauses) -> None:
    for _ in range(100):
        await world.publish()
    lose_documents(world)
    await world.publish(files={"f.txt": b"content"})
    await world.run()
    assert len(await world.dead()) == 100
    assert len(world.commits) == 1
    assert pauses.seconds == [*DOCUMENT_WAITS, *[DOCUMENT_WAITS[0]] * 99]


async def test_one_that_comes_or_time_that_passes_makes_patient_again(world: World, pauses: Pauses) -> None:
    patience = Patience(pauses, pauses.clock)
    patience.in_vain()
    assert patience.waits() == DOCUMENT_WAITS[:1]
    patience.came()
    assert patience.waits() == DOCUMENT_WAITS
    patience.in_vain()
    pauses.now += REMEMBERED
    assert patience.waits() == DOCUMENT_WAITS


async def test_an_event_that_a_commit_published_has_a_document_by_promise(world: World) -> None:
    def starts(workspace: Path) -> None:
        (workspace / "out" / "data" / "made").write_bytes(b"made")
        emit(workspace, "made", files="made")

    world.add(does(starts), "first", takes="start", emits=("made",))
    await world.broker.declare("second", topics=["made"], retry=RetryPolicy())
    await world.publish("start")
    async with world.serving():
        await world.observed.finishes(1)
    lose_documents(world)
    world.add(does(lambda workspace: None), "second", takes="made")
    await world.run()
    assert world.commits == []
    [letter] = await world.dead("second")
    assert "not in the document store" in letter.reason


async def test_the_promise_outlives_retries_releases_and_redrives(world: World) -> None:
    await world.publish(files={"f.txt": b"content"})
    away = dict(world.documents.documents)
    lose_documents(world)
    await world.run()
    [letter] = await world.dead()
    assert letter.headers[DOCUMENT_HEADER] == DOCUMENT_STORED
    await world.redrive()
    await world.run()
    await world.redrive()
    world.documents.documents.update(away)
    await world.run()
    assert len(world.commits) == 1
    assert await world.dead() == []


async def test_a_message_of_somebody_else_needs_no_document(world: World, pauses: Pauses) -> None:
    """Nor does one that an earlier version of Ion sent, which made no promise on the wire."""
    await world.broker.declare("worker", topics=["in"], retry=RetryPolicy())
    event = attempt().job.event
    await world.broker.publish("in", encode_event(event), headers={})
    await world.run()
    assert [commit.context.event_id for commit in world.commits] == [event.context.event_id]
    assert pauses.seconds == []


async def test_a_job_that_has_committed_needs_its_document_no_more(world: World) -> None:
    event = await world.publish(event_id="e")
    await world.run()
    [commit] = world.documents_of("commit")
    lose_documents(world)
    world.documents.documents["commit", commit.id] = commit
    await world.dataplane.publish(event)
    await world.run()
    assert world.observed.verdicts == [Verdict.COMMITTED, Verdict.ALREADY_COMMITTED]


async def test_an_event_that_was_read_from_the_store_is_promised_too(world: World) -> None:
    """A rehearsal reads the event, then prepares it: what has gone in between is no event without files."""
    event = await world.publish(event_id="e", files={"f.txt": b"content"})
    known = await world.dataplane.accepted(event.context.event_id)
    assert known == event
    lose_documents(world)
    with pytest.raises(DocumentNotFound, match="'e'"):
        await world.dataplane.stored_files(known or event)


async def test_the_store_that_was_asked_is_named_as_the_configuration_has_it(tmp_path: Path, pauses: Pauses) -> None:
    """Where it is, so that two machines with a store each are told apart."""
    (tmp_path / "ion.yaml").write_text("modules: {}\n")
    async with App.open(load_config(tmp_path / "ion.yaml", environ={})) as app:
        dataplane = replace(await app.dataplane(), patience=Patience(pauses))
        with pytest.raises(DocumentNotFound) as missing:
            await dataplane.stored_files(replace(attempt().job.event, documented=True))
    assert f"storage.documents (sqlite, {tmp_path}/.ion/documents.sqlite)" in str(missing.value)
