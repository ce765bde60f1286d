"""Few combinations that have each value, or each pair of values of different kinds, at least once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import combinations
from typing import TypeVar

Row = TypeVar("Row", bound=tuple[Hashable, ...])


def covering(rows: Sequence[Row], together: int = 2) -> list[Row]:
    """Some of ``rows``: whatever ``together`` values stand in one of those, they do in one of these. The first is in.

    Always the same for the same ``rows``: each time the one with most that are not there yet, of several the first.
    """
    chosen = list(rows[:1])
    groups = {row: frozenset(combinations(enumerate(row), together)) for row in rows}
    left = frozenset().union(*groups.values()).difference(*(groups[row] for row in chosen))
    while left:
        best = max(rows, key=lambda row: len(left & groups[row]))
        chosen.append(best)
        left -= groups[best]
    return chosen
