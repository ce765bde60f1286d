# ruff: noqa: ASYNC240 (what is broken here may block)
"""Broken blob stores."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ion_core.contracts.storage import BlobInfo, check_told
from ion_core.embedded.memory.blobs import MemoryBlobStore
from ion_core.errors import (
    BlobCorrupt,
    BlobNotFound,
    InvalidKey,
    PermanentError,
    TransientError,
)
from ion_core.testing.blobs import BlobStoreConformance
from tests.teeth.harness import Mutants, out_of_order, store

M = TypeVar("M")


@asynccontextmanager
async def withheld(blobs: MemoryBlobStore, key: str) -> AsyncIterator[None]:
    blobs.withheld.add(key)
    yield
    blobs.withheld.discard(key)


class Blobs(BlobStoreConformance):
    patience = 5.0
    quiet = 0.05
    outage = staticmethod(out_of_order)
    opened: MemoryBlobStore

    def reopen(self) -> Any:
        return nullcontext(self.opened)

    async def corrupt(self, blobs: MemoryBlobStore, key: str) -> None:
        blobs.blobs[key] = b"?" + blobs.blobs[key][1:]

    async def litter(self, blobs: MemoryBlobStore, prefix: str) -> None:
        blobs.blobs |= {f"{prefix}/": b"", f"{prefix}/folder/": b"", f"{prefix}/a\nline": b"x"}

    withhold = staticmethod(withheld)


BLOBS = Mutants(Blobs, "blobs", store(MemoryBlobStore))


def blobs(rule: str, method: str) -> Callable[[M], M]:
    return BLOBS.breaks(rule, MemoryBlobStore, method, store)


@blobs("trouble_with_one_blob_is_its_own", "get")
async def takes_the_withheld_for_absent(self: Any, key: str, target: Path, **known: Any) -> None:
    if key in self.withheld:
        raise BlobNotFound(f"{key}: access is denied, so there is none")
    await MemoryBlobStore.get(self, key, target, **known)


@blobs("trouble_with_one_blob_is_its_own", "get")
async def gives_the_withheld_up(self: Any, key: str, target: Path, **known: Any) -> None:
    if key in self.withheld:
        raise PermanentError(f"{key}: access is denied")
    await MemoryBlobStore.get(self, key, target, **known)


@blobs("trouble_with_one_blob_is_its_own", "get")
async def breaks_the_circuit(self: Any, key: str, target: Path, **known: Any) -> None:
    if key in self.withheld:
        self.failing = TransientError(f"{key}: and nothing else is tried for a while")
    await MemoryBlobStore.get(self, key, target, **known)


# Putting


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


BLOBS.add("a_source_changed_later_changes_no_blob", "links_to_the_source", store(Linked))
BLOBS.add("a_consumed_source_is_stored_whole", "links_to_the_source", store(Linked))


@blobs("a_consumed_source_is_stored_whole", "put")
async def consumes_before_it_reads(self: Any, key: str, source: Path, *, consume: bool = False) -> BlobInfo:
    if consume:
        source.write_bytes(b"")
    return await MemoryBlobStore.put(self, key, source, consume=consume)


@blobs("a_put_may_be_told_what_it_stores", "put")
async def tells_the_size_alone(self: Any, key: str, source: Path, *, told: Any = None, **how: Any) -> BlobInfo:
    info = await MemoryBlobStore.put(self, key, source, told=told, **how)
    return info if told is None else replace(info, sha256="")


@blobs("a_put_may_be_told_what_it_stores", "put")
async def stores_nothing_that_is_told(self: Any, key: str, source: Path, *, told: Any = None, **how: Any) -> BlobInfo:
    return await MemoryBlobStore.put(self, key, source, **how) if told is None else told


@blobs("a_source_of_another_size_than_told_is_refused", "put")
async def believes_anything(self: Any, key: str, source: Path, *, told: Any = None, **how: Any) -> BlobInfo:
    info = await MemoryBlobStore.put(self, key, source, **how)
    return told or info


@blobs("a_source_of_another_size_than_told_is_refused", "put")
async def compares_afterwards(self: Any, key: str, source: Path, *, told: Any = None, **how: Any) -> BlobInfo:
    info = await MemoryBlobStore.put(self, key, source, **how)
    check_told(key, info, told)
    return info


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


# Getting


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


BLOBS.add("a_blob_that_rotted_is_corrupt", "trusts_its_notes", store(Remembering))


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


BLOBS.add("a_target_written_to_changes_no_blob", "shares_targets", store(SharedTargets))
BLOBS.add("a_linked_target_outlives_its_blob", "shares_targets", store(SharedTargets))

# The rest


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


@blobs("what_is_no_blob_is_not_listed", "list")
async def lists_what_anybody_left(self: Any, prefix: str) -> AsyncIterator[str]:
    for key in sorted(self.blobs):
        if not prefix or key.startswith(f"{prefix}/"):
            yield key


@blobs("what_is_no_blob_is_not_listed", "list")
async def lists_markers_without_their_slash(self: Any, prefix: str) -> AsyncIterator[str]:
    for key in sorted({key.rstrip("/") for key in self.blobs}):
        if not prefix or key.startswith(f"{prefix}/"):
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
