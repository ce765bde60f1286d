"""The blob kit's rules for putting and getting, and its hooks."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar

from ion_core.contracts.storage import BlobInfo, BlobStore
from ion_core.errors import BlobCorrupt, BlobNotFound, InvalidKey, PermanentError
from ion_core.testing.kit import Conformance, in_brief, needs, refused, undeclared

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

    racers: ClassVar[int] = 8
    reopen: Callable[..., AbstractAsyncContextManager[Any]] | None = undeclared(
        "reopen", "def reopen(self): a context manager of a second store, as another process on this backend has it"
    )
    corrupt: Callable[..., Awaitable[None]] | None = undeclared(
        "corrupt", "async def corrupt(self, blobs, key): change a byte of the stored blob behind the store's back"
    )
    outage: Callable[..., AbstractAsyncContextManager[None]] | None = undeclared(
        "outage", "def outage(self, blobs): a context manager within which the backend fails every call"
    )

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
