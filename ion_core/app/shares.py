"""How the jobs of modules are shared out among workers: their concurrency, and the slots that are kept warm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ion_core.modules import Module


def of_use(modules: Iterable[Module], asked: int) -> int:
    """How many of ``asked`` workers would have anything to do at all; 1 at least."""
    return max(1, min(asked, sum(module.concurrency for module in modules)))


def shares(modules: Iterable[Module], workers: int) -> Sequence[Sequence[Module]]:
    """What each of them serves: every module whole, over all of them, and none that a worker has no part of.

    What does not divide evenly goes round: the next module's begins where that of the one before ended.
    """
    shared: list[list[Module]] = [[] for _ in range(workers)]
    begin = 0
    for module in modules:
        order = [(begin + n) % workers for n in range(workers)]
        for place, worker in enumerate(order):
            if concurrency := _part(module.concurrency, workers, place):
                warm = _part(module.warm, workers, place)
                shared[worker].append(replace(module, concurrency=concurrency, warm=warm))
        begin = (begin + module.concurrency) % workers
    return shared


def _part(whole: int, workers: int, place: int) -> int:
    return whole // workers + (place < whole % workers)
