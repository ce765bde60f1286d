"""The blob kit: ``docs/contracts/blobs.md`` as tests, one for each rule and of its name."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from ion_core.contracts.storage import BlobStore
from ion_core.errors import BlobNotFound, IonError
from ion_core.testing.blob_storing import MEBIBYTE, StoringRules, info
from ion_core.testing.kit import in_brief, needs, refused


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

    @needs("outage")
    async def test_errors_of_the_backend_become_ours(self, blobs: BlobStore, tmp_path: Path) -> None:
        assert self.outage is not None
        await self.put(blobs, tmp_path, "key", b"content")
        async with self.outage(blobs):
            with refused(IonError):
                await self.put(blobs, tmp_path, "key", b"content")
            with refused(IonError):
                await self.get(blobs, tmp_path, "key")
