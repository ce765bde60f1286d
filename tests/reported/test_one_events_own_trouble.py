"""An error that only one event has: it steps back behind the others and is a dead letter in the end.

When the provider is away, which others meet too, nobody is counted and nobody dies.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ion_core.commits import Commit
from ion_core.contracts.messaging import MessageBroker
from ion_core.contracts.runtime import ContainerRef
from ion_core.contracts.storage import Document
from ion_core.dataplane import DataPlane
from ion_core.dispatcher.outbox import IN_A_ROW
from ion_core.embedded.memory.broker import MemoryBroker
from ion_core.embedded.memory.documents import MemoryDocumentStore
from ion_core.embedded.memory.runtime import MemoryRuntime
from ion_core.embedded.settings import SqliteBrokerSettings
from ion_core.embedded.sqlite.broker import open_sqlite_broker
from ion_core.errors import TransientError
from ion_core.jobs import Verdict
from tests.support.worlds import PATIENCE, Clock, OneBlobWithheld, World, does, emit, exits, messages, no_back_off

HEALTHY = 20
FEW = 4
"""Events that are tried many more times than an own trouble may be."""


@asynccontextmanager
async def memory_broker(tmp_path: Path) -> AsyncIterator[MessageBroker]:
    yield MemoryBroker()


@asynccontextmanager
async def sqlite_broker(tmp_path: Path) -> AsyncIterator[MessageBroker]:
    settings = SqliteBrokerSettings(path=tmp_path / "broker.sqlite", poll=timedelta(milliseconds=20))
    async with open_sqlite_broker(settings) as broker:
        yield broker


@pytest.fixture
def world(tmp_path: Path) -> World:
    found = World(tmp_path)
    found.blobs = OneBlobWithheld()
    return found


async def settled(world: World) -> None:
    """Once nothing is pending in the queue, whatever broker it is on."""
    async with asyncio.timeout(3 * PATIENCE):
        while (await world.broker.stats("worker")).pending:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def committed(world: World) -> list[str]:
    return [commit.context.event_id for commit in world.commits]


@pytest.mark.parametrize("broker", [memory_broker, sqlite_broker])
@pytest.mark.parametrize("poisoned", [1, 3])
async def test_events_behind_a_poisoned_one_are_committed_and_it_becomes_a_dead_letter(
    broker: Any, poisoned: int, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add(exits(0), concurrency=1)
    async with AsyncExitStack() as stack:
        world.broker = await stack.enter_async_context(broker(tmp_path))
        for n in range(poisoned):
            await world.publish(event_id=f"bad-{n}", files={"poisoned": b"x"})
        for n in range(HEALTHY):
            await world.publish(event_id=f"good-{n}", files={"fine": b"x"})
        with no_back_off(monkeypatch):
            async with world.serving():
                await settled(world)
                dead = await world.dead()
    assert sorted(committed(world)) == sorted(f"good-{n}" for n in range(HEALTHY))
    assert len(dead) == poisoned
    for letter in dead:
        assert "access is denied (403)" in letter.reason
        assert letter.attempts == 3, "counted by the module's own policy, once it was clear whose trouble it is"


async def test_the_events_behind_are_not_kept_waiting_while_it_waits(world: World) -> None:
    """Its delay never ends here."""
    world.broker = MemoryBroker(call_later=Clock().call_later)
    world.add(exits(0), concurrency=1)
    await world.publish(event_id="bad", files={"poisoned": b"x"})
    for n in range(HEALTHY):
        await world.publish(event_id=f"good-{n}", files={"fine": b"x"})
    async with world.serving():
        await world.observed.until(lambda: len(world.commits) == HEALTHY)
        assert isinstance(world.blobs, OneBlobWithheld)
        assert world.blobs.tries == 1
        assert world.broker.counts("worker").delayed == 1, "it waits at the broker and holds nothing here"
    assert await world.dead() == []


async def test_an_event_that_is_alone_with_its_trouble_becomes_a_dead_letter_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stores answer for something of our own: then it is this event."""
    world.add(exits(0), concurrency=1)
    await world.publish(event_id="bad", files={"poisoned": b"x"})
    with no_back_off(monkeypatch):
        await world.run()
    [letter] = await world.dead()
    assert "access is denied (403)" in letter.reason
    assert world.documents_of("probe") == []
    assert [key for key in world.blobs.blobs if "poisoned" not in key] == []
    assert world.left_behind() == []


async def test_it_says_whose_trouble_it_is_and_when_it_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.add(exits(0), concurrency=1)
    await world.publish(event_id="bad", files={"poisoned": b"x"})
    await world.publish(event_id="good", files={"fine": b"x"})
    with no_back_off(monkeypatch):
        await world.run()
    assert any("this event's own trouble" in line and "403" in line for line in messages(caplog))


class Away(MemoryDocumentStore):
    """Everything but reading works, or nothing but that: an outage of half a store is one."""

    at = ""

    async def create(self, document: Document) -> None:
        if self.at == "create":
            raise TransientError("documents: away")
        await super().create(document)


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("what", ["blobs", "documents", "commits"])
async def test_an_outage_counts_nothing_and_kills_nobody(
    what: str, concurrency: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.documents = documents = Away()
    world.add(exits(0), concurrency=concurrency)
    for n in range(FEW):
        await world.publish(event_id=f"good-{n}", files={"fine": b"x"})
    with no_back_off(monkeypatch):
        async with world.serving():
            if what == "blobs":
                world.blobs.failing = TransientError("blobs: away")
            elif what == "documents":
                world.documents.failing = TransientError("documents: away")
            else:
                documents.at = "create"
            await world.observed.until(lambda: len(world.observed.finished) >= 25 * FEW)
            assert await world.dead() == []
            world.blobs.failing = world.documents.failing = None
            documents.at = ""
            async with asyncio.timeout(PATIENCE):
                await world.broker.idle()
    assert sorted(committed(world)) == sorted(f"good-{n}" for n in range(FEW))
    assert {commit.attempt for commit in world.commits} == {1}
    assert await world.dead() == []


async def test_an_outage_of_the_runtime_counts_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores that answer say nothing of it."""

    class Down(MemoryRuntime):
        away = True

        async def start(self, ref: ContainerRef) -> None:
            if self.away:
                raise TransientError("no answer")
            await super().start(ref)

    world.add(exits(0), concurrency=1)
    world.runtime = runtime = Down(world.programs)
    for n in range(FEW):
        await world.publish(event_id=f"good-{n}")
    with no_back_off(monkeypatch):
        async with world.serving():
            await world.observed.until(lambda: len(world.observed.finished) >= 25 * FEW)
            runtime.away = False
            async with asyncio.timeout(PATIENCE):
                await world.broker.idle()
    assert len(world.commits) == FEW
    assert {commit.attempt for commit in world.commits} == {1}
    assert Verdict.DEAD_LETTERED not in world.observed.verdicts


async def test_while_a_provider_is_away_events_are_tried_ever_less_often(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next may do better than the first; from the second on the module pauses: no queue is turned over in haste."""
    monkeypatch.setattr("ion_core.dispatcher.bounded.Backoff.next", lambda self: 60.0)
    world.add(exits(0), concurrency=1)
    for n in range(HEALTHY):
        await world.publish(event_id=f"good-{n}", files={"fine": b"x"})
    world.blobs.failing = TransientError("blobs: away")
    async with world.serving() as serving:
        await world.observed.finishes(2)
        runner = serving.dispatcher._runners[0]
        await world.broker.until(lambda: world.broker.counts("worker").unsettled == 1)
        assert runner.troubles.is_paused
    assert set(world.observed.verdicts) == {Verdict.RELEASED}
    assert len(world.observed.started) == 2, "the third has waited for the pause to end"
    assert world.broker.counts("worker").pending == HEALTHY


async def test_a_job_that_has_committed_is_no_dead_letter_whatever_cannot_be_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its event comes a second time, and the document of it may not be read for a while."""

    class OneWithheld(MemoryDocumentStore):
        tries = 0

        async def get(self, kind: str, id: str) -> Document:
            if (kind, id) == ("eventMeta", "done") and self.tries < 20:
                self.tries += 1
                raise TransientError(f"document {id}: access is denied (403).")
            return await super().get(kind, id)

    world.add(exits(0), concurrency=1)
    await world.publish(event_id="done")
    await world.run()
    stored = world.documents.documents
    [message] = world.observed.published
    world.documents = OneWithheld()
    world.documents.documents = stored
    await world.dataplane.publish(message)
    with no_back_off(monkeypatch):
        await world.run()
    assert world.observed.verdicts[-1] is Verdict.ALREADY_COMMITTED
    assert set(world.observed.verdicts[1:-1]) == {Verdict.RELEASED}
    assert len(world.observed.verdicts) == 22
    assert await world.dead() == []


@pytest.mark.parametrize("poisoned", [1, IN_A_ROW, IN_A_ROW + 2])
async def test_a_commit_that_cannot_be_published_holds_up_no_other_and_no_start(poisoned: int, world: World) -> None:
    """The document of one child may not be written, as for want of permission."""

    class OneWithheld(MemoryDocumentStore):
        async def put(self, document: Document) -> None:
            if document.kind == "eventMeta" and document.body["type"] == "poisoned":
                raise TransientError(f"document {document.id}: access is denied (403).")
            await super().put(document)

    world.documents = documents = MemoryDocumentStore()
    world.add(does(lambda workspace: emit(workspace, "poisoned")), "bad", takes="bad", emits=["poisoned"])
    world.add(does(lambda workspace: emit(workspace, "out")), "good", takes="good")
    for kind, count in (("bad", poisoned), ("good", 3)):
        for _ in range(count):
            await world.publish(kind)

    async def dies(self: DataPlane, commit: Commit) -> None:
        raise TransientError("the process is about to die")

    with pytest.MonkeyPatch.context() as dead:
        dead.setattr(DataPlane, "publish_commit", dies)
        async with world.serving() as serving:
            await world.observed.until(lambda: len(world.commits) == poisoned + 3)
            serving.hurry.set()
    world.documents = OneWithheld()
    world.documents.documents = documents.documents
    dispatcher = world.dispatcher()
    await dispatcher.recover()
    for _ in range(2):
        with suppress(TransientError):
            await dispatcher._outbox.sweep(older_than=timedelta(0))
    owing = [document for document in world.documents_of("commit") if document.pending]
    assert {document.body["context"]["name"] for document in owing} == {"bad"}
    assert len(owing) == poisoned
