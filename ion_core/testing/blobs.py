"""The blob kit: ``docs/contracts/blobs.md`` as tests, one for each rule and of its name."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar

import pytest_asyncio

from ion_core.contracts.storage import BlobInfo, BlobStore
from ion_core.errors import BlobCorrupt, BlobNotFound, InvalidKey, IonError, PermanentError, TransientError
from ion_core.testing.kit import Conformance, in_brief, many, needs, refused, undeclared

MEBIBYTE = random.Random(1).randbytes(1 << 20)
KEYS = [
    "plain",
    "a/b/c/d/e/f.txt",
    "ü/日本語/emoji 🙂.bin",
    "with space/and%20percent/a+b=c&d?e#f",
    "*/[x]/{y}/~/$HOME/'\"`;",
    ".hidden/..almost/-dash/a.",
    "UPPER/upper",
    "upper/UPPER",
    "long/" + "n" * 255,
    "/".join(["deep"] * 204 + ["1234"]),  # 1,024 bytes
]
BAD_KEYS = [
    "", "/", "/etc/passwd", "a//b", "a/", ".", "..", "../a", "a/../b", "a/./b", "a\\b", "a\nb", "a\x00b", "a\x7fb",
    "\ud800", "n" * 256, "ü" * 128, "/".join(["deep"] * 206),
]  # fmt: skip


def info(content: bytes) -> BlobInfo:
    return BlobInfo(size=len(content), sha256=hashlib.sha256(content).hexdigest())


def new_file(directory: Path, content: bytes) -> Path:
    source = directory / Conformance.fresh("source")
    source.write_bytes(content)
    return source


class BlobKit(Conformance):
    """How the kit stores and fetches, and the hooks of its subclasses."""

    contract = "blobs"
    racers: ClassVar[int] = 8
    reopen: Callable[..., AbstractAsyncContextManager[Any]] | None = undeclared(
        "reopen", "def reopen(self): a context manager of a second store, as another process on this backend has it"
    )
    corrupt: Callable[..., Awaitable[None]] | None = undeclared(
        "corrupt", "async def corrupt(self, blobs, key): change a byte of the stored blob behind the store's back"
    )
    withhold: Callable[..., AbstractAsyncContextManager[None]] | None = undeclared(
        "withhold", "def withhold(self, blobs, key): a context manager within which this one blob may not be read"
    )
    litter: Callable[..., Awaitable[None]] | None = undeclared(
        "litter",
        "async def litter(self, blobs, prefix): leave what is no blob there, behind the store's back",
    )
    outage: Callable[..., AbstractAsyncContextManager[None]] | None = undeclared(
        "outage", "def outage(self, blobs): a context manager within which the backend fails every call"
    )

    @pytest_asyncio.fixture(autouse=True)
    async def _leaves_no_blob(self, blobs: BlobStore) -> AsyncIterator[None]:
        """Where a rule has found nothing there, what it has left is removed behind it."""
        was_empty = [key async for key in blobs.list("")] == []
        yield
        if was_empty:
            await many(blobs.delete, [key async for key in blobs.list("")])

    async def put(self, blobs: BlobStore, tmp_path: Path, key: str, content: bytes) -> BlobInfo:
        source = new_file(tmp_path, content)
        return await self.within(blobs.put(key, source), f"put {key[:40]}")

    async def get(self, blobs: BlobStore, tmp_path: Path, key: str, *, link: bool = False) -> bytes:
        target = tmp_path / self.fresh("target")
        await self.within(blobs.get(key, target, link=link), f"get {key[:40]}")
        return target.read_bytes()

    async def keys(self, blobs: BlobStore, prefix: str = "") -> list[str]:
        async def collect() -> list[str]:
            return [key async for key in blobs.list(prefix)]

        return await self.within(collect(), f"list {prefix!r}")

    async def expect_corrupt(self, blobs: BlobStore, target: Path, key: str, expect: BlobInfo) -> None:
        for link in (False, True):
            with refused(BlobCorrupt, naming=key):
                await blobs.get(key, target, expect=expect, link=link)
            assert not target.exists(), "what is not as expected must not be left behind"  # noqa: ASYNC240


class StoringRules(BlobKit):
    """Putting and getting."""

    async def test_content_comes_back_byte_for_byte(self, blobs: BlobStore, tmp_path: Path) -> None:
        for content in (b"", b"\x00", bytes(range(256)), b"\r\n\n", MEBIBYTE):
            await self.put(blobs, tmp_path, "some/key", content)
            for link in (False, True):
                got = await self.get(blobs, tmp_path, "some/key", link=link)
                assert in_brief(got) == in_brief(content)

    async def test_any_valid_key_is_stored(self, blobs: BlobStore, tmp_path: Path) -> None:
        for key in KEYS:
            await self.put(blobs, tmp_path, key, key.encode())
        for key in KEYS:
            assert await self.get(blobs, tmp_path, key) == key.encode()
        assert await self.keys(blobs) == sorted(KEYS)

    async def test_invalid_keys_are_refused(self, blobs: BlobStore, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"content")
        for key in BAD_KEYS:
            with refused(InvalidKey, of=f"put {key!r}"):
                await blobs.put(key, source)
            with refused(InvalidKey, of=f"get {key!r}"):
                await blobs.get(key, tmp_path / "target")
            with refused(InvalidKey, of=f"delete {key!r}"):
                await blobs.delete(key)
            with refused(InvalidKey, of=f"url {key!r}"):
                await blobs.url(key)
            if key:
                with refused(InvalidKey, of=f"list {key!r}"):
                    await self.keys(blobs, key)
        assert await self.keys(blobs) == []

    async def test_put_tells_size_and_sha256(self, blobs: BlobStore, tmp_path: Path) -> None:
        for content in (b"", b"content", MEBIBYTE):
            assert await self.put(blobs, tmp_path, "key", content) == info(content)

    async def test_put_replaces_the_whole_blob(self, blobs: BlobStore, tmp_path: Path) -> None:
        for content in (b"first", b"the second is longer", b"short", b"short"):
            assert await self.put(blobs, tmp_path, "key", content) == info(content)
            assert await self.get(blobs, tmp_path, "key") == content
        assert await self.keys(blobs) == ["key"]

    async def test_put_leaves_its_source(self, blobs: BlobStore, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"content")
        source.chmod(0o640)
        await blobs.put("key", source)
        assert source.exists(), "put without consume took its source away"
        assert (source.read_bytes(), source.stat().st_mode & 0o777) == (b"content", 0o640)

    async def test_a_source_changed_later_changes_no_blob(self, blobs: BlobStore, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"content")
        await blobs.put("key", source)
        with source.open("r+b") as file:
            file.write(b"CHANGED")
        assert await self.get(blobs, tmp_path, "key") == b"content"

    async def test_a_consumed_source_is_stored_whole(self, blobs: BlobStore, tmp_path: Path) -> None:
        for content in (MEBIBYTE, b"", b"replaces it"):
            source = tmp_path / "source"
            source.write_bytes(content)
            assert await blobs.put("key", source, consume=True) == info(content)
            source.unlink(missing_ok=True)
            assert await self.get(blobs, tmp_path, "key") == content

    async def test_a_put_may_be_told_what_it_stores(self, blobs: BlobStore, tmp_path: Path) -> None:
        for content in (MEBIBYTE * 5, b"", b"replaces it"):
            for consume in (False, True):
                source = new_file(tmp_path, content)
                assert await blobs.put("key", source, consume=consume, told=info(content)) == info(content)
                source.unlink(missing_ok=True)
                target = tmp_path / self.fresh("target")
                await self.within(blobs.get("key", target, expect=info(content)), "get what was told")
                assert in_brief(target.read_bytes()) == in_brief(content)

    async def test_a_source_of_another_size_than_told_is_refused(self, blobs: BlobStore, tmp_path: Path) -> None:
        await self.put(blobs, tmp_path, "kept", b"kept")
        for content in (b"content", MEBIBYTE * 5):
            for told in (info(content[:-1]), info(content + b"!")):
                for key in ("kept", "new"):
                    for consume in (False, True):
                        with refused(PermanentError, naming=key):
                            await blobs.put(key, new_file(tmp_path, content), consume=consume, told=told)
        assert await self.keys(blobs) == ["kept"]
        assert await self.get(blobs, tmp_path, "kept") == b"kept"

    async def test_a_missing_source_is_refused(self, blobs: BlobStore, tmp_path: Path) -> None:
        await self.put(blobs, tmp_path, "kept", b"kept")
        for key in ("kept", "new"):
            for consume in (False, True):
                with refused(PermanentError):
                    await blobs.put(key, tmp_path / "no-such-file", consume=consume)
        assert await self.keys(blobs) == ["kept"]
        assert await self.get(blobs, tmp_path, "kept") == b"kept"

    async def test_a_source_that_is_no_regular_file_is_refused(self, blobs: BlobStore, tmp_path: Path) -> None:
        (tmp_path / "directory").mkdir()
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "file").write_bytes(b"a link must not lead here")
        (tmp_path / "link").symlink_to(tmp_path / "file")
        for source in ("directory", "pipe", "link"):
            for consume in (False, True):
                with refused(PermanentError):
                    await self.within(blobs.put("key", tmp_path / source, consume=consume), f"refusing a {source}")
        assert await self.keys(blobs) == []

    async def test_an_absent_blob_is_not_found(self, blobs: BlobStore, tmp_path: Path) -> None:
        target = tmp_path / "target"
        await self.put(blobs, tmp_path, "some/key", b"content")
        for key in ("absent", "some", "some/key/below", "some/ke"):
            for expect in (None, info(b"")):
                with refused(BlobNotFound, naming=key):
                    await blobs.get(key, target, expect=expect)
                assert not target.exists(), "get of an absent blob must not leave a target"

    async def test_another_size_than_expected_is_corrupt(self, blobs: BlobStore, tmp_path: Path) -> None:
        await self.put(blobs, tmp_path, "some/key", b"content")
        expect = BlobInfo(size=8, sha256=info(b"content").sha256)
        await self.expect_corrupt(blobs, tmp_path / "target", "some/key", expect)

    async def test_another_content_than_expected_is_corrupt(self, blobs: BlobStore, tmp_path: Path) -> None:
        await self.put(blobs, tmp_path, "some/key", b"content")
        await blobs.get("some/key", tmp_path / "good", expect=info(b"content"))
        assert (tmp_path / "good").read_bytes() == b"content"
        await self.expect_corrupt(blobs, tmp_path / "target", "some/key", info(b"CONTENT"))

    @needs("corrupt")
    async def test_a_blob_that_rotted_is_corrupt(self, blobs: BlobStore, tmp_path: Path) -> None:
        assert self.corrupt is not None
        stored = await self.put(blobs, tmp_path, "some/key", MEBIBYTE)
        await self.corrupt(blobs, "some/key")
        await self.expect_corrupt(blobs, tmp_path / "target", "some/key", stored)

    async def test_a_target_written_to_changes_no_blob(self, blobs: BlobStore, tmp_path: Path) -> None:
        target = tmp_path / "target"
        await self.put(blobs, tmp_path, "key", b"content")
        await blobs.get("key", target)
        with target.open("r+b") as file:
            file.write(b"CHANGED")
        assert await self.get(blobs, tmp_path, "key") == b"content"

    async def test_a_linked_target_outlives_its_blob(self, blobs: BlobStore, tmp_path: Path) -> None:
        await self.put(blobs, tmp_path, "key", b"content")
        for name in ("one", "two"):
            await blobs.get("key", tmp_path / name, expect=info(b"content"), link=True)
        await self.put(blobs, tmp_path, "key", b"another")
        assert (tmp_path / "one").read_bytes() == b"content"
        await blobs.delete("key")
        assert (tmp_path / "two").read_bytes() == b"content"


class BlobStoreConformance(StoringRules):
    """Every rule of the blob contract. Subclass it, give it the fixture and the hooks::

        class TestMyBlobs(BlobStoreConformance):
            @pytest_asyncio.fixture
            async def blobs(self, tmp_path):
                self.settings = MySettings(path=tmp_path / "blobs")
                async with open_my_blobs(self.settings) as blobs:
                    yield blobs

            def reopen(self):                       # None where nothing is left once it is closed
                return open_my_blobs(self.settings)

            async def corrupt(self, blobs, key):    # None where nobody can reach a stored blob but the store
                flip_a_byte_of(key)

            def withhold(self, blobs, key):         # None where a single blob cannot be made unreadable
                return no_permission_to_read(key)

            async def litter(self, blobs, prefix):  # None where nobody can put anything there but the store
                folder_marker(prefix)

            def outage(self, blobs):                # None where the backend cannot be made to fail
                return backend_that_fails(self.settings)

    ``blobs``     an open store with nothing in it.
    ``patience``  seconds to wait for what must happen (10).
    ``racers``    how many write one key at once (8).
    """

    async def test_a_racing_put_is_whole(self, blobs: BlobStore, tmp_path: Path) -> None:
        contents = [bytes([n]) * (100_000 + n) for n in range(self.racers)]
        told = await asyncio.gather(*(self.put(blobs, tmp_path, "key", content) for content in contents))
        assert told == [info(content) for content in contents]
        assert info(await self.get(blobs, tmp_path, "key")) in told
        assert await self.keys(blobs) == ["key"]

    async def test_a_reader_sees_one_whole_blob(self, blobs: BlobStore, tmp_path: Path) -> None:
        contents = [bytes([n]) * (100_000 + n) for n in range(self.racers)]
        await self.put(blobs, tmp_path, "key", contents[0])

        async def replace() -> None:
            for content in contents:
                await self.put(blobs, tmp_path, "key", content)

        writing = asyncio.create_task(replace())
        while not writing.done():
            assert info(await self.get(blobs, tmp_path, "key")) in [info(content) for content in contents]
        await writing

    async def test_list_goes_by_whole_segments(self, blobs: BlobStore, tmp_path: Path) -> None:
        for key in ("a/b/c", "a/b/d/e", "a/bc", "ab/c", "b"):
            await self.put(blobs, tmp_path, key, b"")
        assert await self.keys(blobs, "a/b") == ["a/b/c", "a/b/d/e"]
        assert await self.keys(blobs, "a") == ["a/b/c", "a/b/d/e", "a/bc"]
        assert await self.keys(blobs, "absent") == []

    async def test_list_is_sorted(self, blobs: BlobStore, tmp_path: Path) -> None:
        keys = ["b", "a/b", "a-b", "a.b", "Z", "é", "10", "9", "a/b-c/d", "a/b/c"]
        stored = [key for key in keys if key not in ("a/b",)]  # not a key and a directory of it at once
        for key in stored:
            await self.put(blobs, tmp_path, key, b"")
        assert await self.keys(blobs) == sorted(stored)

    async def test_an_empty_prefix_lists_all(self, blobs: BlobStore, tmp_path: Path) -> None:
        assert await self.keys(blobs) == []
        for key in ("a", "b/c", "b/d/e"):
            await self.put(blobs, tmp_path, key, b"")
        assert await self.keys(blobs, "") == ["a", "b/c", "b/d/e"]

    @needs("litter")
    async def test_what_is_no_blob_is_not_listed(self, blobs: BlobStore, tmp_path: Path) -> None:
        assert self.litter is not None
        await self.put(blobs, tmp_path, "some/key", b"content")
        await self.litter(blobs, "some")
        for prefix in ("", "some"):
            assert await self.keys(blobs, prefix) == ["some/key"]
        for key in await self.keys(blobs, "some"):
            await blobs.delete(key)
        assert await self.keys(blobs) == []

    async def test_a_deleted_blob_is_gone(self, blobs: BlobStore, tmp_path: Path) -> None:
        for key in ("a/b", "a/c"):
            await self.put(blobs, tmp_path, key, b"content")
        await blobs.delete("a/b")
        with refused(BlobNotFound):
            await blobs.get("a/b", tmp_path / "target")
        assert await self.keys(blobs) == ["a/c"]
        await self.put(blobs, tmp_path, "a/b", b"again")
        assert await self.get(blobs, tmp_path, "a/b") == b"again"

    async def test_deleting_what_is_gone_is_fine(self, blobs: BlobStore, tmp_path: Path) -> None:
        await self.put(blobs, tmp_path, "a/b", b"content")
        for key in ("absent", "a/absent", "a/b/below", "a", "a/b", "a/b"):
            await blobs.delete(key)
        assert await self.keys(blobs) == []

    async def test_url_is_a_uri(self, blobs: BlobStore, tmp_path: Path) -> None:
        keys = ["a/b", "a/c", "ü 🙂/100%#?&"]
        for key in keys:
            await self.put(blobs, tmp_path, key, b"content")
        urls = [await blobs.url(key) for key in keys]
        for url in urls:
            assert re.fullmatch(r"[a-z][a-z0-9+.-]*:[!-~]+", url), f"not a URI: {url!r}"
            assert not re.search(r"%(?![0-9A-Fa-f]{2})", url), f"a percent sign that is not encoded: {url!r}"
        assert len(set(urls)) == len(keys)

    @needs("reopen")
    async def test_blobs_outlive_the_process(self, blobs: BlobStore, tmp_path: Path) -> None:
        assert self.reopen is not None
        await self.put(blobs, tmp_path, "a/b", MEBIBYTE)
        async with self.reopen() as second:
            assert in_brief(await self.get(second, tmp_path, "a/b")) == in_brief(MEBIBYTE)
            assert await self.keys(second) == ["a/b"]

    @needs("withhold")
    async def test_trouble_with_one_blob_is_its_own(self, blobs: BlobStore, tmp_path: Path) -> None:
        assert self.withhold is not None
        withheld, other = f"some/{self.fresh('withheld')}", "some/other"
        for key in (withheld, other):
            await self.put(blobs, tmp_path, key, key.encode())
        async with self.withhold(blobs, withheld):
            target = tmp_path / "target"
            for _ in range(2):
                with refused(TransientError, naming=withheld):
                    await self.within(blobs.get(withheld, target), "get of what may not be read")
                assert not target.exists(), "what was not got must not be there"
                assert await self.get(blobs, tmp_path, other) == other.encode()
            await self.put(blobs, tmp_path, "some/new", b"new")
            assert await self.get(blobs, tmp_path, "some/new") == b"new"
            assert withheld in await self.keys(blobs)
        assert await self.get(blobs, tmp_path, withheld) == withheld.encode()

    @needs("outage")
    async def test_errors_of_the_backend_become_ours(self, blobs: BlobStore, tmp_path: Path) -> None:
        assert self.outage is not None
        await self.put(blobs, tmp_path, "key", b"content")
        async with self.outage(blobs):
            with refused(IonError):
                await self.put(blobs, tmp_path, "key", b"content")
            with refused(IonError):
                await self.get(blobs, tmp_path, "key")
