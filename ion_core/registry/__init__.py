"""Plugins: found, verified, chosen by name, and told what happens.

Each plugin has a pluggy manager of its own: nothing one of them does, and no order, changes what another registers.
"""

from ion_core.registry.examining import Ailment, Examined, examine
from ion_core.registry.installed import not_installed, plugin_packages, plugin_readmes, unknown_distributions
from ion_core.registry.load import load_plugins
from ion_core.registry.observers import Observers
from ion_core.registry.observing import Observing
from ion_core.registry.registry import BESIDE, BrokenPlugin, Kind, LoadedPlugin, PluginInfo, Registry
from ion_core.registry.tracing import Tracing

__all__ = [
    "BESIDE",
    "Ailment",
    "BrokenPlugin",
    "Examined",
    "Kind",
    "LoadedPlugin",
    "Observers",
    "Observing",
    "PluginInfo",
    "Registry",
    "Tracing",
    "examine",
    "load_plugins",
    "not_installed",
    "plugin_packages",
    "plugin_readmes",
    "unknown_distributions",
]
