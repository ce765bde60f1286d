"""A JSON Schema of the whole file, with every installed provider's settings, so that editors complete and check."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from ion_core.config.model import FileSettings
from ion_core.config.sections import NAMED, OWN_SETTINGS, PLACES
from ion_core.contracts.provider import Offer
from ion_core.registry import Kind, Registry

logger = logging.getLogger(__name__)

_INTERPOLATED = {"type": "string", "pattern": r"\$\{(env|file):"}

_BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}

Schema = dict[str, Any]


def json_schema(registry: Registry) -> Schema:
    """JSON Schema 2020-12 of a configuration file, with the providers of ``registry``."""
    schema: Schema = _standard(FileSettings.model_json_schema())
    definitions: Schema = schema.pop("$defs", {})
    for keys, (kind, default) in PLACES.items():
        name = f"{'_'.join(str(key) for key in keys)}_provider"
        definitions[name] = _alternatives(registry, kind, default, definitions)
        holder = definitions["StorageSettings"] if keys[0] == "storage" else schema
        place = holder["properties"][keys[-1]]
        if keys[0] in NAMED:
            place["additionalProperties"] = {"$ref": f"#/$defs/{name}"}
        else:
            place.pop("type", None)
            place["$ref"] = f"#/$defs/{name}"
        if not default:
            _by_name(place, kind, registry, definitions)
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Ion configuration"}
    whole["$defs"] = definitions
    accepted: Schema = _with_interpolation(whole)
    return accepted


def _alternatives(registry: Registry, kind: Kind, default: str, definitions: Schema) -> Schema:
    """One of the providers of that kind, told apart by ``provider``, which the default one need not have."""
    providers = registry.providers(kind)
    return {
        "description": f"{kind.one.capitalize()}: {', '.join(it.name for it in providers) or 'none is installed'}.",
        "anyOf": [_settings(it, kind, it.name != default, definitions) for it in providers] or [{"type": "object"}],
    }


def _standard(schema: Any) -> Any:
    """What pydantic leaves to be desired: names that do not match are refused, and bounds have their standard words."""
    if isinstance(schema, list):
        return [_standard(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    standard: Schema = {}
    for key, value in schema.items():
        if key in _BOUNDS and isinstance(value, int | float):
            standard[_BOUNDS[key]] = value
        elif key == "patternProperties":
            for pattern, inner in value.items():
                standard |= {"propertyNames": {"pattern": pattern}, "additionalProperties": _standard(inner)}
        else:
            standard[key] = _standard(value)
    return standard


def _by_name(place: Schema, kind: Kind, registry: Registry, definitions: Schema) -> None:
    """A service, or an observer, is the one of its name without saying so."""
    place["properties"] = {it.name: _settings(it, kind, False, definitions) for it in registry.providers(kind)}


def _settings(provider: Offer, kind: Kind, required: bool, definitions: Schema) -> Schema:
    prefix = f"{kind.name.lower()}.{provider.name}."
    try:
        model = _standard(provider.settings.model_json_schema(ref_template=f"#/$defs/{prefix}{{model}}"))
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError) as error:
        logger.warning("settings have no JSON Schema", extra={"provider": provider.name, "cause": str(error)})
        model = {"type": "object"}
    definitions |= {f"{prefix}{name}": inner for name, inner in model.pop("$defs", {}).items()}
    named = {"const": provider.name, "description": f"Use {provider.name}."}
    model["title"] = provider.name
    own: Schema = OWN_SETTINGS[kind].model_json_schema()["properties"] if kind in OWN_SETTINGS else {}
    model["properties"] = {**own, "provider": named, **model.get("properties", {})}
    if required:
        model["required"] = ["provider", *model.get("required", [])]
    return dict(model)


def _with_interpolation(schema: Any) -> Any:
    """Wherever something narrower than text is asked for, ``${env:…}`` or ``${file:…}`` may stand as well."""
    if isinstance(schema, list):
        return [_with_interpolation(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    wrapped = {key: _inside(key, value) for key, value in schema.items()}
    narrow = any(key in schema for key in ("pattern", "format", "enum")) or schema.get("type") in (
        "integer",
        "number",
        "boolean",
    )
    if not narrow:
        return wrapped
    told = {key: wrapped.pop(key) for key in ("title", "description", "default", "examples") if key in wrapped}
    return {**told, "anyOf": [wrapped, dict(_INTERPOLATED)]}


def _inside(key: str, value: Any) -> Any:
    if key in ("properties", "$defs") and isinstance(value, Mapping):
        return {name: _with_interpolation(inner) for name, inner in value.items()}
    if key in ("items", "additionalProperties", "anyOf", "oneOf", "allOf", "prefixItems"):
        return _with_interpolation(value)
    return value
