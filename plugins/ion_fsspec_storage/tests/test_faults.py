"""An object store that is busy, slow or cut off, and a full disk."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_proxy import FaultyProxy
from stored_files import MIB, file, info

from ion_core.contracts.storage import Document
from ion_core.errors import BlobNotFound, PermanentError, StorageFull, TransientError
from ion_fsspec_storage.blobs import SMALL, FsspecBlobs, open_fsspec_blobs
from ion_fsspec_storage.documents import open_fsspec_documents
from ion_fsspec_storage.settings import FsspecBlobsSettings, FsspecDocumentsSettings
from tests.support.object_stores import ObjectStore, request, s3_at

pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")  # gcsfs, adlfs do
PATIENCE = 60.0


@pytest.fixture(params=["fsspec", "obstore"])
async def blobs(proxy: FaultyProxy, request: pytest.FixtureRequest) -> AsyncIterator[FsspecBlobs]:
    place = s3_at(proxy.port)
    options = {**place.options, "config_kwargs": {"read_timeout": 3}}
    settings = FsspecBlobsSettings(url=place.place(), options=options, driver=request.param)
    async with open_fsspec_blobs(settings) as blobs:
        assert isinstance(blobs, FsspecBlobs)
        blobs._objects._retries.delay = 0.0  # type: ignore[attr-defined]
        yield blobs


@pytest.mark.parametrize("size", [100_000, SMALL + 1, 40 * MIB])
async def test_busy_and_cut_off_answers_are_asked_for_again(
    size: int, blobs: FsspecBlobs, proxy: FaultyProxy, tmp_path: Path
) -> None:
    content = os.urandom(size)
    async with asyncio.timeout(PATIENCE):
        proxy.busy = 2
        assert await blobs.put("key", file(tmp_path, content)) == info(content)
        proxy.busy, proxy.cut = 1, 2
        await blobs.get("key", tmp_path / "expected", expect=info(content))
        proxy.cut = 2
        await blobs.get("key", tmp_path / "whatever")
    assert (tmp_path / "expected").read_bytes() == (tmp_path / "whatever").read_bytes() == content
    assert (proxy.busy, proxy.cut) == (0, 0), "all of that has happened"


async def test_a_store_that_stays_busy_is_given_up_in_the_end(
    blobs: FsspecBlobs, proxy: FaultyProxy, tmp_path: Path
) -> None:
    await blobs.put("key", file(tmp_path, b"content"))
    proxy.busy = 1_000
    for call in (blobs.put("key", file(tmp_path, b"other")), blobs.get("key", tmp_path / "target")):
        before = proxy.requests
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(TransientError, match=r"key: the backend did not do it.*503"):
                await call
        assert proxy.requests - before < 10
    assert not (tmp_path / "target").exists()
    proxy.busy = 0
    await blobs.get("key", tmp_path / "target", expect=info(b"content"))


@pytest.mark.parametrize("driver", ["fsspec", "obstore"])
async def test_a_bucket_that_went_away_is_no_missing_blob(driver: Any, s3: ObjectStore, tmp_path: Path) -> None:
    await asyncio.to_thread(request, "PUT", f"http://127.0.0.1:{s3.port}/short-lived")
    settings = FsspecBlobsSettings(url="s3://short-lived/ion", options=dict(s3.options), driver=driver)
    documents = FsspecDocumentsSettings(**settings.model_dump(exclude={"sign_for"}))
    async with open_fsspec_blobs(settings) as blobs, open_fsspec_documents(documents) as store:
        await asyncio.to_thread(request, "DELETE", f"http://127.0.0.1:{s3.port}/short-lived")
        with pytest.raises(TransientError, match="bucket"):
            await blobs.get("key", tmp_path / "target")
        with pytest.raises(TransientError, match="bucket"):
            await store.get("commit", "job")


async def test_a_silent_store_is_asked_again(blobs: FsspecBlobs, proxy: FaultyProxy, tmp_path: Path) -> None:
    async with asyncio.timeout(PATIENCE):
        proxy.silent = 1
        await blobs.put("key", file(tmp_path, b"content"))
        proxy.silent = 1
        await blobs.get("key", tmp_path / "target", expect=info(b"content"))
    assert proxy.silent == 0


async def test_a_get_that_was_cancelled_leaves_no_target(
    blobs: FsspecBlobs, proxy: FaultyProxy, tmp_path: Path
) -> None:
    await blobs.put("key", file(tmp_path, b"content"))
    (tmp_path / "in").mkdir()
    before, proxy.silent = proxy.requests, 1
    getting = asyncio.create_task(blobs.get("key", tmp_path / "in" / "target"))
    async with asyncio.timeout(PATIENCE):
        await proxy.came_in(before + 1)
        getting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await getting
        await asyncio.to_thread(blobs._pool.shutdown)
    assert list((tmp_path / "in").iterdir()) == []


async def test_a_large_file_whose_upload_fails_leaves_no_part_of_it(
    blobs: FsspecBlobs, proxy: FaultyProxy, tmp_path: Path
) -> None:
    before = proxy.requests
    uploading = asyncio.create_task(blobs.put("key", file(tmp_path, os.urandom(40 * MIB))))
    async with asyncio.timeout(PATIENCE):
        await proxy.came_in(before + 3)
        proxy.refusing = True
        with pytest.raises(TransientError):
            await uploading
        proxy.refusing = False
        with pytest.raises(BlobNotFound, match="blob key"):
            await blobs.get("key", tmp_path / "target")
    assert [key async for key in blobs.list("")] == []


async def test_a_source_that_changes_while_it_is_stored_is_noticed(
    blobs: FsspecBlobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = file(tmp_path, os.urandom(SMALL + 1))
    upload = blobs._objects.upload

    def change(*given: object) -> None:
        source.write_bytes(os.urandom(SMALL + 1))
        upload(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(blobs._objects, "upload", change)
    with pytest.raises(TransientError, match="was changed while it was stored"):
        await blobs.put("key", source)


async def test_no_space_for_the_target_is_no_fault_of_the_store(small_disk: Path, tmp_path: Path) -> None:
    async with open_fsspec_blobs(FsspecBlobsSettings(url=f"file://{tmp_path}/store")) as blobs:
        content = os.urandom(20 * MIB)
        await blobs.put("key", file(tmp_path, content))
        with pytest.raises(StorageFull, match=r"key.*no space left"):
            await blobs.get("key", small_disk / "target")
    assert not any(small_disk.iterdir())  # noqa: ASYNC240


async def test_no_space_for_what_comes_from_s3_is_said_at_once_and_leaves_nothing(
    blobs: FsspecBlobs, proxy: FaultyProxy, small_disk: Path, tmp_path: Path
) -> None:
    content = os.urandom(20 * MIB)
    await blobs.put("key", file(tmp_path, content))
    for expect in (info(content), None):
        before = proxy.requests
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(StorageFull, match=r"key.*no space left"):
                await blobs.get("key", small_disk / "target", expect=expect)
        assert proxy.requests == before + 1, "it is not asked for again"
    assert not any(small_disk.iterdir())  # noqa: ASYNC240


async def test_a_full_disk_under_the_store_leaves_nothing_half(small_disk: Path, tmp_path: Path) -> None:
    place = f"file://{small_disk}/store"
    kept, large = file(tmp_path, b"kept"), file(tmp_path, os.urandom(20 * MIB))
    documents = FsspecDocumentsSettings(url=place)
    async with (
        open_fsspec_blobs(FsspecBlobsSettings(url=place)) as blobs,
        open_fsspec_documents(documents) as store,
    ):
        await blobs.put("kept", kept)
        for key in ("kept", "new"):
            with pytest.raises(StorageFull, match=f"{key}: no space left"):
                await blobs.put(key, large)
        ballast = small_disk / "ballast"
        with pytest.raises(OSError, match="No space"):
            fill(ballast)
        one = Document(kind="commit", id="one", correlation_id="flow", body={"x": "y" * 100_000}, pending=True)
        with pytest.raises(StorageFull):
            await store.create(one)
        assert [it async for it in store.find()] == []
        ballast.unlink()
        await store.create(one)
        assert [it async for it in store.find(pending=True)] == [one]
        assert [key async for key in blobs.list("")] == ["kept"]
        await blobs.get("kept", tmp_path / "target", expect=info(b"kept"))
    assert list((small_disk / "store" / "unfinished").iterdir()) == []


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as filling:
        while True:
            filling.write(bytes(4096))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """16 MiB in a mount namespace of their own, which ends with the process that holds it."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    script = f"mount -t tmpfs -o size=16m none '{mounted}' && echo mounted && exec tail -f /dev/null"
    with subprocess.Popen(["unshare", *user, "--mount", "sh", "-c", script], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"mounted\n"
        yield Path(f"/proc/{holder.pid}/root{mounted}")
        holder.kill()


async def test_a_source_in_no_state_to_be_stored_is_refused_before_anything_is_sent(
    blobs: FsspecBlobs, proxy: FaultyProxy, tmp_path: Path
) -> None:
    before = proxy.requests
    with pytest.raises(PermanentError, match="cannot be read"):
        await blobs.put("key", tmp_path / "missing")
    assert proxy.requests == before
