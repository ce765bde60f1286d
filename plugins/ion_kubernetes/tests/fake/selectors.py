"""Label selectors and field selectors, as in the queries of lists and watches."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from plugins.ion_kubernetes.tests.fake.statuses import bad_request

_SET = re.compile(r"(?P<key>[\w./-]+)\s+(?P<how>in|notin)\s+\((?P<values>[^)]*)\)")
_PLAIN = re.compile(r"(?P<key>[\w./-]+)\s*(?P<how>==|=|!=)\s*(?P<value>[\w.-]*)")
_EXISTS = re.compile(r"(?P<absent>!?)(?P<key>[\w./-]+)")

Matches = Callable[[Mapping[str, Any]], bool]


def selecting(labels: str, fields: str = "") -> Matches:
    """Raises Refused (400) for what is no selector."""
    rules = [_rule(term.strip()) for term in re.split(r",(?![^(]*\))", labels) if term.strip()]
    wanted = [term.partition("=") for term in fields.split(",") if term]

    def matches(object: Mapping[str, Any]) -> bool:
        own = object["metadata"].get("labels", {})
        return all(rule(own) for rule in rules) and all(_field(object, name) == value for name, _, value in wanted)

    return matches


def _rule(term: str) -> Matches:
    if found := _SET.fullmatch(term):
        key, values = found["key"], {it.strip() for it in found["values"].split(",")}
        inside = found["how"] == "in"
        return lambda labels: (labels.get(key) in values) is inside
    if found := _PLAIN.fullmatch(term):
        key, value, same = found["key"], found["value"], found["how"] != "!="
        return lambda labels: (labels.get(key) == value) is same
    if found := _EXISTS.fullmatch(term):
        key, there = found["key"], not found["absent"]
        return lambda labels: (key in labels) is there
    raise bad_request(f'unable to parse requirement: found "{term}"')


def _field(object: Mapping[str, Any], path: str) -> Any:
    found: Any = object
    for name in path.split("."):
        found = found.get(name, "") if isinstance(found, Mapping) else ""
    return found
