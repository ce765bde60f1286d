"""Few combinations that have each pair of values of different kinds at least once."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import combinations
from typing import TypeVar

Row = TypeVar("Row", bound=tuple[Hashable, ...])


def covering(rows: Sequence[Row]) -> list[Row]:
    """Some of ``rows``: whatever two values stand together in one of those, they do in one of these. The first is in.

    Always the same for the same ``rows``: each time the one with most pairs that are not there yet, of several the
    first.
    """
    chosen = list(rows[:1])
    left = {pair for row in rows for pair in pairs(row)}.difference(*(pairs(row) for row in chosen))
    while left:
        best = max(rows, key=lambda row: len(left.intersection(pairs(row))))
        chosen.append(best)
        left.difference_update(pairs(best))
    return chosen


def pairs(row: tuple[Hashable, ...]) -> Iterator[tuple[tuple[int, Hashable], ...]]:
    """Two values of it, with their places."""
    return combinations(enumerate(row), 2)
