# ruff: noqa: ASYNC240 (what is broken here may block)
"""Broken blob and document stores."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ion_core.builtin.memory.blobs import MemoryBlobStore
from ion_core.builtin.memory.documents import MemoryDocumentStore
from ion_core.contracts.storage import BlobInfo, Document
from ion_core.errors import (
    BlobCorrupt,
    BlobNotFound,
    DocumentExists,
    DocumentNotFound,
    InvalidKey,
    PermanentError,
    TransientError,
)
from ion_core.testing.blobs import BlobStoreConformance
from ion_core.testing.documents import DocumentStoreConformance
from tests.teeth.harness import Mutants, Open

M = TypeVar("M")


@asynccontextmanager
async def out_of_order(store: Any) -> AsyncIterator[None]:
    store.failing = TransientError("memory: out of order, as the test wants it")
    yield
    store.failing = None


class Blobs(BlobStoreConformance):
    patience = 5.0
    quiet = 0.05
    outage = staticmethod(out_of_order)
    opened: MemoryBlobStore

    def reopen(self) -> Any:
        return nullcontext(self.opened)

    async def corrupt(self, blobs: MemoryBlobStore, key: str) -> None:
        blobs.blobs[key] = b"?" + blobs.blobs[key][1:]


class Documents(DocumentStoreConformance):
    patience = 5.0
    quiet = 0.05
    outage = staticmethod(out_of_order)
    opened: MemoryDocumentStore

    def reopen(self) -> Any:
        return nullcontext(self.opened)


def opening(store: Callable[[], Any]) -> Open:
    @asynccontextmanager
    async def opens(kit: Any) -> AsyncIterator[Any]:
        kit.opened = store()
        yield kit.opened

    return opens


BLOBS = Mutants(Blobs, "blobs", opening(MemoryBlobStore))
DOCUMENTS = Mutants(Documents, "documents", opening(MemoryDocumentStore))


def blobs(rule: str, method: str) -> Callable[[M], M]:
    return BLOBS.breaks(rule, MemoryBlobStore, method, opening)


def documents(rule: str, method: str) -> Callable[[M], M]:
    return DOCUMENTS.breaks(rule, MemoryDocumentStore, method, opening)


# Blobs: putting


@blobs("content_comes_back_byte_for_byte", "put")
async def loses_content(self: Any, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
    info = await MemoryBlobStore.put(self, key, source, consume=consume)
    self.blobs[key] = b""
    return info


@blobs("content_comes_back_byte_for_byte", "get")
async def translates_newlines(self: Any, key: str, target: Path, *, expect: Any = None, link: bool = False) -> None:
    await MemoryBlobStore.get(self, key, target, expect=expect, link=link)
    target.write_bytes(target.read_bytes().replace(b"\r\n", b"\n"))


@blobs("content_comes_back_byte_for_byte", "put")
async def refuses_the_empty(self: Any, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
    if not source.stat().st_size:
        raise PermanentError("is empty")
    return await MemoryBlobStore.put(self, key, source, consume=consume)


@blobs("any_valid_key_is_stored", "put")
async def takes_keys_for_file_names(self: Any, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
    return await MemoryBlobStore.put(self, key.casefold(), source, consume=consume)


@blobs("any_valid_key_is_stored", "put")
async def adds_a_suffix_to_names(self: Any, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
    if any(len(segment.encode()) + len(".part") > 255 for segment in key.split("/")):
        raise PermanentError("File name too long")
    return await MemoryBlobStore.put(self, key, source, consume=consume)


@blobs("invalid_keys_are_refused", "_check")
def takes_any_key(self: Any, key: str) -> None:
    return None


@blobs("invalid_keys_are_refused", "_check")
def refuses_dots_only(self: Any, key: str) -> None:
    if ".." in key.split("/"):
        raise InvalidKey(key)


@blobs("put_tells_size_and_sha256", "put")
async def tells_nothing(self: Any, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
    return replace(await MemoryBlobStore.put(self, key, source, consume=consume), sha256="")


@blobs("put_tells_size_and_sha256", "put")
async def tells_blocks(self: Any, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
    info = await MemoryBlobStore.put(self, key, source, consume=consume)
    return replace(info, size=-(-info.size // 512) * 512)


@blobs("put_replaces_the_whole_blob", "put")
async def overwrites_in_place(self: Any, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
    before = self.blobs.get(key, b"")
    info = await MemoryBlobStore.put(self, key, source, consume=consume)
    self.blobs[key] += before[info.size :]
    return info


@blobs("put_replaces_the_whole_blob", "put")
async def keeps_the_first(self: Any, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
    before = self.blobs.get(key)
    info = await MemoryBlobStore.put(self, key, source, consume=consume)
    self.blobs[key] = before or self.blobs[key]
    return info


@blobs("put_leaves_its_source", "put")
async def moves_the_source(self: Any, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
    return await MemoryBlobStore.put(self, key, source, consume=True)


@blobs("put_leaves_its_source", "put")
async def makes_the_source_its_own(self: Any, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
    source.chmod(0o400)
    return await MemoryBlobStore.put(self, key, source, consume=consume)


class Linked(MemoryBlobStore):
    """Keeps where the file is, not what is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: dict[str, Path] = {}

    async def put(self, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
        self.sources[key] = source
        return await super().put(key, source)

    async def get(self, key: str, target: Path, *, expect: Any = None, link: bool = False) -> None:
        if key not in self.sources or not self.sources[key].exists():
            raise BlobNotFound(key)
        target.write_bytes(self.sources[key].read_bytes())


BLOBS.add("a_source_changed_later_changes_no_blob", "links_to_the_source", opening(Linked))
BLOBS.add("a_consumed_source_is_stored_whole", "links_to_the_source", opening(Linked))


@blobs("a_consumed_source_is_stored_whole", "put")
async def consumes_before_it_reads(self: Any, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
    if consume:
        source.write_bytes(b"")
    return await MemoryBlobStore.put(self, key, source, consume=consume)


@blobs("a_missing_source_is_refused", "put")
async def makes_room_first(self: Any, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
    self.blobs[key] = b""
    return await MemoryBlobStore.put(self, key, source, consume=consume)


@blobs("a_missing_source_is_refused", "put")
async def lets_os_errors_out(self: Any, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
    source.stat()
    return await MemoryBlobStore.put(self, key, source, consume=consume)


@blobs("a_source_that_is_no_regular_file_is_refused", "put")
async def follows_links(self: Any, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
    return await MemoryBlobStore.put(self, key, source.resolve(), consume=consume)


@blobs("a_source_that_is_no_regular_file_is_refused", "put")
async def waits_for_pipes(self: Any, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
    if source.is_fifo():
        await asyncio.Event().wait()
    return await MemoryBlobStore.put(self, key, source, consume=consume)


# Blobs: getting


@blobs("an_absent_blob_is_not_found", "get")
async def opens_the_target_first(self: Any, key: str, target: Path, *, expect: Any = None, link: bool = False) -> None:
    target.touch()
    if key not in self.blobs:
        raise BlobNotFound(key)


@blobs("an_absent_blob_is_not_found", "get")
async def takes_absent_for_empty(self: Any, key: str, target: Path, *, expect: Any = None, link: bool = False) -> None:
    target.write_bytes(self.blobs.get(key, b""))


@blobs("an_absent_blob_is_not_found", "get")
async def lets_key_errors_out(self: Any, key: str, target: Path, *, expect: Any = None, link: bool = False) -> None:
    target.write_bytes(self.blobs[key])


@blobs("another_size_than_expected_is_corrupt", "get")
async def looks_at_no_size(self: Any, key: str, target: Path, *, expect: Any = None, link: bool = False) -> None:
    if expect is not None:
        expect = replace(expect, size=len(self.blobs[key]))
    await MemoryBlobStore.get(self, key, target, expect=expect, link=link)


@blobs("another_content_than_expected_is_corrupt", "get")
async def looks_at_the_size_only(self: Any, key: str, target: Path, *, expect: Any = None, link: bool = False) -> None:
    if expect is not None and expect.size != len(self.blobs[key]):
        raise BlobCorrupt(key)
    await MemoryBlobStore.get(self, key, target, link=link)


@blobs("another_content_than_expected_is_corrupt", "get")
async def leaves_what_is_corrupt(self: Any, key: str, target: Path, *, expect: Any = None, link: bool = False) -> None:
    await MemoryBlobStore.get(self, key, target)
    await MemoryBlobStore.get(self, key, target.with_name(f"{target.name}.checked"), expect=expect)


@blobs("another_content_than_expected_is_corrupt", "get")
async def checks_no_links(self: Any, key: str, target: Path, *, expect: Any = None, link: bool = False) -> None:
    await MemoryBlobStore.get(self, key, target, expect=None if link else expect)


class Remembering(MemoryBlobStore):
    """Compares with what it noted when it stored, never with what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: dict[str, BlobInfo] = {}

    async def put(self, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
        self.noted[key] = await super().put(key, source, consume=consume)
        return self.noted[key]

    async def get(self, key: str, target: Path, *, expect: Any = None, link: bool = False) -> None:
        if expect is not None and expect != self.noted.get(key):
            raise BlobCorrupt(key)
        await super().get(key, target)


BLOBS.add("a_blob_that_rotted_is_corrupt", "trusts_its_notes", opening(Remembering))


class SharedTargets(MemoryBlobStore):
    """Targets are the blob itself: what is written to them is stored, and they go with it."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: dict[str, list[Path]] = {}

    async def put(self, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
        info = await super().put(key, source, consume=consume)
        for target in self.targets.get(key, []):
            target.write_bytes(self.blobs[key])
        return info

    async def get(self, key: str, target: Path, *, expect: Any = None, link: bool = False) -> None:
        for shared in self.targets.get(key, []):
            self.blobs[key] = shared.read_bytes()
        await super().get(key, target)
        self.targets.setdefault(key, []).append(target)


BLOBS.add("a_target_written_to_changes_no_blob", "shares_targets", opening(SharedTargets))
BLOBS.add("a_linked_target_outlives_its_blob", "shares_targets", opening(SharedTargets))

# Blobs: the rest


@blobs("a_racing_put_is_whole", "put")
async def interleaves(self: Any, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
    content = source.read_bytes()
    self.blobs[key] = b""
    for start in range(0, len(content), 50_000):
        self.blobs[key] += content[start : start + 50_000]
        await asyncio.sleep(0)
    other = copy(self)
    other.blobs = {}
    return await MemoryBlobStore.put(other, key, source)


@blobs("a_racing_put_is_whole", "put")
async def leaves_temporary_blobs(self: Any, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
    self.blobs[f"{key}.part{random.random()}"] = b""
    return await MemoryBlobStore.put(self, key, source, consume=consume)


@blobs("a_reader_sees_one_whole_blob", "put")
async def writes_in_place(self: Any, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
    self.blobs[key] = b"half"
    await asyncio.sleep(0.001)
    return await MemoryBlobStore.put(self, key, source, consume=consume)


@blobs("list_goes_by_whole_segments", "list")
async def lists_by_letters(self: Any, prefix: str) -> AsyncIterator[str]:
    for key in sorted(self.blobs):
        if key.startswith(prefix):
            yield key


@blobs("list_goes_by_whole_segments", "list")
async def lists_one_level(self: Any, prefix: str) -> AsyncIterator[str]:
    async for key in MemoryBlobStore.list(self, prefix):
        if key.count("/") == prefix.count("/") + 1:
            yield key


@blobs("list_is_sorted", "list")
async def lists_as_they_came(self: Any, prefix: str) -> AsyncIterator[str]:
    for key in self.blobs:
        yield key


@blobs("list_is_sorted", "list")
async def lists_directory_by_directory(self: Any, prefix: str) -> AsyncIterator[str]:
    for key in sorted(self.blobs, key=lambda key: key.split("/")):
        yield key


@blobs("an_empty_prefix_lists_all", "list")
async def needs_a_prefix(self: Any, prefix: str) -> AsyncIterator[str]:
    for key in sorted(self.blobs):
        if prefix and key.startswith(prefix):
            yield key


@blobs("a_deleted_blob_is_gone", "delete")
async def deletes_nothing(self: Any, key: str) -> None:
    return None


@blobs("a_deleted_blob_is_gone", "delete")
async def deletes_the_directory(self: Any, key: str) -> None:
    self.blobs = {name: body for name, body in self.blobs.items() if not name.startswith(key.rpartition("/")[0])}


@blobs("deleting_what_is_gone_is_fine", "delete")
async def misses_the_gone(self: Any, key: str) -> None:
    if key not in self.blobs:
        raise BlobNotFound(key)
    del self.blobs[key]


@blobs("url_is_a_uri", "url")
async def gives_a_path(self: Any, key: str) -> str:
    return f"/blobs/{key}"


@blobs("url_is_a_uri", "url")
async def quotes_nothing(self: Any, key: str) -> str:
    return f"memory:///{key}"


BLOBS.add("blobs_outlive_the_process", "forgets", reopen=lambda self: nullcontext(MemoryBlobStore()))


@blobs("errors_of_the_backend_become_ours", "_check")
def blobs_let_the_librarys_error_out(self: Any, key: str) -> None:
    if self.failing is not None:
        raise ConnectionResetError("by the library")


# Documents


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
