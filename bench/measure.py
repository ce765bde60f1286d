"""How a benchmark is measured: in pairs, ours and theirs in turn, and the ratio of each pair counts."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

DIGITS = 4
"""Significant digits of what is printed."""


@dataclass(frozen=True)
class Goal:
    """What the ratio is to be: ``limit`` at most, or at least."""

    limit: float
    at_most: bool

    def met(self, ratio: float) -> bool:
        return ratio <= self.limit if self.at_most else ratio >= self.limit


def at_most(limit: float) -> Goal:
    return Goal(limit, at_most=True)


def at_least(limit: float) -> Goal:
    return Goal(limit, at_most=False)


class Unavailable(Exception):
    """This machine does not have what the benchmark needs; the message says what."""


Side = Callable[[], Awaitable[float]]
"""One run of one side. It times itself, so that what comes before and after costs nothing, and returns the figure."""


@dataclass(frozen=True)
class Pair:
    """The two sides, ready to be run as often as asked."""

    ours: Side
    theirs: Side


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One row. ``open`` is given an empty directory and makes everything ready that is not to be timed.

    ``unit`` is that of both figures. ``goal`` is None for a row that only informs. ``pairs`` is how many are run
    unless the command line says otherwise: more where a single run is short and so more easily disturbed.
    """

    name: str
    unit: str
    goal: Goal | None
    open: Callable[[Path], AbstractAsyncContextManager[Pair]]
    pairs: int = 7


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came out: medians of the ratios and of both figures, and the smallest and largest ratio."""

    name: str
    ratio: float
    goal: float | None
    met: bool | None
    ours: float
    theirs: float
    unit: str
    runs: int
    min: float
    max: float

    def to_json(self) -> str:
        """One line."""
        values = vars(self)
        return json.dumps(
            {key: float(f"{value:.{DIGITS}g}") if type(value) is float else value for key, value in values.items()}
        )


async def measure(benchmark: Benchmark, directory: Path, *, pairs: int | None = None) -> Row:
    """Run it in a new directory below ``directory``, which is removed afterwards. Raises Unavailable.

    One pair more than asked for is run first and not counted: it fills caches and imports, for both sides alike. The
    side that begins changes from pair to pair.
    """
    count = pairs or benchmark.pairs
    place = Path(tempfile.mkdtemp(prefix=f"{benchmark.name}-", dir=directory))
    figures: list[tuple[float, float]] = []
    try:
        async with benchmark.open(place) as pair:
            for number in range(count + 1):
                if number % 2:
                    theirs = await pair.theirs()
                    ours = await pair.ours()
                else:
                    ours = await pair.ours()
                    theirs = await pair.theirs()
                figures.append((ours, theirs))
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.sync()  # what is left to write must not burden the next benchmark
    return row(benchmark, figures[1:])


def row(benchmark: Benchmark, figures: list[tuple[float, float]]) -> Row:
    """The row for these pairs of figures, ours first."""
    ratios = [ours / theirs for ours, theirs in figures]
    ratio = statistics.median(ratios)
    return Row(
        name=benchmark.name,
        ratio=ratio,
        goal=benchmark.goal.limit if benchmark.goal else None,
        met=benchmark.goal.met(ratio) if benchmark.goal else None,
        ours=statistics.median(ours for ours, _ in figures),
        theirs=statistics.median(theirs for _, theirs in figures),
        unit=benchmark.unit,
        runs=len(figures),
        min=min(ratios),
        max=max(ratios),
    )
