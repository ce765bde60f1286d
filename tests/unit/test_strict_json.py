"""JSON as others send it: what is refused, and that the message says where."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ion_core import strict_json
from ion_core.errors import InvalidEvent

LIMIT = 256 * 1024

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=30,
)


def refusal(raw: bytes, *, limit: int = LIMIT) -> str:
    with pytest.raises(InvalidEvent) as refused:
        strict_json.loads(raw, what="out/events/a", limit=limit)
    message = str(refused.value)
    assert message.startswith("out/events/a:")
    return message


@given(json_values)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert strict_json.loads(strict_json.dumps(value), what="value", limit=1 << 20) == value


@given(st.binary(max_size=200))
def test_whatever_the_bytes_are_the_answer_is_a_value_or_invalid_event(raw: bytes) -> None:
    try:
        value = strict_json.loads(raw, what="value", limit=LIMIT)
    except InvalidEvent:
        return
    assert json.loads(raw) == value


@given(st.lists(st.sampled_from([*'[]{}:,1" ', '"a"', "NaN", "tru", "\\u", "-", "e9"])).map("".join))
def test_what_looks_like_json_is_judged_as_the_standard_library_does(text: str) -> None:
    try:
        value = strict_json.loads(text.encode(), what="value", limit=LIMIT)
    except InvalidEvent:
        return
    assert json.loads(text) == value


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_constants_that_are_no_json_are_named(constant: str) -> None:
    assert constant in refusal(f'[{{"key": {constant}}}]'.encode())


def test_a_number_beyond_a_double_is_refused() -> None:
    assert "1e999" in refusal(b"[1e999]")


def test_a_number_of_too_many_digits_is_refused() -> None:
    assert "digits" in refusal(b"9" * 5_000)


def test_a_duplicate_key_is_named_however_deep() -> None:
    assert "'color' appears twice" in refusal(b'{"a": [{"color": 1, "size": 2, "color": 3}]}')


def test_a_duplicate_among_very_many_keys_is_found_at_once() -> None:
    keys = ", ".join(f'"{n}": 0' for n in range(20_000))
    assert "'19999' appears twice" in refusal(f'{{{keys}, "19999": 1}}'.encode())


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_deep_nesting_is_refused(opening: bytes, closing: bytes) -> None:
    assert "nested too deeply" in refusal(opening * 20_000 + b"1" + closing * 20_000)


def test_a_byte_order_mark_is_named() -> None:
    assert "byte order mark" in refusal(b"\xef\xbb\xbf[]")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_other_encodings_are_told_to_be_utf_8(encoding: str) -> None:
    message = refusal('[{"key": "a", "value": "b"}]'.encode(encoding))
    assert "not UTF-8 (byte 0)" in message
    assert "Write it as UTF-8" in message


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_no_json(encoding: str) -> None:
    assert ":1:" in refusal("[1]".encode(encoding))


def test_bytes_that_are_no_utf_8_are_placed() -> None:
    assert "(byte 3)" in refusal(b'["a\xff"]')


@pytest.mark.parametrize(
    ("raw", "position"),
    [
        (b"[] x", "1:4"),
        (b"[]\n[]", "2:1"),
        (b'{\n  "a": 1,\n  b: 2\n}', "3:3"),
        (b"[1,x]", "1:4"),
        (b"{'a': 1}", "1:2"),
        (b"tru", "1:1"),
        (b'["a\nb"]', "1:4"),
        (b'["a', "1:2"),
    ],
)
def test_what_does_not_parse_is_placed_by_line_and_column(raw: bytes, position: str) -> None:
    assert f"out/events/a:{position}: is not JSON" in refusal(raw)


@pytest.mark.parametrize("raw", [b"", b"   ", b"\n\t\r\n"])
def test_nothing_is_no_json(raw: bytes) -> None:
    assert "is empty" in refusal(raw)


@pytest.mark.parametrize("raw", [b'["\\ud800"]', b'{"\\udfff": 1}', b'["\\ud83d x"]'])
def test_half_of_a_surrogate_pair_is_refused(raw: bytes) -> None:
    assert "surrogate" in refusal(raw)


def test_a_whole_surrogate_pair_is_one_character() -> None:
    assert strict_json.loads(b'["\\ud83d\\ude00"]', what="value", limit=LIMIT) == ["😀"]


def test_the_limit_is_named_and_reached_exactly() -> None:
    raw = b'"' + b"x" * 98 + b'"'
    assert strict_json.loads(raw, what="value", limit=100) == "x" * 98
    message = refusal(raw + b" ", limit=100)
    assert "101 bytes" in message
    assert "limit is 100" in message
    assert "as files" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_json_is_not_written(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        strict_json.dumps(value)


@pytest.mark.parametrize("sign", ["", "-"])
def test_a_number_of_too_many_digits_is_refused_in_words_for_who_wrote_it(sign: str) -> None:
    text = f'{{"a": {sign}{"9" * 5000}}}'
    with pytest.raises(InvalidEvent, match=r"^body: has a number of more than 4,300 digits\. Write it as text\.$"):
        strict_json.loads(text.encode(), what="body", limit=10_000)
