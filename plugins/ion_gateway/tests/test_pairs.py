"""JSON as pairs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ion_core.errors import InvalidEvent
from ion_gateway.pairs import flattened, read_json


@pytest.mark.parametrize(
    ("value", "pairs"),
    [
        ({}, []),
        ({"a": "x"}, [("a", "x")]),
        ({"a": ""}, [("a", "")]),
        ({"": "x"}, [("", "x")]),
        ({"": {"": []}}, [(".", "[]")]),
        ({"a": 1, "b": 1.5, "c": True, "d": None}, [("a", "1"), ("b", "1.5"), ("c", "true"), ("d", "null")]),
        ({"a": {"b": {"c": "x"}}}, [("a.b.c", "x")]),
        ({"a": ["x", {"b": "y"}, []]}, [("a.0", "x"), ("a.1.b", "y"), ("a.2", "[]")]),
        ({"a": {}}, [("a", "{}")]),
        ({"ä": "ö"}, [("ä", "ö")]),
        ({"n": 12345678901234567890}, [("n", "12345678901234567890")]),
    ],
)
def test_an_object_is_flattened(value: dict[str, Any], pairs: list[tuple[str, str]]) -> None:
    assert flattened(value) == pairs
    assert read_json(json.dumps(value).encode(), limit=10_000, max_pairs=100) == pairs


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda below: st.lists(below) | st.dictionaries(st.text(), below),
    max_leaves=10,
)


def leaves(value: Any) -> int:
    if isinstance(value, dict | list) and value:
        return sum(leaves(it) for it in (value.values() if isinstance(value, dict) else value))
    return 1


@given(st.dictionaries(st.text(), VALUES))
def test_nothing_is_left_out_and_no_key_is_there_twice(value: dict[str, Any]) -> None:
    try:
        pairs = flattened(value)
    except InvalidEvent as refused:
        problems = refused.problems
    else:
        problems = ()
        assert len(pairs) == (leaves(value) if value else 0)
        assert len(dict(pairs)) == len(pairs)
    assert all("two values come out as the key" in problem for problem in problems)
