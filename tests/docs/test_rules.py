"""The rules that decide about a delivery: those of the code are those of the page, word for word."""

from __future__ import annotations

import re
from pathlib import Path

from ion_core.rules import RULES

PAGE = (Path(__file__).parents[2] / "docs/delivery.md").read_text(encoding="utf-8")


def _table(heading: str) -> list[list[str]]:
    """The rows of the first table below that heading, as they are read: without links and marks of code."""
    below = PAGE.split(f"## {heading}\n", 1)[1]
    rows = [line for line in below.split("\n## ", 1)[0].splitlines() if line.startswith("| `")]
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", row).replace("`", "") for row in rows)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in plain]


def test_every_row_of_the_page_is_a_rule_of_the_code_word_for_word() -> None:
    engine = [rule for name, rule in RULES.items() if name.startswith("engine-")]
    ours = [rule for rule in RULES.values() if rule not in engine]
    assert _table("What decides about a delivery") == [[it.name, it.what, it.settled, it.counted] for it in ours]


def test_rows_about_engines_name_rules_and_have_their_words() -> None:
    rows = _table("Jobs at an engine")
    named = [name for names, *_ in rows for name in names.split(", ")]
    assert set(named) <= RULES.keys()
    assert {name for name in RULES if name.startswith("engine-")} <= set(named)
    for name, what, becomes in rows:
        if name.startswith("engine-"):
            assert (RULES[name].what, RULES[name].settled) == (what, becomes)


def test_names_are_what_can_be_typed() -> None:
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", name) for name in RULES)
