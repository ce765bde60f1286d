"""Comparing what a module left with what a case expects, each output by the rule that fits its name.

Names are ``data/<file>``, ``insights/<key>`` and ``events/<n>/<key>``, n from 0. Without a rule all must be the same.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from ion_core import strict_json
from ion_core.events import Pairs
from ion_core.words import counted

By = Literal["bytes", "json", "any"]
BY: tuple[By, ...] = ("bytes", "json", "any")
KINDS = ("data", "insights", "events")
RELATIVE = 1e-6
ABSOLUTE = 1e-9
"""How far apart numbers may be for ``json``, when the rule does not say: the larger of the two counts."""

_MOST_DIFFERENCES = 20
_MOST_DIFF_LINES = 60
_MOST_DIFF_BYTES = 1 << 18
_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Rule:
    """``by`` bytes: the same · json: the same JSON value, numbers within the tolerance · any: only that it is there."""

    pattern: str
    by: By
    relative: float = RELATIVE
    absolute: float = ABSOLUTE


@dataclass(frozen=True)
class Difference:
    """An output that is not as expected; ``text`` may have several lines."""

    where: str
    text: str


SAME = Rule(pattern="*", by="bytes")


def rule_for(name: str, rules: Sequence[Rule]) -> Rule:
    """The first rule that fits; ``*`` in a pattern stands for anything, ``/`` included."""
    return next((rule for rule in rules if fnmatchcase(name, rule.pattern)), SAME)


def compare_files(
    expected: Mapping[str, Path], left: Mapping[str, Path], rules: Sequence[Rule]
) -> Iterator[Difference]:
    """Files by name. Raises OSError when one cannot be read."""
    for name in sorted(expected.keys() | left.keys()):
        where = f"data/{name}"
        if name not in left:
            yield Difference(where, "is missing")
        elif name not in expected:
            yield Difference(where, f"is not expected ({counted(left[name].stat().st_size, 'byte')})")
        else:
            rule = rule_for(where, rules)
            if rule.by != "any" and not _same_content(expected[name], left[name]):
                yield from _file_differences(where, expected[name], left[name], rule)


def compare_pairs(where: str, expected: Pairs, left: Pairs, rules: Sequence[Rule]) -> Iterator[Difference]:
    """Pairs by key; the order counts among those of one key."""
    wanted, found = _by_key(expected), _by_key(left)
    for key in {**wanted, **found}:
        name = f"{where}/{key}"
        values, theirs = wanted.get(key, []), found.get(key, [])
        if not theirs:
            yield Difference(name, f"is missing; expected {_shown(values)}")
        elif not values:
            yield Difference(name, f"is not expected: {_shown(theirs)}")
        elif len(values) != len(theirs):
            yield Difference(name, f"is there {counted(len(theirs), 'time')}, expected {counted(len(values), 'time')}")
        else:
            rule = rule_for(name, rules)
            for value, other in zip(values, theirs, strict=True):
                yield from _text_differences(name, value, other, rule)


def _by_key(pairs: Pairs) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def _shown(values: Sequence[str]) -> str:
    return ", ".join(_brief(value) for value in values[:3]) + (", …" if len(values) > 3 else "")


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + "…"


def _text_differences(where: str, expected: str, left: str, rule: Rule) -> Iterator[Difference]:
    if rule.by == "any" or expected == left:
        return
    if rule.by == "json":
        try:
            value, other = strict_json.loads_any(expected), strict_json.loads_any(left)
        except ValueError:
            pass  # then it is text
        else:
            yield from _json_differences(where, value, other, rule)
            return
    yield Difference(where, f"is {_brief(left)}, expected {_brief(expected)}")


def _same_content(expected: Path, left: Path) -> bool:
    if expected.stat().st_size != left.stat().st_size:
        return False
    with expected.open("rb") as ours, left.open("rb") as theirs:
        while block := ours.read(_BLOCK):
            if block != theirs.read(_BLOCK):
                return False
    return True


def _file_differences(where: str, expected: Path, left: Path, rule: Rule) -> Iterator[Difference]:
    if rule.by == "json":
        values = []
        for path, what in ((expected, "what is expected"), (left, "what was left")):
            try:
                values.append(strict_json.loads_any(path.read_bytes()))
            except ValueError as error:
                yield Difference(where, f"{what} is not JSON: {error}")
        if len(values) == 2:
            yield from _json_differences(where, values[0], values[1], rule)
        return
    yield Difference(where, _difference_in_words(expected, left))


def _difference_in_words(expected: Path, left: Path) -> str:
    """A diff of two short texts, else sizes and where the first difference is."""
    if max(expected.stat().st_size, left.stat().st_size) <= _MOST_DIFF_BYTES:
        ours, theirs = expected.read_bytes(), left.read_bytes()
        try:
            texts = [raw.decode("utf-8").splitlines() for raw in (ours, theirs) if b"\0" not in raw]
        except UnicodeDecodeError:
            texts = []
        if len(texts) == 2 and texts[0] != texts[1]:
            lines = list(difflib.unified_diff(texts[0], texts[1], "expected", "left", lineterm=""))
            more = [f"… {counted(len(lines) - _MOST_DIFF_LINES, 'more line')}"] if len(lines) > _MOST_DIFF_LINES else []
            return "\n".join(["differs", *lines[:_MOST_DIFF_LINES], *more])
    sizes = f"is {counted(left.stat().st_size, 'byte')}, expected {expected.stat().st_size:,}"
    return f"{sizes}; the first difference is at byte {_first_difference(expected, left):,}"


def _first_difference(expected: Path, left: Path) -> int:
    at = 0
    with expected.open("rb") as ours, left.open("rb") as theirs:
        while True:
            block, other = ours.read(_BLOCK), theirs.read(_BLOCK)
            if block != other or not block:
                pairs = enumerate(zip(block, other, strict=False))
                return at + next((n for n, (a, b) in pairs if a != b), min(len(block), len(other)))
            at += len(block)


def _json_differences(where: str, expected: Any, left: Any, rule: Rule) -> Iterator[Difference]:
    found = list(_unlike("$", expected, left, rule))
    if found:
        more = [f"… {len(found) - _MOST_DIFFERENCES} more"] if len(found) > _MOST_DIFFERENCES else []
        yield Difference(where, "\n".join([*found[:_MOST_DIFFERENCES], *more]))


def _unlike(path: str, expected: Any, left: Any, rule: Rule) -> Iterator[str]:
    """Differences of two JSON values, each with its path; the order of an object's keys does not count."""
    if _is_number(expected) and _is_number(left):
        if expected != left and not math.isclose(expected, left, rel_tol=rule.relative, abs_tol=rule.absolute):
            tolerance = f"relative {rule.relative:g}, absolute {rule.absolute:g}"
            yield f"{path} is {left}, expected {expected} (tolerance: {tolerance})"
    elif isinstance(expected, dict) and isinstance(left, dict):
        for key in {**expected, **left}:
            if key not in left:
                yield f"{path}.{key} is missing; expected {_brief(expected[key])}"
            elif key not in expected:
                yield f"{path}.{key} is not expected: {_brief(left[key])}"
            else:
                yield from _unlike(f"{path}.{key}", expected[key], left[key], rule)
    elif isinstance(expected, list) and isinstance(left, list):
        if len(expected) != len(left):
            yield f"{path} has {counted(len(left), 'element')}, expected {len(expected)}"
        for n, (value, other) in enumerate(zip(expected, left, strict=False)):
            yield from _unlike(f"{path}[{n}]", value, other, rule)
    elif type(expected) is not type(left) or expected != left:
        yield f"{path} is {_brief(left)}, expected {_brief(expected)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
