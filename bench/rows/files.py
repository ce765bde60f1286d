"""``files_big``, ``files_many``: files handed from one module to the next, through the store.

Ours: commit of what a module left, one event naming all files (S8 to S10: files stored, hashed and flushed, record
created, event stored and published), then prepare of that event in another workspace (S4), local blobs and sqlite
documents on the same file system. The files were written just before, as a module does: flushing them is in the time.
Inputs are links, as under a runtime that mounts inputs read-only. The rows ending in ``_copied`` have copies instead,
as the plain process runtime does it (docs/decisions/0006), and no goal.

Theirs, ``files_big``: ``cp`` to one place and from there to another, each copy fsynced.
Theirs, ``files_many``: ``cp -r`` likewise, each followed by ``sync -f``.
They hash nothing and record nothing, and their source was flushed beforehand: only what they write is in their time.

Making the files, and removing everything, is outside the timing; before each side all is synced, so that neither pays
for the other. Both read what is in the page cache.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from bench.embedded import embedded
from bench.handing_over import CHILD_TYPE, Workshop, event_file
from bench.measure import Benchmark, Pair, at_most
from ion_core.contracts.messaging import RetryPolicy

GOAL = at_most(0.50)
_PIECE = 1 << 20

Copy = Callable[[Path, Path], None]


def big(size: int = 256 << 20) -> Benchmark:
    return Benchmark(name="files_big", unit="ms", goal=GOAL, open=partial(_open, 1, size, True, _copy_file))


def big_copied(size: int = 256 << 20) -> Benchmark:
    return Benchmark(name="files_big_copied", unit="ms", goal=None, open=partial(_open, 1, size, False, _copy_file))


def many(count: int = 1000) -> Benchmark:
    return Benchmark(name="files_many", unit="ms", goal=GOAL, open=partial(_open, count, 10 << 10, True, _copy_tree))


def many_copied(count: int = 1000) -> Benchmark:
    opening = partial(_open, count, 10 << 10, False, _copy_tree)
    return Benchmark(name="files_many_copied", unit="ms", goal=None, open=opening)


@asynccontextmanager
async def _open(count: int, size: int, link: bool, copy: Copy, directory: Path) -> AsyncIterator[Pair]:
    names = [f"{number:06}.bin" for number in range(count)]
    copied = directory / "copied"
    async with embedded(directory) as ion:
        await ion.broker.declare("next", topics=[CHILD_TYPE], retry=RetryPolicy())
        workshop = Workshop(ion, directory)

        async def ours() -> float:
            await asyncio.to_thread(os.sync)
            made, taken = await workshop.workspace(), await workshop.workspace()
            await asyncio.to_thread(_make_files, made.out / "data", names, size)
            (made.out / "events" / "0.json").write_text(event_file(files=",".join(names)))
            attempt = workshop.attempt()
            begun = time.perf_counter()
            commit = await workshop.commit(attempt, made)
            await workshop.prepare(commit.events[0], taken, link=link)
            seconds = time.perf_counter() - begun
            assert len(list(taken.in_data.iterdir())) == count
            await workshop.clean(commit, made, taken)
            return 1000 * seconds

        async def theirs() -> float:
            copied.mkdir()
            source = copied / "source"
            source.mkdir()
            await asyncio.to_thread(_make_files, source, names, size)
            await asyncio.to_thread(os.sync)
            begun = time.perf_counter()
            await asyncio.to_thread(_copy_twice, copy, source, copied / "stored", copied / "next")
            seconds = time.perf_counter() - begun
            await asyncio.to_thread(shutil.rmtree, copied)
            return 1000 * seconds

        yield Pair(ours, theirs)


def _make_files(directory: Path, names: Sequence[str], size: int) -> None:
    """Each with content of its own, which no file system can compress or share."""
    for name in names:
        with (directory / name).open("wb") as file:
            for start in range(0, size, _PIECE):
                file.write(os.urandom(min(_PIECE, size - start)))


def _copy_twice(copy: Copy, source: Path, stored: Path, following: Path) -> None:
    copy(source, stored)
    copy(stored, following)


def _copy_file(source: Path, target: Path) -> None:
    """The one file of ``source`` into the new directory ``target``."""
    target.mkdir()
    (file,) = source.iterdir()
    subprocess.run(["cp", file, target / file.name], check=True)
    descriptor = os.open(target / file.name, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy_tree(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", source, target], check=True)
    subprocess.run(["sync", "-f", target], check=True)
