"""Broken document stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from typing import Any, TypeVar

from ion_core.contracts.storage import Document
from ion_core.embedded.memory.documents import MemoryDocumentStore
from ion_core.errors import DocumentExists, DocumentNotFound, DocumentsDamaged
from ion_core.testing.documents import DocumentStoreConformance
from tests.teeth.harness import Mutants, out_of_order, store

M = TypeVar("M")


class Documents(DocumentStoreConformance):
    patience = 5.0
    quiet = 0.05
    outage = staticmethod(out_of_order)
    opened: MemoryDocumentStore

    def reopen(self) -> Any:
        return nullcontext(self.opened)

    async def damage(self, documents: MemoryDocumentStore, kind: str, id: str) -> None:
        documents.documents[kind, id] = replace(documents.documents[kind, id], body=None)  # type: ignore[arg-type]


DOCUMENTS = Mutants(Documents, "documents", store(MemoryDocumentStore))


def documents(rule: str, method: str) -> Callable[[M], M]:
    return DOCUMENTS.breaks(rule, MemoryDocumentStore, method, store)


@documents("a_document_comes_back_equal", "get")
async def has_floats_only(self: Any, kind: str, id: str) -> Document:
    found = await MemoryDocumentStore.get(self, kind, id)
    return replace(found, body={**found.body, "numbers": [float(number) for number in found.body["numbers"]]})


@documents("a_document_comes_back_equal", "get")
async def drops_nulls(self: Any, kind: str, id: str) -> Document:
    found = await MemoryDocumentStore.get(self, kind, id)
    return replace(found, body={**found.body, "constants": [True, False]})


@documents("a_document_comes_back_equal", "create")
async def forgets_pending(self: Any, document: Document) -> None:
    await MemoryDocumentStore.create(self, replace(document, pending=False))


@documents("ids_are_any_text", "create")
async def ignores_case(self: Any, document: Document) -> None:
    await MemoryDocumentStore.create(self, replace(document, id=document.id.lower()))


@documents("ids_are_any_text", "create")
async def cuts_ids(self: Any, document: Document) -> None:
    await MemoryDocumentStore.create(self, replace(document, id=document.id[:255]))


@documents("kinds_do_not_collide", "create")
async def has_one_kind(self: Any, document: Document) -> None:
    self.documents = {key: stored for key, stored in self.documents.items() if key[1] != document.id}
    await MemoryDocumentStore.create(self, document)


@documents("kinds_do_not_collide", "delete")
async def deletes_every_kind(self: Any, kind: str, id: str) -> None:
    self.documents = {key: stored for key, stored in self.documents.items() if key[1] != id}


@documents("what_is_stored_is_a_copy", "put")
async def keeps_the_callers_body(self: Any, document: Document) -> None:
    self.documents[document.kind, document.id] = document


@documents("what_is_stored_is_a_copy", "get")
async def gives_its_own_body(self: Any, kind: str, id: str) -> Document:
    return self._stored(kind, id)  # type: ignore[no-any-return]


@documents("create_of_another_body_is_refused", "create")
async def create_overwrites(self: Any, document: Document) -> None:
    await MemoryDocumentStore.put(self, document)


@documents("create_of_another_body_is_refused", "create")
async def create_keeps_silent(self: Any, document: Document) -> None:
    self.documents.setdefault((document.kind, document.id), document)


@documents("create_of_another_body_is_refused", "create")
async def takes_true_for_one(self: Any, document: Document) -> None:
    stored = self.documents.setdefault((document.kind, document.id), document)
    if stored.body != document.body:
        raise DocumentExists(document.id)


@documents("create_of_another_body_is_refused", "create")
async def refuses_and_overwrites(self: Any, document: Document) -> None:
    before = self.documents.get((document.kind, document.id))
    self.documents[document.kind, document.id] = document
    if before is not None and before.body != document.body:
        raise DocumentExists(document.id)


@documents("create_of_the_same_body_changes_nothing", "create")
async def create_refuses_repetition(self: Any, document: Document) -> None:
    if (document.kind, document.id) in self.documents:
        raise DocumentExists(document.id)
    await MemoryDocumentStore.create(self, document)


@documents("create_of_the_same_body_changes_nothing", "create")
async def create_sets_pending_again(self: Any, document: Document) -> None:
    await MemoryDocumentStore.create(self, document)
    self.documents[document.kind, document.id] = document


@documents("of_many_creators_one_wins", "create")
async def looks_before_it_writes(self: Any, document: Document) -> None:
    there = (document.kind, document.id) in self.documents
    await asyncio.sleep(0)
    if there:
        raise DocumentExists(document.id)
    self.documents[document.kind, document.id] = document


@asynccontextmanager
async def another_lock(self: Any) -> AsyncIterator[MemoryDocumentStore]:
    yield MemoryDocumentStore()


DOCUMENTS.add("of_creators_in_two_processes_one_wins", "another_lock", reopen=another_lock)
DOCUMENTS.add("documents_outlive_the_process", "forgets", reopen=another_lock)


@documents("put_replaces_the_whole_document", "put")
async def merges(self: Any, document: Document) -> None:
    before = self.documents.get((document.kind, document.id), document)
    await MemoryDocumentStore.put(self, replace(document, body={**before.body, **document.body}))


@documents("put_replaces_the_whole_document", "put")
async def keeps_the_first_correlation_id(self: Any, document: Document) -> None:
    before = self.documents.get((document.kind, document.id), document)
    await MemoryDocumentStore.put(self, replace(document, correlation_id=before.correlation_id))


@documents("an_absent_document_is_not_found", "get")
async def gives_an_empty_document(self: Any, kind: str, id: str) -> Document:
    return self.documents.get((kind, id), Document(kind=kind, id=id, correlation_id="", body={}))  # type: ignore[no-any-return]


@documents("an_absent_document_is_not_found", "get")
async def lets_documents_key_errors_out(self: Any, kind: str, id: str) -> Document:
    return self.documents[kind, id]  # type: ignore[no-any-return]


def finding(name: str) -> Callable[..., AsyncIterator[Document]]:
    """A find that overlooks the condition ``name``."""

    async def find(self: Any, kind: str | None = None, **conditions: Any) -> AsyncIterator[Document]:
        given = {"kind": kind, **conditions, name: None}
        async for document in MemoryDocumentStore.find(self, **given):
            yield document

    find.__name__ = f"overlooks_{name}"
    return find


for condition in ("kind", "correlation_id", "pending"):
    documents("find_takes_every_condition", "find")(finding(condition))


@documents("find_takes_every_condition", "find")
async def takes_false_for_no_condition(
    self: Any, kind: str | None = None, **conditions: Any
) -> AsyncIterator[Document]:
    conditions["pending"] = conditions.get("pending") or None
    async for document in MemoryDocumentStore.find(self, kind, **conditions):
        yield document


@documents("find_is_in_order_of_first_storing", "put")
async def put_moves_to_the_end(self: Any, document: Document) -> None:
    self.documents.pop((document.kind, document.id), None)
    await MemoryDocumentStore.put(self, document)


@documents("find_is_in_order_of_first_storing", "find")
async def orders_by_id(self: Any, kind: str | None = None, **conditions: Any) -> AsyncIterator[Document]:
    found = [document async for document in MemoryDocumentStore.find(self, kind, **conditions)]
    for document in sorted(found, key=lambda document: document.id):
        yield document


documents("newest_first_is_the_reverse", "find")(finding("newest_first"))


@documents("what_is_damaged_hides_nothing_else", "find")
async def stops_at_what_is_damaged(self: Any, *args: Any, **conditions: Any) -> AsyncIterator[Document]:
    for key, stored in self.documents.items():
        if not isinstance(stored.body, dict):
            raise DocumentsDamaged(f"{key} is damaged")
    async for document in MemoryDocumentStore.find(self, *args, **conditions):
        yield document


@documents("what_is_damaged_hides_nothing_else", "find")
async def passes_over_what_is_damaged(self: Any, *args: Any, **conditions: Any) -> AsyncIterator[Document]:
    try:
        async for document in MemoryDocumentStore.find(self, *args, **conditions):
            yield document
    except DocumentsDamaged:
        return


@documents("what_is_damaged_hides_nothing_else", "get")
async def gives_what_is_damaged(self: Any, kind: str, id: str) -> Document:
    return self._stored(kind, id)  # type: ignore[no-any-return]


@documents("clear_pending_changes_that_only", "clear_pending")
async def clears_the_body(self: Any, kind: str, id: str) -> None:
    await self.put(replace(self._stored(kind, id), body={}, pending=False))


@documents("clear_pending_changes_that_only", "clear_pending")
async def clears_once(self: Any, kind: str, id: str) -> None:
    if not self._stored(kind, id).pending:
        raise DocumentNotFound(id)
    await MemoryDocumentStore.clear_pending(self, kind, id)


@documents("clear_pending_of_an_absent_document_is_refused", "clear_pending")
async def clears_what_is_not_there(self: Any, kind: str, id: str) -> None:
    if (kind, id) in self.documents:
        await MemoryDocumentStore.clear_pending(self, kind, id)


@documents("a_deleted_document_is_gone", "delete")
async def deletes_from_the_list_only(self: Any, kind: str, id: str) -> None:
    self._stored(kind, id)


@documents("a_deleted_document_is_gone", "delete")
async def leaves_a_tombstone(self: Any, kind: str, id: str) -> None:
    self.documents[kind, id] = replace(self._stored(kind, id), body={})


@documents("deleting_what_is_gone_is_fine", "delete")
async def misses_the_gone_document(self: Any, kind: str, id: str) -> None:
    self._stored(kind, id)
    await MemoryDocumentStore.delete(self, kind, id)


@documents("tasks_may_store_at_once", "put")
async def writes_the_whole_file_back(self: Any, document: Document) -> None:
    every = dict(self.documents)
    await asyncio.sleep(0)
    self.documents = every
    await MemoryDocumentStore.put(self, document)


@documents("errors_of_the_backend_become_ours", "_check")
def documents_let_the_librarys_error_out(self: Any) -> None:
    if self.failing is not None:
        raise ConnectionResetError("by the library")
