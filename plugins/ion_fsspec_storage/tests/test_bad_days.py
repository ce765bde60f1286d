"""S3 on a bad day, by either driver: it slows down, tears bodies, damages them, takes its credentials back midway."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from faulty_proxy import FaultyProxy
from stored_files import MIB, file, info

from ion_core.errors import BlobCorrupt, BlobNotFound, TransientError
from ion_fsspec_storage.blobs import SMALL, FsspecBlobs, open_fsspec_blobs
from ion_fsspec_storage.settings import FsspecBlobsSettings
from tests.support.object_stores import s3_at
from tests.support.worlds import World, does, emit, no_back_off

PATIENCE = 60.0
LARGE = 17 * MIB
SIZES = [10_000, SMALL + 1, LARGE]
"""In one request from memory, in one from the file, in parts."""
COMPLETING = rb"POST \S*uploadId="


@pytest.fixture(params=["fsspec", "obstore"])
def place(request: pytest.FixtureRequest, proxy: FaultyProxy) -> dict[str, Any]:
    return s3_at(proxy.port).settings(driver=request.param)


@pytest.mark.parametrize("size", SIZES)
async def test_a_slow_down_is_waited_for_and_said_in_the_end(
    size: int, blobs: FsspecBlobs, proxy: FaultyProxy, tmp_path: Path
) -> None:
    content = os.urandom(size)
    async with asyncio.timeout(PATIENCE):
        proxy.says = [(503, "SlowDown")] * 2
        await blobs.put("key", file(tmp_path, content))
        assert proxy.says == []
        proxy.says, proxy.says_to = [(503, "SlowDown")] * 2, b"GET "
        await blobs.get("key", tmp_path / "target", expect=info(content))
        assert proxy.says == []
        for says_to, call in (
            (b"(PUT|POST) ", blobs.put("key", file(tmp_path, os.urandom(size)))),
            (b"GET ", blobs.get("key", tmp_path / "other")),
        ):
            proxy.says, proxy.says_to = [(503, "SlowDown")] * 1_000, says_to
            with pytest.raises(
                TransientError, match=r"key: the backend did not do it .*(SlowDown|reduce your|as told)"
            ):
                await call
            proxy.says = []
        await blobs.get("key", tmp_path / "again", expect=info(content))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("size", SIZES)
async def test_a_body_that_is_torn_on_its_way_to_the_store_is_sent_again(
    size: int, blobs: FsspecBlobs, proxy: FaultyProxy, tmp_path: Path
) -> None:
    content = os.urandom(size)
    async with asyncio.timeout(PATIENCE):
        proxy.torn = 2
        await blobs.put("key", file(tmp_path, content))
        assert proxy.torn == 0
        await blobs.get("key", tmp_path / "target", expect=info(content))
        proxy.torn = 1_000
        with pytest.raises(TransientError, match="key: the backend did not do it"):
            await blobs.put("key", file(tmp_path, os.urandom(size)))
        proxy.torn = 0
        await blobs.get("key", tmp_path / "again", expect=info(content))


@pytest.mark.parametrize("size", SIZES[:2])
async def test_answers_that_are_always_cut_off_leave_no_target(
    size: int, blobs: FsspecBlobs, proxy: FaultyProxy, tmp_path: Path
) -> None:
    content = os.urandom(size)
    (tmp_path / "in").mkdir()
    async with asyncio.timeout(PATIENCE):
        await blobs.put("key", file(tmp_path, content))
        for expect in (info(content), None):
            proxy.cut = 1_000
            with pytest.raises(TransientError, match="key: the backend did not do it"):
                await blobs.get("key", tmp_path / "in" / "target", expect=expect)
    assert list((tmp_path / "in").iterdir()) == []


@pytest.mark.parametrize(
    ("code", "size"),
    [("BadDigest", 10_000), ("XAmzContentSHA256Mismatch", LARGE), ("RequestTimeout", LARGE)],
)
async def test_a_body_that_did_not_arrive_as_it_was_sent_is_sent_again(
    size: int, code: str, blobs: FsspecBlobs, proxy: FaultyProxy, tmp_path: Path
) -> None:
    """S3 answers 400 then, as it does to what is wrong with a request."""
    content = os.urandom(size)
    async with asyncio.timeout(PATIENCE):
        proxy.says = [(400, code)] * 2
        await blobs.put("key", file(tmp_path, content))
        assert proxy.says == []
        await blobs.get("key", tmp_path / "target", expect=info(content))


@pytest.mark.parametrize("size", SIZES)
async def test_an_answer_that_was_damaged_on_its_way_is_asked_for_again_and_nothing_else_is_given_out(
    size: int, blobs: FsspecBlobs, proxy: FaultyProxy, tmp_path: Path
) -> None:
    """By our sha256, or before that by the checksum that S3 keeps: s3fs looks at it, obstore does not."""
    content = os.urandom(size)
    async with asyncio.timeout(PATIENCE):
        await blobs.put("key", file(tmp_path, content))
        proxy.damaged = 1
        await blobs.get("key", tmp_path / "target", expect=info(content))
        assert proxy.damaged == 0
        proxy.damaged = 1_000
        with pytest.raises((BlobCorrupt, TransientError), match=r"key: (was stored with|came damaged)"):
            await blobs.get("key", tmp_path / "other", expect=info(content))
    assert (tmp_path / "target").read_bytes() == content
    assert not (tmp_path / "other").exists()


async def test_parts_that_cannot_be_put_together_are_no_file_though_the_answer_began_with_200(
    blobs: FsspecBlobs, proxy: FaultyProxy, tmp_path: Path
) -> None:
    """S3 says 200 before it begins with it."""
    content = os.urandom(LARGE)
    async with asyncio.timeout(PATIENCE):
        proxy.says, proxy.says_to = [(200, "InternalError")], COMPLETING
        await blobs.put("key", file(tmp_path, content))
        assert proxy.says == []
        proxy.says = [(200, "InternalError")] * 1_000
        with pytest.raises(TransientError, match="other"):
            await blobs.put("other", file(tmp_path, content))
        proxy.says = []
        await blobs.get("key", tmp_path / "target", expect=info(content))
        with pytest.raises(BlobNotFound):
            await blobs.get("other", tmp_path / "none")


@pytest.mark.parametrize("let_through", [0, 2])
async def test_credentials_that_expire_in_the_middle_of_an_upload_leave_nothing_half(
    let_through: int, blobs: FsspecBlobs, proxy: FaultyProxy, tmp_path: Path
) -> None:
    """Before it, and between its parts."""
    before, after = os.urandom(LARGE), os.urandom(LARGE)
    async with asyncio.timeout(PATIENCE):
        await blobs.put("old", file(tmp_path, before))
        for key in ("old", "new"):
            proxy.expires_after = let_through
            with pytest.raises(TransientError, match=f"{key}: access is denied .*(ExpiredToken|as told)"):
                await blobs.put(key, file(tmp_path, after))
            proxy.expires_after = None
        await blobs.get("old", tmp_path / "target", expect=info(before))
        assert [key async for key in blobs.list("")] == ["old"]
        await blobs.put("new", file(tmp_path, after))
        await blobs.get("new", tmp_path / "target", expect=info(after))


async def test_credentials_that_expire_while_a_commit_is_stored_are_nobodys_trouble(
    place: dict[str, Any], proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is on its way then. Once they are good again it is committed, and its attempts count one."""
    world: Any = World(tmp_path)
    expiring = True

    def leave(workspace: Path) -> None:
        (workspace / "out" / "data" / "large").write_bytes(bytes(LARGE))
        emit(workspace, "out", files="large")
        proxy.expires_after = 2 if expiring else None

    world.add(does(leave))
    async with open_fsspec_blobs(FsspecBlobsSettings(**place)) as world.blobs:
        await world.publish(event_id="first")
        with no_back_off(monkeypatch):
            async with world.serving():
                await world.observed.finishes(10)
                assert (world.commits, await world.dead()) == ([], [])
                expiring, proxy.expires_after = False, None
                async with asyncio.timeout(PATIENCE):
                    await world.broker.idle()
    [commit] = world.commits
    assert commit.attempt == 1
    [(_, outcome), *_] = world.observed.finished
    assert "access is denied" in outcome.reason
