"""Documents and files copied from store to store: a copy that was cut short goes on where it was, if that is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from ion_core.contracts.storage import Document
from ion_core.embedded.memory.blobs import MemoryBlobStore
from ion_core.embedded.memory.documents import MemoryDocumentStore
from ion_core.errors import TransientError
from ion_core.events import EVENT_META, GIVEN_UP
from ion_core.migration import Copied, copied_before, copy_stores, stores

ORIGIN = "here there"
MANY = 5


class Failing(MemoryDocumentStore):
    """Away after some documents, until told otherwise."""

    left: int | None = 3

    async def create(self, document: Document) -> None:
        if self.left == 0:
            raise TransientError("it is away")
        self.left = None if self.left is None else self.left - 1
        await super().create(document)


class Pair:
    """Events with a file each here, and stores there; a part is one document."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / stores.PASSING).mkdir()
        self.documents, self.there = MemoryDocumentStore(), Failing()
        self.blobs, self.blobs_there = MemoryBlobStore(), MemoryBlobStore()

    async def fill(self) -> None:
        for n in range(MANY):
            source = self.home / "source"
            source.write_bytes(b"%d" % n)
            key = f"flow/e{n}/file"
            info = await self.blobs.put(key, source)
            blob = {"name": "file", "key": key, "size": info.size, "sha256": info.sha256}
            body = {"type": "start", "files": ["file"], "data": [], "blobs": [blob]}
            await self.documents.create(Document(kind=EVENT_META, id=f"e{n}", correlation_id="flow", body=body))

    async def copy(self) -> Copied:
        return await copy_stores(
            copied_before(self.home, ORIGIN),
            documents=(self.documents, self.there),
            blobs=(self.blobs, self.blobs_there),
            directory=self.home,
        )

    async def ids_there(self) -> list[str]:
        return [it.id async for it in self.there.find()]

    async def keys_there(self) -> list[str]:
        return sorted([key async for key in self.blobs_there.list("")])


@pytest.fixture
async def cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """Three documents have been copied, and four files."""
    monkeypatch.setattr(stores, "_AT_ONCE", 1)
    pair = Pair(tmp_path)
    await pair.fill()
    with pytest.raises(TransientError):
        await pair.copy()
    assert await pair.ids_there() == ["e0", "e1", "e2"]
    pair.there.left = None
    return pair


async def test_it_goes_on_where_it_was(cut_short: Pair) -> None:
    copied = await cut_short.copy()
    assert (copied.documents, copied.problems) == (MANY, [])
    assert await cut_short.ids_there() == [f"e{n}" for n in range(MANY)]
    assert not (cut_short.home / "copied.json").exists()


async def test_it_begins_anew_where_the_documents_there_are_gone(cut_short: Pair) -> None:
    cut_short.there = Failing()
    cut_short.there.left = None
    assert (await cut_short.copy()).documents == MANY
    assert await cut_short.ids_there() == [f"e{n}" for n in range(MANY)]


async def test_it_begins_anew_where_the_files_there_are_gone(cut_short: Pair) -> None:
    cut_short.blobs_there = MemoryBlobStore()
    assert (await cut_short.copy()).files == MANY
    assert await cut_short.keys_there() == [f"flow/e{n}/file" for n in range(MANY)]


async def test_what_was_given_up_is_looked_at_there_again(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.there.left = None
    redriven, dead = (Document(kind=GIVEN_UP, id=id, correlation_id="flow", body={"state": "dead"}) for id in "ab")
    await pair.there.create(redriven)  # when it was there the last time
    await pair.documents.create(dead)

    assert (await pair.copy()).problems == []

    assert {it.id async for it in pair.there.find(GIVEN_UP, pending=True)} == {"a", "b"}
