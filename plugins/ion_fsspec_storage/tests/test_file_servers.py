"""Servers of files, sftp:// and webdav://: how one gets in, what one is told, and what becomes of connections."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from stored_files import MIB, file, info

from ion_core.errors import BlobNotFound, ConfigError, TransientError
from ion_fsspec_storage import retries
from ion_fsspec_storage.blobs import SMALL, FsspecBlobs, open_fsspec_blobs
from ion_fsspec_storage.settings import FsspecBlobsSettings
from tests.support.file_servers import FileServer

PATIENCE = 60.0
PARALLEL = 6


@pytest.fixture(params=["sftp", "webdav"])
def server(request: pytest.FixtureRequest) -> FileServer:
    found: FileServer = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def settings(server: FileServer) -> FsspecBlobsSettings:
    options = {**server.options, "timeout": 2}
    return FsspecBlobsSettings(url=server.place(), options=options, parallel=PARALLEL)


@pytest.fixture
async def blobs(settings: FsspecBlobsSettings) -> AsyncIterator[FsspecBlobs]:
    async with open_fsspec_blobs(settings) as blobs:
        assert isinstance(blobs, FsspecBlobs)
        blobs._objects._retries.delay = 0.0  # type: ignore[attr-defined]
        yield blobs


async def refusal(url: str, options: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as refused:
        async with open_fsspec_blobs(FsspecBlobsSettings(url=url, options=options)):
            pass
    return str(refused.value)


async def test_an_option_that_the_driver_does_not_take_is_named(server: FileServer) -> None:
    said = await refusal(server.place(), {**server.options, "client_keys": "canary-secret"})
    assert f"{server.protocol}:// cannot be set up with them (TypeError: client_keys)" in said
    assert "canary" not in said


async def test_whoever_is_not_let_in_is_told_at_the_start(sftp: FileServer, webdav: FileServer, tmp_path: Path) -> None:
    key = tmp_path / "another"
    await asyncio.to_thread(subprocess.run, ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    said = await refusal(sftp.place(), {**sftp.options, "key_filename": str(key), "look_for_keys": False})
    assert "access is denied" in said
    said = await refusal(webdav.place(), {**webdav.options, "auth": ["ion", "canary-secret"]})
    assert "access is denied" in said
    assert "canary" not in said


async def test_a_host_whose_key_is_not_known_is_not_trusted(sftp: FileServer, tmp_path: Path) -> None:
    empty = tmp_path / "known_hosts"
    empty.touch()
    options = {**sftp.options, "known_hosts": str(empty)}
    said = await refusal(sftp.place(), options)
    assert f"ssh-keyscan -p {sftp.port} 127.0.0.1 >> ~/.ssh/known_hosts" in said
    async with open_fsspec_blobs(
        FsspecBlobsSettings(url=sftp.place(), options={**options, "host_key_policy": "auto_add"})
    ) as blobs:
        assert [key async for key in blobs.list("")] == []


async def test_a_host_that_has_another_key_than_before_is_not_trusted(sftp: FileServer, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    host, kind, key = (await asyncio.to_thread(Path(sftp.options["known_hosts"]).read_text)).split()
    known.write_text(f"{host} {kind} {key[:-8]}{key[-8:].swapcase()}\n")
    options = {**sftp.options, "known_hosts": str(known), "host_key_policy": "auto_add"}
    assert "is another one than is known" in await refusal(sftp.place(), options)


@pytest.mark.parametrize("size", [1_000, SMALL + 1])
async def test_connections_that_were_cut_off_are_made_anew(
    size: int, blobs: FsspecBlobs, server: FileServer, tmp_path: Path
) -> None:
    content = os.urandom(size)
    source = file(tmp_path, content)
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(blobs.put(f"key-{n}", source) for n in range(PARALLEL)))  # a connection for each
        for call in (blobs.put("key", source), blobs.get("key", tmp_path / "got", expect=info(content))):
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
            await call
    assert (tmp_path / "got").read_bytes() == content


async def test_a_server_that_says_nothing_is_given_up(
    blobs: FsspecBlobs,
    settings: FsspecBlobsSettings,
    server: FileServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retries, "ATTEMPTS", 1)
    await blobs.put("key", file(tmp_path, b"content"))
    large = file(tmp_path, os.urandom(20 * MIB))
    server.signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(PATIENCE):
            for call in (blobs.get("key", tmp_path / "got"), blobs.put("large", large)):
                with pytest.raises(TransientError, match=r"large|key"):
                    await call
            with pytest.raises(TransientError, match="Is it reachable"):
                async with open_fsspec_blobs(settings):
                    pass
    finally:
        server.signal(signal.SIGCONT)
    async with asyncio.timeout(PATIENCE):
        await blobs.get("key", tmp_path / "got", expect=info(b"content"))
        with pytest.raises(BlobNotFound):
            await blobs.get("large", tmp_path / "none")


async def test_a_directory_that_is_gone_is_no_missing_blob(
    blobs: FsspecBlobs, settings: FsspecBlobsSettings, server: FileServer, tmp_path: Path
) -> None:
    await blobs.put("key", file(tmp_path, b"content"))
    place = server.path_of(settings.url)
    place.rename(place.with_name("away"))
    try:
        for call in (blobs.get("key", tmp_path / "got"), blobs.put("new", file(tmp_path, b"new"))):
            with pytest.raises(TransientError, match="is not there any more"):
                await call
        with pytest.raises(TransientError, match="is not there any more"):
            await anext(blobs.list(""))
        assert not place.exists()
    finally:
        place.with_name("away").rename(place)
    await blobs.get("key", tmp_path / "got", expect=info(b"content"))


async def test_what_is_deleted_leaves_no_directories(sftp: FileServer, tmp_path: Path) -> None:
    settings = FsspecBlobsSettings(**sftp.settings())
    async with open_fsspec_blobs(settings) as blobs:
        for key in ("flow/event/module/1/file", "flow/event/other"):
            await blobs.put(key, file(tmp_path, b"content"))
        await blobs.delete("flow/event/module/1/file")
        place = sftp.path_of(settings.url)
        assert [path.name for path in (place / "blobs" / "flow" / "event").iterdir()] == ["other"]
        await blobs.delete("flow/event/other")
        assert sorted(path.name for path in place.iterdir()) == ["unfinished"]


async def test_writers_beside_whoever_empties_directories_lose_nothing(sftp: FileServer, tmp_path: Path) -> None:
    source = file(tmp_path, b"content")
    async with open_fsspec_blobs(FsspecBlobsSettings(**sftp.settings())) as blobs:

        async def come_and_go(n: int) -> None:
            for _ in range(10):
                await blobs.put(f"flow/event/{n}", source)
                await blobs.delete(f"flow/event/{n}")
            await blobs.put(f"flow/event/{n}", source)

        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(come_and_go(n) for n in range(4)))
        assert [key async for key in blobs.list("flow")] == [f"flow/event/{n}" for n in range(4)]


async def test_a_server_that_replaces_nothing_in_one_step_still_replaces(
    sftp: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one without OpenSSH's extensions answers."""
    import paramiko

    def unsupported(*_: object) -> None:
        raise OSError("Operation unsupported")

    monkeypatch.setattr(paramiko.SFTPClient, "posix_rename", unsupported)
    async with open_fsspec_blobs(FsspecBlobsSettings(**sftp.settings())) as blobs:
        for content in (b"first", b"second"):
            await blobs.put("key", file(tmp_path, content))
            await blobs.get("key", tmp_path / "got", expect=info(content))


async def test_a_listing_that_fails_half_way_is_no_short_listing(
    blobs: FsspecBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("a/1", "b/1"):
        await blobs.put(key, file(tmp_path, b"content"))
    with blobs._objects._filesystems.one() as filesystem:  # type: ignore[attr-defined]
        ls = type(filesystem).ls

    def fails(self: Any, path: str, **known: Any) -> Any:
        if path.endswith("/b"):
            raise OSError("Failure")
        return ls(self, path, **known)

    monkeypatch.setattr(type(filesystem), "ls", fails)
    with pytest.raises(TransientError, match="Failure"):
        await anext(blobs.list(""))


async def test_what_was_left_unfinished_long_ago_is_removed(
    blobs: FsspecBlobs, settings: FsspecBlobsSettings, server: FileServer
) -> None:
    unfinished = server.path_of(settings.url) / "unfinished"
    for name in ("old", "young"):
        (unfinished / name).write_bytes(b"half a file")
    (unfinished / "directory").mkdir()
    for name in ("old", "directory"):
        os.utime(unfinished / name, (0, 0))
    async with open_fsspec_blobs(settings) as another:
        assert [key async for key in another.list("")] == []
    assert sorted(path.name for path in unfinished.iterdir()) == ["directory", "young"]


async def test_files_are_flushed_where_the_server_can(sftp: FileServer, tmp_path: Path) -> None:
    async with open_fsspec_blobs(FsspecBlobsSettings(**sftp.settings())) as blobs:
        await blobs.put("key", file(tmp_path, b"content"))
        with blobs._objects._filesystems.one() as filesystem:  # type: ignore[attr-defined]
            assert filesystem._flushes, "OpenSSH can"


async def test_a_url_costs_no_connection(blobs: FsspecBlobs, settings: FsspecBlobsSettings, server: FileServer) -> None:
    await asyncio.to_thread(server.stop)
    try:
        assert await blobs.url("a b") == f"{settings.url}/blobs/a%3D20b"
    finally:
        await asyncio.to_thread(server.start)
