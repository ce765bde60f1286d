"""One object of a bucket that may not be read is one event's trouble; a bucket that may not be read is nobody's."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from faulty_proxy import FaultyProxy
from stored_files import file, info

from ion_core.errors import TransientError
from ion_fsspec_storage.blobs import SMALL, open_fsspec_blobs
from ion_fsspec_storage.settings import FsspecBlobsSettings
from tests.support.object_stores import ObjectStore, client, s3_at
from tests.support.worlds import World, exits, no_back_off

PATIENCE = 60.0
HEALTHY = 5


async def test_an_object_that_is_forbidden_becomes_a_dead_letter_and_the_others_are_committed(
    proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world: Any = World(tmp_path)
    world.add(exits(0), concurrency=1)
    async with open_fsspec_blobs(FsspecBlobsSettings(**s3_at(proxy.port).settings())) as world.blobs:
        await world.publish(event_id="bad", files={"poisoned": b"x"})
        for n in range(HEALTHY):
            await world.publish(event_id=f"good-{n}", files={"fine": b"x"})
        proxy.forbidden = "poisoned"
        with no_back_off(monkeypatch):
            async with world.serving(), asyncio.timeout(PATIENCE):
                await world.broker.idle()
    assert len(world.commits) == HEALTHY
    [letter] = await world.dead()
    assert "access is denied" in letter.reason


async def test_a_bucket_that_is_forbidden_makes_no_dead_letters(
    proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world: Any = World(tmp_path)
    world.add(exits(0), concurrency=1)
    async with open_fsspec_blobs(FsspecBlobsSettings(**s3_at(proxy.port).settings())) as world.blobs:
        for n in range(2):
            await world.publish(event_id=f"good-{n}", files={"fine": b"x"})
        proxy.forbidden = "*"
        with no_back_off(monkeypatch):
            async with world.serving():
                async with asyncio.timeout(PATIENCE):
                    await world.observed.finishes(30)
                assert await world.dead() == []
                proxy.forbidden = ""
                async with asyncio.timeout(PATIENCE):
                    await world.broker.idle()
    assert sorted(commit.attempt for commit in world.commits) == [1, 1]


@pytest.mark.parametrize("driver", ["fsspec", "obstore"])
@pytest.mark.parametrize("size", [1, SMALL + 1])
async def test_an_archived_object_says_that_it_is_to_be_restored(
    size: int, driver: str, s3: ObjectStore, tmp_path: Path
) -> None:
    settings = FsspecBlobsSettings(**s3.settings(driver=driver))
    async with open_fsspec_blobs(settings) as blobs:
        await blobs.put("some/key", file(tmp_path, b"content"))
        archived = {"Key": settings.url.removeprefix("s3://ion-bucket/") + "/blobs/some/key", "StorageClass": "GLACIER"}
        await asyncio.to_thread(client(s3).put_object, Bucket="ion-bucket", Body=bytes(size), **archived)
        for expect in (None, info(bytes(size))):
            with pytest.raises(TransientError, match="some/key: is archived; restore it first"):
                await blobs.get("some/key", tmp_path / "target", expect=expect)
        assert not (tmp_path / "target").exists()
        assert [key async for key in blobs.list("")] == ["some/key"]
        await blobs.delete("some/key")


@pytest.mark.parametrize("driver", ["fsspec", "obstore"])
async def test_an_archived_blob_of_azure_says_so_too(driver: str, azure: ObjectStore, tmp_path: Path) -> None:
    from azure.storage.blob import BlobServiceClient

    settings = FsspecBlobsSettings(**azure.settings(driver=driver))
    container, _, place = settings.url.removeprefix("az://").partition("/")

    def archive() -> None:
        with BlobServiceClient.from_connection_string(azure.options["connection_string"]) as service:
            service.get_blob_client(container, f"{place}/blobs/some/key").set_standard_blob_tier("Archive")

    async with open_fsspec_blobs(settings) as blobs:
        await blobs.put("some/key", file(tmp_path, b"content"))
        await asyncio.to_thread(archive)
        for expect in (None, info(b"content")):
            with pytest.raises(TransientError, match="some/key: is archived; restore it first"):
                await blobs.get("some/key", tmp_path / "target", expect=expect)
