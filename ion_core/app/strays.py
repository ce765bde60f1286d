"""Stray queues: those of the broker that no module of this configuration takes, and what lies in them."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from ion_core.contracts.messaging import MessageBroker, QueueStats
from ion_core.errors import QueueNotDeclared


@dataclass(frozen=True, kw_only=True)
class StrayQueue:
    """One that no module of this configuration takes. That of another configuration on this broker may."""

    name: str
    topics: frozenset[str]
    stats: QueueStats

    @property
    def matters(self) -> bool:
        """Whether something lies in it, or will."""
        return bool(self.topics) or self.stats.pending + self.stats.dead > 0

    @property
    def holds(self) -> str:
        """What lies in it, in words."""
        stats = self.stats
        found = [
            (stats.ready, "waiting"),
            (stats.delayed, "to be retried"),
            (stats.unsettled, "held by a dispatcher"),
            (stats.dead, "dead"),
        ]
        known = ", ".join(f"{count:,} {what}" for count, what in found if count)
        if stats.unsettled is None:
            return f"{known or 'none that can be seen'}, and what dispatchers hold, which the broker does not tell"
        return known or "nothing"

    def __str__(self) -> str:
        collects = f" It goes on collecting {', '.join(sorted(self.topics))}." if self.topics else ""
        return (
            f"queue {self.name}: no module of this configuration takes it. Events in it: {self.holds}.{collects} "
            f"If no other configuration takes it either: ion-core module move, drain or drop {self.name}"
        )


async def stray_queues(broker: MessageBroker, modules: Container[str]) -> list[StrayQueue]:
    """Those that none of ``modules`` takes, by name. Raises what the broker raises."""
    found = []
    for queue in await broker.queues():
        if queue.name not in modules:
            try:
                stats = await broker.stats(queue.name)
            except QueueNotDeclared:  # dropped meanwhile
                continue
            found.append(StrayQueue(name=queue.name, topics=queue.topics, stats=stats))
    return found
