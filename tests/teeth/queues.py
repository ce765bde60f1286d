"""Broken message brokers: what they do with queues that nobody serves any more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ion_core.contracts.messaging import DeclaredQueue
from ion_core.embedded.memory.broker import MemoryBroker, MemoryDelivery, MemoryQueue
from ion_core.errors import QueueNotDeclared
from tests.teeth.harness import hop
from tests.teeth.messaging import MESSAGING, Brokers, Method, opening

LONG_ENOUGH = 2.0
"""Seconds of patience: longer than the delay that these rules wait for."""


def broker(rule: str, method: str) -> Callable[[Method], Method]:
    """The function replaces that method of the broker."""

    def add(function: Method) -> Method:
        mutant = type("Mutant", (MemoryBroker,), {method: function})
        MESSAGING.add(rule, function.__name__, opening(mutant), patience=LONG_ENOUGH)
        return function

    return add


# Listing


@broker("queues_are_listed_with_their_topics", "queues")
async def lists_them_backwards(self: Any) -> Sequence[DeclaredQueue]:
    return sorted(await MemoryBroker.queues(self), key=lambda it: it.name, reverse=True)


@broker("queues_are_listed_with_their_topics", "queues")
async def lists_names_only(self: Any) -> Sequence[DeclaredQueue]:
    return [DeclaredQueue(name=it.name, topics=frozenset()) for it in await MemoryBroker.queues(self)]


@broker("queues_are_listed_with_their_topics", "queues")
async def leaves_out_queues_without_topics(self: Any) -> Sequence[DeclaredQueue]:
    return [it for it in await MemoryBroker.queues(self) if it.topics]


@asynccontextmanager
async def elsewhere(self: Brokers) -> AsyncIterator[MemoryBroker]:
    yield MemoryBroker()


MESSAGING.add("queues_of_other_processes_are_listed", "knows_its_own_only", reopen=elsewhere)


class Forgetful(MemoryBroker):
    """Lets go of nothing that another process has bound."""

    async def declare(self, queue: str, *, topics: Sequence[str], retry: Any) -> None:
        before = self._queues[queue].topics if queue in self._queues else frozenset()
        await MemoryBroker.declare(self, queue, topics=[*topics, *before], retry=retry)


@asynccontextmanager
async def forgetful(self: Brokers) -> AsyncIterator[MemoryBroker]:
    second = Forgetful()
    second._queues = self.opened._queues
    yield second


MESSAGING.add("declaring_again_lets_go_of_what_another_process_bound", "forgetful", reopen=forgetful)

# Moving

MOVED = "what_waits_can_be_moved_to_another_queue"


@broker(MOVED, "move")
async def moves_only_what_is_ready(self: Any, queue: str, to: str) -> int:
    source = self.queue(queue)
    kept = source.delayed, source.dead
    source.delayed, source.dead = {}, {}
    moved = await MemoryBroker.move(self, queue, to)
    source.delayed, source.dead = kept
    return moved


@broker(MOVED, "move")
async def leaves_dead_letters_of_the_old_name(self: Any, queue: str, to: str) -> int:
    dead = dict(self.queue(queue).dead)
    moved = await MemoryBroker.move(self, queue, to)
    self.queue(to).dead |= dead
    return moved


@broker(MOVED, "move")
async def dates_dead_letters_anew(self: Any, queue: str, to: str) -> int:
    moved = await MemoryBroker.move(self, queue, to)
    dead = self.queue(to).dead
    for id, letter in dead.items():
        dead[id] = replace(letter, died_at=datetime.now(UTC) + timedelta(seconds=1))
    return moved


@broker(MOVED, "move")
async def cuts_delays_short(self: Any, queue: str, to: str) -> int:
    for delayed in list(self.queue(queue).delayed.values()):
        delayed.timer.cancel()
        self._put_back(to, delayed.stored, timedelta(0))
    return await MemoryBroker.move(self, queue, to)


@broker(MOVED, "move")
async def copies(self: Any, queue: str, to: str) -> int:
    ready = list(self.queue(queue).ready)
    moved = await MemoryBroker.move(self, queue, to)
    self.queue(queue).ready = ready
    return moved


@broker(MOVED, "move")
async def moves_topics_too(self: Any, queue: str, to: str) -> int:
    moved = await MemoryBroker.move(self, queue, to)
    self.queue(to).topics |= self.queue(queue).topics
    self.queue(queue).topics = frozenset()
    return moved


@broker("a_move_cut_short_loses_nothing", "move")
async def move_removes_then_stores(self: Any, queue: str, to: str) -> int:
    source = self.queue(queue)
    kept = source.ready, source.delayed, source.dead
    source.ready, source.delayed, source.dead = [], {}, {}
    await hop()
    source.ready, source.delayed, source.dead = kept
    return await MemoryBroker.move(self, queue, to)


@broker("moving_leaves_what_is_held", "move")
async def takes_it_from_who_holds_it(self: Any, queue: str, to: str) -> int:
    for held in list(self.queue(queue).held):
        held.take_back()
    return await MemoryBroker.move(self, queue, to)


@broker("moving_from_or_to_an_undeclared_queue_is_refused", "move")
async def makes_the_other_queue(self: Any, queue: str, to: str) -> int:
    self._queues.setdefault(to, MemoryQueue())
    return await MemoryBroker.move(self, queue, to)


@broker("moving_from_or_to_an_undeclared_queue_is_refused", "move")
async def empties_it_first(self: Any, queue: str, to: str) -> int:
    if to not in self._queues:
        self.queue(queue).ready = []
        raise QueueNotDeclared(f"queue {to}: is not declared")
    return await MemoryBroker.move(self, queue, to)


# Dropping


@broker("a_dropped_queue_is_gone", "drop")
async def only_empties_it(self: Any, queue: str) -> None:
    if queue in self._queues:
        found = self._queues[queue]
        found.ready, found.delayed, found.dead = [], {}, {}


@broker("a_dropped_queue_is_gone", "drop")
async def only_unbinds_it(self: Any, queue: str) -> None:
    if queue in self._queues:
        self._queues[queue].topics = frozenset()


KEPT = "drop_takes_all_of_a_queue_and_nothing_else"


@broker(KEPT, "drop")
async def keeps_dead_letters(self: Any, queue: str) -> None:
    found = self._queues.get(queue, MemoryQueue())
    await MemoryBroker.drop(self, queue)
    await MemoryBroker.declare(self, queue, topics=(), retry=None)  # type: ignore[arg-type]
    self._queues[queue].dead = found.dead


@broker(KEPT, "drop")
async def keeps_what_is_delayed(self: Any, queue: str) -> None:
    found = self._queues.pop(queue)
    for delayed in found.delayed.values():
        delayed.queue = self._queues[queue] = MemoryQueue()


@broker(KEPT, "drop")
async def drops_every_queue(self: Any, queue: str) -> None:
    for name in list(self._queues):
        await MemoryBroker.drop(self, name)


@broker("dropping_what_is_not_there_is_done", "drop")
async def drops_once(self: Any, queue: str) -> None:
    self.queue(queue)
    await MemoryBroker.drop(self, queue)


HELD = "what_is_held_of_a_dropped_queue_is_lost"


@broker(HELD, "drop")
async def tells_nobody(self: Any, queue: str) -> None:
    self._queues.pop(queue, None)
    self._changed_now()


@broker(HELD, "drop")
async def lets_it_come_back(self: Any, queue: str) -> None:
    found = self._queues.pop(queue)
    held: list[MemoryDelivery] = list(found.held)
    await MemoryBroker.declare(self, queue, topics=(), retry=None)  # type: ignore[arg-type]
    for delivery in held:
        delivery.take_back()


@broker(HELD, "_take")
def lets_verbs_through(self: Any, queue: str) -> MemoryDelivery:
    class Lenient(MemoryDelivery):
        def _check(self) -> None:
            """Whatever has become of it."""

    taken = MemoryBroker._take(self, queue)
    taken.__class__ = Lenient
    return taken
