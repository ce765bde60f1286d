"""The layout of documents: what a crash leaves is harmless, and of many creators on many hosts one wins."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.storage import Document
from ion_core.errors import DocumentExists, DocumentNotFound, PermanentError
from ion_fsspec_storage.documents import FsspecDocuments, open_fsspec_documents
from ion_fsspec_storage.records import Clock
from ion_fsspec_storage.settings import FsspecDocumentsSettings
from tests.support.object_stores import ObjectStore

WRITERS = {"file": 8, "s3": 4, "azure": 4}
"""Processes take a second each to start; twenty tasks and two stores race in the kit, on every backend."""
COMMIT = Document(kind="commit", id="job", correlation_id="flow", body={"n": 1}, pending=True)


class Died(Exception):
    """The process ended here."""


@pytest.fixture
async def documents(tmp_path: Path) -> AsyncIterator[FsspecDocuments]:
    async with open_fsspec_documents(FsspecDocumentsSettings(url=f"file://{tmp_path}/store")) as documents:
        assert isinstance(documents, FsspecDocuments)
        yield documents


async def found(documents: FsspecDocuments, **conditions: Any) -> list[Document]:
    return [document async for document in documents.find(**conditions)]


def dying_at(call: int, documents: FsspecDocuments, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ``call``-th change from now on does not happen any more, nor any after it."""
    left = call

    def counted(do: Any) -> Any:
        def change(*arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 1:
                raise Died
            return do(*arguments)

        return change

    for name in ("write", "create", "delete"):
        monkeypatch.setattr(documents._objects, name, counted(getattr(documents._objects, name)))


@pytest.mark.parametrize("call", range(1, 5))
async def test_a_crash_while_creating_leaves_all_or_nothing(
    call: int, documents: FsspecDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as crashing:
        dying_at(call, documents, crashing)
        try:
            await documents.create(COMMIT)
        except Died:
            assert call < 4
    there = call == 4  # two markers and the record
    assert await found(documents) == [COMMIT] * there
    assert await found(documents, pending=True) == [COMMIT] * there
    other = replace(COMMIT, body={"n": 2})
    if there:
        with pytest.raises(DocumentExists):
            await documents.create(other)
    else:
        await documents.create(other)
        assert await found(documents, pending=True) == [other]
        assert await found(documents, correlation_id="flow") == [other]


@pytest.mark.parametrize("call", range(1, 9))
async def test_a_crash_while_replacing_leaves_the_old_or_the_new(
    call: int, documents: FsspecDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    await documents.create(COMMIT)
    new = replace(COMMIT, body={"n": 2}, correlation_id="another flow", pending=False)
    with monkeypatch.context() as crashing:
        dying_at(call, documents, crashing)
        with contextlib.suppress(Died):
            await documents.put(new)
    [document] = await found(documents)
    assert document in (COMMIT, new)
    assert await documents.get("commit", "job") == document
    assert await found(documents, correlation_id=document.correlation_id) == [document]
    assert await found(documents, pending=True) == [document] * document.pending
    await documents.put(new)
    assert await found(documents, correlation_id="flow") == []
    assert await found(documents, correlation_id="another flow") == [new]


@pytest.mark.parametrize("call", range(1, 5))
async def test_a_crash_while_deleting_leaves_all_or_nothing_to_be_seen(
    call: int, documents: FsspecDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    await documents.create(COMMIT)
    with monkeypatch.context() as crashing:
        dying_at(call, documents, crashing)
        with contextlib.suppress(Died):
            await documents.delete("commit", "job")
    there = call == 1
    assert await found(documents) == await found(documents, pending=True) == [COMMIT] * there
    await documents.delete("commit", "job")
    with pytest.raises(DocumentNotFound):
        await documents.get("commit", "job")


async def test_markers_that_mean_nothing_are_removed_after_a_day(
    documents: FsspecDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as crashing:
        dying_at(3, documents, crashing)
        with pytest.raises(Died):
            await documents.create(COMMIT)
    assert await found(documents) == []
    assert len(documents._objects.names("flows")) == 1, "it may be about to be finished"
    later = Clock()
    monkeypatch.setattr(later, "_now", lambda: Clock()._now() + 86_401 * 10**9)
    monkeypatch.setattr(documents, "_clock", later)
    assert await found(documents) == await found(documents, pending=True) == []
    assert documents._objects.names("flows") == documents._objects.names("pending") == []


async def test_a_lost_answer_to_a_create_is_no_lost_race(
    documents: FsspecDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = documents._objects.create
    monkeypatch.setattr(documents._objects, "create", lambda *given: create(*given) and create(*given))
    await documents.create(COMMIT)
    assert await found(documents, pending=True) == [COMMIT]


async def test_a_damaged_record_is_named(documents: FsspecDocuments) -> None:
    await documents.create(COMMIT)
    documents._objects.write("documents/commit/job", b"{")
    with pytest.raises(PermanentError, match="documents/commit/job: is damaged"):
        await documents.get("commit", "job")


async def test_everything_of_a_flow_is_one_listing(documents: FsspecDocuments, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(50):
        await documents.create(replace(COMMIT, id=f"{n}", correlation_id=f"flow {n % 2}", pending=False))
    listed: list[str] = []
    names = documents._objects.names
    monkeypatch.setattr(documents._objects, "names", lambda prefix: listed.append(prefix) or names(prefix))
    assert len(await found(documents, correlation_id="flow 1")) == 25
    assert listed == ["flows/flow=201"]


def create_in_a_process(settings: FsspecDocumentsSettings, writer: int, start: Any, told: Any) -> None:
    """One of several hosts. The environment of this test process is not its own."""

    async def creating() -> str:
        async with open_fsspec_documents(settings) as documents:
            await asyncio.to_thread(start.wait)
            try:
                await documents.create(replace(COMMIT, body={"writer": writer}))
            except DocumentExists:
                return "lost"
            return "won"

    told.put((writer, asyncio.run(creating())))


@pytest.mark.parametrize("backend", WRITERS)
async def test_of_many_writers_in_as_many_processes_one_wins(
    backend: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if backend == "file":
        settings = FsspecDocumentsSettings(url=f"file://{tmp_path}/store")
    else:
        store: ObjectStore = request.getfixturevalue(backend)
        settings = FsspecDocumentsSettings(**store.settings())
    context = multiprocessing.get_context("spawn")
    writers = WRITERS[backend]
    start, told = context.Barrier(writers), context.Queue()
    processes = [
        context.Process(target=create_in_a_process, args=(settings, n, start, told), daemon=True)
        for n in range(writers)
    ]
    for process in processes:
        process.start()
    results = dict([await asyncio.to_thread(told.get, True, 60) for _ in processes])
    for process in processes:
        process.join(30)
    assert Counter(results.values()) == {"won": 1, "lost": writers - 1}
    [winner] = [writer for writer, result in results.items() if result == "won"]
    async with open_fsspec_documents(settings) as documents:
        assert isinstance(documents, FsspecDocuments)
        assert [it.body for it in await found(documents, correlation_id="flow")] == [{"writer": winner}]
        assert len(documents._objects.names("flows")) == 1, "losers take their markers away"
    assert os.getpid() not in [process.pid for process in processes]
