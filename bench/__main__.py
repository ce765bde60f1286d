"""``python -m bench [NAME …] [--pairs N] [--directory DIR]``: one JSON object per line on stdout."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.measure import Unavailable, measure
from bench.rows import BENCHMARKS

DEFAULT_DIRECTORY = Path("build/bench")
NOT_ON_A_DISK = {"tmpfs", "ramfs"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks named, or all; returns the exit code. A goal that is missed is a result, not a failure."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Figures as ratios; see bench/README.md.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--pairs", type=int, metavar="N", help="how many pairs of runs (default: each one's own)")
    parser.add_argument(
        "--directory",
        type=Path,
        default=DEFAULT_DIRECTORY,
        metavar="DIR",
        help=f"where state and files are put, on a real disk (default: {DEFAULT_DIRECTORY})",
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark called {', '.join(unknown)}. There are: {', '.join(BENCHMARKS)}.")
    if options.pairs is not None and options.pairs < 1:
        parser.error("--pairs must be at least 1")
    directory: Path = options.directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    if (kind := _file_system_of(directory)) in NOT_ON_A_DISK:
        _say(f"{directory} is on a {kind}: flushing costs nothing there, so the figures mean little")
    for name in options.names or BENCHMARKS:
        _say(f"{name} …")
        try:
            row = asyncio.run(measure(BENCHMARKS[name], directory, pairs=options.pairs))
        except Unavailable as reason:
            _say(f"{name} left out: {reason}")
            continue
        print(row.to_json(), flush=True)
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _file_system_of(directory: Path) -> str:
    """The type of the file system it lies on; '' where the system does not say."""
    best, kind = "", ""
    mounts = Path("/proc/self/mounts")
    for line in mounts.read_text(encoding="utf-8").splitlines() if mounts.exists() else ():
        _, point, found, *_ = line.split(" ")
        if len(point) >= len(best) and directory.is_relative_to(point):
            best, kind = point, found
    return kind


if __name__ == "__main__":
    sys.exit(main())
