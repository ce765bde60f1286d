"""Ids as names of directories: confined, unlike each other, and as they are where that is possible."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ion_core.development.names import MARKERS, directory_name, event_id_of
from ion_core.errors import UsageError

anything = st.text(st.characters(codec=None), min_size=1, max_size=120)


@pytest.mark.parametrize(
    "event_id", ["1111111", "bb8f5c58-6119-50a8-8704-1e032ffeab3b", "fish", "größe", "日本", "a b", "A.b_c-d~e"]
)
def test_a_plain_id_is_its_own_name(event_id: str) -> None:
    assert directory_name(event_id) == event_id


@pytest.mark.parametrize(
    ("event_id", "name"),
    [
        ("../x", "%2E.%2Fx"),
        ("/etc/passwd", "%2Fetc%2Fpasswd"),
        (".", "%2E"),
        ("..", "%2E."),
        ("_blobs", "%5Fblobs"),
        ("prepared", "%70repared"),
        ("committed", "%63ommitted"),
        ("~root", "%7Eroot"),
        ("-rf", "%2Drf"),
        ("100%", "100%25"),
        ("%2E", "%252E"),
        ("a\\b", "a%5Cb"),
        ("line\nend", "line%0Aend"),
        ("nul\0", "nul%00"),
        ("\u202eevil", "%E2%80%AEevil"),
    ],
)
def test_what_a_name_cannot_have_is_escaped(event_id: str, name: str) -> None:
    assert directory_name(event_id) == name
    assert event_id_of(name) == event_id


def test_a_long_id_is_its_digest() -> None:
    name = directory_name("é" * 1024)
    assert name.startswith("~")
    assert len(name) == 65
    assert directory_name("é" * 1023) != name
    assert event_id_of(name) is None


def test_an_empty_id_is_refused() -> None:
    with pytest.raises(UsageError, match="must not be empty"):
        directory_name("")


@given(anything)
def test_every_name_is_one_directory_below(event_id: str) -> None:
    name = directory_name(event_id)
    assert len(name.encode("utf-8", "surrogatepass")) <= 255
    assert (Path("/base") / name).parent == Path("/base")
    assert name not in (*MARKERS, ".", "..")
    assert name[0] not in "._"
    assert "\0" not in name


@given(anything)
def test_a_name_tells_its_id_or_nothing(event_id: str) -> None:
    assert event_id_of(directory_name(event_id)) in (event_id, None)


@given(anything, anything)
def test_no_two_ids_share_a_name(one: str, other: str) -> None:
    assert (directory_name(one) == directory_name(other)) == (one == other)


@pytest.mark.parametrize("name", ["%", "%zz", "a%2fb", "%41", "~abc", "prepared"])
def test_a_name_of_somebody_elses_tells_nothing(name: str) -> None:
    assert event_id_of(name) is None
