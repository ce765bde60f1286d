"""Files of every kind, on every backend: names, sizes, numbers, and bytes that changed at rest."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from stored_files import MIB, file, info

from ion_core.contracts.storage import BlobStore, check_key
from ion_core.errors import BlobCorrupt
from ion_fsspec_storage import local
from ion_fsspec_storage.blobs import SMALL, FsspecBlobs, open_fsspec_blobs
from ion_fsspec_storage.local import LocalObjects
from ion_fsspec_storage.settings import FsspecBlobsSettings
from tests.support.object_stores import ObjectStore

pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")  # gcsfs, adlfs do


@pytest.fixture(params=["file", "memory", "s3", "azure", "google"])
async def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    if request.param in ("file", "memory"):
        settings = FsspecBlobsSettings(url=f"{request.param}://{tmp_path}/store")
    else:
        settings = FsspecBlobsSettings(**request.getfixturevalue(request.param).settings())
    async with open_fsspec_blobs(settings) as blobs:
        yield blobs


NAMES = [
    "one/same name.txt",
    "two/same name.txt",
    "deep/" * 15 + "end",
    "ünï/日本語 🙂.bin",
    "e\u0301/é",
    "a?versionId=null",
    "a#b%2Fc",
    "*[a-z]?",
    "{x}",
    "::s3:etc",
    "file:",
    "=41",
    "-r",
    "dot.",
    "~/x",
    "C:",
    "trailing space ",
    "empty",
    "\ufffe\u0085",
]


async def test_names_of_every_kind_are_kept_apart_and_come_back(anywhere: BlobStore, tmp_path: Path) -> None:
    contents = {check_key(f"flow/event/{name}"): b"" if name == "empty" else name.encode() for name in NAMES}
    for key, content in contents.items():
        await anywhere.put(key, file(tmp_path, content), consume=True)
    assert [key async for key in anywhere.list("flow/event")] == sorted(contents)
    for n, (key, content) in enumerate(contents.items()):
        await anywhere.get(key, tmp_path / f"{n}", expect=info(content))
        assert (tmp_path / f"{n}").read_bytes() == content
    for key in contents:
        await anywhere.delete(key)
    assert [key async for key in anywhere.list("")] == []


async def test_what_was_damaged_at_rest_is_found_and_named(anywhere: FsspecBlobs, tmp_path: Path) -> None:
    for size in (10_000, SMALL + 10):
        content = os.urandom(size)
        stored = await anywhere.put("some/key", file(tmp_path, content))
        rotten = bytes([content[0] ^ 1]) + content[1:]
        await asyncio.to_thread(anywhere._objects.write, "blobs/some/key", rotten)
        with pytest.raises(BlobCorrupt, match=rf"blob some/key: .*{stored.sha256}.*{info(rotten).sha256}"):
            await anywhere.get("some/key", tmp_path / "target", expect=stored)
        await asyncio.to_thread(anywhere._objects.write, "blobs/some/key", content[:-1])
        with pytest.raises(BlobCorrupt, match="some/key"):
            await anywhere.get("some/key", tmp_path / "target", expect=stored)
    assert not (tmp_path / "target").exists()


def test_a_directory_that_somebody_else_emptied_at_the_same_time_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, flushed, flush = LocalObjects(tmp_path, "here"), [], local._flush
    objects.write("one/two/file", b"")

    def flush_too_late(directory: Path) -> None:
        if directory.name == "two":
            directory.rmdir()  # by another process, right after our file was gone
        flush(directory)
        flushed.append(directory)

    monkeypatch.setattr(local, "_flush", flush_too_late)
    objects.delete("one/two/file")
    assert flushed == [tmp_path / "one"]
    assert objects.names("one") == []


@pytest.mark.parametrize("protocol", ["memory", "file"])
async def test_ten_thousand_files_are_listed_and_fetched(protocol: str, tmp_path: Path) -> None:
    async with open_fsspec_blobs(FsspecBlobsSettings(url=f"{protocol}://{tmp_path}/store")) as blobs:
        await many(blobs, 10_000, tmp_path)


async def test_more_files_than_one_page_of_a_listing(s3: ObjectStore, tmp_path: Path) -> None:
    async with open_fsspec_blobs(FsspecBlobsSettings(**s3.settings())) as blobs:
        await many(blobs, 1_010, tmp_path)


async def many(blobs: BlobStore, count: int, tmp_path: Path) -> None:
    source = file(tmp_path, b"one of many")
    keys = [f"flow/{n % 10:02}/{n:05}" for n in range(count)]
    await asyncio.gather(*(blobs.put(key, source) for key in keys))
    assert [key async for key in blobs.list("flow")] == sorted(keys)
    assert len([key async for key in blobs.list("flow/07")]) == len(keys) // 10
    await blobs.get(keys[-1], tmp_path / "last", expect=info(b"one of many"))


async def test_a_signed_url_is_as_good_as_its_word(s3: ObjectStore, tmp_path: Path) -> None:
    import urllib.request

    async with open_fsspec_blobs(FsspecBlobsSettings(**s3.settings(), sign_for="5m")) as blobs:
        await blobs.put("ü/100%", file(tmp_path, b"content"))
        url = await blobs.url("ü/100%")
        assert "X-Amz-Expires=300" in url or "Expires=" in url
        with await asyncio.to_thread(urllib.request.urlopen, url, timeout=10) as answer:
            assert answer.read() == b"content"


def test_a_large_file_is_never_whole_in_memory(s3: ObjectStore, tmp_path: Path) -> None:
    """Of 256 MiB, the process holds less than 200 MiB at its peak, its code and libraries included."""
    with (tmp_path / "large").open("wb") as large:
        for n in range(256):
            large.write(bytes([n % 256]) * MIB)
    code = r"""
        import asyncio, json, re, sys
        from pathlib import Path
        from ion_fsspec_storage.blobs import open_fsspec_blobs
        from ion_fsspec_storage.settings import FsspecBlobsSettings

        async def main():
            async with open_fsspec_blobs(FsspecBlobsSettings(**json.loads(sys.argv[1]))) as blobs:
                stored = await blobs.put("large", Path("large"))
                await blobs.get("large", Path("target"), expect=stored)
                await blobs.delete("large")

        asyncio.run(main())
        print(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), json.dumps(s3.settings())]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200
    assert (tmp_path / "target").stat().st_size == 256 * MIB
