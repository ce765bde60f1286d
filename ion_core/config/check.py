"""What a valid configuration still has to say: the graph of its modules, and what their runtimes do not offer."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ion_core.config.gathering import check_gathering
from ion_core.config.load import Config
from ion_core.config.messages import nearest
from ion_core.config.text import duration_text
from ion_core.contracts.executor import ExecutorCapabilities
from ion_core.contracts.messaging import HoldLimit
from ion_core.contracts.provider import Finding, Kind, Reach
from ion_core.contracts.runtime import RuntimeCapabilities
from ion_core.events import MAX_HOPS
from ion_core.modules import Module, present_names
from ion_core.opening import Chosen

_MODES = ("none", "bridge", "host")
"""What ``network`` of a module may be that is not the name of one."""


def check_graph(config: Config) -> list[Finding]:
    """Types that nobody takes or emits, modules that nothing from outside reaches, and cycles."""
    return [
        *_without_modules(config),
        *_taken_by_nobody(config),
        *_refused_when_published(config),
        *_emitted_by_nobody(config),
        *_cycles(config),
        *check_gathering(config),
    ]


ANOTHER = "Choose another under runtime, or give a command."
"""What would do where a module has an image only and its runtime runs none."""


def check_runtimes(
    config: Config, capabilities: Mapping[str, RuntimeCapabilities], *, instead: str = ANOTHER
) -> list[Finding]:
    """What modules ask for and their runtimes, named as in ``config.runtimes``, do not offer: all errors.

    ``instead`` is what would do for a module without a command where no images run.
    """
    return [
        *_built_under_one_name(config, capabilities),
        *_refused(config, capabilities, instead),
        *_out_of_reach(config, capabilities),
    ]


def check_told(config: Config) -> list[Finding]:
    """All errors of these checks by what settings tell, before any provider is opened."""
    used = sorted({module.runtime for module in config.modules.values()})
    told = {name: config.runtimes[name].capabilities for name in used}
    offered = {name: it for name, it in told.items() if it is not None}
    errors = [it for it in [*check_names(config), *check_gathering(config)] if it.severity == "error"]
    return [*errors, *check_runtimes(config, offered)]


def check_names(config: Config) -> list[Finding]:
    """Modules that the settings of providers name: errors where there is none, warnings where it runs elsewhere."""
    return [*_of_no_module(config), *_of_another_runtime(config)]


def _of_no_module(config: Config) -> Iterator[Finding]:
    present = present_names(config.modules.values())
    for chosen in _sections(config):
        for key, name in chosen.modules.items():
            if name in config.modules:
                continue
            now = present.get(name)
            meant = f' It is called "{now}" now.' if now else nearest(name, config.modules)
            known = "" if meant else f" Modules: {', '.join(config.modules) or 'none'}."
            text = f'there is no module "{name}".{meant}{known}'
            yield Finding(severity="error", where=chosen.section.where(key), text=text)


def _of_another_runtime(config: Config) -> Iterator[Finding]:
    for runtime, chosen in config.runtimes.items():
        for key, name in chosen.modules.items():
            if (module := config.modules.get(name)) is not None and module.runtime != runtime:
                text = f'has no effect on module "{name}", which runs under {_runtime_name(config, module)}'
                yield Finding(severity="warning", where=chosen.section.where(key), text=text)


def _refused(config: Config, capabilities: Mapping[str, RuntimeCapabilities], instead: str) -> list[Finding]:
    return [
        Finding(severity="error", where=config.where("modules", module.name, *keys), text=text)
        for module in config.modules.values()
        if module.runtime in capabilities
        for keys, text in _not_offered(module, capabilities[module.runtime], _runtime_name(config, module), instead)
    ]


def fit_runtimes(config: Config, capabilities: Mapping[str, RuntimeCapabilities]) -> tuple[Config, list[Finding]]:
    """The configuration without the limits and networks that its runtimes do not offer, and what was left out.

    For runtimes that stand in for those the modules were written for. What cannot do without stays an error.
    """
    left_out: list[Finding] = []
    modules = dict(config.modules)
    for name, module in config.modules.items():
        offered = capabilities[module.runtime]
        less: dict[str, Any] = {}
        for keys, _ in _not_offered(module, offered, "", ""):
            if keys[:1] == ("resources",):
                less[keys[1]] = () if keys[1] == "gpus" else None
                left_out.append(_left_out(config, module, *keys))
        fitting = replace(module, resources=replace(module.resources, **less))
        if module.network not in offered.networks and not offered.images:
            fitting = replace(fitting, network="host")
            left_out.append(_left_out(config, module, "network"))
        modules[name] = fitting
    return replace(config, modules=modules), left_out


def _left_out(config: Config, module: Module, *keys: str) -> Finding:
    text = f"is left out: the {_runtime_name(config, module)} does not have it"
    return Finding(severity="info", where=config.where("modules", module.name, *keys), text=text)


def check_holding(config: Config, limit: HoldLimit | None) -> list[Finding]:
    """Modules that may hold an event for longer than the broker allows: warnings, as a job given out again is adopted.

    ``limit`` is what the open broker says, or what its settings tell: ``told_limit``.
    """
    if limit is None:
        return []
    held = {name: module.timeout + config.drain_timeout for name, module in config.modules.items()}
    remedy = limit.remedy(max(held.values(), default=limit.longest))
    return [
        Finding(
            severity="warning",
            where=config.where("modules", name, "timeout"),
            text=f"an event may be held for {duration_text(needed)} (with drain_timeout), but "
            f"{config.messaging.provider.name} takes it back after {duration_text(limit.longest)} and gives it out "
            f"again, perhaps to another dispatcher, which runs it too. {remedy}",
        )
        for name, needed in held.items()
        if needed > limit.longest
    ]


def told_limit(config: Config) -> HoldLimit | None:
    """What the settings of the message broker say about ``max_hold``, without asking the broker."""
    told = getattr(config.messaging.settings, "max_hold", None)
    try:
        limit = told() if callable(told) else None
    except Exception as error:  # code of a plugin
        did = f"raised {type(error).__name__} when its settings were asked for max_hold"
        raise config.messaging.fault(did) from error
    return limit if isinstance(limit, HoldLimit) else None


_SHARED_BY = {Reach.MACHINE: "other processes of this machine", Reach.NETWORK: "other machines"}
_KEPT_FOR = {Reach.PROCESS: "this process", Reach.MACHINE: "this machine"}


def check_reach(config: Config) -> list[Finding]:
    """Stores that not everybody reaches who reaches the message broker: warnings, as all may use one by agreement."""
    broker = config.messaging.location
    if broker is None or broker.reach is None:
        return []
    return [
        Finding(
            severity="warning",
            where=config.where("storage", key),
            text=f"{chosen.provider.name} keeps {what} for {_KEPT_FOR[store.reach]} alone ({store.where}), but "
            f"{config.messaging.provider.name} ({broker.where}) serves {_SHARED_BY[broker.reach]}, too. An event that "
            f"is published there does not find its {what} here, and becomes a dead letter. Use a store that all of "
            "them reach. If all of them use this one, all is well.",
        )
        for key, chosen, what in (("documents", config.documents, "documents"), ("blobs", config.blobs, "files"))
        if (store := chosen.location) is not None and store.reach is not None and store.reach < broker.reach
    ]


def check_workers(config: Config, capabilities: Mapping[str, RuntimeCapabilities]) -> list[Finding]:
    """What several processes cannot share that serve one state directory: errors.

    ``capabilities`` are those of the runtimes that some module uses, by their name.
    """
    alone = [
        (chosen.where, chosen.provider.name)
        for chosen in (config.messaging, config.documents, config.blobs)
        if chosen.location is not None and chosen.location.reach is Reach.PROCESS
    ]
    alone += [
        (config.runtimes[name].where, config.runtimes[name].provider.name)
        for name, offered in capabilities.items()
        if isinstance(offered, ExecutorCapabilities) and offered.reach is Reach.PROCESS
    ]
    return [
        Finding(
            severity="error",
            where=where,
            text=f"{name} keeps what it has for one process alone, and workers are several. Use another provider, or "
            "serve without --workers.",
        )
        for where, name in alone
    ]


_WITHIN_REACH = {
    "documents": "Keep documents where they reach them, such as in a bucket (provider: fsspec).",
    "blobs": "Keep files where they reach them, such as in a bucket, or in a directory that all of them have mounted "
    "(both with provider: fsspec).",
}


def _out_of_reach(config: Config, capabilities: Mapping[str, RuntimeCapabilities]) -> Iterator[Finding]:
    """Stores that jobs of an executor do not reach, where those run: all steps of a job read and write them."""
    elsewhere = {name: offered for name, offered in capabilities.items() if isinstance(offered, ExecutorCapabilities)}
    for key, chosen, what in (("documents", config.documents, "documents"), ("blobs", config.blobs, "files")):
        store = chosen.location
        out_of = [name for name, offered in elsewhere.items() if store and store.reach and store.reach < offered.reach]
        if store is None or store.reach is None or not out_of:
            continue
        name = out_of[0]
        where_jobs_run = {Reach.NETWORK: "on other machines"}.get(elsewhere[name].reach, "in other processes")
        yield Finding(
            severity="error",
            where=config.where("storage", key),
            text=f"{chosen.provider.name} keeps {what} for {_KEPT_FOR[store.reach]} alone ({store.where}), and jobs of "
            f'runtime "{name}" ({config.runtimes[name].provider.name}) run {where_jobs_run}: they would not find them. '
            + _WITHIN_REACH[key],
        )


def check_settings(config: Config) -> list[Finding]:
    """What the settings of providers find, by themselves, on this machine: files that cannot be used, for example."""
    return [finding for chosen in _sections(config) for finding in chosen.findings()]


def check_observers(config: Config) -> list[Finding]:
    """Installed observers that are told nothing, as a setting is required and no section has it."""
    asked = {it.provider.name for it in config.observers.values()}
    found = []
    for it in config.registry.providers(Kind.OBSERVER):
        required = [field.alias or name for name, field in it.settings.model_fields.items() if field.is_required()]
        if required and it.name not in asked:
            plugin = config.registry.plugin_of(Kind.OBSERVER, it.name)
            text = f'"{it.name}" of {plugin} is told nothing: without a section it has no {", ".join(required)}'
            found.append(Finding(severity="info", where=config.where("observers"), text=text))
    return found


def _sections(config: Config) -> Sequence[Chosen]:
    named = (config.runtimes, config.services, config.observers)
    return [config.messaging, config.blobs, config.documents, *(it for section in named for it in section.values())]


def _runtime_name(config: Config, module: Module) -> str:
    return f'runtime "{module.runtime}" ({config.runtimes[module.runtime].provider.name})'


def _not_offered(
    module: Module, offered: RuntimeCapabilities, runtime: str, instead: str
) -> Iterator[tuple[Sequence[str], str]]:
    if offered.images and module.image is None and module.build is None:
        needed = "image or build" if offered.builds else "image"
        yield (), f"{needed} is required: the {runtime} runs images only"
    if offered.images and module.build is not None and not offered.builds:
        yield ("build",), f"the {runtime} builds no images. Build it yourself and name it under image, without build."
    if not offered.images and not module.command:
        yield (), f"command is required: the {runtime} runs no images. {instead}"
    asked = module.resources
    for key, wanted, given in (
        ("cpus", asked.cpus is not None, offered.cpu_limit),
        ("memory", asked.memory is not None, offered.memory_limit),
        ("pids", asked.pids is not None, offered.pids_limit),
        ("shm", asked.shm is not None, offered.shm_size),
        ("gpus", bool(asked.gpus), offered.gpus),
    ):
        if wanted and not given:
            yield ("resources", key), f"the {runtime} cannot give or limit {key}. Remove it, or choose another runtime."
    networks = offered.networks | offered.networks_for.get(module.name, frozenset())
    if module.network not in networks and not (offered.named_networks and module.network not in _MODES):
        yield ("network",), _no_network(module.network, networks, named=offered.named_networks, runtime=runtime)
    if module.warm and isinstance(offered, ExecutorCapabilities) and not offered.warm:
        yield ("warm",), f"the {runtime} makes no jobs ahead of their events. Remove it, or choose another runtime."
    if module.reuse and not offered.handler_api:
        yield ("reuse",), f"under the {runtime} a module cannot call its handler. Remove it, or choose another runtime."


def _built_under_one_name(config: Config, capabilities: Mapping[str, RuntimeCapabilities]) -> Iterator[Finding]:
    """Which of them a name would stand for would be chance."""
    first: dict[tuple[str, str], Module] = {}
    for module in config.modules.values():
        if module.image is None or module.build is None or module.runtime not in capabilities:
            continue
        other = first.setdefault((module.runtime, module.image), module)
        if other.build != module.build and capabilities[module.runtime].builds:
            yield Finding(
                severity="error",
                where=config.where("modules", module.name, "image"),
                text=f'"{module.image}" is also the image that modules.{other.name} builds from another directory. '
                "Give each a name, or leave it out.",
            )


def _no_network(asked: str, networks: frozenset[str], *, named: bool, runtime: str) -> str:
    known = [*(mode for mode in _MODES if mode in networks), *sorted(networks - {*_MODES})]
    known += ["the name of a network"] if named else []
    would_do = "Choose one of these, or another runtime"
    if asked == "host":
        would_do += "; or allow it to this module by name, if the settings of the runtime can"
    return f'the {runtime} gives this module no network "{asked}", only {", ".join(known) or "none"}. {would_do}.'


def _without_modules(config: Config) -> Iterator[Finding]:
    if not config.modules:
        yield Finding(
            severity="warning", where=config.where("modules"), text="there are none: no event starts anything"
        )


def _taken_by_nobody(config: Config) -> Iterator[Finding]:
    taken = {it for module in config.modules.values() for it in module.subscribes if module.gather is None}
    taken |= {it for module in config.modules.values() if module.gather is not None for it in module.gather.events}
    for module in config.modules.values():
        for n, event_type in enumerate(module.publishes):
            if event_type in taken:
                continue
            where = config.where("modules", module.name, "publishes", n)
            near = difflib.get_close_matches(event_type, taken, n=1, cutoff=0.85)
            if near:
                text = f'nobody takes "{event_type}". Did you mean "{near[0]}"?'
                yield Finding(severity="warning", where=where, text=text)
            else:
                yield Finding(severity="info", where=where, text=f'nobody takes "{event_type}": flows end there')


def _refused_when_published(config: Config) -> Iterator[Finding]:
    taken = {it for module in config.modules.values() for it in module.subscribes if module.gather is None}
    for service in config.services.values():
        for key, event_type in service.publishes.items():
            if event_type not in taken:
                near = difflib.get_close_matches(event_type, taken, n=1)
                hint = f'Did you mean "{near[0]}"?' if near else f"Taken: {', '.join(sorted(taken)) or 'none'}."
                text = f'no module takes "{event_type}", so it would be refused. {hint}'
                yield Finding(severity="error", where=service.section.where(key), text=text)


def _emitted_by_nobody(config: Config) -> Iterator[Finding]:
    emitted = {it for module in config.modules.values() for it in module.publishes}
    emitted |= {it for service in config.services.values() for it in service.publishes.values()}
    seen: set[str] = set()
    for module in config.modules.values():
        for n, event_type in enumerate(module.subscribes if module.gather is None else ()):
            if event_type in emitted or event_type in seen:
                continue
            seen.add(event_type)
            where = config.where("modules", module.name, "subscribes", n)
            text = f'no module emits "{event_type}": it comes from outside'
            yield Finding(severity="info", where=where, text=text)


def _cycles(config: Config) -> Iterator[Finding]:
    """Each knot of modules that start each other, once, with a way around it; and whether anything leads into it."""
    following = {
        name: [it.name for it in config.modules.values() if set(it.subscribes) & set(module.publishes)]
        for name, module in config.modules.items()
    }
    reach = {name: _reached(name, following) for name in following}
    done: set[str] = set()
    for name in following:
        if name in done or name not in reach[name]:
            continue
        knot = {name} | {other for other in reach[name] if name in reach.get(other, ())}
        done |= knot
        way = " → ".join(_way_round(name, following))
        text = (
            f"modules start each other in a circle: {way}. An event {MAX_HOPS} modules from the first starts no more."
        )
        where = config.where("modules", name, "publishes")
        yield Finding(severity="warning", where=where, text=text)
        emitted = {it for module in config.modules.values() for it in module.publishes}
        from_outside = any(set(config.modules[it].subscribes) - emitted for it in knot)
        led_into = any(knot & set(following[it]) for it in following if it not in knot)
        if not from_outside and not led_into:
            where = config.where("modules", name, "subscribes")
            names = ", ".join(sorted(knot))
            yield Finding(severity="warning", where=where, text=f"only itself, or somebody outside, starts it: {names}")


def _reached(name: str, following: Mapping[str, Sequence[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(following[name])
    while waiting:
        if (module := waiting.pop()) not in found:
            found.add(module)
            waiting += following[module]
    return found


def _way_round(name: str, following: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """A shortest way from ``name`` back to it."""
    ways = [[name]]
    seen: set[str] = set()
    while True:
        way = ways.pop(0)
        for module in following[way[-1]]:
            if module == name:
                return [*way, name]
            if module not in seen:
                seen.add(module)
                ways.append([*way, module])
