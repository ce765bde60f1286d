"""Where everything of a flow is drawn: events and jobs from left to right, each beside the middle of what it led to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ion_core.contracts.looking import EventView, FlowView, JobState, JobView

WIDE, SHOWN = 12, 8
"""Of more events of one job than ``WIDE`` the first ``SHOWN`` are drawn, and all with trouble below them."""
TROUBLE: tuple[JobState, ...] = ("dead-lettered", "retried", "gone")


@dataclass(frozen=True, kw_only=True)
class More:
    """Events that are not drawn one by one: how many there are, of which type, and their ids."""

    count: int
    type: str
    ids: frozenset[str] = field(default=frozenset(), compare=False)


Item = EventView | JobView | More


@dataclass(kw_only=True, eq=False)
class Node:
    """``column`` counts from the left, ``row`` from the top: a leaf has a whole one."""

    item: Item
    column: int
    row: float = 0
    below: list[Node] = field(default_factory=list)
    gathered: list[Node] = field(default_factory=list)
    """What stands for the events that a gatherer is given with this one."""


class Tree:
    """What led to what, as a flow says it: each event is in one place."""

    def __init__(self, flow: FlowView) -> None:
        self._events = {it.event_id: it for it in flow.events}
        self._jobs: dict[str, list[JobView]] = {}
        for job in flow.jobs:
            self._jobs.setdefault(job.event_id, []).append(job)
        led = {it for job in flow.jobs for it in job.events}
        self._others: dict[str, list[EventView]] = {}
        self.roots: list[EventView] = []
        seen: set[str] = set()  # an event stands behind its cause: whatever is said of parents, there is no circle
        for event in flow.events:
            if event.event_id not in led:
                cause = event.parent_event_id
                (self._others.setdefault(cause, []) if cause in seen else self.roots).append(event)
            seen.add(event.event_id)

    def jobs(self, event: EventView) -> Sequence[JobView]:
        return self._jobs.get(event.event_id, ())

    def others(self, event: EventView) -> Sequence[EventView]:
        """Events that it led to by no job that is known."""
        return self._others.get(event.event_id, ())

    def led_to(self, job: JobView) -> list[EventView]:
        return [self._events[it] for it in job.events if it in self._events]


def placed(flow: FlowView) -> list[Node]:
    """Every node, causes before what they led to, however deep it is."""
    tree = Tree(flow)
    troubled = _troubled(flow, tree)
    roots = [Node(item=it, column=0) for it in _folded(tree.roots, troubled)]
    nodes: list[Node] = []
    waiting = roots[::-1]
    leaves = 0
    while waiting:
        node = waiting.pop()
        nodes.append(node)
        node.below = [Node(item=it, column=node.column + 1) for it in _below(tree, node.item, troubled)]
        if not node.below:
            node.row = leaves
            leaves += 1
        waiting += node.below[::-1]
    for node in reversed(nodes):
        if node.below:
            node.row = (node.below[0].row + node.below[-1].row) / 2
    _gather(flow, nodes)
    return nodes


def _gather(flow: FlowView, nodes: list[Node]) -> None:
    """Each event that starts a gatherer stands to the right of what is gathered, with all that followed from it."""
    shown: dict[str, Node] = {}
    for node in nodes:
        if isinstance(node.item, EventView):
            shown[node.item.event_id] = node
        elif isinstance(node.item, More):
            shown |= dict.fromkeys(node.item.ids, node)
    parents = {it.event_id: it.parent_event_id for it in flow.events}
    starting = [node for node in nodes if isinstance(node.item, EventView) and node.item.gathered]
    for node in starting:
        node.gathered = _shown(node, shown, parents)
    for _ in starting:  # one may gather what comes of another
        for node in starting:
            by = 1 + max((it.column for it in node.gathered), default=0) - node.column
            if by > 0:
                _shift(node, by)


def _shown(node: Node, shown: Mapping[str, Node], parents: Mapping[str, str]) -> list[Node]:
    """The nodes that stand for what is gathered: of what is not drawn, the nearest above that is."""
    found: dict[int, Node] = {}
    for event_id in node.item.gathered if isinstance(node.item, EventView) else ():
        above, seen = event_id, set[str]()
        while above not in shown and above in parents and above not in seen:
            seen.add(above)
            above = parents[above]
        if above in shown and shown[above] is not node:
            found[id(shown[above])] = shown[above]
    return list(found.values())


def _shift(node: Node, by: int) -> None:
    waiting = [node]
    while waiting:
        it = waiting.pop()
        it.column += by
        waiting += it.below


def _below(tree: Tree, item: Item, troubled: set[str]) -> Iterator[Item]:
    if isinstance(item, EventView):
        yield from tree.jobs(item)
        yield from _folded(tree.others(item), troubled)
    elif isinstance(item, JobView):
        yield from _folded(tree.led_to(item), troubled)


def _folded(events: Sequence[EventView], troubled: set[str]) -> list[Item]:
    if len(events) <= WIDE:
        return list(events)
    drawn = [it for n, it in enumerate(events) if n < SHOWN or it.event_id in troubled]
    left: dict[str, list[str]] = {}
    for it in events[SHOWN:]:
        if it.event_id not in troubled:
            left.setdefault(it.type, []).append(it.event_id)
    return [*drawn, *(More(count=len(ids), type=it, ids=frozenset(ids)) for it, ids in left.items())]


def _troubled(flow: FlowView, tree: Tree) -> set[str]:
    """Events of which a job, or one of what followed, was given up, failed, or has nobody to do it."""
    found: set[str] = set()
    for event in reversed(flow.events):
        below = [*tree.others(event), *(it for job in tree.jobs(event) for it in tree.led_to(job))]
        if any(job.state in TROUBLE for job in tree.jobs(event)) or any(it.event_id in found for it in below):
            found.add(event.event_id)
    return found
