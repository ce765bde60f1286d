"""``s3_files``: what a module left, committed to S3.

Ours: commit of 200 files of 10 KiB and one event that names them all (S8 to S10), files and documents both in S3: files
hashed, stored and confirmed, record created exclusively, event stored and published.

Theirs: s3fs ``put`` of the same files to as many names, with its own concurrency. It hashes and records nothing.

Both against one moto server on this machine, which takes most of either time, with the same options, by which ours gets
obstore. Each side is connected before; making and removing files is outside the timing.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.embedded import embedded
from bench.handing_over import CHILD_TYPE, Workshop, event_file
from bench.measure import Benchmark, Pair, Unavailable, at_most
from ion_core.contracts.messaging import RetryPolicy

BUCKET = "bench"
_START_WITHIN = 30.0


def benchmark(count: int = 200, size: int = 10 << 10) -> Benchmark:
    return Benchmark(name="s3_files", unit="ms", goal=at_most(1.2), open=partial(_open, count, size))


@asynccontextmanager
async def _open(count: int, size: int, directory: Path) -> AsyncIterator[Pair]:
    try:
        import moto  # type: ignore[import-untyped, unused-ignore]  # noqa: F401
        import s3fs

        from ion_fsspec_storage.blobs import open_fsspec_blobs
        from ion_fsspec_storage.documents import open_fsspec_documents
        from ion_fsspec_storage.settings import FsspecBlobsSettings, FsspecDocumentsSettings
    except ImportError as error:
        raise Unavailable(f"{error.name} is not installed") from error

    names = [f"{number:06}.bin" for number in range(count)]
    with moto_server(directory / "moto.log") as options:
        place = {"url": f"s3://{BUCKET}/ion", "options": options}
        theirs_fs = s3fs.S3FileSystem(**options, skip_instance_cache=True, use_listings_cache=False)
        async with (
            embedded(directory) as ion,
            open_fsspec_blobs(FsspecBlobsSettings.model_validate(place)) as blobs,
            open_fsspec_documents(FsspecDocumentsSettings.model_validate(place)) as documents,
        ):
            ion = replace(ion, dataplane=replace(ion.dataplane, blobs=blobs, documents=documents))
            await ion.broker.declare("next", topics=[CHILD_TYPE], retry=RetryPolicy())
            workshop = Workshop(ion, directory)

            async def ours() -> float:
                made = await workshop.workspace()
                _make_files(made.out / "data", names, size)
                (made.out / "events" / "0.json").write_text(event_file(files=",".join(names)))
                attempt = workshop.attempt()
                begun = time.perf_counter()
                commit = await workshop.commit(attempt, made)
                seconds = time.perf_counter() - begun
                assert len(commit.files) == count
                await workshop.clean(commit, made)
                return 1000 * seconds

            async def theirs() -> float:
                source = directory / f"source-{uuid.uuid4().hex}"
                source.mkdir()
                _make_files(source, names, size)
                local = [str(source / name) for name in names]
                remote = [f"{BUCKET}/theirs/{uuid.uuid4().hex}/{name}" for name in names]
                begun = time.perf_counter()
                await asyncio.to_thread(theirs_fs.put, local, remote)
                seconds = time.perf_counter() - begun
                await asyncio.to_thread(theirs_fs.rm, remote)
                return 1000 * seconds

            yield Pair(ours, theirs)


def _make_files(directory: Path, names: list[str], size: int) -> None:
    for name in names:
        (directory / name).write_bytes(os.urandom(size))


@contextmanager
def moto_server(log: Path) -> Iterator[dict[str, Any]]:
    """A server with one bucket; what the filesystem needs to get there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            deadline = time.monotonic() + _START_WITHIN
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Unavailable(f"moto does not start; see {log}")
                time.sleep(0.05)
            endpoint = f"http://127.0.0.1:{port}"
            request = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
            with urllib.request.urlopen(request, timeout=_START_WITHIN) as answer:
                answer.read()
            region = {"region_name": "us-east-1"}
            yield {"endpoint_url": endpoint, "key": "bench", "secret": "bench-secret", "client_kwargs": region}
        finally:
            process.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
