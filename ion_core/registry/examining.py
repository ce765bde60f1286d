"""What is wrong with installed plugins, and what would mend it: for people who look."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from ion_core.contracts import CONTRACT_VERSION
from ion_core.contracts.provider import Kind
from ion_core.registry.registry import BrokenPlugin, LoadedPlugin, Registry

_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class Ailment:
    """What is wrong, and what would mend it, a sentence or more each."""

    problem: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Examined:
    """A plugin. ``providers`` are kind, name and the contract version each was written for.

    ``observes`` are the hooks by which it is told what happens, without their prefix.
    ``skipped`` says why it is installed and was not loaded, '' for one that was looked into.
    """

    distribution: str
    version: str = ""
    entry_point: str = ""
    providers: Sequence[tuple[Kind, str, str]] = ()
    observes: Sequence[str] = ()
    ailments: Sequence[Ailment] = ()
    skipped: str = ""


def examine(registry: Registry, *, taken: Collection[str] = ()) -> Sequence[Examined]:
    """Every plugin, in the order of ``Registry.plugins``. ``taken`` are the names of commands that are ion-core's."""
    by_entry: dict[tuple[str, str], Examined] = {}
    for plugin in registry.loaded:
        by_entry[plugin.distribution, plugin.entry_point] = Examined(
            distribution=plugin.distribution,
            version=plugin.version,
            entry_point=plugin.entry_point,
            providers=[(kind, it.name, it.contract) for kind, found in plugin.providers.items() for it in found],
            observes=plugin.observes,
            ailments=[*_of_names(registry, plugin), *_of_commands(registry, plugin, taken), *_of_requirements(plugin)],
        )
    for broken in registry.broken:
        by_entry[broken.distribution, broken.entry_point] = Examined(
            distribution=broken.distribution,
            version=broken.version,
            entry_point=broken.entry_point,
            ailments=[Ailment(problem=f"{broken.cause.rstrip('.')}.", remedy=_remedy(broken))],
        )
    told = [by_entry[it.distribution, it.entry_point] for it in registry.plugins]
    return [*told, *(Examined(distribution=it, skipped=registry.skipped_by) for it in registry.skipped)]


def _of_names(registry: Registry, plugin: LoadedPlugin) -> Iterator[Ailment]:
    for kind, providers in plugin.providers.items():
        for provider in providers:
            if (why := registry.why_not(kind, provider.name)) is not None:
                problem, _, remedy = why.partition(". ")
                yield Ailment(problem=f"{problem}.", remedy=remedy)


def _of_commands(registry: Registry, plugin: LoadedPlugin, taken: Collection[str]) -> Iterator[Ailment]:
    for command in plugin.commands:
        others = [it.distribution for it in registry.loaded if it is not plugin and _brings(it, str(command.name))]
        others += ["ion-core"] if command.name in taken else []
        if others:
            yield Ailment(
                problem=f'its command "{command.name}" is refused: {" and ".join(others)} has one of that name.',
                remedy="Uninstall one of them, or ask an author for another name.",
            )


def _brings(plugin: LoadedPlugin, command: str) -> bool:
    return any(it.name == command for it in plugin.commands)


def _of_requirements(plugin: LoadedPlugin) -> Iterator[Ailment]:
    """What it needs in any case and is not installed: it will fail when it is opened. Versions are pip's matter."""
    try:
        wanted = importlib.metadata.requires(plugin.distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return  # not installed, but handed in
    for requirement in wanted:
        name = _REQUIREMENT.match(requirement)
        if name is None or ";" in requirement:
            continue
        try:
            importlib.metadata.distribution(name[0])
        except importlib.metadata.PackageNotFoundError:
            yield Ailment(problem=f"requires {requirement}, which is not installed.", remedy=_install(requirement))


def _remedy(broken: BrokenPlugin) -> str:
    missing = re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", broken.cause)
    if missing:
        return f"Install what brings {missing[1].partition('.')[0]}, or the plugin anew, with all that it requires."
    if "contract" in broken.cause and CONTRACT_VERSION in broken.cause:
        return f"Install a version of {broken.distribution} and one of ion-core that belong together."
    if "metadata" in broken.cause.lower() or "entry_points.txt" in broken.cause:
        return "Its installation is damaged: uninstall it, by hand if need be, and install it again."
    return (
        "This is for its author to mend. Until then, or another version, list the other plugins to use under "
        '"plugins", or uninstall it.'
    )


def _install(requirement: str) -> str:
    return f"Install it: pip install '{requirement}'."
