"""The configuration in force, as one would write it, without secrets: ``ion-core config show``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr

from ion_core.config.interpolation import escape
from ion_core.config.load import Config
from ion_core.config.text import duration_text, size_text
from ion_core.config.tree import Node
from ion_core.config.tree import Path as Keys
from ion_core.hidden import MASK
from ion_core.modules import Module
from ion_core.opening import Chosen

_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]*@")


def dump(config: Config) -> dict[str, Any]:
    """Every key with the value that holds, defaults included, in the shape of the file.

    Secrets, and whatever came from ``${env:…}``, ``${file:…}`` or an ``ION_<SECTION>__<KEY>`` variable, are
    ``********``; so is the password in a URL.
    """
    show = _Shown(config.tree)
    return {
        "state": show.value(config.state, ("state",)),
        "drain_timeout": show.value(config.drain_timeout, ("drain_timeout",)),
        "hidden": [MASK for _ in _listed(config.tree)],
        "plugins": show.value(config.plugins, ("plugins",)),
        "messaging": show.chosen(config.messaging, ("messaging",)),
        "runtimes": {name: show.chosen(it, ("runtimes", name)) for name, it in config.runtimes.items()},
        "storage": {
            "blobs": show.chosen(config.blobs, ("storage", "blobs")),
            "documents": show.chosen(config.documents, ("storage", "documents")),
        },
        "services": {name: show.service(it, ("services", name)) for name, it in config.services.items()},
        "observers": {name: show.chosen(it, ("observers", name)) for name, it in config.observers.items()},
        "modules": {name: show.value(_module(it), ("modules", name)) for name, it in config.modules.items()},
    }


def _listed(tree: Node) -> list[Node]:
    node = tree.at(("hidden",))
    return node.value if node is not None and isinstance(node.value, list) else []


def _module(module: Module) -> dict[str, Any]:
    shown = {key: value for key, value in vars(module).items() if key not in ("name", "retry", "leads_to")}
    for key in ("image", "build", "command", "args", "source", "python"):
        if not shown[key]:
            del shown[key]  # the module has none: no value stands for that
    if module.python is not None:
        own = {"requirements": module.python.requirements} if module.python.requirements else {}
        shown["python"] = {**own, "environment": "ion" if module.python.ion else "own"}
    if module.gather is not None:
        del shown["subscribes"]
        shown["gather"] = {key: value for key, value in vars(module.gather).items() if value is not None}
    else:
        del shown["gather"]
    retry = dict(vars(module.retry))
    shown["retries"] = retry.pop("retries")
    shown["retry"] = retry
    shown["resources"] = {**vars(module.resources)}
    shown["limits"] = {**vars(module.limits)}
    for section, key in (
        ("resources", "memory"),
        ("resources", "shm"),
        ("limits", "max_output"),
        ("limits", "max_insights"),
    ):
        if shown[section][key] is not None:
            shown[section][key] = size_text(shown[section][key])
    return shown


class _Shown:
    """Values as text, numbers, lists and mappings; masked where the tree says so."""

    def __init__(self, tree: Node) -> None:
        self._tree = tree
        self._secrets = [node.text for _, node in tree.walk() if node.secret and len(node.text) > 3]

    def chosen(self, chosen: Chosen, keys: Keys) -> dict[str, Any]:
        return {"provider": chosen.provider.name, **self._model(chosen.settings, keys)}

    def service(self, chosen: Chosen, keys: Keys) -> dict[str, Any]:
        own = {"provider": chosen.provider.name, "on_failure": chosen.on_failure}
        return {**own, **self._model(chosen.settings, keys)}

    def _model(self, model: BaseModel, keys: Keys) -> dict[str, Any]:
        fields = {field.alias or name: getattr(model, name) for name, field in type(model).model_fields.items()}
        return {key: self.value(value, (*keys, key)) for key, value in fields.items()}

    def value(self, value: Any, keys: Keys) -> Any:
        node = self._tree.at(keys)
        if isinstance(value, SecretStr | SecretBytes) or (node is not None and node.secret):
            return MASK
        if isinstance(value, BaseModel):
            return self._model(value, keys)
        if isinstance(value, Mapping):
            return {str(key): self.value(below, (*keys, str(key))) for key, below in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(below, (*keys, n)) for n, below in enumerate(value)]
        if isinstance(value, set | frozenset):
            return sorted(str(self.value(below, keys)) for below in value)
        if isinstance(value, Enum):
            return self.value(value.value, keys)
        if isinstance(value, timedelta):
            return duration_text(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        text = str(value)
        if any(secret in text for secret in self._secrets):
            return MASK  # made from one, as a path below the state directory is
        return escape(text if isinstance(value, PurePath) else _PASSWORD.sub(rf"\1:{MASK}@", text))
