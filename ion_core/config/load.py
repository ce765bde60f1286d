"""Finds the configuration file and turns it into frozen settings, or says everything that is wrong with it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ion_core.config.interpolation import interpolate
from ion_core.config.messages import explain, hide, nearest
from ion_core.config.model import FileSettings
from ion_core.config.overrides import override
from ion_core.config.tree import AFTER_THE_FILE, MAX_BYTES, Node, Place, Problems, dotted, parse
from ion_core.config.tree import Path as Keys
from ion_core.contracts.provider import Provider
from ion_core.errors import ConfigError
from ion_core.jobs import Module
from ion_core.plugins import Kind, Registry, load_plugins, not_installed, unknown_distributions

DEFAULT_FILE = "ion.yaml"
DEFAULT_STATE = ".ion"

PLACES: Mapping[Keys, tuple[Kind, str]] = {
    ("messaging",): (Kind.MESSAGE_BROKER, "sqlite"),
    ("runtimes",): (Kind.CONTAINER_RUNTIME, "process"),
    ("storage", "blobs"): (Kind.BLOB_STORE, "local"),
    ("storage", "documents"): (Kind.DOCUMENT_STORE, "sqlite"),
    ("services",): (Kind.SERVICE, ""),
}
"""Where providers are chosen, of which kind, and which one without a choice; of a service the one of its own name."""

NAMED = ("runtimes", "services")
"""Sections that hold one provider under each name."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A provider and its validated settings: ``provider.open(settings)``. ``where`` starts a message about them."""

    provider: Provider[Any]
    settings: BaseModel = field(repr=False)
    where: str


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole configuration. ``path`` and ``state`` are absolute; ``plugins`` is None when all may be loaded.

    ``registry`` is what the providers were chosen from. ``tree`` knows where everything was written; it has secrets.
    """

    path: Path
    state: Path
    messaging: Chosen
    runtimes: Mapping[str, Chosen]
    blobs: Chosen
    documents: Chosen
    services: Mapping[str, Chosen]
    modules: Mapping[str, Module] = field(repr=False)
    drain_timeout: timedelta
    plugins: tuple[str, ...] | None
    registry: Registry = field(repr=False, compare=False)
    tree: Node = field(repr=False, compare=False)

    def where(self, *keys: str | int) -> str:
        """``ion.yaml:14:7: modules.detect.timeout`` for a value that is set, or the nearest around it that is."""
        path = keys
        while (node := self.tree.at(path)) is None:
            path = path[:-1]
        return f"{node.place if path == keys else node.key_place}: {dotted(keys)}"


def find_config(flag: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The file to read: ``flag``, else ``$ION_CONFIG``, else ``ion.yaml`` in the working directory, if it exists."""
    given = flag or environ.get("ION_CONFIG")
    if given:
        return Path(given)
    if not Path(DEFAULT_FILE).exists():
        raise ConfigError(
            f"{DEFAULT_FILE}: no such file in {Path.cwd()}. Name a configuration with --config or in $ION_CONFIG, "
            f"or write ./{DEFAULT_FILE}."
        )
    return Path(DEFAULT_FILE)


def load_config(
    path: Path | str,
    *,
    registry: Registry | None = None,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, str] | None = None,
) -> Config:
    """Read, complete and check the file at ``path``.

    ``registry``   where providers are chosen from; by default the installed plugins that the file allows.
    ``environ``    for ``${env:NAME}`` and for ``ION_<SECTION>__<KEY>`` variables, which win over the file.
    ``overrides``  what flags say, by dotted key such as ``messaging.url``; these win over everything.

    Raises ConfigError with everything that is wrong, a line each, sorted by position. Opens no provider.
    """
    problems = Problems()
    root = parse(_read(path), str(path), problems)
    absolute = Path(path).absolute()
    override(root, environ=environ, flags=overrides or {}, problems=problems)
    interpolate(root, base=absolute.parent, environ=environ, problems=problems)
    for keys in _sections(root):
        if (node := root.at(keys)) is not None and node.value is None:
            node.value = {}  # a section whose keys are all commented out
    if registry is None:
        registry = _registry(root, environ, problems)
    context = {"base": absolute.parent, "state": _state(root, absolute.parent)}
    settings = _file_settings(root, context, problems)
    chosen = {keys: _choose(root, keys, registry, context, problems) for keys in _provider_sections(root)}
    _check_modules(root, problems)
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
        modules={name: module.to_module(name) for name, module in settings.modules.items()},
        drain_timeout=settings.drain_timeout,
        plugins=settings.plugins,
        registry=registry,
        tree=root,
    )


def _read(path: Path | str) -> bytes:
    try:
        # Without O_NONBLOCK opening a FIFO would wait for somebody to write to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(f"{path}: is not a regular file. Name a YAML file such as ion.yaml.")
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. Name one with --config or in $ION_CONFIG.") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory. Name the file in it, such as {path}/ion.yaml.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"{path}: cannot be read: {reason}") from None


def _sections(root: Node) -> Iterator[Keys]:
    """Where a mapping stands: an empty value is an empty mapping there."""
    yield from (("messaging",), ("runtimes",), ("storage",), ("services",), ("modules",))
    yield from (("storage", "blobs"), ("storage", "documents"))
    for name in (*NAMED, "modules"):
        for key in _keys(root, (name,)):
            yield (name, key)


def _keys(root: Node, path: Keys) -> list[str]:
    node = root.at(path)
    return list(node.value) if node is not None and isinstance(node.value, dict) else []


def _provider_sections(root: Node) -> Iterator[Keys]:
    for keys in PLACES:
        if keys[0] not in NAMED:
            yield keys
            continue
        names = _keys(root, keys)
        if keys == ("runtimes",) and "default" not in names and (not names or _wants_default(root)):
            names.append("default")
        yield from ((*keys, name) for name in names)


def _wants_default(root: Node) -> bool:
    runtimes = [root.at(("modules", name, "runtime")) for name in _keys(root, ("modules",))]
    return any(runtime is None or runtime.value == "default" for runtime in runtimes)


def _registry(root: Node, environ: Mapping[str, str], problems: Problems) -> Registry:
    node = root.at(("plugins",))
    if node is None or not isinstance(node.value, list):
        return load_plugins(environ=environ)
    names = {str(item.value): item for item in node.value if isinstance(item.value, str)}
    missing = unknown_distributions(list(names))
    for name in missing:
        text = not_installed(name) if not names[name].secret else hide("is not installed", names[name], None)
        problems.add(names[name].place, ("plugins", node.value.index(names[name])), text)
    return load_plugins(allow=[name for name in names if name not in missing], environ=environ)


def _state(root: Node, base: Path) -> Path:
    """A path in the file starts beside the file; one from a flag or the environment where the user is."""
    node = root.at(("state",))
    if node is None or not isinstance(node.value, str) or not node.value:
        return base / DEFAULT_STATE
    start = base if node.place.line < AFTER_THE_FILE else Path.cwd()
    try:
        return start / Path(node.value).expanduser()
    except RuntimeError:
        return base / DEFAULT_STATE  # reported when the settings are validated


def _file_settings(root: Node, context: Mapping[str, Any], problems: Problems) -> FileSettings | None:
    return _validated(FileSettings, root, (), _plain(root, ()), context, problems)


def _validated[M: BaseModel]() -> None: ...


def _plain(node: Node, path: Keys) -> Any:
    """The value without its places. Where text is wanted ``1.10`` is the text that was written."""
    if isinstance(node.value, dict):
        return {key: _plain(below, (*path, key)) for key, below in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(below, (*path, n)) for n, below in enumerate(node.value)]
    as_written = path[:1] == ("modules",) and path[2:3] in (("env",), ("command",)) and node.value is not None
    return node.text if as_written else node.value
