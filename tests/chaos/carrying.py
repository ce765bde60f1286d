"""A plan is carried out: each act at its time, what it began ended in time, and what it hit counted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count

from tests.chaos.plan import ACTS, Act

Hits = Counter[tuple[str, str]]
"""How often what was done to whom."""
Undo = Callable[[], object]
LOOKS_AGAIN = 0.05
"""Seconds until the next look for whom an act is for, where nobody was there."""
DONE = {"kill": "killed", "stop": "stopped", "end": "ended", "cut": "cut", "delay": "delayed", "silence": "silenced"}


def carry_out(
    acts: Sequence[Act],
    seconds: float,
    do: Callable[[Act], Undo | None],
    told: Callable[[str], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Hits:
    """From now on, for that long: then whatever still lasts is ended.

    ``do`` does an act and returns what ends it, or None if nobody was there: then it is tried again, while others go
    on, until it hits or the time is over.
    """
    began, hits, order = clock(), Hits(), count()

    def happens(act: Act) -> None:
        undo, now = do(act), clock() - began
        if undo is not None:
            hits[act.what, act.whom] += 1
            told(f"{act}{f'  ({now - act.at:.1f} s later)' if now - act.at > 1 else ''}")
            if act.lasts:
                heappush(due, (min(now + act.lasts, seconds), next(order), undo))
        elif now < seconds:
            heappush(due, (now + LOOKS_AGAIN, next(order), partial(happens, act)))
        else:
            told(f"{act}  (there was none)")

    due: list[tuple[float, int, Undo]] = [(act.at, next(order), partial(happens, act)) for act in acts]
    while due:
        at, _, happening = heappop(due)
        sleep(max(began + at - clock(), 0))
        happening()
    return hits


def as_text(hits: Hits) -> str:
    """Who was hit how often by what."""
    everyone = dict.fromkeys(whom for _, whom, _ in ACTS)
    return "; ".join(f"{whom} {_of(whom, hits)}" for whom in everyone)


def _of(whom: str, hits: Hits) -> str:
    counted = [f"{n} {DONE[what]}" for (what, hit), n in sorted(hits.items()) if hit == whom]
    return ", ".join(counted) or "never hit"
