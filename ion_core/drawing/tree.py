"""Where everything of a flow is drawn: events and jobs from left to right, each beside the middle of what it led to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ion_core.flows import DEAD_LETTERED, GONE, RETRIED, EventSeen, Flow, JobSeen

WIDE, SHOWN = 12, 8
"""Of more events of one job than ``WIDE`` the first ``SHOWN`` are drawn, and all with trouble below them."""
TROUBLE = (DEAD_LETTERED, RETRIED, GONE)


@dataclass(frozen=True, kw_only=True)
class More:
    """Events that are not drawn one by one: how many there are, of which type."""

    count: int
    type: str


Item = EventSeen | JobSeen | More


@dataclass(kw_only=True, eq=False)
class Node:
    """``column`` counts from the left, ``row`` from the top: a leaf has a whole one."""

    item: Item
    column: int
    row: float = 0
    below: list[Node] = field(default_factory=list)


def placed(flow: Flow) -> list[Node]:
    """Every node, causes before what they led to, however deep it is."""
    troubled = _troubled(flow)
    roots = [Node(item=it, column=0) for it in _folded(flow.roots, troubled)]
    nodes: list[Node] = []
    waiting = roots[::-1]
    leaves = 0
    while waiting:
        node = waiting.pop()
        nodes.append(node)
        node.below = [Node(item=it, column=node.column + 1) for it in _below(node.item, troubled)]
        if not node.below:
            node.row = leaves
            leaves += 1
        waiting += node.below[::-1]
    for node in reversed(nodes):
        if node.below:
            node.row = (node.below[0].row + node.below[-1].row) / 2
    return nodes


def _below(item: Item, troubled: set[EventSeen]) -> Iterator[Item]:
    if isinstance(item, EventSeen):
        yield from item.jobs.values()
        yield from _folded(item.others, troubled)
    elif isinstance(item, JobSeen):
        yield from _folded(item.events, troubled)


def _folded(events: Sequence[EventSeen], troubled: set[EventSeen]) -> list[Item]:
    if len(events) <= WIDE:
        return list(events)
    drawn = [it for n, it in enumerate(events) if n < SHOWN or it in troubled]
    left = Counter(it.type for n, it in enumerate(events) if n >= SHOWN and it not in troubled)
    return [*drawn, *(More(count=count, type=event_type) for event_type, count in left.items())]


def _troubled(flow: Flow) -> set[EventSeen]:
    """Events of which a job, or one of what followed, was given up, failed, or has nobody to do it."""
    found: set[EventSeen] = set()
    for event in reversed(list(flow.events())):
        jobs = event.jobs.values()
        if (
            any(it.state in TROUBLE for it in jobs)
            or any(child in found for job in jobs for child in job.events)
            or any(child in found for child in event.others)
        ):
            found.add(event)
    return found
