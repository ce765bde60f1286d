"""Embedded and reference providers are as plain models have them, whatever is done to them; broken ones are not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ion_core.commits import Commit
from ion_core.contracts.messaging import MessageBroker
from ion_core.contracts.storage import BlobInfo, BlobStore, Document, DocumentStore
from ion_core.dataplane import DataPlane
from ion_core.embedded.local.blobs import open_local_blobs
from ion_core.embedded.memory.blobs import MemoryBlobStore, open_memory_blobs
from ion_core.embedded.memory.broker import MemoryBroker, MemoryDelivery, open_memory_broker
from ion_core.embedded.memory.documents import MemoryDocumentStore, open_memory_documents
from ion_core.embedded.settings import LocalBlobsSettings, SqliteBrokerSettings, SqliteDocumentsSettings
from ion_core.embedded.sqlite.broker import SqliteBroker, open_sqlite_broker
from ion_core.embedded.sqlite.documents import SqliteDocuments, open_sqlite_documents
from ion_core.errors import IonError
from ion_core.events import COMMIT
from ion_core.testing.models import CommitModel, DocumentStoreModel, MessageBrokerModel, WorkspaceModel


class TestMemoryBrokerAndAModel(MessageBrokerModel):
    def opened(self) -> AbstractAsyncContextManager[MemoryBroker]:
        return open_memory_broker()


class TestSqliteBrokerAndAModel(MessageBrokerModel):
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.settings = SqliteBrokerSettings(path=tmp_path / "broker")

    def opened(self) -> AbstractAsyncContextManager[SqliteBroker]:
        return open_sqlite_broker(self.settings)


class TestMemoryDocumentsAndAModel(DocumentStoreModel):
    def opened(self) -> AbstractAsyncContextManager[MemoryDocumentStore]:
        return open_memory_documents()


class TestSqliteDocumentsAndAModel(DocumentStoreModel):
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.settings = SqliteDocumentsSettings(path=tmp_path / "documents")

    def opened(self) -> AbstractAsyncContextManager[SqliteDocuments]:
        return open_sqlite_documents(self.settings)


class TestWorkspacesInMemory(WorkspaceModel):
    def opened(self) -> AbstractAsyncContextManager[MemoryBlobStore]:
        return open_memory_blobs()


class TestWorkspacesInLocalFiles(WorkspaceModel):
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.settings = LocalBlobsSettings(path=tmp_path / "blobs")

    def opened(self) -> AbstractAsyncContextManager[BlobStore]:
        return open_local_blobs(self.settings)


class TestCommitsInMemory(CommitModel):
    """Of the reference providers."""


class TestCommitsOfALaptop(CommitModel):
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    def blobs(self) -> AbstractAsyncContextManager[BlobStore]:
        return open_local_blobs(LocalBlobsSettings(path=self.directory / "blobs"))

    def documents(self) -> AbstractAsyncContextManager[DocumentStore]:
        return open_sqlite_documents(SqliteDocumentsSettings(path=self.directory / "documents"))

    def broker(self) -> AbstractAsyncContextManager[MessageBroker]:
        return open_sqlite_broker(SqliteBrokerSettings(path=self.directory / "broker"))


class RetriesAtItsPlace(MemoryDelivery):
    async def retry(self, *, delay: timedelta) -> None:
        self._stored = replace(self._stored, message=replace(self._stored.message, attempt=self.attempt + 1))
        await self.release()


class InItsPlace(MemoryBroker):
    delivery_type = RetriesAtItsPlace


class KeepsWhatItMoves(MemoryBroker):
    async def move(self, queue: str, to: str) -> int:
        dead = dict(self.queue(queue).dead)
        moved = await super().move(queue, to)
        self.queue(queue).dead = dead
        return moved


class RedrivesTheOldest(MemoryBroker):
    async def redrive(self, queue: str, ids: Sequence[str]) -> int:
        await super().redrive(queue, ids)
        return await super().redrive(queue, list(self.queue(queue).dead)[:1]) + len(ids)


class DropsItsNeighbour(MemoryBroker):
    """Once it had been declared without a topic."""

    async def drop(self, queue: str) -> None:
        for name in [name for name, found in self._queues.items() if name == queue or not found.topics]:
            await super().drop(name)


@pytest.mark.parametrize("broken", [InItsPlace, KeepsWhatItMoves, RedrivesTheOldest, DropsItsNeighbour])
def test_a_broken_broker_is_not_as_the_model_has_it(broken: type[MemoryBroker]) -> None:
    class Model(MessageBrokerModel):
        examples, patience, shortens = 200, 0.0, False

        @asynccontextmanager
        async def opened(self) -> AsyncIterator[MemoryBroker]:  # type: ignore[override]
            yield broken()

    with pytest.raises((AssertionError, IonError)):
        Model().test_whatever_is_done_it_is_as_a_plain_model_has_it()


class PutsAtTheEnd(MemoryDocumentStore):
    async def put(self, document: Document) -> None:
        await self.delete(document.kind, document.id)
        await super().put(document)


class CreatesPending(MemoryDocumentStore):
    """Where it was there already."""

    async def create(self, document: Document) -> None:
        await super().create(document)
        there = await self.get(document.kind, document.id)
        await self.put(replace(there, pending=there.pending or document.pending))


class ForgetsWhatIsNotPending(MemoryDocumentStore):
    """By page."""

    async def find(self, *args: Any, **asked: Any) -> AsyncIterator[Document]:
        async for document in super().find(*args, **asked):
            if document.pending or asked.get("after") is None:
                yield document


@pytest.mark.parametrize("broken", [PutsAtTheEnd, CreatesPending, ForgetsWhatIsNotPending])
def test_a_broken_document_store_is_not_as_the_model_has_it(broken: type[MemoryDocumentStore]) -> None:
    class Model(DocumentStoreModel):
        examples, shortens = 200, False

        @asynccontextmanager
        async def opened(self) -> AsyncIterator[MemoryDocumentStore]:  # type: ignore[override]
            yield broken()

    with pytest.raises((AssertionError, IonError)):
        Model().test_whatever_is_done_it_is_as_a_plain_model_has_it()


class CreatesOver(MemoryDocumentStore):
    """What is there already."""

    async def create(self, document: Document) -> None:
        await self.put(document)


class OwesNothing(MemoryDocumentStore):
    """What is created is not pending, whatever it says."""

    async def create(self, document: Document) -> None:
        await super().create(replace(document, pending=False))


class OwesForEver(MemoryDocumentStore):
    async def clear_pending(self, kind: str, id: str) -> None:
        await self.get(kind, id)


class FindsNoCommitLater(MemoryDocumentStore):
    """One that is pending no more."""

    async def clear_pending(self, kind: str, id: str) -> None:
        await self.delete(kind, id)


class ByTheirNames(MemoryBlobStore):
    """Attempts are not told apart."""

    def _named(self, key: str) -> str:
        return "/".join(it for n, it in enumerate(key.split("/")) if n != 3)

    async def put(self, key: str, source: Path, *, consume: bool = False, told: BlobInfo | None = None) -> BlobInfo:
        return await super().put(self._named(key), source, consume=consume, told=told)

    async def get(self, key: str, target: Path, *, expect: BlobInfo | None = None, link: bool = False) -> None:
        await super().get(self._named(key), target, expect=expect, link=link)


class DeletesTheDirectory(MemoryBlobStore):
    """Of the job, with a file."""

    async def delete(self, key: str) -> None:
        for it in [it async for it in self.list("/".join(key.split("/")[:3]))]:
            await super().delete(it)


class DeletesNothing(MemoryBlobStore):
    async def delete(self, key: str) -> None:
        self._check(key)


class ForgetsWhatWasHeld(MemoryBroker):
    @asynccontextmanager
    async def subscribe(self, queue: str, *, prefetch: int) -> AsyncIterator[AsyncIterator[MemoryDelivery]]:
        async with super().subscribe(queue, prefetch=prefetch) as deliveries:
            yield deliveries
            for delivery in self.queue(queue).held:
                delivery.lose()
            self.queue(queue).held.clear()


class GivesOutAgain(MemoryDelivery):
    """What is acked."""

    async def ack(self) -> None:
        await self.release()


class AcksNothing(MemoryBroker):
    delivery_type = GivesOutAgain


class PublishesEveryOther(MemoryBroker):
    published = 0

    async def publish(self, topic: str, body: bytes, *, headers: Mapping[str, str]) -> None:
        self.published += 1
        if self.published % 2:
            await super().publish(topic, body, headers=headers)


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        *[("documents", it) for it in (CreatesOver, OwesNothing, OwesForEver, FindsNoCommitLater)],
        *[("blobs", it) for it in (ByTheirNames, DeletesTheDirectory, DeletesNothing)],
        *[("broker", it) for it in (ForgetsWhatWasHeld, AcksNothing, PublishesEveryOther)],
    ],
)
def test_what_breaks_the_commit_protocol_is_not_as_the_model_has_it(kind: str, broken: type) -> None:
    class Model(CommitModel):
        examples, patience, shortens = 200, 1.0, False

    @asynccontextmanager
    async def opened(self: CommitModel) -> AsyncIterator[Any]:
        yield broken()

    setattr(Model, kind, opened)
    with pytest.raises((AssertionError, IonError, TimeoutError)):
        Model().test_whatever_is_done_it_is_as_a_plain_model_has_it()


class NeverCommits(MemoryDocumentStore):
    async def create(self, document: Document) -> None:
        if document.kind == COMMIT:
            await asyncio.Event().wait()
        await super().create(document)


class PublishesNothing(MemoryBroker):
    async def publish(self, topic: str, body: bytes, *, headers: Mapping[str, str]) -> None: ...


@pytest.mark.parametrize(
    ("kind", "broken", "error", "said"),
    [
        ("documents", NeverCommits, TimeoutError, None),
        ("broker", PublishesNothing, AssertionError, "a message that nobody holds was not given out"),
    ],
)
def test_what_hangs_is_told_as_what_it_is(kind: str, broken: type, error: type[Exception], said: str | None) -> None:
    """And not as what went wrong as the model was put away."""

    class Model(CommitModel):
        examples, patience, shortens = 200, 0.2, False

    @asynccontextmanager
    async def opened(self: CommitModel) -> AsyncIterator[Any]:
        yield broken()

    setattr(Model, kind, opened)
    with pytest.raises(error, match=said):
        Model().test_whatever_is_done_it_is_as_a_plain_model_has_it()


async def _publishes_first(dataplane: DataPlane, commit: Commit) -> None:
    for event in commit.events:
        await dataplane.publish(event)
    for document in commit.documents():
        await dataplane.documents.put(document)
    await dataplane.documents.clear_pending("commit", commit.job_id)


async def _clears_first(dataplane: DataPlane, commit: Commit) -> None:
    await dataplane.documents.clear_pending("commit", commit.job_id)
    for document in commit.documents():
        await dataplane.documents.put(document)
    for event in commit.events:
        await dataplane.publish(event)


def _whatever_waits(flow: object, key: str) -> bool:
    """What no document names, of an attempt that may be under way as well; but not what the event brought."""
    return key.split("/")[2] != "_"


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("dataplane.DataPlane.publish_commit", _publishes_first),
        ("dataplane.DataPlane.publish_commit", _clears_first),
        ("retention._Flow.is_left_over", _whatever_waits),
    ],
)
def test_a_core_that_breaks_it_is_seen_as_well(name: str, broken: object, monkeypatch: pytest.MonkeyPatch) -> None:
    class Model(CommitModel):
        examples, shortens = 200, False

    monkeypatch.setattr(f"ion_core.{name}", broken)
    with pytest.raises((AssertionError, IonError)):
        Model().test_whatever_is_done_it_is_as_a_plain_model_has_it()


class TakesNoBlanks(MemoryBlobStore):
    """Around the segments of a key."""

    async def put(self, key: str, source: Path, *, consume: bool = False, told: BlobInfo | None = None) -> BlobInfo:
        key = "/".join(it.strip() for it in key.split("/"))
        return await super().put(key, source, consume=consume, told=told)


class CutsLongNames(MemoryBlobStore):
    async def put(self, key: str, source: Path, *, consume: bool = False, told: BlobInfo | None = None) -> BlobInfo:
        return await super().put(key[:120], source, consume=consume, told=told)


class TakesThemAnyway(MemoryBlobStore):
    """Files that it was not given away."""

    async def put(self, key: str, source: Path, *, consume: bool = False, told: BlobInfo | None = None) -> BlobInfo:
        return await super().put(key, source, consume=True, told=told)


class _WorkspacesOf(WorkspaceModel):
    examples, steps, shortens = 1000, 4, False

    def __init__(self, blobs: type[MemoryBlobStore]) -> None:
        self._blobs = blobs

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[MemoryBlobStore]:  # type: ignore[override]
        yield self._blobs()


@pytest.mark.parametrize("broken", [TakesNoBlanks, CutsLongNames, TakesThemAnyway, DeletesNothing])
def test_a_broken_blob_store_does_not_keep_workspaces_as_the_model_has_it(broken: type[MemoryBlobStore]) -> None:
    with pytest.raises((AssertionError, IonError, OSError)):
        _WorkspacesOf(broken).test_whatever_is_done_it_is_as_a_plain_model_has_it()


def _never(*arguments: object) -> tuple[str, ...]:
    return ()


@pytest.mark.parametrize(("name", "broken"), [("check_key", str), ("_named_files", _never), ("_remarks", _never)])
def test_a_core_that_collects_otherwise_is_seen_as_well(
    name: str, broken: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"ion_core.handler.output.{name}", broken)
    with pytest.raises((AssertionError, IonError)):
        _WorkspacesOf(MemoryBlobStore).test_whatever_is_done_it_is_as_a_plain_model_has_it()
