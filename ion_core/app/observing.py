"""Who is told what happens: plugins that observe, each with the settings of its sections."""

from __future__ import annotations

from collections.abc import Mapping

from ion_core.config import Config
from ion_core.opening import Chosen
from ion_core.registry import Observers, Observing, Registry, Tracing


class Observation:
    """``observers`` are told, and ``tracing`` asks. Threads of observers run from here on."""

    def __init__(self, config: Config) -> None:
        self._chosen = config.observers
        self._registry = config.registry
        plugins = {**config.registry.observing, **_with_settings(config.observers, config.registry)}
        self.observers = Observers(plugins)
        self.tracing = Tracing(plugins)

    def reload(self, chosen: Mapping[str, Chosen]) -> list[str]:
        """Go on with these settings, from the next call on; the keys of observers that take a restart.

        Those are the ones that were not there, are no more, or are of another plugin.
        """
        same = {name: it for name, it in chosen.items() if _is_of(self._chosen.get(name), it)}
        plugins = _with_settings(same, self._registry)
        self.observers.reload(plugins)
        self.tracing.reload(plugins)
        return [f"observers.{name}" for name in sorted({*self._chosen, *chosen} - {*same})]


def _with_settings(chosen: Mapping[str, Chosen], registry: Registry) -> Mapping[str, Observing]:
    return {
        f"{it.plugin} ({it.section.key})": Observing(hooks=registry.hooks_of(it.provider.name), settings=it.settings)
        for it in chosen.values()
    }


def _is_of(before: Chosen | None, now: Chosen) -> bool:
    return before is not None and before.provider == now.provider
