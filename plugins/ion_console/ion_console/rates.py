"""How often modules commit and fail here, lately: what people want to see, who have no Prometheus beside them."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import NamedTuple

from ion_core.contracts.looking import Change
from ion_core.jobs import Verdict

SPAN = 300.0
"""Seconds that are looked back at."""
BUCKET = 10.0
FAILURES = (Verdict.RETRIED.value, Verdict.DEAD_LETTERED.value)


class Rate(NamedTuple):
    """Attempts of a module that ended in the last ``SPAN`` seconds: all, and those that failed."""

    ended: int
    failed: int


class Rates:
    """Counts by buckets of ten seconds, so that what is kept does not grow with what happens."""

    def __init__(self) -> None:
        self.seen = 0
        """How often anything happened."""
        self._buckets: deque[tuple[float, Counter[str], Counter[str]]] = deque()

    def add(self, change: Change) -> None:
        """Of one that has finished."""
        now = time.monotonic()
        if not self._buckets or now - self._buckets[-1][0] > BUCKET:
            self._drop(now)
            self._buckets.append((now, Counter(), Counter()))
        _, ended, failed = self._buckets[-1]
        ended[change.module] += 1
        failed[change.module] += change.outcome in FAILURES

    def of(self, module: str) -> Rate:
        self._drop(time.monotonic())
        return Rate(sum(it[module] for _, it, _ in self._buckets), sum(it[module] for _, _, it in self._buckets))

    def _drop(self, now: float) -> None:
        while self._buckets and now - self._buckets[0][0] > SPAN:
            self._buckets.popleft()
