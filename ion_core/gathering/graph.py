"""Which modules a gatherer waits for: those from which, beneath its scope, an event that it gathers can be reached."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from ion_core.modules import Gather, Module, present_names


class Graph:
    """The modules of a configuration, as ``publishes``, ``subscribes`` and ``gather`` join them.

    ``order`` is that of the configuration.
    """

    def __init__(self, modules: Iterable[Module]) -> None:
        self.modules = {module.name: module for module in modules}
        self.gatherers = {name: module for name, module in self.modules.items() if module.gather is not None}
        self._reaching: dict[str, frozenset[str]] = {}
        self._now = present_names(self.modules.values())

    @cached_property
    def _takers(self) -> Mapping[str, Sequence[Module]]:
        found: dict[str, list[Module]] = {}
        for module in self.modules.values():
            for event_type in module.subscribes:
                found.setdefault(event_type, []).append(module)
        return found

    def takers(self, event_type: str) -> Sequence[Module]:
        """The modules that are given events of this type, in the order of the configuration."""
        return self._takers.get(event_type, ())

    def scoped(self, event_type: str, *, first: bool) -> Iterator[Module]:
        """The gatherers of which an event of this type is a scope. ``first``: it is the first of its flow."""
        for module in self.gatherers.values():
            within = gather_of(module).within
            if within == event_type or (within is None and first):
                yield module

    def reaching(self, gatherer: str) -> frozenset[str]:
        """Modules from whose events one can be reached that the gatherer takes, without leaving its scope."""
        if gatherer not in self._reaching:
            self._reaching[gatherer] = self._reach(gather_of(self.modules[gatherer]))
        return self._reaching[gatherer]

    def _reach(self, gather: Gather) -> frozenset[str]:
        reaching: set[str] = set()

        def leads(module: Module) -> bool:
            return any(
                it in gather.events
                or (
                    it != gather.within  # a scope of its own: what is beneath is another's
                    and any(other.name in reaching for other in (*self.takers(it), *self.scoped(it, first=False)))
                )
                for it in module.publishes
            )

        while more := [name for name, it in self.modules.items() if name not in reaching and leads(it)]:
            reaching.update(more)
        return frozenset(reaching)

    def awaited(self, gatherer: str, event_type: str, *, first: bool = False) -> tuple[list[Module], list[Module]]:
        """Of an event beneath the gatherer's scope, or the scope itself: the modules that take it and are waited for,
        and the gatherers whose scope it is that are. ``first``: it is the first of its flow.
        """
        reaching = self.reaching(gatherer)
        takers = [it for it in self.takers(event_type) if it.name in reaching]
        return takers, [it for it in self.scoped(event_type, first=first) if it.name in reaching]

    def leads_to(self, module: str) -> tuple[str, ...]:
        """The gatherers that wait for jobs of this module, which may be given by a name that it had."""
        now = self._now.get(module, module)
        return tuple(name for name in self.gatherers if now in self.reaching(name))

    def following(self) -> Mapping[str, Sequence[str]]:
        """The modules that each one starts, or that wait for it."""
        return {
            name: [
                other.name
                for other in self.modules.values()
                if any(it in other.subscribes or _is_awaited(it, other) for it in module.publishes)
            ]
            for name, module in self.modules.items()
        }


def joined(modules: Iterable[Module]) -> list[Module]:
    """Each with the gatherers that wait for it, which takes all of them to see."""
    modules = list(modules)
    graph = Graph(modules)
    return [replace(module, leads_to=graph.leads_to(module.name)) for module in modules]


def gather_of(module: Module) -> Gather:
    """Of a gatherer."""
    if module.gather is None:
        raise ValueError(f"module {module.name} gathers nothing")
    return module.gather


def _is_awaited(event_type: str, module: Module) -> bool:
    return module.gather is not None and event_type in (*module.gather.events, module.gather.within)
