"""What is done beneath a scope, found from the top down, each job once: a commit is never taken back.

One job that is not done is remembered, the witness: as long as it is not, nothing else need be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ion_core.commits import Commit
from ion_core.contracts.storage import Document
from ion_core.errors import DocumentNotFound
from ion_core.events import COMMIT, GATHERED, GIVEN_UP, Pairs
from ion_core.gathered import Missing, Share, gathered_type, gathering_id, runs
from ion_core.gathering.graph import Graph, gather_of
from ion_core.gathering.records import PURGED, Decision, Scope
from ion_core.jobs import job_id
from ion_core.modules import Module
from ion_core.stores import AT_ONCE, for_each


class Documents(Protocol):
    """Of a document store, what is asked here: nothing but what is there by its id."""

    async def get(self, kind: str, id: str) -> Document: ...


@dataclass(slots=True, kw_only=True, eq=False)
class Node:
    """An event of the tree. ``job`` made it; '' for the scope. ``parts`` are what must end beneath it."""

    id: str
    type: str
    job: str = ""
    hops: int = 0
    data: Pairs = ()
    parts: list[Part] = field(default_factory=list)


@dataclass(slots=True, kw_only=True, eq=False)
class Part:
    """A module's job for an event, or, with ``gathers``, what a gatherer has to do for it as its scope.

    ``names`` are the module's, the present one first. Once it has ended ``events`` came of it; or it is ``missing``.
    """

    node: Node
    names: tuple[str, ...]
    gathers: bool
    ended: bool = False
    missing: str | None = None
    events: list[Node] = field(default_factory=list)


End = list[Node] | str
"""The events that came of a part, or why it was given up."""


class Walk:
    """What a gatherer waits for beneath a scope."""

    def __init__(self, graph: Graph, gatherer: Module, scope: Scope, documents: Documents) -> None:
        self.id = gathering_id(scope.id, gatherer.name)
        self.scope = scope
        self.gatherer = gatherer
        self._gather = gather_of(gatherer)
        self._graph = graph
        self._documents = documents
        self._open: list[Part] = []
        self._jobs: dict[str, Part] = {}
        self._root = Node(id=scope.id, type=scope.type)
        self._grow(self._root, first=scope.first)
        self._asked = self._answered = 0
        self.complete = False
        """Whether nothing was left when it was last looked; not while somebody looks."""
        self._looking = asyncio.Lock()
        self.deciding = asyncio.Lock()
        """Held by who makes the decision, and does what follows from it."""

    # What is known

    def awaited(self, event_type: str) -> bool:
        """Whether there are jobs to wait for beneath an event of this type, which is beneath the scope itself."""
        if event_type == self._gather.within:
            return False
        return any(self._graph.awaited(self.gatherer.name, event_type))

    def _grow(self, node: Node, *, first: bool = False) -> None:
        takers, gatherers = self._graph.awaited(self.gatherer.name, node.type, first=first)
        parts = [(it, False) for it in takers] + [(it, True) for it in gatherers]
        for module, gathers in parts:
            part = Part(node=node, names=(module.name, *module.formerly), gathers=gathers)
            node.parts.append(part)
            if not gathers:
                self._jobs[job_id(node.id, module.name)] = part
        self._open += reversed(node.parts)

    def _end(self, part: Part, end: End) -> None:
        if part.ended:
            return
        part.ended = True
        if isinstance(end, str):
            part.missing = end
            return
        part.missing = None
        part.events = end
        for node in end:
            if node.type != self._gather.within:
                self._grow(node)

    def learn(self, commit: Commit) -> None:
        """Take in a commit, if it is one of those that are waited for."""
        part = self._jobs.pop(commit.job_id, None)
        if part is not None:
            self._end(part, _nodes_of(commit))

    # Looking

    async def look(self) -> bool:
        """Whether all is done. Those who ask while one looks share the next look, which begins after they asked."""
        self._asked += 1
        mine = self._asked
        async with self._looking:
            if self._answered < mine:
                upto = self._asked
                await self._look()
                self._answered = upto
            return self.complete

    async def _look(self) -> None:
        self.complete = False
        batch = 1
        while True:
            while self._open and self._open[-1].ended:
                self._open.pop()
            if not self._open:
                if not await self._reopened():
                    self.complete = True
                    return
                continue
            some = [part for part in self._open[-batch:] if not part.ended]
            del self._open[-batch:]
            try:
                ends = await for_each(self._end_of, some)
            except BaseException:
                self._open += some
                raise
            left = [part for part, end in zip(some, ends, strict=True) if end is None and not part.ended]
            for part, end in zip(some, ends, strict=True):
                if end is not None:
                    self._end(part, end)
            self._open += left
            if left:
                return
            batch = min(2 * batch, AT_ONCE)

    async def everything(self) -> list[Part]:
        """All that has not ended, in the order of the tree: looked at anew, to the end."""
        left: list[Part] = []
        while some := [part for part in self._open if not part.ended]:
            self._open = []
            for part, end in zip(some, await for_each(self._end_of, some), strict=True):
                if end is None:
                    left.append(part)
                else:
                    self._end(part, end)
        self._open = left
        return [part for part in self._parts() if not part.ended]

    async def _reopened(self) -> bool:
        """Whether something is waited for again that had been given up: redriven meanwhile, or committed."""
        given_up = [part for part in self._parts() if part.missing is not None]
        ends = await for_each(self._end_of, given_up)
        again = False
        for part, end in zip(given_up, ends, strict=True):
            if isinstance(end, str):
                continue
            again = True
            part.ended, part.missing = False, None
            if end is None:
                self._open.append(part)
            else:
                self._end(part, end)
        return again

    async def _end_of(self, part: Part) -> End | None:
        """How a part has ended; None if it has not, as far as is seen."""
        if part.gathers:
            for name in part.names:
                if (decided := await self._get(GATHERED, gathering_id(part.node.id, name))) is not None:
                    return _started(Decision.from_document(decided))
            return None
        for name in part.names:
            if (found := await self._get(COMMIT, job_id(part.node.id, name))) is not None:
                return _nodes_of(Commit.from_document(found))
        for name in part.names:
            given_up = await self._get(GIVEN_UP, job_id(part.node.id, name))
            if given_up is None or given_up.pending:
                continue
            if self._gather.missing == "go" or given_up.body["state"] == PURGED:
                return str(given_up.body["reason"])
        return None

    async def _get(self, kind: str, id: str) -> Document | None:
        try:
            return await self._documents.get(kind, id)
        except DocumentNotFound:
            return None

    # What came of it

    def _nodes(self) -> Iterator[Node]:
        """In the order of the tree, the scope first."""
        waiting = [self._root]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += [it for part in reversed(node.parts) for it in reversed(part.events)]

    def _parts(self) -> Iterator[Part]:
        for node in self._nodes():
            yield from node.parts

    def decision(self, data: Pairs, traceparent: str) -> Decision:
        """What the gatherer is given, of a walk that is complete. ``data`` and ``traceparent`` are the scope's."""
        gather = self._gather
        found: dict[str | None, list[tuple[str, str]]] = {}
        hops = 0
        for node in self._nodes():
            hops = max(hops, node.hops)
            if node is not self._root and node.type in gather.events:
                key = dict(node.data).get(gather.by) if gather.by is not None else None
                found.setdefault(key, []).append((node.job, node.id))
        if not found and gather.if_none == "run":
            found[None] = []
        missing = [
            Missing(event_id=part.node.id, type=part.node.type, module=part.names[0], reason=part.missing)
            for part in self._parts()
            if part.missing is not None
        ]
        return Decision(
            module=self.gatherer.name,
            scope=self.scope,
            by=gather.by,
            shares=tuple(Share(key=key, made=runs(events)) for key, events in found.items()),
            missing=tuple(missing),
            hops=hops + 1,
            data=data,
            traceparent=traceparent,
        )


def _nodes_of(commit: Commit) -> list[Node]:
    return [
        Node(id=it.context.event_id, type=it.type, job=commit.job_id, hops=it.hops, data=it.data)
        for it in commit.events
    ]


def _started(decision: Decision) -> list[Node]:
    event_type = gathered_type(decision.module)
    return [Node(id=id, type=event_type, hops=decision.hops) for id in decision.event_ids()]
