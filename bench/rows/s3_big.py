"""``s3_big``: a file of 1 GiB to S3 and back.

Ours: ``put`` and ``get`` of the blob store, as a commit and the next module's preparing do them: hashed on the way in
and out, its size confirmed. With the options it gets obstore.

Theirs: s3fs ``put_file`` and ``get_file`` with parts of the same size and its own concurrency. It hashes nothing but
what signing takes.

Each run is a process of its own, connected before; starting it, making the file and removing what came back are
outside the timing. Both against one small server on this machine (``bench.bare objects``) that takes a fifth of their
processor time and keeps the object in memory.

``s3_big_memory`` has the peak of the resident set of ours in such a run, and what it was right before. There is one
run, and both figures are read from it. The goal is the difference: 120 MiB at most.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench.bare import PART
from bench.measure import Benchmark, Pair, Unavailable, at_most
from bench.object_stores import BUCKET, ROOT, parts_server
from bench.resident import forget_peak, peak
from bench.serving import line, started

MIB = 1024 * 1024


def benchmark(size: int = 1024 * MIB) -> Benchmark:
    return Benchmark(name="s3_big", unit="s", goal=at_most(0.8), open=partial(_open, size))


def memory(size: int = 1024 * MIB) -> Benchmark:
    return Benchmark(name="s3_big_memory", unit="MiB", goal=None, open=partial(_open_memory, size), pairs=1)


@asynccontextmanager
async def _open(size: int, directory: Path) -> AsyncIterator[Pair]:
    async with _ready(size, directory) as run:

        async def seconds(side: str) -> float:
            return (await run(side))["seconds"]

        yield Pair(partial(seconds, "ours"), partial(seconds, "theirs"))


@asynccontextmanager
async def _open_memory(size: int, directory: Path) -> AsyncIterator[Pair]:
    async with _ready(size, directory) as run:
        found = await run("ours")

        async def ours() -> float:
            return found["peak"]

        async def theirs() -> float:
            return found["before"]

        yield Pair(ours, theirs)


@asynccontextmanager
async def _ready(size: int, directory: Path) -> AsyncIterator[Callable[[str], Awaitable[Mapping[str, float]]]]:
    """What runs one side, and has what came of it."""
    try:
        import s3fs  # noqa: F401

        import ion_fsspec_storage.blobs  # noqa: F401
    except ImportError as error:
        raise Unavailable(f"{error.name} is not installed") from error

    with (directory / "source").open("wb") as written:
        for _ in range(0, size, MIB):
            written.write(os.urandom(min(size, MIB)))
    await asyncio.to_thread(os.sync)
    with parts_server(directory) as options:

        async def run(side: str) -> Mapping[str, float]:
            program = (sys.executable, "-m", "bench.rows.s3_big", side, str(directory), json.dumps(options))
            async with started(directory / "side.log", ROOT, *program) as process:
                found: Mapping[str, float] = json.loads(await line(process))
            (directory / "target").unlink()
            await asyncio.to_thread(os.sync)
            return found

        yield run


async def _ours(directory: Path, options: Mapping[str, Any]) -> dict[str, float]:
    from ion_fsspec_storage.blobs import open_fsspec_blobs
    from ion_fsspec_storage.settings import FsspecBlobsSettings

    place = FsspecBlobsSettings.model_validate({"url": f"s3://{BUCKET}/ion", "options": options})
    async with open_fsspec_blobs(place) as blobs:

        async def move() -> None:
            stored = await blobs.put("large", directory / "source")
            await blobs.get("large", directory / "target", expect=stored)

        return await _measured(move)


async def _theirs(directory: Path, options: Mapping[str, Any]) -> dict[str, float]:
    import s3fs

    filesystem = s3fs.S3FileSystem(**options, skip_instance_cache=True, use_listings_cache=False)
    await asyncio.to_thread(filesystem.pipe_file, f"{BUCKET}/connected", b"")

    async def move() -> None:
        place = f"{BUCKET}/theirs/large"
        await asyncio.to_thread(filesystem.put_file, str(directory / "source"), place, chunksize=PART)
        await asyncio.to_thread(filesystem.get_file, place, str(directory / "target"), chunksize=PART)

    return await _measured(move)


async def _measured(move: Callable[[], Awaitable[None]]) -> dict[str, float]:
    pid = os.getpid()
    forget_peak(pid)
    before, begun, worked = peak(pid), time.perf_counter(), time.process_time()
    await move()
    seconds, processor = time.perf_counter() - begun, time.process_time() - worked
    return {"seconds": seconds, "processor": processor, "before": before, "peak": peak(pid)}


if __name__ == "__main__":
    side, directory, options = sys.argv[1:]
    print(json.dumps(asyncio.run({"ours": _ours, "theirs": _theirs}[side](Path(directory), json.loads(options)))))
