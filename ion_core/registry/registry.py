"""What plugins registered, and how one provider is chosen from it."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pluggy

from ion_core.contracts.provider import Kind as Kind
from ion_core.contracts.provider import Offer, Provider
from ion_core.errors import ConfigError
from ion_core.registry.observing import GIVEN_SETTINGS, OBSERVING, Observing, has

if TYPE_CHECKING:
    import click

logger = logging.getLogger(__name__)


HOOKS: Mapping[str, Kind] = {
    "ion_message_brokers": Kind.MESSAGE_BROKER,
    "ion_container_runtimes": Kind.CONTAINER_RUNTIME,
    "ion_executors": Kind.EXECUTOR,
    "ion_blob_stores": Kind.BLOB_STORE,
    "ion_document_stores": Kind.DOCUMENT_STORE,
    "ion_services": Kind.SERVICE,
    "ion_observer_settings": Kind.OBSERVER,
}
"""The registering hooks for what a configuration chooses by name."""

BESIDE: Mapping[Kind, Sequence[Kind]] = {Kind.CONTAINER_RUNTIME: (Kind.EXECUTOR,)}
"""Other kinds that are chosen in the same place: their names are one namespace with those of the first."""

_CHOOSES = {"provider": "chooses the provider"}
OWN_KEYS: Mapping[Kind, Mapping[str, str]] = dict.fromkeys(Kind, _CHOOSES) | {
    Kind.SERVICE: _CHOOSES | {"on_failure": "says what becomes of one that fails"}
}
"""Keys of a provider's section that are Ion's, not the provider's, and what each does."""


@dataclass(frozen=True, kw_only=True)
class BrokenPlugin:
    """A plugin that cannot be used: all of it, whatever it would have registered."""

    distribution: str
    entry_point: str
    cause: str
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class PluginInfo:
    """A line of ``ion-core plugins list``. ``problem`` says why the plugin, or one of its names, cannot be used.

    ``observes`` are the hooks by which it is told what happens, without their prefix.
    """

    distribution: str
    version: str
    entry_point: str
    providers: Mapping[Kind, Sequence[str]] = field(default_factory=dict)
    commands: Sequence[str] = ()
    observes: Sequence[str] = ()
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class LoadedPlugin:
    """A plugin that registered what it should. ``hooks`` calls its functions and nobody else's."""

    distribution: str
    version: str
    entry_point: str
    hooks: pluggy.PluginManager
    providers: Mapping[Kind, Sequence[Offer]]
    commands: Sequence[click.Command]

    @property
    def observes(self) -> Sequence[str]:
        """What it is told: the hooks of observers that it has, without their prefix."""
        found = (name for name in OBSERVING if has(self.hooks, name))
        return tuple(sorted(name.removeprefix("ion_") for name in found))

    @property
    def called(self) -> str:
        """What people are told whose fault something is: distribution and version."""
        return f"{self.distribution} {self.version}".rstrip()


class Registry:
    """What the plugins registered. ``broken`` are those that could not be used.

    ``skipped`` are those not allowed, ``skipped_by`` says by what.
    """

    def __init__(
        self,
        loaded: Sequence[LoadedPlugin],
        broken: Sequence[BrokenPlugin] = (),
        skipped: Sequence[str] = (),
        skipped_by: str = "",
    ) -> None:
        def by_name(plugin: LoadedPlugin | BrokenPlugin) -> tuple[bool, str, str]:
            return (plugin.entry_point != "embedded", plugin.distribution, plugin.entry_point)

        self.loaded = tuple(sorted(loaded, key=by_name))
        self.broken = tuple(sorted(broken, key=by_name))
        self.skipped = tuple(sorted(skipped))
        self.skipped_by = skipped_by
        self._offers: dict[Kind, dict[str, list[tuple[LoadedPlugin, Offer]]]] = {kind: {} for kind in Kind}
        for plugin in self.loaded:
            for kind, providers in plugin.providers.items():
                for provider in sorted(providers, key=lambda provider: provider.name):
                    self._offers[kind].setdefault(provider.name, []).append((plugin, provider))

    def names(self, kind: Kind) -> Sequence[str]:
        """Names that may stand where that kind is chosen, embedded ones first, also those that two plugins claim."""
        return tuple(dict.fromkeys(name for it in (kind, *BESIDE.get(kind, ())) for name in self._offers[it]))

    def providers(self, kind: Kind) -> Sequence[Offer]:
        """Those that can be chosen where that kind is."""
        found = [self._found(kind, name) for name in self.names(kind)]
        return tuple(offers[0][1] for offers in found if len(offers) == 1)

    def kind_of(self, kind: Kind, name: str) -> Kind:
        """Of which kind the one of that name is, where ``kind`` is chosen: that, or another that may stand there."""
        return next((it for it in (kind, *BESIDE.get(kind, ())) if name in self._offers[it]), kind)

    def _found(self, kind: Kind, name: str) -> list[tuple[LoadedPlugin, Offer]]:
        return [offer for it in (kind, *BESIDE.get(kind, ())) for offer in self._offers[it].get(name, [])]

    def choose(self, kind: Kind, name: str, *, where: str) -> Provider[Any]:
        """The provider of that kind and name. ConfigError, starting with ``where``, says why there is none.

        Of an observer, which nothing opens, it is an Offer and no more.
        """
        if problem := self.why_not(kind, name):
            raise ConfigError(f"{where}: {problem}")
        return cast(Provider[Any], self._found(kind, name)[0][1])

    def hooks_of(self, observer: str) -> pluggy.PluginManager:
        """Those of the plugin whose settings are called so: for one that can be chosen."""
        return self._found(Kind.OBSERVER, observer)[0][0].hooks

    def plugin_of(self, kind: Kind, name: str) -> str:
        """The distribution that brings it, with its version: for a provider that can be chosen."""
        return self._found(kind, name)[0][0].called

    def why_not(self, kind: Kind, name: str) -> str | None:
        """Why ``name`` cannot be chosen and what can, or None if it can."""
        offers = self._found(kind, name)
        if len(offers) == 1:
            return None
        what = f'{kind.value} "{name}"'
        if offers:
            owners = " and ".join(plugin.distribution for plugin, _ in offers)
            return (
                f"the {what} is registered by more than one plugin: {owners}. "
                'Uninstall all but one, or list the ones to use under "plugins".'
            )
        for broken in self.broken:
            if _named_after(name, broken.distribution) or _named_after(name, broken.entry_point):
                others = ", ".join(self.names(kind)) or "none is installed"
                return (
                    f"no {what}: the plugin {broken.distribution} cannot be used: {broken.cause}. "
                    f"Repair it or choose another: {others}."
                )
        for plugin in self.loaded if kind is Kind.OBSERVER else ():
            if plugin.observes and not plugin.providers[kind] and _named_after(name, plugin.distribution):
                return f"no {what}: {plugin.distribution} observes without settings. Remove this section."
        for distribution in self.skipped:
            if _named_after(name, distribution):
                return f"no {what}: {distribution} is installed, but {self.skipped_by}."
        return f'no {kind.value} called "{name}".{self._instead(kind, name)}'

    def _instead(self, kind: Kind, name: str) -> str:
        names = self.names(kind)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        broken = "".join(f" The plugin {it.distribution} cannot be used: {it.cause}." for it in self.broken)
        return f"{hint} Installed: {', '.join(names) or 'none'}.{broken}"

    @property
    def plugins(self) -> Sequence[PluginInfo]:
        """Every plugin that was looked at, the embedded one first, then by name."""
        infos = [
            PluginInfo(
                distribution=plugin.distribution,
                version=plugin.version,
                entry_point=plugin.entry_point,
                providers={
                    kind: tuple(sorted(it.name for it in found)) for kind, found in plugin.providers.items() if found
                },
                commands=tuple(sorted(str(command.name) for command in plugin.commands)),
                observes=plugin.observes,
                problem="; ".join(self._conflicts(plugin)) or None,
            )
            for plugin in self.loaded
        ]
        infos += [
            PluginInfo(distribution=it.distribution, version=it.version, entry_point=it.entry_point, problem=it.cause)
            for it in self.broken
        ]
        return sorted(infos, key=lambda it: (it.entry_point != "embedded", it.distribution, it.entry_point))

    def _conflicts(self, plugin: LoadedPlugin) -> Iterator[str]:
        for kind, offers_by_name in self._offers.items():
            for name in offers_by_name:
                owners = [owner for owner, _ in self._found(kind, name)]
                if len(owners) > 1 and plugin in owners:
                    others = ", ".join(owner.distribution for owner in owners if owner is not plugin)
                    yield f'the {kind.value} "{name}" is registered by {others} too'

    @property
    def observing(self) -> Mapping[str, Observing]:
        """Plugins that observe, or trace, and take no settings, under their names."""
        return {
            f"{it.distribution} ({it.entry_point})" if it.entry_point else it.distribution: Observing(hooks=it.hooks)
            for it in self.loaded
            if not it.providers[Kind.OBSERVER] and any(has(it.hooks, hook) for hook in GIVEN_SETTINGS)
        }

    def commands(self, taken: Collection[str] = ()) -> Mapping[str, click.Command]:
        """Extra commands by name. One that is ``taken``, or that two plugins bring, is refused with a warning."""
        found: dict[str, list[tuple[LoadedPlugin, click.Command]]] = {}
        for plugin in self.loaded:
            for command in plugin.commands:
                found.setdefault(str(command.name), []).append((plugin, command))
        good: dict[str, click.Command] = {}
        for name, offers in sorted(found.items()):
            if name not in taken and len(offers) == 1:
                good[name] = offers[0][1]
                continue
            owners = [plugin.distribution for plugin, _ in offers] + (["ion-core"] if name in taken else [])
            logger.warning("command refused: more than one has that name", extra={"command": name, "plugins": owners})
        return good


def normalised(distribution: str) -> str:
    """The one form of a distribution's name, however it is spelt."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _named_after(name: str, owner: str) -> bool:
    return bool(owner) and f"-{normalised(name)}-" in f"-{normalised(owner)}-"
