"""One thing is said in the singular, wherever the number comes from."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ion_core.words import counted

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for pattern in ("ion_core/**/*.py", "plugins/*/ion_*/**/*.py")
    for path in ROOT.glob(pattern)
    if "testing" not in path.parts and "templates" not in path.parts and path.name != "testing.py"
)
THINGS = (
    "addresses|arguments|attempts|bytes|cases|characters|commits|containers|directories|documents|elements|entries|"
    "events|files|flows|headers|hops|inputs|insights|jobs|letters|lines|messages|modules|names|objects|pairs|plugins|"
    "problems|queues|seconds|services|times|types|values|workers"
)


@pytest.mark.parametrize(
    ("count", "what", "said"),
    [
        (0, "event", "0 events"),
        (1, "event", "1 event"),
        (1_000, "dead letter", "1,000 dead letters"),
        (2, "directory", "2 directories"),
        (2, "day", "2 days"),
        (2, "address", "2 addresses"),
    ],
)
def test_things_are_counted(count: int, what: str, said: str) -> None:
    assert counted(count, what) == said


def _numbers_before_plurals(text: str) -> Iterator[str]:
    """In f-strings: a value and, right behind it, things in the plural. Constants are known not to be 1."""
    for node in ast.walk(ast.parse(text)):
        for value, behind in zip(node.values, node.values[1:], strict=False) if isinstance(node, ast.JoinedStr) else ():
            if isinstance(value, ast.FormattedValue) and isinstance(behind, ast.Constant):
                said = ast.unparse(value.value)
                if re.match(rf" (more )?({THINGS})\b", str(behind.value)) and not re.fullmatch(r"_?[A-Z_]+", said):
                    yield f"{node.lineno}: {said}{behind.value}"


def test_it_is_seen_where_a_number_stands_before_a_plural() -> None:
    assert list(_numbers_before_plurals('f"{len(it):,} events"')) == ["1: len(it) events"]
    assert list(_numbers_before_plurals("f\"{counted(3, 'event')} and files\"")) == []
    assert list(_numbers_before_plurals('f"{MOST} files"')) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_number_stands_before_a_plural(path: Path) -> None:
    assert list(_numbers_before_plurals(path.read_text(encoding="utf-8"))) == []
