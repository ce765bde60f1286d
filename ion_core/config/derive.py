"""The configuration of one module's steps elsewhere: the stores, and what preparing and committing must know of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr

from ion_core.config.interpolation import escape
from ion_core.config.load import Config
from ion_core.config.tree import Node
from ion_core.config.tree import Path as Keys
from ion_core.errors import ConfigError
from ion_core.modules import Module
from ion_core.opening import Chosen

RUNS_NOTHING = ("true",)
"""Stands for how the module is run, which the steps around it do not need: its command may hold secrets."""

_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""What JSON may have as it is, and YAML only escaped."""


def derived(config: Config, module: Module) -> bytes:
    """A configuration file for steps 1 and 3 of ``module``, in JSON, which is YAML too. It holds secrets.

    It says the same wherever it is read: what variables and files brought is in it, and every path is absolute. It has
    the two stores and this one module, without how that is run, and names the gatherers that wait for it, which the
    commit record tells of. What came from outside is listed under ``hidden``, so
    that the steps mask it as well. The same configuration gives the same bytes.

    Raises ConfigError where the settings of a store hold what no file can.
    """
    stores = {"blobs": config.blobs, "documents": config.documents}
    plain = {name: it.provider.plain for name, it in stores.items() if it.provider.plain}
    file = {
        "version": 1,
        "state": escape(str(config.state)),
        **({"plain": plain} if plain else {}),
        **({"leads_to": module.leads_to} if module.leads_to else {}),
        "plugins": sorted({it.plugin.partition(" ")[0] for it in stores.values()} - {"ion-core"}),
        "hidden": [escape(it) for it in _from_outside(config, module)],
        "storage": {name: _store(config, it) for name, it in stores.items()},
        "modules": {
            module.name: {
                "command": RUNS_NOTHING,
                "subscribes": module.subscribes,
                "publishes": module.publishes,
                "limits": dict(vars(module.limits)),
            }
        },
    }
    try:
        text = json.dumps(file, ensure_ascii=False, allow_nan=False)
        return _NOT_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode() + b"\n"
    except ValueError as error:
        raise ConfigError(
            f"{config.path}: storage: cannot be handed on to where jobs run: {error}. Values must be UTF-8 and finite."
        ) from error


def _from_outside(config: Config, module: Module) -> list[str]:
    """The values to mask, of all that the file is made from; of nothing else: those may be secret to the steps."""
    names = ("subscribes", "publishes", "limits")
    parts: list[Keys] = [("state",), ("storage",), *(("modules", module.name, name) for name in names)]
    nodes = [node for part in parts if (top := config.tree.at(part)) is not None for _, node in top.walk()]
    return sorted({value for node in nodes for value in node.hidden})


def _store(config: Config, chosen: Chosen) -> dict[str, Any]:
    node = config.tree.at(tuple(chosen.section.key.split(".")))
    try:
        return {"provider": chosen.provider.name, **_model(chosen.settings, node)}
    except TypeError as error:
        raise ConfigError(f"{chosen.where}: cannot be handed on to where jobs run: {error}") from error


def _model(model: BaseModel, node: Node | None) -> dict[str, Any]:
    """What was given, as it was understood, and where the defaults lead that depend on where they stand."""
    found = {}
    for name, field in type(model).model_fields.items():
        key, value = field.alias or name, getattr(model, name)
        if name in model.model_fields_set or isinstance(value, PurePath):
            found[key] = _value(value, node.at((key,)) if node is not None else None)
    return found


def _value(value: Any, node: Node | None) -> Any:
    """``value`` as a file has it. One of a type that JSON does not know is what was written at ``node``."""

    def below(key: str | int) -> Node | None:
        return node.at((key,)) if node is not None else None

    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str | PurePath):
        return escape(str(value))
    if isinstance(value, SecretStr):
        return escape(value.get_secret_value())
    if isinstance(value, SecretBytes):
        return escape(value.get_secret_value().decode())
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.6f}s"
    if isinstance(value, Enum):
        return _value(value.value, node)
    if isinstance(value, BaseModel):
        return _model(value, node)
    if isinstance(value, Mapping):
        return {str(key): _value(it, below(str(key))) for key, it in value.items()}
    if isinstance(value, list | tuple):
        return [_value(it, below(n)) for n, it in enumerate(value)]
    if node is not None:
        return _written(node)
    raise TypeError(f"a default of type {type(value).__name__} cannot be written to a file")


def _written(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {key: _written(it) for key, it in node.value.items()}
    if isinstance(node.value, list):
        return [_written(it) for it in node.value]
    return escape(node.value) if isinstance(node.value, str) else node.value
