"""Finds the configuration file and turns it into frozen settings, or says everything that is wrong with it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from ion_core.config.interpolation import interpolate
from ion_core.config.messages import not_shown
from ion_core.config.model import FileSettings
from ion_core.config.overrides import override
from ion_core.config.reading import read_regular, reason
from ion_core.config.replace import Replacements, replace_sections
from ion_core.config.sections import (
    check_modules,
    choose,
    fill_empty_sections,
    provider_sections,
    unasked_observers,
    validated,
)
from ion_core.config.tree import AFTER_THE_FILE, MAX_BYTES, Node, Problems, dotted, parse
from ion_core.config.tree import Path as Keys
from ion_core.errors import ConfigError
from ion_core.gathering.graph import joined
from ion_core.hidden import Hidden, is_looked_for
from ion_core.modules import Module
from ion_core.opening import Chosen
from ion_core.registry import Registry, load_plugins, not_installed, unknown_distributions

logger = logging.getLogger(__name__)

DEFAULT_FILE = "ion.yaml"
DEFAULT_STATE = ".ion"


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole configuration. ``path`` and ``state`` are absolute; ``plugins`` is None when all may be loaded.

    ``registry`` is what the providers were chosen from. ``tree`` knows where everything was written; it has secrets.
    ``observers`` are those that take settings: with a section, or since they can do without one.
    ``hidden`` knows what came from outside of the file: what is printed or stored goes through it.
    """

    path: Path
    state: Path
    messaging: Chosen
    runtimes: Mapping[str, Chosen]
    blobs: Chosen
    documents: Chosen
    services: Mapping[str, Chosen]
    observers: Mapping[str, Chosen]
    modules: Mapping[str, Module] = field(repr=False)
    drain_timeout: timedelta
    plugins: tuple[str, ...] | None
    registry: Registry = field(repr=False, compare=False)
    tree: Node = field(repr=False, compare=False)
    hidden: Hidden = field(repr=False, compare=False)

    def only(self, module: Module) -> Config:
        """The same with this module and no other."""
        return replace(self, modules={module.name: module})

    def with_state(self, state: Path) -> Config:
        """The same with another state directory, and with it the places of the providers that keep something there."""

        def again(chosen: Chosen, *keys: str) -> Chosen:
            context = {"base": self.path.parent, "state": state}
            return choose(self.tree, keys, self.registry, context, Problems()) or chosen

        return replace(
            self,
            state=state,
            messaging=again(self.messaging, "messaging"),
            runtimes={name: again(it, "runtimes", name) for name, it in self.runtimes.items()},
            blobs=again(self.blobs, "storage", "blobs"),
            documents=again(self.documents, "storage", "documents"),
            services={name: again(it, "services", name) for name, it in self.services.items()},
            observers={name: again(it, "observers", name) for name, it in self.observers.items()},
        )

    def where(self, *keys: str | int) -> str:
        """``ion.yaml:14:7: modules.detect.timeout`` for a value that is set, or the nearest around it that is."""
        path = keys
        while (node := self.tree.at(path)) is None:
            path = path[:-1]
        place = node.key_place if path != keys or isinstance(node.value, dict) else node.place
        return f"{place}: {dotted(keys)}"


def find_config(flag: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The file to read: ``flag``, else ``$ION_CONFIG``, else ``ion.yaml`` in the working directory, if it exists."""
    if flag:
        return Path(flag)
    if named := environ.get("ION_CONFIG"):
        if not Path(named).exists():
            raise ConfigError(
                f"$ION_CONFIG: {named}: no such file. Unset it (unset ION_CONFIG), or name one that is there."
            )
        return Path(named)
    if not Path(DEFAULT_FILE).exists():
        raise ConfigError(
            f"{DEFAULT_FILE}: no such file in {Path.cwd()}. Name a configuration with --config or in $ION_CONFIG, "
            f"or write ./{DEFAULT_FILE}: `ion-core init DIRECTORY` starts a project with one."
        )
    return Path(DEFAULT_FILE)


def passed_over(flag: str | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """What is not read because of ``$ION_CONFIG``: another file, of the working directory, where people look first."""
    named, here = environ.get("ION_CONFIG"), Path(DEFAULT_FILE)
    if flag or not named or not here.is_file():
        return None
    try:
        return None if here.samefile(named) else here
    except OSError:
        return None


def load_config(
    path: Path | str,
    *,
    registry: Registry | None = None,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, str] | None = None,
    replacements: Replacements | None = None,
) -> Config:
    """Read, complete and check the file at ``path``.

    ``registry``      where providers are chosen from; by default the installed plugins that the file allows.
    ``environ``       for ``${env:NAME}`` and for ``ION_<SECTION>__<KEY>`` variables, which win over the file.
    ``overrides``     what flags say, by dotted key such as ``messaging.url``; these win over everything.
    ``replacements``  providers that stand in for those named: what the sections said before does not matter then, nor
                      whether what ``plugins`` lists is installed.

    Raises ConfigError with everything that is wrong, a line each, sorted by position. Opens no provider.
    """
    problems = Problems()
    root = parse(_read(path), str(path), problems)
    absolute = Path(path).absolute()
    override(root, environ=environ, flags=overrides or {}, problems=problems)
    replace_sections(root, replacements or {})
    interpolate(root, base=absolute.parent, environ=environ, problems=problems)
    _hide_listed(root)
    fill_empty_sections(root)
    if registry is None:
        registry = _registry(root, environ, problems, may_miss=bool(replacements))
    context = {"base": absolute.parent, "state": _state(root, absolute.parent)}
    settings = validated(FileSettings, root, (), context, problems)
    chosen = {keys: choose(root, keys, registry, context, problems) for keys in provider_sections(root)}
    if ("observers",) not in (replacements or {}):
        chosen |= {keys: _unasked(root, keys, registry, context) for keys in unasked_observers(root, registry)}
    check_modules(root, problems)
    problems.raise_any()
    if settings is None:  # cannot be: whatever pydantic refused is a problem
        raise ConfigError(f"{path}: is not valid")
    good = {keys: it for keys, it in chosen.items() if it is not None}
    return Config(
        path=absolute,
        state=context["state"],
        messaging=good["messaging",],
        runtimes={str(keys[1]): it for keys, it in good.items() if keys[0] == "runtimes"},
        blobs=good["storage", "blobs"],
        documents=good["storage", "documents"],
        services={str(keys[1]): it for keys, it in good.items() if keys[0] == "services"},
        observers={str(keys[1]): it for keys, it in good.items() if keys[0] == "observers"},
        modules={it.name: it for it in joined(it.to_module(name) for name, it in settings.modules.items())},
        drain_timeout=settings.drain_timeout,
        plugins=settings.plugins,
        registry=registry,
        tree=root,
        hidden=Hidden(value for _, node in root.walk() for value in node.hidden),
    )


def registry_of(path: Path | str, *, environ: Mapping[str, str] = os.environ) -> Registry:
    """The plugins that the file at ``path`` allows and that are installed, whatever else is wrong with it.

    Raises ConfigError where it cannot be read as YAML.
    """
    problems = Problems()
    root = parse(_read(path), str(path), problems)
    override(root, environ=environ, flags={}, problems=problems)
    interpolate(root, base=Path(path).absolute().parent, environ=environ, problems=problems)
    return _registry(root, environ, problems, may_miss=True)


def _unasked(root: Node, keys: Keys, registry: Registry, context: Mapping[str, Any]) -> Chosen | None:
    """One that nobody chose: where its defaults cannot be, that is a warning."""
    problems = Problems()
    found = choose(root, keys, registry, context, problems)
    if found is None:
        logger.warning("an observer is told nothing without a section of its own: %s", "; ".join(problems.lines()))
    return found


def _hide_listed(root: Node) -> None:
    """What ``hidden`` lists, and every value with one of these in it, is as secret as if a variable had brought it."""
    listed = root.at(("hidden",))
    if listed is None or not isinstance(listed.value, list):
        return
    values = [item.value for item in listed.value if isinstance(item.value, str) and is_looked_for(item.value)]
    for _, node in root.walk():
        if isinstance(node.value, str) and (found := [it for it in values if it in node.value]):
            node.secret = node.secret or "what hidden lists"
            node.hidden = (*node.hidden, *found)


def _read(path: Path | str) -> bytes:
    try:
        return read_regular(path, MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. Name one with --config or in $ION_CONFIG.") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory. Name the file in it, such as {path}/ion.yaml.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {reason(error)}. Name a YAML file such as ion.yaml.") from None


def _registry(root: Node, environ: Mapping[str, str], problems: Problems, *, may_miss: bool) -> Registry:
    node = root.at(("plugins",))
    if node is None or not isinstance(node.value, list):
        return load_plugins(environ=environ)
    names = {str(item.value): item for item in node.value if isinstance(item.value, str)}
    missing = unknown_distributions(list(names)) if environ.get("ION_PLUGINS") != "off" else ()
    for name in () if may_miss else missing:
        secret = names[name].secret
        text = f"is not an installed plugin{not_shown(names[name])}" if secret else not_installed(name)
        problems.add(names[name].place, ("plugins", node.value.index(names[name])), text)
    return load_plugins(allow=[name for name in names if name not in missing], environ=environ)


def _state(root: Node, base: Path) -> Path:
    """A path in the file starts beside the file; one from a flag or the environment where the user is."""
    node = root.at(("state",))
    if node is None or not isinstance(node.value, str):
        return base / DEFAULT_STATE
    start = base if node.place.line < AFTER_THE_FILE else Path.cwd()
    try:
        return start / Path(node.value).expanduser()
    except (RuntimeError, ValueError):
        return base / DEFAULT_STATE  # reported when the settings are validated
