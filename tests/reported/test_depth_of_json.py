"""How deep JSON may be nested is a number of ours, the same under every version of Python, as are the words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ion_core import strict_json
from ion_core.cases.comparing import Rule, compare_files, compare_pairs
from ion_core.errors import InvalidEvent

MOST = strict_json.MOST_LEVELS
SAID = f"value: is nested too deeply, {MOST} levels are allowed. A few are enough for anything here."


def loads(text: str) -> object:
    return strict_json.loads(text.encode(), what="value", limit=1 << 22)


def refusal(text: str) -> str:
    with pytest.raises(InvalidEvent) as refused:
        loads(text)
    return str(refused.value)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a[[":', "}")])
def test_the_limit_is_reached_exactly(opening: str, closing: str) -> None:
    loads(opening * MOST + "1" + closing * MOST)
    assert refusal(opening * (MOST + 1) + "1" + closing * (MOST + 1)) == SAID


@pytest.mark.parametrize("levels", [MOST + 1, 980, 5_000, 20_000, 100_000])
@pytest.mark.parametrize("closed", [True, False])
def test_the_words_are_the_same_however_deep_and_whether_it_ends_or_not(levels: int, closed: bool) -> None:
    assert refusal("[" * levels + ("]" * levels if closed else "")) == SAID


def test_very_many_values_side_by_side_are_fine() -> None:
    assert (
        loads("[" + ",".join(['{"key": "[[{", "value": "\\"}"}'] * 5_000) + "]")
        == [{"key": "[[{", "value": '"}'}] * 5_000
    )


@pytest.mark.parametrize("brackets", ["[" * 500, '\\"[' * 500, "\\\\", '{"' * 500])
def test_brackets_in_strings_do_not_count(brackets: str) -> None:
    text = json.dumps([brackets] * 100 + [[]] * 100)
    assert loads(text) == json.loads(text)


@pytest.mark.parametrize(
    "text", ['["' + "[" * 200, '"' + "\\" * 99_999, '["' + "a\\" * 50_000 + "[" * 99, "]" * 99 + "["]
)
def test_what_is_no_json_is_said_to_be_none_and_at_once(text: str) -> None:
    assert "is not JSON" in refusal(text)


@given(
    st.recursive(
        st.text('[]{}"\\a'), lambda inner: st.lists(inner) | st.dictionaries(st.text('[]{}"\\a'), inner), max_leaves=200
    )
)
def test_whatever_is_allowed_is_read(value: object) -> None:
    assert loads(strict_json.dumps(value).decode()) == value


def test_a_file_that_is_nested_too_deeply_is_a_difference_and_no_bug(tmp_path: Path) -> None:
    """Recorded cases compare files of modules as JSON."""
    for name, levels in (("expected", 1), ("left", 50_000)):
        (tmp_path / name).write_text("[" * levels + "]" * levels)
    rules = [Rule(pattern="*", by="json")]
    [found] = compare_files({"f": tmp_path / "expected"}, {"f": tmp_path / "left"}, rules)
    assert found.text == f"what was left is not JSON: nested too deeply, {MOST} levels are allowed"
    [found] = compare_pairs("insights", (("k", "[1]"),), (("k", "[" * 50_000 + "]" * 50_000),), rules)
    assert "expected" in found.text
