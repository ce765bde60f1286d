"""What is wrong with gatherers that one module alone does not show: their place in the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ion_core.config.load import Config
from ion_core.config.messages import nearest
from ion_core.contracts.provider import Finding
from ion_core.events import GATHERED_TYPE, type_problem
from ion_core.gathered import gathered_type
from ion_core.gathering.graph import Graph, gather_of
from ion_core.modules import Module


def check_gathering(config: Config) -> list[Finding]:
    """Errors: circles through a gatherer, scopes that no event can be, and types that cannot arise beneath one."""
    graph = Graph(config.modules.values())
    found = [*_reserved_types(config)]
    for module in graph.gatherers.values():
        problem = _no_type_of_its_own(config, module) or _circle(config, graph, module)
        found += [problem] if problem is not None else _out_of_reach(config, graph, module)
    return found


def _error(config: Config, *keys: str | int, text: str) -> Finding:
    return Finding(severity="error", where=config.where("modules", *keys), text=text)


def _reserved_types(config: Config) -> Iterator[Finding]:
    for name, module in config.modules.items():
        for key, types in (("subscribes", () if module.gather else module.subscribes), ("publishes", module.publishes)):
            for n, event_type in enumerate(types):
                if event_type.startswith(GATHERED_TYPE):
                    yield _error(config, name, key, n, text=_is_reserved(event_type))


def _is_reserved(event_type: str) -> str:
    return f'"{event_type}": types that begin with {GATHERED_TYPE} are Ion\'s own. Choose another.'


def _no_type_of_its_own(config: Config, module: Module) -> Finding | None:
    if type_problem(gathered_type(module.name)) is None:
        return None
    text = "a gatherer cannot have a name with two hyphens side by side. Choose another."
    return _error(config, module.name, text=text)


def _circle(config: Config, graph: Graph, module: Module) -> Finding | None:
    way = _way_round(module.name, graph.following())
    if way is None:
        return None
    text = f"waits for itself, in a circle: {' → '.join(way)}. Take a type out of publishes, or gather others."
    return _error(config, module.name, "gather", text=text)


def _way_round(name: str, following: Mapping[str, Sequence[str]]) -> list[str] | None:
    """A shortest way from ``name`` back to it."""
    ways, seen = [[name]], {name}
    while ways:
        way = ways.pop(0)
        for other in following[way[-1]]:
            if other == name:
                return [*way, name]
            if other not in seen:
                seen.add(other)
                ways.append([*way, other])
    return None


def _out_of_reach(config: Config, graph: Graph, module: Module) -> list[Finding]:
    gather = gather_of(module)
    if gather.within is not None and gather.within.startswith(GATHERED_TYPE):
        return [_error(config, module.name, "gather", "within", text=_is_reserved(gather.within))]
    published = {it for other in graph.modules.values() for it in other.publishes}
    published |= {it for service in config.services.values() for it in service.publishes.values()}
    if gather.within is not None and not graph.takers(gather.within) and gather.within not in published:
        known = published | {it for other in graph.modules.values() if not other.gather for it in other.subscribes}
        hint = nearest(gather.within, known)
        text = f'no event can be of type "{gather.within}": no module takes or publishes it.{hint}'
        return [_error(config, module.name, "gather", "within", text=text)]
    beneath = _beneath(graph, module)
    arising = {it for name in beneath for it in graph.modules[name].publishes}
    found: list[Finding] = []
    for n, event_type in enumerate(gather.events):
        if event_type not in arising:
            scope = "in any flow" if gather.within is None else f'beneath "{gather.within}"'
            why = "no module publishes it"
            if event_type in published:
                why = "no module that such an event leads to publishes it"
            text = f'"{event_type}" cannot arise {scope}: {why}.{nearest(event_type, arising - {event_type})}'
            found.append(_error(config, module.name, "gather", "events", n, text=text))
    if found:
        found += _undeclared(config, graph, beneath, module)
    return found


def _beneath(graph: Graph, module: Module) -> list[str]:
    """The modules that have jobs beneath a scope of this gatherer, in the order of the configuration."""
    within = gather_of(module).within
    if within is None:
        return [name for name in graph.modules if name != module.name]
    found: set[str] = set()
    types, seen = [within], {within}
    while types:
        event_type = types.pop()
        for other in (*graph.takers(event_type), *graph.scoped(event_type, first=False)):
            if other.name not in found and other.name != module.name:
                found.add(other.name)
                types += [it for it in other.publishes if it not in seen]
                seen.update(other.publishes)
    return [name for name in graph.modules if name in found]


def _undeclared(config: Config, graph: Graph, beneath: Sequence[str], module: Module) -> Iterator[Finding]:
    """Modules beneath the scope that say nothing of what they publish: what they emit is refused."""
    for name in beneath:
        if config.tree.at(("modules", name, "publishes")) is None:
            text = (
                f"publishes is not declared, and {module.name} waits for what this module may lead to. Say what it is."
            )
            yield _error(config, name, text=text)
