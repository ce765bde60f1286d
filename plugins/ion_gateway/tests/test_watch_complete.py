"""When a file is complete, which files are meant, and which event each is: without a folder or a clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ion_core.contracts.storage import check_key
from ion_gateway.watching.entries import Entry, Listing, beside, event_id, unmarked
from ion_gateway.watching.patterns import TEMPORARY, Patterns, pattern_problem
from ion_gateway.watching.unsettled import Unsettled


def entry(path: str = "a.jpg", version: str = "1", changed: float = 0.0) -> Entry:
    return Entry(path=path, version=version, changed=changed, size=1)


def test_a_file_is_settled_once_it_was_seen_unchanged_for_long_enough() -> None:
    unsettled = Unsettled(10)
    assert not unsettled.settled(entry(), 100)
    assert not unsettled.settled(entry(), 109.9)
    assert unsettled.next() == 110
    assert unsettled.due(109.9) == []
    assert unsettled.due(110) == ["a.jpg"]
    assert unsettled.settled(entry(), 110)
    assert unsettled.next() is None, "it is forgotten once it is taken"


def test_a_file_that_is_still_written_never_is() -> None:
    unsettled = Unsettled(10)
    for second in range(0, 1000, 9):
        assert not unsettled.settled(entry(version=str(second)), second)
    assert unsettled.settled(entry(version="999"), 999 + 10)


def test_what_a_file_says_of_its_own_age_does_not_count() -> None:
    assert not Unsettled(10).settled(entry(changed=1.0), 1_000_000)


def test_with_nothing_to_wait_for_a_file_is_settled_as_it_is_seen() -> None:
    unsettled = Unsettled(0)
    assert unsettled.settled(entry(), 5)
    assert unsettled.next() is None


def test_a_file_that_went_and_came_back_starts_anew() -> None:
    unsettled = Unsettled(10)
    unsettled.settled(entry(), 0)
    unsettled.settled(entry("b.jpg"), 1)
    unsettled.keep({"b.jpg"})
    assert not unsettled.settled(entry(), 10)
    assert unsettled.due(11) == ["b.jpg"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("12"), st.integers(0, 5)), max_size=60))
def test_what_is_due_first_is_always_known(steps: list[tuple[str, str, int]]) -> None:
    """By a model that keeps for each file since when it is as it is."""
    unsettled, since, now = Unsettled(7), dict[str, tuple[str, int]](), 0
    for path, version, passed in steps:
        now += passed
        known = since.get(path)
        expected = known is not None and known[0] == version and now - known[1] >= 7
        assert unsettled.settled(entry(path, version), now) == expected
        if expected:
            del since[path]
        elif known is None or known[0] != version:
            since[path] = (version, now)
        assert sorted(unsettled.due(now)) == sorted(it for it, (_, begun) in since.items() if now - begun >= 7)
        assert unsettled.next() == min((begun + 7 for _, begun in since.values()), default=None)


@pytest.mark.parametrize(
    ("marked", "complete"),
    [
        ([], []),
        ([entry("a.jpg.done", changed=50.0)], ["a.jpg"]),
        ([entry("a.jpg.done", changed=51.0)], ["a.jpg"]),
        ([entry("a.jpg.done", changed=49.9)], []),  # it was of what the file was before
        ([entry("b.jpg.done", changed=60.0)], []),
    ],
)
def test_with_marks_a_file_is_complete_once_one_is_beside_it(marked: list[Entry], complete: list[str]) -> None:
    listing = Listing()
    for one in (entry(changed=50.0), *marked):
        listing.add(one)
    assert list(unmarked(listing, ".done")) == complete
    assert list(unmarked(listing, None)) == [it.path for it in (entry(), *marked)]


@pytest.mark.parametrize(
    ("patterns", "meant", "not_meant"),
    [
        (["**"], ["a", "a/b/c.jpg", "ä b", "[x]"], [".a", "a/.b", ".a/b"]),
        (["*.jpg"], ["a.jpg", "{.jpg"], ["a.JPG", "a/b.jpg", "a.jpg.x"]),
        (["**/*.jpg"], ["a.jpg", "a/b/c.jpg"], ["a.png"]),
        (["*/in/*.{jpg,png}"], ["x/in/a.jpg", "x/in/a.png"], ["in/a.jpg", "x/in/y/a.jpg", "x/in/a.gif"]),
        (["a?.[0-9]", "b"], ["ab.7", "b"], ["a.7", "ab.x", "c"]),
    ],
)
def test_patterns(patterns: list[str], meant: list[str], not_meant: list[str]) -> None:
    made = Patterns(patterns, None)
    assert [path for path in meant + not_meant if made.wants_all_of(path)] == meant


@pytest.mark.parametrize("name", [*(f"a.jpg{it}" for it in TEMPORARY), "a.PART", "B.Tmp", ".hidden"])
def test_what_others_are_still_at_is_passed_over(name: str) -> None:
    made = Patterns(["**", name], None)
    assert not made.wants(name)
    assert not made.wants(f"a/{name}")


def test_marks_are_listed_where_their_files_are() -> None:
    made = Patterns(["*.jpg"], ".done")
    assert [it for it in ("a.jpg", "a.jpg.done", "a.done", "a.tmp.done") if made.wants(it)] == ["a.jpg", "a.jpg.done"]


@pytest.mark.parametrize(
    ("patterns", "entered"),
    [
        (["*.jpg"], []),
        (["*/*.jpg"], ["a"]),
        (["a/b/*"], ["a", "a/b"]),
        (["{a/b,c}/*"], ["a", "a/b", "a/b/c"]),
        (["**"], ["a", "a/b", "a/b/c"]),
    ],
)
def test_no_directory_is_listed_in_which_nothing_can_be_meant(patterns: list[str], entered: list[str]) -> None:
    assert [it for it in ("a", "a/b", "a/b/c", ".a", "a/.b") if Patterns(patterns, None).enters(it)] == entered


@pytest.mark.parametrize("pattern", ["", "/a", "../a", "a/../b", "a//b", "./a", "a\\b", "a/", "a\0", "{0..2000}"])
def test_what_is_no_pattern_is_said(pattern: str) -> None:
    assert pattern_problem(pattern)


_PATHS = st.text(st.characters(), min_size=1, max_size=40).map(
    lambda text: text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
)


@given(_PATHS, _PATHS, st.sampled_from(["1-1", "1-2"]), st.sampled_from(["1-1", "1-2"]))
def test_an_id_is_plain_and_that_of_one_version_of_one_file(one: str, other: str, first: str, second: str) -> None:
    ids = [event_id("watch", "photos", entry(path, version)) for path, version in ((one, first), (other, second))]
    assert (ids[0] == ids[1]) == ((one, first) == (other, second))
    for made in ids:
        assert check_key(made) == made
        assert len(made) < 64
        assert made.isascii()


def test_an_id_never_changes() -> None:
    """It is in stores: another release has to make the same of the same file."""
    made = event_id("watch", "photos", entry("a/ü.jpg", "7-1700000000000000000"))
    assert made == "watch.photos.d43ddfffe002ebcc15af202178668eda"
    assert event_id("other", "photos", entry("a/ü.jpg", "7-1700000000000000000")) != made
    assert event_id("watch", "other", entry("a/ü.jpg", "7-1700000000000000000")) != made


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.jpg", "a.0123abcd.jpg"),
        ("x.y/a", "x.y/a.0123abcd"),
        ("x/a.tar.gz", "x/a.tar.0123abcd.gz"),
        ("x/..a", "x/..0123abcd.a"),
    ],
)
def test_where_a_name_is_taken_there_is_another(path: str, expected: str) -> None:
    assert beside(path, "watch.photos.0123abcd4567") == expected
