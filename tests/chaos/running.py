"""One run: a plan is carried out while events come in, then all is counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.carrying import Hits, as_text, carry_out
from tests.chaos.counting import Counted
from tests.chaos.plan import plan
from tests.chaos.world import SETTLES_WITHIN, world

EVENTS_A_MINUTE = 12
COMING_IN = 0.8
"""For this part of the time: what is left to do afterwards is done while acts go on, and not once all is well."""
KEPT = Path(__file__).parents[2] / "build" / "chaos"
"""Where the logs of a run go that broke a promise."""


@dataclass(frozen=True)
class Run:
    """What came of one."""

    counted: Counted
    hits: Hits


def run(seed: int, seconds: float, *, told: Callable[[str], None] = print) -> Run:
    """Everything that happens is told, and in the end how to repeat it."""
    ids = [f"event-{n}" for n in range(max(2, round(EVENTS_A_MINUTE * seconds / 60)))]
    acts = plan(seed, seconds)
    told(f"seed {seed}: {len(acts)} acts in {seconds:g} s, {len(ids)} events from outside")
    with world(f"chaos-{seed}") as there:
        for dispatcher in there.dispatchers:
            dispatcher.begin()
        for dispatcher in there.dispatchers:
            dispatcher.serves(SETTLES_WITHIN)
        publishing = there.publishes(ids, seconds * COMING_IN)
        hits = carry_out(acts, seconds, there.suffers, told)
        began = time.monotonic()
        publishing.join(SETTLES_WITHIN)
        ends = [*there.settles()]
        told(f"all work was done {time.monotonic() - began:.0f} s later")
        if publishing.is_alive():
            ends.append("I1: not every event was accepted though all is well again")
        counted = there.counts(ids)
        counted.broken = [*ends, *counted.broken]
        restarts = sum(it.ends.total() for it in there.dispatchers)
        if counted.broken:
            there.keeps(KEPT / str(seed))
    told(f"hit: {as_text(hits)}")
    told(f"{counted} ({restarts} lives of dispatchers)")
    for line in counted.broken:
        told(line)
    if counted.broken:
        told(f"What was said is in {KEPT / str(seed)}")
        told(f"To repeat the plan: make chaos MINUTES={seconds / 60:g} SEED={seed}")
    return Run(counted, hits)
