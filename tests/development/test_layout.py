"""Places below a base directory: found however deep, whatever else lies there; changed by one at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from ion_core.development.layout import Layout, Place, described, id_of
from ion_core.errors import InvalidEvent, StateBusy, UsageError


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "dev")


def made(layout: Layout, *event_ids: str) -> Place:
    """A place for each of them, below the one before."""
    parent = ""
    for event_id in event_ids:
        place = layout.place_for(event_id, parent)
        place.make()
        parent = event_id
    return place


def test_places_nest_as_events_do(layout: Layout) -> None:
    place = made(layout, "1", "größe", "3")
    assert place.path == layout.base / "1" / "größe" / "3"
    assert layout.find("3") == place
    assert layout.find("größe") == Place(layout.base / "1" / "größe")


def test_places_come_parents_first_in_order(layout: Layout) -> None:
    made(layout, "b", "z")
    made(layout, "b", "c", "x")
    made(layout, "a")
    found = [str(place.path.relative_to(layout.base)) for place in layout.places()]
    assert found == ["a", "b", "b/c", "b/c/x", "b/z"]


def test_below_a_parent_that_nobody_knows_is_the_top(layout: Layout) -> None:
    assert layout.place_for("child", "parent").path == layout.base / "child"


def test_what_is_no_place_is_passed_over(layout: Layout) -> None:
    place = made(layout, "1")
    (place.blobs / "1").mkdir()
    (place.path / ".git").mkdir()
    (place.path / "note.txt").write_text("mine")
    (place.path / "link").symlink_to(layout.base, target_is_directory=True)
    assert [found.path.name for found in layout.places()] == ["1"]


@pytest.mark.parametrize("event_id", ["../x", "..", "/etc", "a/../../b", "_blobs", "prepared", "x" * 1000, "\n"])
def test_a_hostile_id_stays_below_its_parent(layout: Layout, event_id: str) -> None:
    place = made(layout, "1", event_id)
    assert place.path.parent == layout.base / "1"
    assert place.path.resolve().is_relative_to(layout.base.resolve())
    assert layout.find(event_id) == place
    assert layout.find("1") == Place(layout.base / "1")
    outside = [path.name for path in layout.base.parent.iterdir()]
    assert outside == ["dev"]


def test_an_id_that_a_directory_is_not_named_after_comes_from_what_was_prepared(layout: Layout) -> None:
    long = "x" * 1000
    place = made(layout, long)
    assert id_of(place) == place.path.name
    place.write("_job.json", {"context": {"eventId": long}})
    assert id_of(place) == long


def test_there_is_nothing_where_nothing_was_made(layout: Layout) -> None:
    assert list(layout.places()) == []
    assert layout.find("1") is None
    assert layout.published("1") is None
    assert layout.selected is None


def test_a_base_directory_that_is_a_file_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    layout = Layout(tmp_path / "file")
    with pytest.raises(UsageError, match=r"file: Not a directory\. .*--development\.basedir"):
        list(layout.places())
    with pytest.raises(UsageError, match=r"--development\.basedir"), layout.locked():
        pass


def test_a_marker_contains_an_empty_object(layout: Layout) -> None:
    place = made(layout, "1")
    place.mark("prepared")
    assert (place.path / "prepared").read_bytes() == b"{}"
    assert place.is_prepared
    assert not place.is_committed


@pytest.mark.parametrize(("text", "said"), [("{", "is not JSON"), ("[]", "must be a JSON object"), ("", "is empty")])
def test_a_document_that_cannot_be_read_is_named(layout: Layout, text: str, said: str) -> None:
    place = made(layout, "1")
    place.mark("committed")
    path = place.metadata / "0.json"
    path.write_text(text)
    with pytest.raises(InvalidEvent, match=said) as caught:
        layout.published("2")
    assert str(path) in str(caught.value)


def test_one_at_a_time_changes_a_layout(layout: Layout) -> None:
    with layout.locked(), pytest.raises(StateBusy, match="Try again"), Layout(layout.base).locked():
        pass
    with layout.locked():
        pass


def test_what_was_selected_is_remembered_as_long_as_it_is_there(layout: Layout) -> None:
    place = made(layout, "_selected")
    layout.select("_selected")
    assert Layout(layout.base).selected == "_selected"
    place.path.rename(layout.base / "other")
    assert layout.selected is None


def test_a_place_is_described_by_what_it_holds(layout: Layout) -> None:
    place = made(layout, "1", "2")
    assert described(layout, place) == {
        "eventId": "2",
        "parentEventId": "1",
        "correlationId": None,
        "module": None,
        "state": None,
        "events": 0,
        "path": str(layout.base / "1" / "2"),
    }
