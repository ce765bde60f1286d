"""Names: reversible, of harmless letters, never too long."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ion_core.contracts.storage import check_key
from ion_core.errors import InvalidKey
from ion_fsspec_storage.names import MAX_NAME, MAX_SEGMENT, key_of_name, name_of_id, name_of_key

HARMLESS = re.compile(r"[A-Za-z0-9._=/-]+")
texts = st.text(st.characters(codec="utf-8"), max_size=60)


def is_key(text: str) -> bool:
    try:
        check_key(text)
    except InvalidKey:
        return False
    return True


short_texts = st.text(st.characters(codec="utf-8"), max_size=20)
"""Written out at most twelve letters a character: always short enough to have a readable name."""


@given(short_texts.filter(is_key))
def test_a_key_is_read_back_from_its_name(key: str) -> None:
    name = name_of_key(key)
    assert name is not None
    assert HARMLESS.fullmatch(name)
    assert key_of_name(name) == key
    assert not any(segment in ("", ".", "..") or segment.endswith(".") for segment in name.split("/"))


@given(texts, texts)
def test_two_ids_have_two_names(one: str, other: str) -> None:
    assert (name_of_id(one) == name_of_id(other)) == (one == other)
    assert HARMLESS.fullmatch(name_of_id(one))
    assert "/" not in name_of_id(one)


@pytest.mark.parametrize("id", ["", ".", "..", "n" * 1024, "🙂" * 1024, "half \ud800", "nul\0", "=h" + "0" * 64])
def test_ids_of_any_kind_have_a_short_name(id: str) -> None:
    assert 0 < len(name_of_id(id)) <= 128
    assert HARMLESS.fullmatch(name_of_id(id))
    assert name_of_id(id) not in (".", "..")


@pytest.mark.parametrize("key", ["ü" * 120, "a/" + "n" * 200 + "=" * 50, "/".join(["deep"] * 204)])
def test_a_key_that_is_too_long_when_written_out_has_no_name(key: str) -> None:
    check_key(key)
    name = name_of_key(key)
    assert name is None or (len(name) <= MAX_NAME and max(map(len, name.split("/"))) <= MAX_SEGMENT)
    assert name is None


@pytest.mark.parametrize("name", ["with space", "a=2fb", "a=41", "a=", "a=FF", "ü", "a.", "a?versionId=1"])
def test_what_somebody_else_put_there_has_no_key(name: str) -> None:
    assert key_of_name(name) is None
