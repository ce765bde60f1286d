"""Says what pydantic found in plain words, at the place in the file, and without what is secret."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ion_core.config.text import duration_text
from ion_core.config.tree import Node, Path, Place, Problems, kind, outside
from ion_core.contracts.settings import Unfit

_GOT = re.compile(r"\s*\(got .*\)\Z", re.DOTALL)

_OUR_WORDS = ("must be a duration", "must be a size", "must be true or false")
"""Beginnings of what our own validators say: what they got stands in brackets at its end."""

_MUST: Sequence[tuple[str, str]] = (
    (r"int_.*", "must be a whole number"),
    (r"float_.*|decimal_.*", "must be a number such as 0.5 or 2"),
    (r"finite_number", "must be a finite number"),
    (r"bool_.*", "must be true or false"),
    (r"dict_type|model_type|model_attributes_type|mapping_type|dataclass_.*", "must be a mapping"),
    (r"(list|tuple|set|frozen_set|iterable|frozenset)_type", "must be a list"),
    (r"path_type", "must be a path"),
    (r"url_.*", "must be a URL"),
    (r"none_required", "must be left out"),
)
"""Types of error (whole, as regular expressions) and what is said about them."""

_BOUNDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than": lambda ctx: f"must be greater than {_bound(ctx['gt'])}",
    "greater_than_equal": lambda ctx: f"must be at least {_bound(ctx['ge'])}",
    "less_than": lambda ctx: f"must be less than {_bound(ctx['lt'])}",
    "less_than_equal": lambda ctx: f"must be at most {_bound(ctx['le'])}",
    "multiple_of": lambda ctx: f"must be a multiple of {_bound(ctx['multiple_of'])}",
    "string_pattern_mismatch": lambda ctx: f"must match {ctx['pattern']}",
    "literal_error": lambda ctx: f"must be {ctx['expected'].replace(chr(39), '')}",
    "enum": lambda ctx: f"must be {ctx['expected'].replace(chr(39), '')}",
}


def explain(
    error: ValidationError,
    model: type[BaseModel],
    root: Node,
    section: Path,
    problems: Problems,
    *,
    beside: Sequence[str] = (),
) -> None:
    """Add what is wrong with the value at ``section``, validated into ``model``, to ``problems``.

    ``beside`` are keys that may stand there too. A value that is among the problems already, such as a ``${…}``
    without a value, is not found fault with again.
    """
    found: dict[tuple[Place, Path], list[str]] = {}
    for item in error.errors(include_url=False):
        path, node, rest = _locate(root, section, item["loc"])
        if item["type"] == "missing":
            place = _nearest_place(root, path)
            path = (*path, *(part for part in rest[-1:]))
            text = required(model, path[len(section) :])
        elif item["type"] == "extra_forbidden" and node is not None:
            within = path[len(section) : -1]
            known = [*known_keys(model, within), *(() if within else beside)]
            place, text = node.key_place, _unknown(str(path[-1]), known)
        elif "[key]" in rest and node is not None:
            place, text = node.key_place, _text(item, Node(path[-1], node.key_place, node.key_place, str(path[-1])))
        elif node is None:
            place, text = _nearest_place(root, path), _text(item, node)
        else:
            if _told_below(item, node) or problems.at(node.place, path):
                continue
            place = node.key_place if isinstance(node.value, dict) else node.place
            text = _without_secrets(_text(item, node), item, node, root.at(section) if section else None)
        found.setdefault((place, path), []).append(text)
    for (place, path), texts in found.items():
        # More than one is said about a value that may be this or that.
        problems.add(place, path, " or ".join([*(_GOT.sub("", text) for text in texts[:-1]), texts[-1]]))


def in_words(error: ValidationError, model: type[BaseModel], values: Mapping[str, Any], given_by: str) -> Sequence[str]:
    """What is wrong with ``values``, which no file has but ``given_by``, such as an option, gave: a line for each."""
    problems = Problems()
    explain(error, model, _tree(values, outside(given_by)), (), problems)
    return problems.lines()


def _tree(value: Any, place: Place) -> Node:
    if isinstance(value, Mapping):
        return Node({key: _tree(below, place) for key, below in value.items()}, place, place)
    if isinstance(value, list):
        return Node([_tree(below, place) for below in value], place, place)
    return Node(value, place, place, text=str(value))


def _told_below(item: Any, node: Node) -> bool:
    """A list that is too short only because pydantic does not count the entries it refused: they have lines too."""
    return bool(item["type"] == "too_short" and len(node.value) >= item["ctx"]["min_length"])


def not_shown(node: Node) -> str:
    """What is said instead of a value from outside of the file."""
    return f" (its value comes from {node.secret} and is not shown)"


def _without_secrets(text: str, item: Any, node: Node, section: Node | None) -> str:
    """``text`` without any value that came from outside of the file, be it of ``node`` or elsewhere in ``section``."""
    if isinstance(item.get("ctx", {}).get("error"), Unfit):
        return _GOT.sub("", text) + not_shown(node) if node.secret else text
    if node.secret:
        text = _GOT.sub("", text)
        # The words of others may show any part of the value.
        ours = section is None or _is_ours(item["type"]) or text.startswith(_OUR_WORDS)
        return ("is not valid" if _shows(text, node) or not ours else text) + not_shown(node)
    if section is not None and any(below.secret and _shows(text, below) for _, below in section.walk()):
        return "is not valid (a value that is not shown is part of why)"
    return text


def _shows(text: str, node: Node) -> bool:
    """Whether the text has six characters in a row of the value, or all of a shorter one of four and more."""
    length = min(len(node.text), 6)
    return length >= 4 and any(node.text[n : n + length] in text for n in range(len(node.text) - length + 1))


def _is_ours(type_: str) -> bool:
    return type_ in _BOUNDS or type_.endswith(("_type", "too_short", "too_long")) or _must(type_) is not None


def _must(type_: str) -> str | None:
    return next((words for pattern, words in _MUST if re.fullmatch(pattern, type_)), None)


def required(model: type[BaseModel], path: Path) -> str:
    """With what its field says of itself, as an editor would show it."""
    for inner in _models_at(model, path[:-1]):
        for name, field in inner.model_fields.items():
            if path[-1] in (name, field.alias) and field.description:
                such_as = f" Such as {_written(field.examples[0])}." if field.examples else ""
                return f"is required. {field.description.rstrip('.')}.{such_as}"
    return "is required"


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value).replace('"', "")


def known_keys(model: type[BaseModel], path: Path) -> Sequence[str]:
    """The keys that the model at ``path`` below ``model`` has."""
    return [field.alias or name for it in _models_at(model, path) for name, field in it.model_fields.items()]


def _models_at(model: type[BaseModel], path: Path) -> Sequence[type[BaseModel]]:
    models: Sequence[type[BaseModel]] = [model]
    for part in path:
        fields = [field for it in models for name, field in it.model_fields.items() if part in (name, field.alias)]
        # An index, or a key of a dict, stays in the field that was entered before.
        models = [inner for field in fields for inner in _models_in(field.annotation)] if fields else models
    return models


def nearest(name: str, names: Iterable[str]) -> str:
    """`` Did you mean "…"?``, or nothing."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f' Did you mean "{near[0]}"?' if near else ""


def _unknown(name: str, known: Sequence[str]) -> str:
    if name == "<<":
        return "unknown key: YAML 1.2 has no merge keys. Write the keys out."
    return f"unknown key.{nearest(name, known) or ' Known: ' + ', '.join(known) + '.' if known else ' There are none.'}"


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _locate(root: Node, section: Path, loc: Sequence[int | str]) -> tuple[Path, Node | None, Sequence[int | str]]:
    """The value that ``loc`` means. pydantic puts names of union members and the like into it: not in the file."""
    path, node = section, root.at(section)
    rest: list[int | str] = []
    for part in loc:
        below = node.at((part,)) if node is not None else None
        if below is None:
            rest.append(part)
        else:
            path, node = (*path, part), below
    return path, node, rest


def _nearest_place(root: Node, path: Path) -> Place:
    """The key of ``path``, or of what it would be in."""
    while (node := root.at(path)) is None:
        path = path[:-1]
    return node.key_place


def _text(item: Any, node: Node | None) -> str:
    type_, context = item["type"], item.get("ctx", {})
    if item["input"] is None:
        return "has no value. Give it one, or remove the key."
    if type_ in ("value_error", "assertion_error"):
        return " ".join(str(context["error"]).split())
    if type_ in ("string_type", "bytes_type"):
        quotes = isinstance(item["input"], str | int | float)
        return "must be text (write it in quotes)" if quotes else f"must be text (got {kind(item['input'])})"
    if type_ in ("string_too_short", "too_short", "string_too_long", "too_long"):
        return _length(type_, context)
    if type_ in _BOUNDS:
        return _BOUNDS[type_](context) + _got(item["input"], node)
    if words := _must(type_):
        return words + _got(item["input"], node)
    return re.sub(r"^(Input|Value|String) should ", "must ", item["msg"])


def _length(type_: str, context: Mapping[str, Any]) -> str:
    unit = "character" if type_.startswith("string") else "entry"
    if "short" in type_:
        least = context["min_length"]
        return "must not be empty" if least == 1 else f"must have at least {least} {_plural(unit)}"
    return f"must have at most {context['max_length']} {_plural(unit)}"


def _plural(unit: str) -> str:
    return {"character": "characters", "entry": "entries"}[unit]


def _got(value: Any, node: Node | None) -> str:
    if node is not None and not isinstance(node.value, dict | list):
        return f' (got "{node.text[:80]}")'
    return f" (got {kind(value)})"


def _bound(value: Any) -> str:
    return duration_text(value) if isinstance(value, timedelta) else str(value)
