"""What counts as the same, by bytes, json and any."""

from __future__ import annotations

from pathlib import Path

import pytest

from ion_core.cases.choosing import chooses
from ion_core.cases.comparing import Rule, compare_files, compare_pairs, rule_for
from ion_core.errors import UsageError
from ion_core.events import Pairs


def files(tmp_path: Path, expected: bytes, left: bytes, *rules: Rule) -> list[str]:
    (tmp_path / "expected").write_bytes(expected)
    (tmp_path / "left").write_bytes(left)
    found = compare_files({"f": tmp_path / "expected"}, {"f": tmp_path / "left"}, rules)
    return [f"{it.where}: {it.text}" for it in found]


def pairs(expected: Pairs, left: Pairs, *rules: Rule) -> list[str]:
    return [f"{it.where}: {it.text}" for it in compare_pairs("insights", expected, left, rules)]


def by(kind: str, **tolerance: float) -> Rule:
    return Rule(pattern="*", by=kind, **tolerance)  # type: ignore[arg-type]


def test_without_a_rule_every_byte_counts(tmp_path: Path) -> None:
    assert files(tmp_path, b"a\n", b"a\n") == []
    assert files(tmp_path, b'{"a": 1}', b'{"a":1}') != []


def test_texts_that_differ_are_shown_as_a_diff(tmp_path: Path) -> None:
    [text] = files(tmp_path, b"one\ntwo\nthree\n", b"one\n2\nthree\n")
    assert text.splitlines()[:3] == ["data/f: differs", "--- expected", "+++ left"]
    assert text.splitlines()[-4:] == [" one", "-two", "+2", " three"]


@pytest.mark.parametrize(
    ("expected", "left", "said"),
    [
        (b"\x00\x01\x02", b"\x00\x01\x03", "is 3 bytes, expected 3; the first difference is at byte 2"),
        (b"\xff\xfe", b"\xff", "is 1 byte, expected 2; the first difference is at byte 1"),
        (b"a\n", b"a", "is 1 byte, expected 2; the first difference is at byte 1"),
        (b"x" * 3_000_000 + b"a", b"x" * 3_000_000 + b"b", "the first difference is at byte 3,000,000"),
    ],
)
def test_others_by_where_the_first_difference_is(tmp_path: Path, expected: bytes, left: bytes, said: str) -> None:
    [text] = files(tmp_path, expected, left)
    assert said in text


def test_files_that_are_missing_or_not_expected_are_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"123")
    found = compare_files({"a": tmp_path / "x", "b": tmp_path / "x"}, {"b": tmp_path / "x", "c": tmp_path / "x"}, [])
    assert [f"{it.where}: {it.text}" for it in found] == [
        "data/a: is missing",
        "data/c: is not expected (3 bytes)",
    ]


@pytest.mark.parametrize(
    ("expected", "left"),
    [
        (b'{"a": 1, "b": [2, {"c": null}]}', b'{"b":[2.0,{"c":null}],"a":1}'),
        (b"0.3", b"0.30000000000000004"),
        (b"[1000000]", b"[1000000.5]"),
        (b"0", b"1e-12"),
        (b"[NaN]", b"[NaN]"),
    ],
)
def test_json_values_are_the_same_whatever_their_layout_and_within_the_tolerance(
    tmp_path: Path, expected: bytes, left: bytes
) -> None:
    assert files(tmp_path, expected, left, by("json")) == []


@pytest.mark.parametrize(
    ("expected", "left", "said"),
    [
        (b'{"a": {"b": [1, 2]}}', b'{"a": {"b": [1, 3]}}', "$.a.b[1] is 3, expected 2 (tolerance: relative 1e-06"),
        (b'{"a": 1}', b"{}", "$.a is missing; expected 1"),
        (b"{}", b'{"a": "x"}', '$.a is not expected: "x"'),
        (b"[1, 2]", b"[1]", "$ has 1 element, expected 2"),
        (b"1", b"true", "$ is true, expected 1"),
        (b"1", b'"1"', '$ is "1", expected 1'),
        (b"1", b"{", "what was left is not JSON"),
        (b"[1.0]", b"[1.001]", "$[0] is 1.001, expected 1.0"),
    ],
)
def test_json_values_that_differ_are_said_with_their_path(
    tmp_path: Path, expected: bytes, left: bytes, said: str
) -> None:
    [text] = files(tmp_path, expected, left, by("json"))
    assert said in text


def test_the_tolerance_is_that_of_the_rule(tmp_path: Path) -> None:
    assert files(tmp_path, b"100", b"101", by("json", relative=0.02)) == []
    assert files(tmp_path, b"100", b"101", by("json", absolute=1.5)) == []
    assert files(tmp_path, b"100", b"103", by("json", relative=0.02, absolute=1.5)) != []


def test_many_differences_are_cut_short(tmp_path: Path) -> None:
    [text] = files(tmp_path, str(list(range(100))).encode(), str(list(range(1, 101))).encode(), by("json"))
    assert len(text.splitlines()) == 21
    assert text.endswith("… 80 more")


def test_any_needs_the_output_to_be_there_and_no_more(tmp_path: Path) -> None:
    assert files(tmp_path, b"a", b"b", by("any")) == []
    (tmp_path / "x").touch()
    assert [it.text for it in compare_files({"f": tmp_path / "x"}, {}, [by("any")])] == ["is missing"]
    assert pairs((("at", "now"),), (("at", "then"),), by("any")) == []
    assert pairs((("at", "now"),), (), by("any")) == ['insights/at: is missing; expected "now"']


def test_pairs_are_compared_by_key_and_in_order_within_one() -> None:
    assert pairs((("a", "1"), ("b", "2"), ("a", "3")), (("b", "2"), ("a", "1"), ("a", "3"))) == []
    assert pairs((("a", "1"), ("a", "2")), (("a", "2"), ("a", "1"))) == [
        'insights/a: is "2", expected "1"',
        'insights/a: is "1", expected "2"',
    ]
    assert pairs((("a", "1"),), (("a", "1"), ("a", "1"), ("z", "é"))) == [
        "insights/a: is there 2 times, expected 1 time",
        'insights/z: is not expected: "é"',
    ]


def test_values_that_are_numbers_or_json_have_a_tolerance_too() -> None:
    assert pairs((("score", "0.50"),), (("score", "0.5"),), by("json")) == []
    assert pairs((("score", "0.50"),), (("score", "0.5"),)) == ['insights/score: is "0.5", expected "0.50"']
    assert pairs((("name", "x"),), (("name", "y"),), by("json")) == ['insights/name: is "y", expected "x"']


def test_the_first_rule_that_fits_counts() -> None:
    rules = [Rule(pattern="data/a/*.json", by="json"), Rule(pattern="data/*", by="any")]
    names = ["data/a/b/c.json", "data/x.json", "insights/x"]
    assert [rule_for(name, rules).by for name in names] == ["json", "any", "bytes"]


@pytest.mark.parametrize(
    ("expression", "chosen"),
    [
        ("detect", ["detect/faces", "detect/large"]),
        ("DETECT and not large", ["detect/faces"]),
        ("faces or large", ["detect/faces", "detect/large", "blur/faces"]),
        ("not (blur or large)", ["detect/faces"]),
        ("detect/faces", ["detect/faces"]),
        ("not not blur and faces or large", ["detect/large", "blur/faces"]),
    ],
)
def test_an_expression_chooses(expression: str, chosen: list[str]) -> None:
    ids = ["detect/faces", "detect/large", "blur/faces"]
    assert [id for id in ids if chooses(expression)(id)] == chosen


@pytest.mark.parametrize("expression", ["", "a b", "a and", "or a", "not", "(a", "a)", "()"])
def test_what_is_no_expression_is_refused(expression: str) -> None:
    with pytest.raises(UsageError, match="-k "):
        chooses(expression)
