"""The sections of the file: which provider each chooses, and what one value alone cannot show to be wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ion_core.config.messages import explain, nearest, not_shown, required
from ion_core.config.model import ModuleSettings, OwnSettings, ServiceOwnSettings
from ion_core.config.tree import Node, Place, Problems, dotted, from_outside
from ion_core.config.tree import Path as Keys
from ion_core.contracts.settings import Section, TextFromOutside
from ion_core.opening import Chosen
from ion_core.registry import Kind, Registry

M = TypeVar("M", bound=BaseModel)

PLACES: Mapping[Keys, tuple[Kind, str]] = {
    ("messaging",): (Kind.MESSAGE_BROKER, "sqlite"),
    ("runtimes",): (Kind.CONTAINER_RUNTIME, "process"),
    ("storage", "blobs"): (Kind.BLOB_STORE, "local"),
    ("storage", "documents"): (Kind.DOCUMENT_STORE, "sqlite"),
    ("services",): (Kind.SERVICE, ""),
    ("observers",): (Kind.OBSERVER, ""),
}
"""Where providers are chosen, of which kind, and which one without a choice: '' for the one of the entry's own name."""

OWN_SETTINGS: Mapping[Kind, type[OwnSettings]] = {Kind.SERVICE: ServiceOwnSettings}
"""What stands beside the provider's own settings, where that is more than ``provider``."""

NAMED = ("runtimes", "services", "observers")
"""Sections that hold one provider under each name."""

OF_THEIR_OWN = {Kind.SERVICE: "services", Kind.OBSERVER: "observers"}
"""Where below the state directory each has a place under its name: there may be others of the same provider."""


def fill_empty_sections(root: Node) -> None:
    """A section without a value, perhaps as all its keys are commented out, is one without keys."""
    for keys in _sections(root):
        if (node := root.at(keys)) is not None and node.value is None:
            node.value = {}


def provider_sections(root: Node) -> Iterator[Keys]:
    """Every place where a provider is chosen, also by default."""
    for keys in PLACES:
        if keys[0] not in NAMED:
            yield keys
            continue
        names = _keys(root, keys)
        if keys == ("runtimes",) and "default" not in names and (not names or _wants_default(root)):
            names.append("default")
        yield from ((*keys, name) for name in names)


def unasked_observers(root: Node, registry: Registry) -> Iterator[Keys]:
    """Those that observe without a section, since they can: no setting of theirs is required."""
    names = _keys(root, ("observers",))
    given = [root.at(("observers", name, "provider")) for name in names]
    asked = {*names, *(it.value for it in given if it is not None and isinstance(it.value, str))}
    for it in registry.providers(Kind.OBSERVER):
        if it.name not in asked and not any(field.is_required() for field in it.settings.model_fields.values()):
            yield ("observers", it.name)


def choose(root: Node, keys: Keys, registry: Registry, context: Mapping[str, Any], problems: Problems) -> Chosen | None:
    """The provider that the section at ``keys`` chooses, with its settings validated. None if something is wrong."""
    node = root.at(keys)
    if node is not None and not isinstance(node.value, dict):
        return None  # reported when the whole file is validated
    kind, default = PLACES.get(keys) or PLACES[keys[:1]]
    given = root.at((*keys, "provider"))
    if given is not None and not isinstance(given.value, str):
        problems.add(given.place, (*keys, "provider"), f"must be the name of {kind.one}")
        return None
    name = given.value if given is not None else default or str(keys[-1])
    path, place = ((*keys, "provider"), given.place) if given is not None else (keys, _place(root, keys))
    if why_not := registry.why_not(kind, name):
        if given is not None and given.secret:
            names = ", ".join(registry.names(kind)) or "none"
            why_not = f"no {kind.value} has that name{not_shown(given)}. Installed: {names}."
        if not problems.at(place, path):
            problems.add(place, path, why_not)
        return None
    provider = registry.choose(kind, name, where=dotted(path))
    section = Section(key=dotted(keys), places={**_places(root, keys), "": str(place)})
    context = {**context, "section": section}
    if kind in OF_THEIR_OWN:
        context["state"] = Path(context["state"], OF_THEIR_OWN[kind], str(keys[-1]))
    own = OWN_SETTINGS.get(kind, OwnSettings)
    ours = validated(own, root, keys, context, problems, only=own.model_fields)
    settings = validated(provider.settings, root, keys, context, problems, beside=own.model_fields)
    if ours is None or settings is None:
        return None
    plugin = registry.plugin_of(kind, name)
    return Chosen(
        provider=provider,
        settings=settings,
        plugin=plugin,
        section=section,
        kind=registry.kind_of(kind, name),
        **ours.model_dump(exclude={"provider"}),
    )


def validated(
    model: type[M],
    root: Node,
    keys: Keys,
    context: Mapping[str, Any],
    problems: Problems,
    *,
    only: Collection[str] | None = None,
    beside: Collection[str] = (),
) -> M | None:
    """The section at ``keys`` as ``model``; None if something is wrong, which is then among the problems.

    ``only`` is what of the section it is about, all if not given, and ``beside`` what there is that it is not about.
    """
    node = root.at(keys)
    value = _plain(node, keys) if node is not None else {}
    if only is not None or beside:
        value = {key: it for key, it in value.items() if key not in beside and (only is None or key in only)}
    try:
        return model.model_validate(value, context=dict(context))
    except ValidationError as error:
        explain(error, model, root, keys, problems, beside=[key for key in beside if key != "provider"])
    except Exception as error:  # a validator of a plugin may raise anything; what it says may show a secret
        what = f"{model.__module__}.{model.__qualname__} raised {type(error).__name__} instead of ValueError"
        problems.add(_place(root, keys), keys, f"cannot be validated: {what}. This is a fault of the plugin.")
    return None


def _places(root: Node, keys: Keys) -> Mapping[str, str]:
    """Where everything in the section was written, by key."""
    node = root.at(keys)
    found = () if node is None else node.walk()
    return {dotted(path): str(it.key_place if isinstance(it.value, dict) else it.place) for path, it in found}


def check_modules(root: Node, problems: Problems) -> None:
    """What takes more than one key of a module to see."""
    runtimes = {*_keys(root, ("runtimes",)), "default"}
    for name in _keys(root, ("modules",)):
        module = root.at(("modules", name))
        if module is None or not isinstance(module.value, dict):
            continue
        given = {key: node for key in ("image", "build") if (node := module.value.get(key)) is not None}
        if "command" not in module.value and all(node.value is None for node in given.values()):
            problems.add(module.key_place, ("modules", name), "image, build or command is required")
        _check_what_starts_it(name, module, problems)
        runtime = module.value.get("runtime")
        if runtime is not None and isinstance(runtime.value, str) and runtime.value not in runtimes:
            known = ", ".join(sorted(runtimes))
            text = f'no runtime called "{runtime.value}".{nearest(runtime.value, runtimes)} Runtimes: {known}.'
            if runtime.secret:
                text = f"no runtime has that name{not_shown(runtime)}. Runtimes: {known}."
            path = ("modules", name, "runtime")
            if not problems.at(runtime.place, path):
                problems.add(runtime.place, path, text)
    _check_former_names(root, problems)


def _check_what_starts_it(name: str, module: Node, problems: Problems) -> None:
    gather, subscribes = (module.value.get(key) for key in ("gather", "subscribes"))
    if gather is None and subscribes is None:
        problems.add(module.key_place, ("modules", name, "subscribes"), required(ModuleSettings, ("subscribes",)))
    elif gather is not None and subscribes is not None and gather.value is not None:
        text = "is instead of subscribes: what it gathers starts it. Remove one of them."
        problems.add(gather.key_place, ("modules", name, "gather"), text)
    if gather is not None and gather.value is None:
        problems.add(gather.key_place, ("modules", name, "gather"), "has no value. Give it one, or remove it.")


def _check_former_names(root: Node, problems: Problems) -> None:
    """A former name stands for one module: what was done under it can be no other's."""
    modules = _keys(root, ("modules",))
    whose: dict[str, str] = {}
    for name in modules:
        path = ("modules", name, "formerly")
        node = root.at(path)
        for n, item in enumerate(node.value if node is not None and isinstance(node.value, list) else ()):
            if not isinstance(item.value, str):
                continue  # as the settings say
            former, other = item.value, whose.setdefault(item.value, name)
            if former in modules:
                text = f'"{former}" is a module of this configuration. Take it out here, or give that another name.'
            elif other != name:
                text = f'"{former}" is a former name of {other} too. Take it out of one of them.'
            else:
                continue
            if item.secret:
                text = f"is a name of another module{not_shown(item)}. Take it out here."
            problems.add(item.place, (*path, n), text)


def _sections(root: Node) -> Iterator[Keys]:
    """Where a mapping stands: an empty value is an empty mapping there."""
    yield from (("messaging",), ("runtimes",), ("storage",), ("services",), ("observers",), ("modules",))
    yield from (("storage", "blobs"), ("storage", "documents"))
    for name in (*NAMED, "modules"):
        for key in _keys(root, (name,)):
            yield (name, key)


def _keys(root: Node, path: Keys) -> list[str]:
    node = root.at(path)
    return list(node.value) if node is not None and isinstance(node.value, dict) else []


def _wants_default(root: Node) -> bool:
    runtimes = [root.at(("modules", name, "runtime")) for name in _keys(root, ("modules",))]
    return any(runtime is None or runtime.value == "default" for runtime in runtimes)


def _place(root: Node, keys: Keys) -> Place:
    """The key of ``keys``, or of what it would be in."""
    while (node := root.at(keys)) is None:
        keys = keys[:-1]
    return node.key_place


_AS_WRITTEN = (("env",), ("command",), ("args",))


def _plain(node: Node, path: Keys) -> Any:
    """The value without its places. Where text is wanted ``1.10`` is the text that was written."""
    if isinstance(node.value, dict):
        return {key: _plain(below, (*path, key)) for key, below in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(below, (*path, n)) for n, below in enumerate(node.value)]
    if path[:1] == ("modules",) and path[2:3] in _AS_WRITTEN and node.value is not None:
        return node.text
    return (
        TextFromOutside(node.value, from_outside(node)) if node.secret and isinstance(node.value, str) else node.value
    )
