"""What local blobs promise beyond the contract: what is moved, what is linked, and what is left where."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from ion_core.contracts.storage import BlobInfo, BlobStore
from ion_core.embedded.local.batches import Batches
from ion_core.embedded.local.blobs import LocalBlobs, open_local_blobs
from ion_core.embedded.local.putting import Put, Putting
from ion_core.embedded.local.tree import BlobTree
from ion_core.embedded.local.verified import Verified
from ion_core.embedded.os_errors import translating
from ion_core.embedded.settings import LocalBlobsSettings
from ion_core.errors import BlobCorrupt, BlobNotFound, PermanentError, StorageFull, TransientError


@pytest.fixture
def settings(tmp_path: Path) -> LocalBlobsSettings:
    return LocalBlobsSettings(path=tmp_path / "blobs")


@pytest.fixture
async def blobs(settings: LocalBlobsSettings) -> AsyncIterator[BlobStore]:
    async with open_local_blobs(settings) as blobs:
        yield blobs


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory of another file system."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        assert Path(directory).stat().st_dev != tmp_path.stat().st_dev
        yield Path(directory)


def file(path: Path, content: bytes = b"content") -> Path:
    path.write_bytes(content)
    return path


async def path_of(blobs: BlobStore, key: str) -> Path:
    return Path(unquote(urlsplit(await blobs.url(key)).path))


async def content_of(blobs: BlobStore, key: str, directory: Path) -> bytes:
    target = directory / "fetched"
    await blobs.get(key, target)
    content = target.read_bytes()
    target.unlink()
    return content


async def keys_of(blobs: BlobStore, prefix: str = "") -> list[str]:
    return [key async for key in blobs.list(prefix)]


class TestPut:
    async def test_a_consumed_file_is_moved_and_becomes_read_only(self, blobs: BlobStore, tmp_path: Path) -> None:
        source = file(tmp_path / "source")
        source.chmod(0o6755)
        inode = source.stat().st_ino
        await blobs.put("a/b", source, consume=True)
        assert not source.exists()
        blob = (await path_of(blobs, "a/b")).stat()
        assert (blob.st_ino, stat.S_IMODE(blob.st_mode)) == (inode, 0o444)

    async def test_a_file_that_somebody_writes_to_is_copied(self, blobs: BlobStore, tmp_path: Path) -> None:
        source = file(tmp_path / "source")
        with source.open("r+b") as writing:
            await blobs.put("key", source, consume=True)
            writing.write(b"CHANGED")
        assert await content_of(blobs, "key", tmp_path) == b"content"

    async def test_what_is_told_of_a_moved_file_is_taken_on_trust_and_found_when_it_is_read(
        self, blobs: BlobStore, tmp_path: Path
    ) -> None:
        told = BlobInfo(size=7, sha256=hashlib.sha256(b"another").hexdigest())
        assert await blobs.put("key", file(tmp_path / "source"), consume=True, told=told) == told
        with pytest.raises(BlobCorrupt, match="key"):
            await blobs.get("key", tmp_path / "target", expect=told)

    async def test_what_is_told_of_a_copied_file_is_compared(self, blobs: BlobStore, tmp_path: Path) -> None:
        told = BlobInfo(size=7, sha256=hashlib.sha256(b"another").hexdigest())
        source = file(tmp_path / "source")
        with source.open("r+b"), pytest.raises(PermanentError, match="key"):
            await blobs.put("key", source, consume=True, told=told)
        with pytest.raises(PermanentError, match="key"):
            await blobs.put("key", source, told=told)
        assert await keys_of(blobs) == []

    async def test_a_file_with_another_name_is_copied(self, blobs: BlobStore, tmp_path: Path) -> None:
        source, other = file(tmp_path / "source"), tmp_path / "other"
        other.hardlink_to(source)
        await blobs.put("key", source, consume=True)
        other.write_bytes(b"CHANGED")
        assert await content_of(blobs, "key", tmp_path) == b"content"

    async def test_a_file_of_another_file_system_is_copied(
        self, blobs: BlobStore, tmp_path: Path, elsewhere: Path
    ) -> None:
        await blobs.put("key", file(elsewhere / "source", b"x" * 5_000_000), consume=True)
        assert await content_of(blobs, "key", tmp_path) == b"x" * 5_000_000

    def test_a_file_that_somebody_opens_meanwhile_is_copied(self, tmp_path: Path) -> None:
        for name in ("root", "staging"):
            (tmp_path / name).mkdir()
        source = file(tmp_path / "source")
        opened: list[threading.Thread] = []

        def write() -> None:  # the kernel lets us in once the store has let go of the file
            source.chmod(0o644)  # root would need no leave
            with source.open("r+b") as writing:
                writing.write(b"CHANGED")

        class Opened(BlobTree):
            def place(self, source: str, key: str) -> set[str]:
                if not opened:
                    opened.append(threading.Thread(target=write))
                    opened[0].start()
                    inode = f":{Path(source).stat().st_ino} "
                    while not any("BREAKING" in line and inode in line for line in open_locks()):
                        pass
                return super().place(source, key)

        tree = Opened(tmp_path / "root", tmp_path / "staging")
        with ThreadPoolExecutor(2) as helpers:
            Putting(tree, tmp_path / "staging", helpers, Verified())([Put("key", source, True)])
        opened[0].join()
        assert (tmp_path / "root/key").read_bytes() == b"content"

    async def test_each_of_many_stands_for_itself(self, blobs: BlobStore, tmp_path: Path) -> None:
        names = [f"{n}" for n in range(300)]
        for name in names:
            file(tmp_path / name, name.encode() * 100)
        (tmp_path / "7").unlink()
        puts = (blobs.put(f"many/{name}", tmp_path / name, consume=True) for name in names)
        found = await asyncio.gather(*puts, return_exceptions=True)
        assert [name for name, one in zip(names, found, strict=True) if isinstance(one, BaseException)] == ["7"]
        assert isinstance(found[7], PermanentError)
        names.remove("7")
        assert await keys_of(blobs) == sorted(f"many/{name}" for name in names)
        for name in ("0", "299"):
            assert await content_of(blobs, f"many/{name}", tmp_path) == name.encode() * 100

    async def test_a_failed_put_leaves_nothing(
        self, blobs: BlobStore, settings: LocalBlobsSettings, tmp_path: Path
    ) -> None:
        source = file(tmp_path / "source")
        shutil.rmtree(settings.path / "files")
        file(settings.path / "files")
        with pytest.raises(PermanentError, match="blob a/b"):
            await blobs.put("a/b", source)
        (own,) = (settings.path / "staging").iterdir()
        assert list(own.iterdir()) == []


def open_locks() -> list[str]:
    return Path("/proc/locks").read_text().splitlines()


class TestGet:
    async def test_a_link_shares_the_file_and_a_copy_does_not(self, blobs: BlobStore, tmp_path: Path) -> None:
        stored = await blobs.put("key", file(tmp_path / "source"))
        blob = await path_of(blobs, "key")
        await blobs.get("key", tmp_path / "link", expect=stored, link=True)
        await blobs.get("key", tmp_path / "copy", expect=stored)
        assert (tmp_path / "link").samefile(blob)
        assert not (tmp_path / "copy").samefile(blob)
        assert os.access(tmp_path / "copy", os.W_OK)

    async def test_a_link_to_another_file_system_becomes_a_copy(
        self, blobs: BlobStore, tmp_path: Path, elsewhere: Path
    ) -> None:
        stored = await blobs.put("key", file(tmp_path / "source"))
        await blobs.get("key", elsewhere / "target", expect=stored, link=True)
        assert (elsewhere / "target").read_bytes() == b"content"

    async def test_damage_that_left_no_trace_is_seen_by_the_next_process(
        self, blobs: BlobStore, settings: LocalBlobsSettings, tmp_path: Path
    ) -> None:
        stored = await blobs.put("key", file(tmp_path / "source"))
        blob = await path_of(blobs, "key")
        before = blob.stat()
        blob.chmod(0o644)
        blob.write_bytes(b"CONTENT")
        os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))
        async with open_local_blobs(settings) as later:
            for link in (True, False):
                with pytest.raises(BlobCorrupt, match="key"):
                    await later.get("key", tmp_path / "target", expect=stored, link=link)
        assert not (tmp_path / "target").exists()

    async def test_nothing_is_left_in_the_target_directory_but_the_target(
        self, blobs: BlobStore, tmp_path: Path
    ) -> None:
        await blobs.put("key", file(tmp_path / "source"))
        directory = tmp_path / "targets"
        directory.mkdir()
        (directory / "in the way").mkdir()
        with pytest.raises(BlobNotFound):
            await blobs.get("absent", directory / "target")
        with pytest.raises(PermanentError):
            await blobs.get("key", directory / "in the way")
        with pytest.raises(PermanentError):
            await blobs.get("key", directory / "no" / "such" / "directory")
        await blobs.get("key", directory / "target")
        assert sorted(path.name for path in directory.iterdir()) == ["in the way", "target"]

    async def test_a_link_in_the_store_leads_nowhere(self, blobs: BlobStore, tmp_path: Path) -> None:
        await blobs.put("dir/key", file(tmp_path / "source"))
        blob = await path_of(blobs, "dir/key")
        outside = tmp_path / "outside"
        outside.mkdir()
        file(outside / "secret")
        (blob.parent / "link").symlink_to(outside / "secret")
        (blob.parent / "directory").symlink_to(outside)
        for link in (True, False):
            with pytest.raises(BlobNotFound):
                await blobs.get("dir/link", tmp_path / "target", link=link)
        assert not (tmp_path / "target").is_symlink()
        assert await keys_of(blobs) == ["dir/key"]
        assert await keys_of(blobs, "dir/directory") == []


class TestKeys:
    @pytest.mark.parametrize("order", [("a", "a/b", "a/b/c", "a-b"), ("a/b/c", "a-b", "a/b", "a")])
    async def test_a_key_may_be_the_prefix_of_another(
        self, blobs: BlobStore, tmp_path: Path, order: tuple[str, ...]
    ) -> None:
        for key in (*order, *order):
            await blobs.put(key, file(tmp_path / "source", key.encode()), consume=True)
        assert await keys_of(blobs) == ["a", "a-b", "a/b", "a/b/c"]
        assert await keys_of(blobs, "a") == ["a/b", "a/b/c"]
        for key in order:
            assert await content_of(blobs, key, tmp_path) == key.encode()
        await blobs.delete("a")
        assert await keys_of(blobs) == ["a-b", "a/b", "a/b/c"]
        with pytest.raises(BlobNotFound):
            await blobs.get("a", tmp_path / "target")
        await blobs.delete("a/b/c")
        assert await content_of(blobs, "a/b", tmp_path) == b"a/b"

    async def test_a_blob_that_becomes_a_directory_is_never_away(self, blobs: BlobStore, tmp_path: Path) -> None:
        stored = await blobs.put("a", file(tmp_path / "source"))

        async def read() -> None:
            while not writing.done():
                await blobs.get("a", tmp_path / "fetched", expect=stored)

        async def write() -> None:
            for n in range(20):
                await blobs.put(f"a/{n}", file(tmp_path / "source"))
                await blobs.put("a", file(tmp_path / "source"))

        writing = asyncio.create_task(write())
        await read()
        await writing

    async def test_the_directories_of_a_deleted_blob_are_removed(
        self, blobs: BlobStore, settings: LocalBlobsSettings, tmp_path: Path
    ) -> None:
        for key in ("a/b/c", "a/d/e/f"):
            await blobs.put(key, file(tmp_path / "source"))
        await blobs.delete("a/d/e/f")
        assert not (settings.path / "files/a/d").exists()
        await blobs.delete("a/b/c")
        assert list((settings.path / "files").iterdir()) == []

    async def test_puts_and_deletes_in_one_directory_do_not_disturb_each_other(
        self, blobs: BlobStore, tmp_path: Path
    ) -> None:
        async def churn(name: str) -> None:
            for _ in range(30):
                await blobs.put(f"a/b/{name}", file(tmp_path / name))
                await blobs.delete(f"a/b/{name}")

        await asyncio.gather(*map(churn, "cdefg"))
        assert await keys_of(blobs) == []

    async def test_many_keys_are_listed_in_pages(self, blobs: BlobStore, tmp_path: Path) -> None:
        names = [f"{n:04}" for n in range(1100)]
        await asyncio.gather(*(blobs.put(f"a/{name}", file(tmp_path / name), consume=True) for name in names))
        assert await keys_of(blobs, "a") == [f"a/{name}" for name in names]


class TestStore:
    async def test_what_a_dead_process_left_is_removed_and_what_a_living_one_works_on_is_not(
        self, blobs: BlobStore, settings: LocalBlobsSettings
    ) -> None:
        staging = settings.path / "staging"
        (living,) = staging.iterdir()
        file(living / "unfinished")
        (staging / "dead").mkdir()
        file(staging / "dead" / "unfinished")
        async with open_local_blobs(settings):
            assert not (staging / "dead").exists()
            assert (living / "unfinished").exists()
        assert list(staging.iterdir()) == [living]

    async def test_closing_leaves_blobs_only(self, settings: LocalBlobsSettings, tmp_path: Path) -> None:
        async with open_local_blobs(settings) as blobs:
            assert isinstance(blobs, LocalBlobs)
            putting = asyncio.create_task(blobs.put("key", file(tmp_path / "source")))
            await asyncio.sleep(0)
        await putting
        assert sorted(path.name for path in settings.path.rglob("*")) == ["files", "key", "staging"]

    def test_system_errors_are_told_apart(self) -> None:
        for code, expected in (
            (errno.ENOSPC, StorageFull),
            (errno.EDQUOT, StorageFull),
            (errno.EIO, TransientError),
            (errno.EMFILE, TransientError),
            (errno.EACCES, TransientError),
            (errno.EROFS, TransientError),
            (errno.ENAMETOOLONG, PermanentError),
        ):
            with pytest.raises(expected, match=r"^blob k: .*\(/a/file\)") as found, translating("blob k"):
                raise OSError(code, os.strerror(code), "/a/file")
            assert type(found.value) is expected


@contextmanager
def batches_of(hold: threading.Event, served: list[int]) -> Iterator[Batches[int, int]]:
    def serve(requests: object) -> list[int]:
        assert isinstance(requests, list)
        hold.wait(10)
        served.extend(requests)
        return requests

    with ThreadPoolExecutor(2) as pool:
        yield Batches(serve, pool, size=2, lanes=1)


class TestBatches:
    async def test_a_cancelled_request_is_dropped_or_waited_for(self) -> None:
        hold, served = threading.Event(), list[int]()
        with batches_of(hold, served) as batches:
            asking = [asyncio.create_task(batches.ask(n)) for n in range(5)]
            for _ in range(3):  # until the first two are with a thread
                await asyncio.sleep(0)
            asking[0].cancel()
            asking[3].cancel()
            done, _ = await asyncio.wait(asking, timeout=0.05)
            assert done == {asking[3]}, "what a thread works on is waited for"
            hold.set()
            assert [await asking[n] for n in (1, 2, 4)] == [1, 2, 4]
            with pytest.raises(asyncio.CancelledError):
                await asking[0]
        assert served == [0, 1, 2, 4]

    async def test_a_bug_in_a_batch_is_told_to_all_of_it(self) -> None:
        def serve(requests: object) -> list[int]:
            raise ZeroDivisionError

        with ThreadPoolExecutor(1) as pool:
            batches: Batches[int, int] = Batches(serve, pool)
            found = await asyncio.gather(*(batches.ask(n) for n in range(3)), return_exceptions=True)
            assert [type(one) for one in found] == [ZeroDivisionError] * 3
            await batches.drained()
