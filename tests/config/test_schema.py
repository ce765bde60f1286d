"""The JSON Schema takes what loads and refuses what does not, as far as a schema can."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from pydantic import InstanceOf
from ruamel.yaml import YAML

from ion_core.config import Config, json_schema
from ion_core.config.model import FileSettings, ModuleSettings
from ion_core.contracts.provider import Provider
from ion_core.contracts.settings import Settings
from ion_core.hookspecs import hookimpl
from ion_core.registry import Registry, load_plugins

Load = Callable[..., Config]

TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}
TOLD = {"$schema", "$defs", "title", "description", "default", "examples", "format", "writeOnly"}


def accepts(schema: Mapping[str, Any], value: Any, root: Mapping[str, Any]) -> bool:
    """Whether the value fits; a keyword that this does not know fails, so that none is passed over."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        if not accepts(root["$defs"][name], value, root):
            return False
    kinds = schema.get("type", list(TYPES))
    checks: Mapping[str, Callable[[Any], bool]] = {
        "type": lambda _: any(TYPES[kind](value) for kind in ([kinds] if isinstance(kinds, str) else kinds)),
        "const": lambda wanted: bool(value == wanted),
        "enum": lambda wanted: value in wanted,
        "anyOf": lambda options: any(accepts(option, value, root) for option in options),
        "oneOf": lambda options: sum(accepts(option, value, root) for option in options) == 1,
        "pattern": lambda pattern: not isinstance(value, str) or re.search(pattern, value) is not None,
        "minLength": lambda least: not isinstance(value, str) or len(value) >= least,
        "maxLength": lambda most: not isinstance(value, str) or len(value) <= most,
        "minItems": lambda least: not isinstance(value, list) or len(value) >= least,
        "items": lambda items: not isinstance(value, list) or all(accepts(items, it, root) for it in value),
        "minimum": lambda bound: not TYPES["number"](value) or value >= bound,
        "maximum": lambda bound: not TYPES["number"](value) or value <= bound,
        "exclusiveMinimum": lambda bound: not TYPES["number"](value) or value > bound,
        "required": lambda names: not isinstance(value, dict) or set(names) <= set(value),
        "properties": lambda properties: (
            not isinstance(value, dict)
            or all(accepts(properties[key], it, root) for key, it in value.items() if key in properties)
        ),
        "propertyNames": lambda names: not isinstance(value, dict) or all(accepts(names, it, root) for it in value),
        "additionalProperties": lambda rest: (
            not isinstance(value, dict)
            or all(
                rest is not False and (rest is True or accepts(rest, it, root))
                for key, it in value.items()
                if key not in schema.get("properties", {})
            )
        ),
    }
    return all(checks[key](argument) for key, argument in schema.items() if key not in TOLD and key != "$ref")


def fits(registry: Registry, text: str) -> bool:
    schema = json_schema(registry)
    return accepts(schema, YAML(typ="safe", pure=True).load(text), schema)


GOOD = [
    "modules: {m: {command: x, subscribes: [a]}}",
    "modules: {m: {image: x, subscribes: [a], command: [sleep, 1], env: {A: 1, B: true, C: 1.5, D: x}}}",
    "modules: {m: {image: x, subscribes: [a], resources: {memory: 512MiB, cpus: 1}, limits: {max_output: 1000}}}",
    "modules: {m: {image: x, subscribes: [a], retries: '${env:N}', resources: {cpus: '${env:C:-1}'}}}",
    "messaging: {lease: 5s}",
    "messaging: {provider: sqlite, lease: 5s}",
    "messaging: {provider: memory}",
    "messaging: {}",
    "runtimes: {default: {isolation: bubblewrap}, other: {provider: memory}}",
    "runtimes: {default: {isolation: '${env:ISOLATION}'}}",
    "storage: {blobs: {provider: parcel, port: 5, label: x, login: {user: x}, servers: [{user: y}]}}",
    "storage: {blobs: {provider: parcel, port: '${env:PORT}', url: '${file:url}'}}",
    "services: {gate: {listen: x, token: y}, other: {provider: gate, listen: x, token: y}}",
    "state: x\ndrain_timeout: 5s\nplugins: [ion-x]\nversion: 1",
]
BAD = [
    "bogus: 1",
    "services: {A: {provider: gate, listen: x, token: y}}",
    "runtimes: {a_b: {}}",
    "modules: {m: {command: x, subscribes: [a], env: {1A: x}}}",
    "version: 2",
    "plugins: x",
    "modules: {M: {command: x, subscribes: [a]}}",
    "modules: {m: {command: x}}",
    "modules: {m: {command: x, subscribes: []}}",
    "modules: {m: {command: x, subscribes: [a], retries: x}}",
    "modules: {m: {command: x, subscribes: [a], concurrency: 0}}",
    "modules: {m: {command: x, subscribes: [a], env: {A: [x]}}}",
    "modules: {m: {command: x, subscribes: [a], resources: {gpu: 1}}}",
    "modules: {m: {command: x, subscribes: [a], resources: {memory: 0}}}",
    "messaging: {provider: rabbitmq}",
    "messaging: {provider: memory, lease: 5s}",
    "messaging: {url: x}",
    "runtimes: {default: {isolation: full}}",
    "storage: {blobs: {port: 5}}",
    "storage: {blobs: {provider: parcel, port: 70000}}",
    "storage: {blobs: {provider: parcel, login: {usr: x}}}",
    "storage: {blob: {}}",
    "services: {other: {provider: gate, listen: x}}",
]


@pytest.mark.parametrize("text", GOOD)
def test_what_loads_fits(text: str, registry: Registry) -> None:
    assert fits(registry, text)


@pytest.mark.parametrize("text", BAD)
def test_what_a_schema_can_refuse_it_refuses(text: str, registry: Registry) -> None:
    assert not fits(registry, text)


def test_every_key_is_described(registry: Registry) -> None:
    schema = json_schema(registry)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["properties"]) == set(FileSettings.model_fields)
    module = schema["$defs"]["ModuleSettings"]["properties"]
    assert set(module) == set(ModuleSettings.model_fields)
    for name, key in {**schema["properties"], **module}.items():
        described = schema["$defs"][key["$ref"].removeprefix("#/$defs/")] if "description" not in key else key
        assert described["description"], name
    assert json.loads(json.dumps(schema)) == schema


def test_every_reference_leads_somewhere(registry: Registry) -> None:
    schema = json_schema(registry)
    references = set(re.findall(r'"\$ref": "([^"]*)"', json.dumps(schema)))
    assert references
    assert {it.removeprefix("#/$defs/") for it in references} <= set(schema["$defs"])


def test_settings_that_have_no_schema_do_not_spoil_the_rest() -> None:
    class Odd(Settings):
        value: InstanceOf[Config] | None = None

    class Plugin:
        @hookimpl
        def ion_blob_stores(self) -> list[Provider[Any]]:
            return [Provider(name="odd", settings=Odd, open=print, contract="1.0")]  # type: ignore[arg-type]

    registry = load_plugins(extra=[Plugin()], entry_points=False)
    assert fits(registry, "storage: {blobs: {provider: odd, value: anything}}")
    assert not fits(registry, "storage: {blobs: {provider: local, value: anything}}")
