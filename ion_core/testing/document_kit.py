"""How the document kit looks at what is stored, and the hooks of its subclasses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, ClassVar

import pytest_asyncio

from ion_core import strict_json
from ion_core.contracts.storage import Document, DocumentStore
from ion_core.errors import DocumentExists, DocumentsDamaged
from ion_core.testing.kit import Conformance, many, undeclared


def document(
    id: str, *, kind: str = "insight", correlation_id: str = "flow", body: Any = None, pending: bool = False
) -> Document:
    body = {"id": id} if body is None else body
    return Document(kind=kind, id=id, correlation_id=correlation_id, body=body, pending=pending)


class DocumentKit(Conformance):
    """How the kit looks at what is stored, and the hooks of its subclasses."""

    contract = "documents"
    racers: ClassVar[int] = 20
    reopen: Callable[..., AbstractAsyncContextManager[Any]] | None = undeclared(
        "reopen", "def reopen(self): a context manager of a second store, as another process on this backend has it"
    )
    damage: Callable[..., Awaitable[None]] | None = undeclared(
        "damage",
        "async def damage(self, documents, kind, id): make what is stored no document, behind the store's back",
    )
    reads: Callable[..., AbstractAsyncContextManager[Callable[[], int]]] | None = undeclared(
        "reads",
        "def reads(self, documents): an asynchronous context manager within which what it reads of documents is "
        "counted; it yields a function that says how much that was so far",
    )
    outage: Callable[..., AbstractAsyncContextManager[None]] | None = undeclared(
        "outage", "def outage(self, documents): a context manager within which the backend fails every call"
    )

    @pytest_asyncio.fixture(autouse=True)
    async def _leaves_no_document(self, documents: DocumentStore) -> AsyncIterator[None]:
        """Where a rule has found nothing there, what it has left is removed behind it."""
        was_empty = [it async for it in documents.find(limit=1)] == []
        yield
        if was_empty:
            left = []
            with suppress(DocumentsDamaged):  # by the hook: of these no id is told
                async for document in documents.find():
                    left.append((document.kind, document.id))
            await many(lambda it: documents.delete(*it), left)

    async def found(self, documents: DocumentStore, kind: str | None = None, **conditions: Any) -> list[str]:
        """The ids, in the order they are found."""

        async def collect() -> list[str]:
            return [document.id async for document in documents.find(kind, **conditions)]

        return await self.within(collect(), "find")

    async def stores(self, documents: DocumentStore, expected: Document) -> None:
        """What is stored is ``expected``, types of JSON values included."""
        found = await documents.get(expected.kind, expected.id)
        assert found == expected
        assert strict_json.dumps(found.body) == strict_json.dumps(expected.body)

    async def race(self, stores: list[DocumentStore]) -> None:
        """``racers`` creators of one document with different bodies: one wins, the others are told."""
        wanted = [document("one", body={"racer": n}, kind="commit") for n in range(self.racers)]
        creating = (stores[n % len(stores)].create(wanted[n]) for n in range(self.racers))
        results = await self.within(asyncio.gather(*creating, return_exceptions=True), "the race")
        won = [wanted[n] for n in range(self.racers) if results[n] is None]
        assert len(won) == 1, f"{len(won)} of {self.racers} creators were told they had won: {results}"
        assert sum(isinstance(result, DocumentExists) for result in results) == self.racers - 1, results
        for store in stores:
            await self.stores(store, won[0])
