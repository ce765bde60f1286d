"""Broken document stores."""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from ion_core.contracts.storage import Document
from ion_core.embedded.memory.documents import MemoryDocumentStore
from ion_core.errors import DocumentExists, DocumentNotFound, DocumentsDamaged, InvalidCursor
from ion_core.testing.documents import DocumentStoreConformance
from tests.support.documents import counted_reads
from tests.teeth.harness import Mutants, out_of_order, store

M = TypeVar("M")


class Documents(DocumentStoreConformance):
    patience = 5.0
    quiet = 0.05
    outage = staticmethod(out_of_order)
    reads = staticmethod(counted_reads)
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


async def _all(self: Any, **asked: Any) -> list[Document]:
    return [document async for document in MemoryDocumentStore.find(self, **asked)]


@documents("a_page_is_the_beginning_of_all", "find")
async def takes_no_notice_of_limit(self: Any, kind: str | None = None, **asked: Any) -> AsyncIterator[Document]:
    async for document in MemoryDocumentStore.find(self, kind, **asked | {"limit": None}):
        yield document


@documents("a_page_is_the_beginning_of_all", "find")
async def counts_what_does_not_match(self: Any, kind: str | None = None, **asked: Any) -> AsyncIterator[Document]:
    order = {key: asked.get(key) for key in ("newest_first", "after", "limit")}
    matching = await _all(self, kind=kind, **asked | {"limit": None})
    for document in await _all(self, **order):
        if document in matching:
            yield document


@documents("pages_are_all_of_it_and_each_once", "find")
async def begins_with_the_last_again(self: Any, kind: str | None = None, **asked: Any) -> AsyncIterator[Document]:
    if asked.get("after") is not None:
        asked["after"] = str(int(asked["after"]) + (1 if asked.get("newest_first") else -1))
    async for document in MemoryDocumentStore.find(self, kind, **asked):
        yield document


@documents("a_cursor_leads_both_ways", "find")
async def knows_one_way(self: Any, kind: str | None = None, **asked: Any) -> AsyncIterator[Document]:
    found = await _all(self, kind=kind, **asked | {"after": None, "newest_first": False, "limit": None})
    if asked.get("after") is not None:
        found = [document for document in found if int(document.cursor) > int(asked["after"])]
    for document in reversed(found) if asked.get("newest_first") else found:
        yield document


async def _by_offset(self: Any, kind: str | None = None, **asked: Any) -> AsyncIterator[Document]:
    """A cursor is how many came before: what is removed meanwhile moves the others up."""
    after, limit = asked.pop("after", None), asked.pop("limit", None)
    found = await _all(self, kind=kind, **asked)
    start = 0 if after is None else int(after)
    for n, document in enumerate(found[start : None if limit is None else start + limit], start + 1):
        yield replace(document, cursor=str(n))


documents("pages_hold_while_others_write", "find")(_by_offset)
documents("pages_hold_while_many_write_at_once", "find")(_by_offset)


@documents("a_cursor_outlives_its_document", "find")
async def looks_for_the_document(self: Any, kind: str | None = None, **asked: Any) -> AsyncIterator[Document]:
    if asked.get("after") not in (None, *(document.cursor for document in await _all(self))):
        raise InvalidCursor("is not there")
    async for document in MemoryDocumentStore.find(self, kind, **asked):
        yield document


@documents("a_cursor_outlives_its_document", "delete")
async def gives_places_twice(self: Any, kind: str, id: str) -> None:
    await MemoryDocumentStore.delete(self, kind, id)
    last = max((place.number for place in self._places.values()), default=0)
    self._last = replace(self._last, number=last)


@asynccontextmanager
async def with_other_places(kit: Any) -> AsyncIterator[MemoryDocumentStore]:
    """Another process numbers what there is anew, from one thousand."""
    other = MemoryDocumentStore()
    other._last = replace(other._last, number=1000)
    for document in kit.opened.documents.values():
        await other.put(document)
    yield other


DOCUMENTS.add("a_cursor_outlives_the_process", "with_other_places", reopen=with_other_places)


@documents("a_page_reads_no_other", "find")
async def reads_all_that_comes_before(self: Any, kind: str | None = None, **asked: Any) -> AsyncIterator[Document]:
    after = asked.pop("after", None)
    limit = asked.pop("limit", None)
    async for document in MemoryDocumentStore.find(self, kind, **asked):
        if after is not None:
            after = None if document.cursor == after else after
        elif limit != 0:
            yield document
            limit = None if limit is None else limit - 1


@documents("a_page_reads_no_other", "find")
async def reads_all_at_once(self: Any, kind: str | None = None, **asked: Any) -> AsyncIterator[Document]:
    limit = asked.pop("limit", None)
    for document in (await _all(self, kind=kind, **asked))[:limit]:
        yield document


@documents("what_is_damaged_is_told_on_one_page", "find")
async def tells_all_that_is_damaged(self: Any, kind: str | None = None, **asked: Any) -> AsyncIterator[Document]:
    async for document in MemoryDocumentStore.find(self, kind, **asked):
        yield document
    if damaged := [f"{key} is damaged" for key, it in self.documents.items() if not isinstance(it.body, dict)]:
        raise DocumentsDamaged(damaged)


@documents("what_is_damaged_is_told_on_one_page", "find")
async def counts_what_is_damaged(self: Any, kind: str | None = None, **asked: Any) -> AsyncIterator[Document]:
    limit = asked.pop("limit", None)
    found = await _all_but_damaged(self, kind=kind, **asked)
    for document in found[: None if limit is None else max(0, limit - 1)]:
        yield document


async def _all_but_damaged(self: Any, **asked: Any) -> list[Document]:
    found: list[Document] = []
    with suppress(DocumentsDamaged):
        async for document in MemoryDocumentStore.find(self, **asked):
            found.append(document)
    return found


@documents("what_is_no_cursor_is_refused", "find")
async def begins_anew_after_what_is_no_cursor(
    self: Any, kind: str | None = None, **asked: Any
) -> AsyncIterator[Document]:
    try:
        async for document in MemoryDocumentStore.find(self, kind, **asked):
            yield document
    except InvalidCursor:
        async for document in MemoryDocumentStore.find(self, kind, **asked | {"after": None}):
            yield document


@documents("what_is_no_cursor_is_refused", "find")
async def lets_the_readers_error_out(self: Any, kind: str | None = None, **asked: Any) -> AsyncIterator[Document]:
    if asked.get("after") is not None:
        int(asked["after"])
    async for document in MemoryDocumentStore.find(self, kind, **asked):
        yield document


@documents("a_cursor_is_short_and_plain", "find")
async def has_the_id_for_a_cursor(self: Any, kind: str | None = None, **asked: Any) -> AsyncIterator[Document]:
    async for document in MemoryDocumentStore.find(self, kind, **asked):
        yield replace(document, cursor=document.id)


@documents("it_is_told_when_a_document_was_first_stored", "put")
async def tells_when_it_was_replaced(self: Any, document: Document) -> None:
    await MemoryDocumentStore.put(self, document)
    key = (document.kind, document.id)
    self._places[key] = replace(self._places[key], stored_at=datetime.now(UTC))


@documents("it_is_told_when_a_document_was_first_stored", "find")
async def does_not_tell_when(self: Any, kind: str | None = None, **asked: Any) -> AsyncIterator[Document]:
    async for document in MemoryDocumentStore.find(self, kind, **asked):
        yield replace(document, stored_at=None)


@documents("it_is_told_when_a_document_was_first_stored", "find")
async def tells_local_time_without_a_zone(self: Any, kind: str | None = None, **asked: Any) -> AsyncIterator[Document]:
    async for document in MemoryDocumentStore.find(self, kind, **asked):
        assert document.stored_at is not None
        yield replace(document, stored_at=document.stored_at.replace(tzinfo=None))


@documents("it_is_told_when_a_document_was_first_stored", "get")
async def tells_when_where_it_is_found_only(self: Any, kind: str, id: str) -> Document:
    return replace(await MemoryDocumentStore.get(self, kind, id), stored_at=None)


for bound in ("since", "until"):
    documents("since_and_until_bound_when_it_was_first_stored", "find")(finding(bound))


@documents("since_and_until_bound_when_it_was_first_stored", "find")
async def takes_since_for_exclusive(self: Any, kind: str | None = None, **asked: Any) -> AsyncIterator[Document]:
    if asked.get("since") is not None:
        asked["since"] += timedelta(microseconds=1)
    async for document in MemoryDocumentStore.find(self, kind, **asked):
        yield document


@documents("errors_of_the_backend_become_ours", "_check")
def documents_let_the_librarys_error_out(self: Any) -> None:
    if self.failing is not None:
        raise ConnectionResetError("by the library")


@documents("find_takes_the_beginning_of_an_id", "find")
async def takes_a_beginning_for_a_pattern(self: Any, kind: str | None = None, **asked: Any) -> AsyncIterator[Document]:
    begins = asked.pop("id_begins", None)
    async for document in MemoryDocumentStore.find(self, kind, **asked):
        if begins is None or fnmatch.fnmatchcase(document.id, begins + "*"):
            yield document


@documents("find_takes_the_beginning_of_an_id", "find")
async def finds_what_contains_it(self: Any, kind: str | None = None, **asked: Any) -> AsyncIterator[Document]:
    begins = asked.pop("correlation_id_begins", None) or ""
    async for document in MemoryDocumentStore.find(self, kind, **asked):
        if begins in document.correlation_id:
            yield document


@documents("find_takes_the_beginning_of_an_id", "find")
async def compares_beginnings_by_the_first_255(
    self: Any, kind: str | None = None, **asked: Any
) -> AsyncIterator[Document]:
    begins = (asked.pop("id_begins", None) or "")[:255]
    async for document in MemoryDocumentStore.find(self, kind, **asked, id_begins=begins):
        yield document


@documents("a_beginning_reads_no_other", "find")
async def reads_all_for_a_beginning(self: Any, kind: str | None = None, **asked: Any) -> AsyncIterator[Document]:
    begins, flow = asked.pop("id_begins", None) or "", asked.pop("correlation_id_begins", None) or ""
    async for document in MemoryDocumentStore.find(self, kind, **asked):
        if document.id.startswith(begins) and document.correlation_id.startswith(flow):
            yield document
