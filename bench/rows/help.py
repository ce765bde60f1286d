"""``help``: how long the command line takes to say what it can do.

Ours: the whole process ``ion-core --help``, the script that was installed beside this Python.
Theirs: the whole process ``python -c "import click"``, the same Python: what any tool built on click pays.

Both print to a pipe that is read to its end. Time is from before the fork until the process has been waited for.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bench.measure import Benchmark, Pair, Unavailable, at_most


def benchmark() -> Benchmark:
    return Benchmark(name="help", unit="ms", goal=at_most(1.6), open=_open, pairs=21)


@asynccontextmanager
async def _open(directory: Path) -> AsyncIterator[Pair]:
    script = Path(sys.executable).with_name("ion-core")
    if not script.exists():
        raise Unavailable(f"{script.name} is not installed beside {Path(sys.executable).name}")

    async def ours() -> float:
        return await milliseconds([str(script), "--help"])

    async def theirs() -> float:
        return await milliseconds([sys.executable, "-c", "import click"])

    yield Pair(ours, theirs)


async def milliseconds(
    command: Sequence[str], environ: Mapping[str, str] | None = None, *, quiet: bool = False
) -> float:
    """Of the whole process. ``quiet``: what it says beside its results is not shown."""

    def run() -> float:
        begun = time.perf_counter()
        said = subprocess.DEVNULL if quiet else None
        subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=said, env=environ)
        return 1000 * (time.perf_counter() - begun)

    return await asyncio.to_thread(run)
