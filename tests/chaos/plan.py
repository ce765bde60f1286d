"""What is done to whom and when: made of a seed, and the same whenever it is made of that again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

DISPATCHERS = ("first dispatcher", "second dispatcher")
LASTING = {
    "stop": (0.5, 6.0),
    "delay": (1.0, 5.0),
    "silence": (0.5, 5.0),
}
"""Seconds for which each of these is done."""
ACTS: Sequence[tuple[str, str, float]] = (
    *(("kill", whom, 2.0) for whom in DISPATCHERS),
    *(("stop", whom, 1.5) for whom in DISPATCHERS),
    *(("end", whom, 1.0) for whom in DISPATCHERS),
    ("kill", "a module", 5.0),
    ("stop", "a module", 3.0),
    ("kill", "the service of Podman", 1.5),
    ("stop", "the service of Podman", 1.5),
    ("kill", "the broker", 0.7),
    ("stop", "the broker", 1.0),
    ("kill", "S3", 1.0),
    ("stop", "S3", 1.0),
    *((what, whom, 1.0) for what in ("cut", "delay", "silence") for whom in ("the way to the broker", "the way to S3")),
)
"""With their weights. ``kill`` is kill -9, ``stop`` SIGSTOP, ``end`` SIGTERM, ``cut`` a reset of every connection."""
PAUSE = 3.0
"""Seconds between two acts, on average."""


@dataclass(frozen=True, kw_only=True)
class Act:
    """``at`` seconds after the beginning. ``lasts`` 0 for what is done at once. ``chance`` chooses among several."""

    at: float
    what: str
    whom: str
    lasts: float = 0.0
    chance: float = 0.0

    def __str__(self) -> str:
        return f"{self.at:6.1f} s  {self.what} {self.whom}" + (f" for {self.lasts:.1f} s" if self.lasts else "")


def plan(seed: int, seconds: float) -> list[Act]:
    """Acts of that many seconds, in order. Each one is there at least once where they are long enough for that."""
    chance = random.Random(seed)
    once = chance.sample(ACTS, k=len(ACTS))
    acts: list[Act] = []
    at = chance.expovariate(1 / PAUSE)
    while at < seconds:
        [(what, whom, _)] = [once.pop()] if once else chance.choices(ACTS, weights=[weight for _, _, weight in ACTS])
        lasts = round(chance.uniform(*LASTING[what]), 2) if what in LASTING else 0.0
        acts.append(Act(at=round(at, 2), what=what, whom=whom, lasts=lasts, chance=chance.random()))
        at += chance.expovariate(1 / PAUSE)
    return acts
