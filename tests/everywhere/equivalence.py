"""Combinations run beside each other, each compared to the first, and told as a table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.everywhere.backends import Combination
from tests.everywhere.comparing import comparable, differences, in_short
from tests.everywhere.running import Run
from tests.everywhere.site import Site

HEAD = ("messages", "modules", "files", "documents", "seconds", "")


@dataclass(frozen=True)
class Result:
    """``problem`` is '' where it left the same as the first one."""

    combination: Combination
    seconds: float
    problem: str = ""

    @property
    def row(self) -> tuple[str, ...]:
        verdict = self.problem.partition("\n")[0] if self.problem else "the same"
        return (*(it.name for it in self.combination.all), f"{self.seconds:.1f}", verdict)


def compare(
    combinations: Sequence[Combination],
    site: Site,
    directory: Path,
    *,
    at_once: int = 2,
    told: Callable[[str], None] = print,
) -> list[Result]:
    """Each combination in a new directory below ``directory``; ``told`` is given the table, line by line.

    What the first one leaves is the measure. Servers are started before the first one runs that needs them.
    """
    widths = [
        max(len(head), *(len(str(it)) for it in column))
        for head, column in zip(HEAD, zip(*(it.all for it in combinations), strict=True), strict=False)
    ]
    widths += [len(HEAD[4]), 0]

    def tell(row: Sequence[str]) -> None:
        told("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    runs = [Run(it, site, directory / it.name) for it in combinations]
    tell(HEAD)
    first, measure = _ran(runs[0])
    tell(first.row)
    if measure is None:
        return [first]
    results = [first]
    with ThreadPoolExecutor(at_once) as pool:
        for result in pool.map(lambda run: _compared(run, measure), runs[1:]):
            tell(result.row)
            results.append(result)
    return results


def _compared(run: Run, measure: dict[str, Any]) -> Result:
    result, left = _ran(run)
    if left is None:
        return result
    return Result(run.combination, result.seconds, in_short(list(differences(measure, left))))


def _ran(run: Run) -> tuple[Result, dict[str, Any] | None]:
    """With what it left, None where something of it failed."""
    began = time.monotonic()
    try:
        run.make()
        began = time.monotonic()
        left = dict(comparable(run.run()))
    except AssertionError as error:
        return Result(run.combination, time.monotonic() - began, f"failed: {error}"), None
    return Result(run.combination, time.monotonic() - began), left


def problems(results: Sequence[Result]) -> Iterator[str]:
    """Of each combination that did not do the same: its name, and what was otherwise."""
    yield from (f"{it.combination.name}:\n{it.problem}" for it in results if it.problem)
