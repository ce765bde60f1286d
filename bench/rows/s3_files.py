"""``s3_files``: what a module left, committed to S3.

Ours: commit of 200 files of 10 KiB and one event that names them all (S8 to S10), files and documents both in S3: files
hashed, stored and confirmed, record created exclusively, event stored and published.

Theirs: s3fs ``put`` of the same files to as many names, with its own concurrency. It hashes and records nothing.

Both against one nginx on this machine, which keeps objects as files and takes a tenth of either time, with the same
options, by which ours gets obstore. Each side is connected before; making and removing files is outside the timing.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.embedded import embedded
from bench.handing_over import CHILD_TYPE, Workshop, event_file
from bench.measure import Benchmark, Pair, Unavailable, at_most
from bench.object_stores import BUCKET, nginx_server
from ion_core.contracts.messaging import RetryPolicy


def benchmark(count: int = 200, size: int = 10 << 10) -> Benchmark:
    return Benchmark(name="s3_files", unit="ms", goal=at_most(0.35), open=partial(_open, count, size))


@asynccontextmanager
async def _open(count: int, size: int, directory: Path) -> AsyncIterator[Pair]:
    try:
        import s3fs

        from ion_fsspec_storage.blobs import open_fsspec_blobs
        from ion_fsspec_storage.documents import open_fsspec_documents
        from ion_fsspec_storage.settings import FsspecBlobsSettings, FsspecDocumentsSettings
    except ImportError as error:
        raise Unavailable(f"{error.name} is not installed") from error

    names = [f"{number:06}.bin" for number in range(count)]
    with nginx_server(directory) as (options, kept):
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
                remote = [f"{BUCKET}/theirs/{source.name}/{name}" for name in names]
                begun = time.perf_counter()
                await asyncio.to_thread(theirs_fs.put, local, remote)
                seconds = time.perf_counter() - begun
                stored = kept / BUCKET / "theirs" / source.name
                assert len(list(stored.iterdir())) == count
                await asyncio.to_thread(shutil.rmtree, stored)
                return 1000 * seconds

            yield Pair(ours, theirs)


def _make_files(directory: Path, names: list[str], size: int) -> None:
    for name in names:
        (directory / name).write_bytes(os.urandom(size))
