"""Loads plugins one at a time; what is wrong with one of them stops no other."""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Mapping, Sequence

import ion_core
from ion_core.errors import ConfigError
from ion_core.registry.installed import EMBEDDED, Source, installed, not_installed
from ion_core.registry.registry import BrokenPlugin, LoadedPlugin, Registry, normalised
from ion_core.registry.verify import Unusable, in_one_line, load

logger = logging.getLogger(__name__)


def load_plugins(
    *,
    allow: Sequence[str] | None = None,
    extra: Sequence[object] = (),
    entry_points: bool = True,
    environ: Mapping[str, str] | None = None,
    timeout: float = 10.0,
) -> Registry:
    """Load the embedded plugin, the installed ones (those named in ``allow``, if given) and the objects in ``extra``.

    ``allow`` has distribution names; ConfigError for one that is not installed. ``ION_PLUGINS=off`` in ``environ``
    leaves out every installed one. A plugin that is broken, or takes longer than ``timeout`` seconds, is left out
    with a warning; it is in the registry's ``broken``.
    """
    switch = (os.environ if environ is None else environ).get("ION_PLUGINS", "on") or "on"
    if switch not in ("on", "off"):
        raise ConfigError(f'ION_PLUGINS: must be off or on (got "{switch}")')
    skipped_by = "ION_PLUGINS=off leaves plugins out" if switch == "off" else 'it is not listed under "plugins"'
    sources = [Source(distribution="ion-core", version=ion_core.__version__, entry_point="embedded", load=_embedded)]
    sources += [_given(plugin) for plugin in extra]
    broken: list[BrokenPlugin] = []
    skipped: set[str] = set()
    if entry_points:
        found = list(installed(broken))  # once: it reads what each distribution says of itself
        allowed = None if allow is None else {normalised(name) for name in allow}
        known = {normalised(it.distribution) for it in found} | {"ion-core"}
        if switch == "on" and (missing := [name for name in allow or () if normalised(name) not in known]):
            raise ConfigError([f"plugins: {not_installed(name)}" for name in missing])
        for source in found:
            if switch == "off" or (allowed is not None and normalised(source.distribution) not in allowed):
                skipped.add(source.distribution)
            else:
                sources.append(source)
    loaded: list[LoadedPlugin] = []
    for source in sources:
        try:
            loaded.append(_bounded(source, timeout))
        except Unusable as error:
            broken.append(source.broken(str(error)))
    for it in broken:
        logger.warning(
            "plugin cannot be used",
            extra={"distribution": it.distribution, "entry_point": it.entry_point, "cause": it.cause},
        )
    return Registry(loaded, broken, tuple(skipped), skipped_by)


def _embedded() -> object:
    return importlib.import_module(EMBEDDED)


def _given(plugin: object) -> Source:
    name = getattr(plugin, "__name__", None) or type(plugin).__name__
    return Source(distribution=str(name), version="", entry_point="", load=lambda: plugin)


def _bounded(source: Source, seconds: float) -> LoadedPlugin:
    """Load on a daemon thread: a plugin that hangs is left behind there and holds up nobody."""
    results: list[LoadedPlugin] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(load(source))
        except BaseException as error:  # also SystemExit: a plugin that exits on import is broken, no more
            errors.append(error)

    thread = threading.Thread(target=run, name=f"load-{source.distribution}", daemon=True)
    thread.start()
    thread.join(seconds)
    if results:
        return results[0]
    if not errors:
        raise Unusable(f"importing it and calling its registering hooks takes longer than {seconds:g} s")
    if isinstance(errors[0], Unusable):
        raise errors[0]
    raise Unusable(in_one_line(errors[0])) from errors[0]
