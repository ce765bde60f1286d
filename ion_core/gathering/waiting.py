"""What gatherers still wait for, told to people: nothing is decided here, and nothing changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ion_core.contracts.storage import DocumentStore
from ion_core.errors import DocumentNotFound
from ion_core.events import GATHERED, GATHERING, GIVEN_UP, ROUND
from ion_core.gathered import gathering_id
from ion_core.gathering.graph import Graph
from ion_core.gathering.records import waited_for
from ion_core.gathering.walk import Part, Walk
from ion_core.jobs import job_id
from ion_core.modules import Module, present_names
from ion_core.rounds import DEAD


@dataclass(frozen=True, kw_only=True)
class Awaited:
    """A job, or with ``gathers`` another gatherer's, that has not ended. ``dead``: it is a dead letter, or was one."""

    module: str
    event_id: str
    type: str
    gathers: bool
    dead: bool

    def to_json(self) -> dict[str, Any]:
        return {"module": self.module, "eventId": self.event_id, "type": self.type, "deadLetter": self.dead}


@dataclass(frozen=True, kw_only=True)
class Waits:
    """A gatherer that has still to run for a scope. ``known``: the configuration has it; only then ``awaited`` is told.

    ``awaited`` is empty of one that is about to run.
    """

    gatherer: str
    scope: str
    type: str
    known: bool
    awaited: Sequence[Awaited] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "gatherer": self.gatherer,
            "scope": {"eventId": self.scope, "type": self.type},
            "known": self.known,
            "awaited": [it.to_json() for it in self.awaited],
        }


async def waits_in(documents: DocumentStore, correlation_id: str, modules: Iterable[Module]) -> list[Waits]:
    """Those of a flow, in the order in which they began to wait. Raises as the store does."""
    modules = list(modules)
    graph, now = Graph(modules), present_names(modules)
    found = []
    async for document in documents.find(GATHERING, correlation_id=correlation_id, pending=True):
        scope, name = waited_for(document)
        name = now.get(name, name)
        if name not in graph.gatherers:
            found.append(Waits(gatherer=name, scope=scope.id, type=scope.type, known=False))
            continue
        awaited: Sequence[Awaited] = ()
        if not await _is_there(documents, GATHERED, gathering_id(scope.id, name)):
            left = await Walk(graph, graph.modules[name], scope, documents).everything()
            awaited = [await _awaited(documents, it) for it in left]
        found.append(Waits(gatherer=name, scope=scope.id, type=scope.type, known=True, awaited=awaited))
    return found


async def _awaited(documents: DocumentStore, part: Part) -> Awaited:
    dead = False
    for name in part.names if not part.gathers else ():
        for kind in (ROUND, GIVEN_UP):  # the first is gone once the module is renamed
            try:
                dead = dead or (await documents.get(kind, job_id(part.node.id, name))).body["state"] == DEAD
            except DocumentNotFound:
                continue
    return Awaited(module=part.names[0], event_id=part.node.id, type=part.node.type, gathers=part.gathers, dead=dead)


async def _is_there(documents: DocumentStore, kind: str, id: str) -> bool:
    try:
        await documents.get(kind, id)
    except DocumentNotFound:
        return False
    return True
