"""DataPlane: what is accepted is stored, what is committed is published, as often as it takes and always the same."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ion_core import crash
from ion_core.commits import Commit, child_event
from ion_core.contracts.messaging import MESSAGE_HEADER
from ion_core.contracts.storage import Document, check_key
from ion_core.dataplane import DOCUMENT_HEADER, DOCUMENT_STORED, HOPS_HEADER
from ion_core.embedded.memory.broker import MemoryBroker
from ion_core.errors import BlobNotFound, DocumentNotFound, PermanentError, TransientError, Unroutable
from ion_core.events import Event, StoredFile, parse_event
from ion_core.stores import AT_ONCE, for_each, job_prefix, key_segment
from tests.support.worlds import World, attempt, does

ids = st.text(min_size=1, max_size=100)


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.add(does(lambda workspace: None))
    return world


def made(*, events: int = 2, insights: int = 1, files: tuple[StoredFile, ...] = ()) -> Commit:
    trying = attempt()
    names = tuple(file.name for file in files)
    return Commit(
        job_id=trying.job.id,
        context=replace(trying.job.event.context, name="worker", document_type="commit"),
        attempt=1,
        token=trying.token,
        image=None,
        started_at="",
        committed_at="2030-01-01T00:00:00.000+00:00",
        files=files,
        insights=(("n", "1"),) * insights,
        events=tuple(
            child_event(trying, f"{n}.json", event_type="in", data=(("n", str(n)),), files=names) for n in range(events)
        ),
    )


class Recording(MemoryBroker):
    """Remembers every publish with what was stored at that moment."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.sent: list[tuple[str, bytes, dict[str, str], set[tuple[str, str]]]] = []

    async def publish(self, topic: str, body: bytes, *, headers: Mapping[str, str]) -> None:
        self.sent.append((topic, body, dict(headers), set(self.world.documents.documents)))
        await super().publish(topic, body, headers=headers)


async def recording(world: World) -> Recording:
    world.broker = Recording(world)
    await world.broker.declare("worker", topics=["in"], retry=world.modules[0].retry)
    return world.broker


# Keys


@given(ids)
def test_any_id_is_one_segment_of_a_key(id: str) -> None:
    segment = key_segment(id)
    assert check_key(segment) == segment
    assert "/" not in segment


@given(ids, ids)
def test_two_ids_never_share_a_segment(one: str, other: str) -> None:
    assert (key_segment(one) == key_segment(other)) == (one == other)


@pytest.mark.parametrize("id", ["0b8e-4c", "dev", "A.b_c-9", "x" * 64])
def test_plain_ids_stay_readable(id: str) -> None:
    assert key_segment(id) == id


@pytest.mark.parametrize("id", ["", ".", "..", "../x", "/", "~", "~" + "0" * 64, "-x", "x" * 65, "ü", "a b", "\x00"])
def test_other_ids_are_hashed(id: str) -> None:
    assert key_segment(id).startswith("~")
    assert len(key_segment(id)) == 65


def test_the_files_of_an_attempt_have_a_place_of_their_own() -> None:
    event = attempt("e1", correlation_id="c1").job.event
    assert job_prefix(event, "detect", "1-abc") == "c1/e1/detect/1-abc"


# Many at a time


async def test_results_come_in_order_a_bounded_number_at_a_time() -> None:
    running = most = 0

    async def call(n: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return n * 2

    assert await for_each(call, range(1_000)) == [n * 2 for n in range(1_000)]
    assert most == AT_ONCE


async def test_the_first_error_comes_out_once_the_others_of_its_batch_are_over() -> None:
    ended: list[int] = []

    async def call(n: int) -> None:
        await asyncio.sleep(0)
        if n in (3, 5):
            raise ValueError(n)
        await asyncio.sleep(0)
        ended.append(n)

    with pytest.raises(ValueError, match=r"^3$"):
        await for_each(call, range(300))
    assert ended == [n for n in range(AT_ONCE) if n not in (3, 5)]


# Accepting


async def test_files_and_document_are_stored_before_the_message_is_sent(world: World) -> None:
    broker = await recording(world)
    event = await world.publish(data=[("a", "b")], files={"sub/x": b"123"})
    [(topic, body, headers, stored)] = broker.sent
    assert topic == "in"
    assert parse_event(body) == replace(event, files=())
    assert headers.pop(MESSAGE_HEADER)
    assert headers == {HOPS_HEADER: "0", DOCUMENT_HEADER: DOCUMENT_STORED}
    assert stored == {("eventMeta", event.context.event_id)}
    document = await world.documents.get("eventMeta", event.context.event_id)
    assert document.body["files"] == ["sub/x"]
    assert document.body["blobs"][0]["size"] == 3
    assert world.observed.published == [event]


async def test_the_same_event_again_stores_nothing_twice(world: World) -> None:
    for _ in range(2):
        await world.publish(data=[("a", "b")], files={"x": b"123"}, event_id="e", correlation_id="c")
    [key] = world.blobs.blobs
    assert re.fullmatch(r"c/e/_/[0-9a-f]{12}/x", key), "apart from another's who gives the same id at this moment"
    assert len(world.documents.documents) == 1


async def test_nothing_is_stored_of_what_does_not_fit_a_message(world: World) -> None:
    with pytest.raises(Exception, match="Pass large data as files"):
        await world.publish(data=[("a", "x" * 600_000)], files={"x": b"1"})
    assert not world.blobs.blobs
    assert not world.documents.documents


async def test_a_file_that_cannot_be_stored_stops_everything_after_it(world: World) -> None:
    broker = await recording(world)
    world.blobs.failing = TransientError("away")
    with pytest.raises(TransientError):
        await world.publish(files={"x": b"1"})
    assert not world.documents.documents
    assert broker.sent == []


# Reading


async def test_a_document_of_the_predecessor_without_blobs_brings_its_data(world: World) -> None:
    event = attempt().job.event
    body = {"id": "e1", "context": event.context.to_json(), "data": [{"key": "a", "value": "b"}]}
    await world.documents.put(Document(kind="eventMeta", id="e1", correlation_id="c1", body=body))
    found, files = await world.dataplane.stored_files(event)
    assert found.data == (("a", "b"),)
    assert files == ()


async def test_a_job_that_did_not_commit_has_no_commit(world: World) -> None:
    assert await world.dataplane.committed("nothing") is None


# Committing and publishing


async def test_the_first_commit_of_a_job_counts(world: World) -> None:
    first, second = made(), replace(made(), attempt=2)
    assert await world.dataplane.commit(first)
    assert not await world.dataplane.commit(second)
    assert await world.dataplane.committed(first.job_id) == (first, True)


async def test_the_same_record_again_is_ours(world: World) -> None:
    commit = made()
    assert await world.dataplane.commit(commit)
    assert await world.dataplane.commit(commit)


async def test_documents_are_stored_before_any_event_is_sent(world: World) -> None:
    broker = await recording(world)
    commit = made()
    await world.dataplane.commit(commit)
    await world.dataplane.publish_commit(commit)

    kinds = {(document.kind, document.id) for document in commit.documents()}
    for topic, body, headers, stored in broker.sent:
        assert topic == "in"
        assert headers.pop(MESSAGE_HEADER)
        assert headers == {HOPS_HEADER: "1", DOCUMENT_HEADER: DOCUMENT_STORED}
        assert kinds <= stored
        assert json.loads(body)["context"]["parentEventId"] == "e1"
    assert await world.dataplane.committed(commit.job_id) == (commit, False)


async def test_publishing_again_sends_the_same_bytes(world: World) -> None:
    broker = await recording(world)
    commit = made()
    await world.dataplane.commit(commit)
    await world.dataplane.publish_commit(commit)
    stored = dict(world.documents.documents)
    first, broker.sent = broker.sent, []

    await world.dataplane.publish_commit(commit)

    ids = [headers.pop(MESSAGE_HEADER) for _, _, headers, _ in first + broker.sent]
    assert len(set(ids)) == 2 * len(first), "each message has an id of its own"
    assert [sent[:3] for sent in broker.sent] == [sent[:3] for sent in first]
    assert world.documents.documents == stored


async def test_an_event_nobody_takes_ends_here(world: World) -> None:
    await recording(world)
    commit = made()
    commit = replace(commit, events=tuple(replace(event, type="nobody.takes") for event in commit.events))
    await world.dataplane.commit(commit)
    await world.dataplane.publish_commit(commit)
    assert await world.dataplane.committed(commit.job_id) == (commit, False)
    assert [document.id for document in world.documents_of("eventMeta")] == [e.context.event_id for e in commit.events]
    assert world.observed.published == []


async def test_what_could_not_be_published_stays_owed(world: World) -> None:
    broker = await recording(world)
    commit = made()
    await world.dataplane.commit(commit)
    broker.failing = TransientError("away")
    with pytest.raises(TransientError):
        await world.dataplane.publish_commit(commit)
    assert await world.dataplane.committed(commit.job_id) == (commit, True)
    broker.failing = None
    await world.dataplane.publish_commit(commit)
    assert await world.dataplane.committed(commit.job_id) == (commit, False)


async def test_a_commit_that_owes_nothing_publishes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.documents.failing = TransientError("must not be asked")
    await world.dataplane.publish_commit(made(events=0, insights=0))


async def test_the_crash_point_lies_between_publishing_and_its_mark(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = await recording(world)
    commit = made()
    await world.dataplane.commit(commit)

    def crashing(step: str) -> None:
        assert step == "S10"
        assert len(broker.sent) == 2
        raise KeyboardInterrupt

    monkeypatch.setattr(crash, "reached", crashing)
    with pytest.raises(KeyboardInterrupt):
        await world.dataplane.publish_commit(commit)
    assert world.documents_of("commit")[0].pending


async def test_nobody_takes_an_event_from_outside_is_an_error(world: World) -> None:
    event = Event(context=attempt().job.event.context, type="nobody.takes")
    with pytest.raises(Unroutable):
        await world.dataplane.accept(event, {})


async def test_discarding_is_repeatable(world: World) -> None:
    event = await world.publish(files={"a": b"1"})
    [key] = world.blobs.blobs
    for _ in range(2):
        await world.dataplane.discard([key])
    with pytest.raises(BlobNotFound):
        await world.handler.prepare(
            replace(attempt(), job=replace(attempt().job, event=event)),
            await world.handler.open_workspace("job"),
            link=False,
        )


async def test_what_cannot_be_discarded_keeps_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keys = [f"flow/event/{n}" for n in range(AT_ONCE + 1)]
    world.blobs.blobs |= dict.fromkeys(keys, b"")
    delete = world.blobs.delete

    async def refusing(key: str) -> None:
        if key == keys[0]:
            raise PermanentError("is locked")
        await delete(key)

    monkeypatch.setattr(world.blobs, "delete", refusing)
    await world.dataplane.discard(keys)
    assert list(world.blobs.blobs) == keys[:1]
    assert "left behind: is locked" in caplog.text


async def test_a_commit_record_that_vanished_is_said(world: World) -> None:
    await recording(world)
    with pytest.raises(DocumentNotFound):
        await world.dataplane.publish_commit(made())
