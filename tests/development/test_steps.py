"""Prepare and commit in the development layout: each in its turn, once; what is refused changes nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ion_core.development import steps
from ion_core.development.layout import Layout, described
from ion_core.errors import (
    BlobNotFound,
    InvalidEvent,
    IonError,
    OutOfTurn,
    OutputRefused,
    PermanentError,
    StateError,
    UsageError,
)
from ion_core.events import Context, parse_event
from ion_core.handler.given import GivenWorkspace

FIRST = Context(name="first", event_id="1", correlation_id="fish")
TYPES = ("made", "other")


@dataclass(frozen=True)
class Bench:
    """A layout and a workspace beside it."""

    home: Path

    @property
    def layout(self) -> Layout:
        return Layout(self.home / ".dev")

    @property
    def root(self) -> Path:
        return self.home / "ion"

    def prepare(self, context: Context = FIRST, *, root: str = "ion") -> list[str]:
        return steps.prepare(self.layout, context, TYPES, GivenWorkspace(self.home / root)).lines

    def commit(self, context: Context = FIRST, *, types: tuple[str, ...] = TYPES, root: str = "ion") -> list[str]:
        return steps.commit(self.layout, context, types, GivenWorkspace(self.home / root)).lines

    def leaves(self, files: dict[str, str], **events: str) -> None:
        """What a module would: files, and for each of ``events`` one that names these files."""
        for name, content in files.items():
            path = self.root / "out" / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        for name, named in events.items():
            pairs = {"eventType": "made", "files": named, "n": name}
            self.emits(f"{name}.json", json.dumps([{"key": key, "value": value} for key, value in pairs.items()]))

    def emits(self, name: str, text: str) -> None:
        (self.root / "out" / "events" / name).write_text(text)

    def published(self, event_id: str = "1", name: str = "a.json") -> Context:
        place = self.layout.find(event_id)
        assert place is not None
        return parse_event((place.events / name).read_bytes()).context

    def state(self) -> dict[str, str | None]:
        """Everything there is, but for the selection: paths and content."""
        found = {path: path.read_text() if path.is_file() else None for path in sorted(self.home.rglob("*"))}
        return {str(path.relative_to(self.home)): content for path, content in found.items()}

    def inputs(self) -> tuple[dict[str, str], Any]:
        data = self.root / "in" / "data"
        meta = self.root / "in" / "eventmeta.json"
        files = {str(path.relative_to(data)): path.read_text() for path in data.rglob("*") if path.is_file()}
        return files, json.loads(meta.read_bytes()) if meta.exists() else None


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def refused(bench: Bench, error: type[IonError], match: str, step: Any, *arguments: Any, **more: Any) -> None:
    before = bench.state()
    with pytest.raises(error, match=match):
        step(*arguments, **more)
    assert bench.state() == before


# In turn


def test_a_first_module_is_prepared_with_nothing(bench: Bench) -> None:
    bench.prepare()
    assert {path: text for path, text in bench.state().items() if "_job" not in path} == {
        ".dev": None,
        ".dev/1": None,
        ".dev/1/_blobs": None,
        ".dev/1/_events": None,
        ".dev/1/_insights": None,
        ".dev/1/_metadata": None,
        ".dev/1/prepared": "{}",
        "ion": None,
        "ion/in": None,
        "ion/in/data": None,
        "ion/out": None,
        "ion/out/data": None,
        "ion/out/events": None,
        "ion/out/insights.json": "",
    }


def test_what_a_module_leaves_is_kept_in_the_layout(bench: Bench) -> None:
    bench.prepare()
    bench.leaves({"x": "X", "sub/y": "Y", "z": "Z"}, a="x,sub/y", b="")
    (bench.root / "out" / "insights.json").write_text('[{"key": "lines", "value": "3"}]')
    bench.commit()
    place = bench.layout.base / "1"
    files = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert files == {
        "_blobs/x", "_blobs/sub/y", "_blobs/z", "_events/a.json", "_events/b.json", "_metadata/a.json",
        "_metadata/b.json", "_insights/insights.json", "_job.json", "_commit.json", "prepared", "committed",
    }  # fmt: skip
    assert (place / "committed").read_text() == "{}"
    event = json.loads((place / "_events/a.json").read_text())
    context = {
        "name": "first",
        "eventId": event["context"]["eventId"],
        "correlationId": "fish",
        "parentEventId": "1",
        "documentType": "eventMeta",
    }
    assert event == {"context": context, "type": "made", "data": [{"key": "n", "value": "a"}]}
    meta = json.loads((place / "_metadata/a.json").read_text())
    assert (meta["id"], meta["context"], meta["files"]) == (context["eventId"], context, ["x", "sub/y"])
    insight = json.loads((place / "_insights/insights.json").read_text())
    assert insight["data"] == [{"key": "lines", "value": "3"}]
    assert insight["context"]["documentType"] == "insight"


def test_the_next_module_finds_what_the_event_names_and_its_pairs(bench: Bench) -> None:
    bench.prepare()
    bench.leaves({"x": "X", "sub/y": "Y", "unnamed": "-"}, a="x,sub/y")
    bench.commit()
    child = bench.published()
    bench.prepare(Context(name="second", event_id=child.event_id, correlation_id="fish", parent_event_id="1"))
    place = bench.layout.base / "1"
    assert (place / child.event_id / "prepared").exists()
    assert bench.inputs() == (
        {"x": "X", "sub/y": "Y"},
        [
            {"key": "n", "value": "a"},
            {"key": "x", "value": f"file://{place}/_blobs/x"},
            {"key": "sub/y", "value": f"file://{place}/_blobs/sub/y"},
        ],
    )


def test_flow_and_parent_are_known_of_an_event_that_was_published(bench: Bench) -> None:
    bench.prepare()
    bench.leaves({}, a="")
    bench.commit()
    child = bench.published()
    bench.prepare(Context(name="second", event_id=child.event_id, correlation_id=""))
    bench.leaves({}, a="")
    bench.commit(Context(name="", event_id=child.event_id, correlation_id=""), types=())
    grandchild = bench.published(child.event_id)
    assert grandchild.correlation_id == "fish"
    assert grandchild.parent_event_id == child.event_id
    assert grandchild.name == "second"


def test_done_again_from_the_start_it_has_the_same_ids(bench: Bench) -> None:
    found = []
    for _ in range(2):
        bench.prepare()
        bench.leaves({}, a="", b="")
        bench.commit()
        found.append([bench.published(name="a.json").event_id, bench.published(name="b.json").event_id])
        shutil.rmtree(bench.layout.base / "1")
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]


def test_prepare_starts_clean_and_commit_leaves_the_workspace_alone(bench: Bench) -> None:
    bench.prepare()
    bench.leaves({"x": "X"}, a="x")
    before = {path: text for path, text in bench.state().items() if path.startswith("ion")}
    bench.commit()
    assert {path: text for path, text in bench.state().items() if path.startswith("ion")} == before
    (bench.root / "mine.txt").write_text("keep me")
    bench.prepare(replace(FIRST, event_id="2"))
    assert bench.inputs() == ({}, None)
    assert sorted(path.name for path in (bench.root / "out").rglob("*")) == ["data", "events", "insights.json"]
    assert (bench.root / "out" / "insights.json").read_bytes() == b""
    assert (bench.root / "mine.txt").read_text() == "keep me"


def test_a_file_that_was_changed_by_hand_is_taken_as_it_is_now(bench: Bench) -> None:
    bench.prepare()
    bench.leaves({"x": "X"}, a="x")
    bench.commit()
    (bench.layout.base / "1" / "_blobs" / "x").write_text("another, longer one")
    bench.prepare(replace(FIRST, event_id=bench.published().event_id))
    assert bench.inputs()[0] == {"x": "another, longer one"}


def test_ids_of_any_kind_are_kept_below_the_layout(bench: Bench) -> None:
    for event_id in ("../../x", "größe", "prepared", "é" * 1024):
        context = replace(FIRST, event_id=event_id)
        bench.prepare(context)
        bench.leaves({"x": "X"}, a="x")
        bench.commit(context)
        child = bench.published(event_id)
        assert child.parent_event_id == event_id
        bench.prepare(replace(FIRST, event_id=child.event_id, parent_event_id=event_id))
        assert bench.inputs()[0] == {"x": "X"}
    assert sorted(path.name for path in bench.home.iterdir()) == [".dev", "ion"]


# Roots


def test_below_a_root_any_id_brings_its_files(bench: Bench) -> None:
    (bench.home / "a.txt").write_text("A")
    root = steps.init(bench.layout, {"a.txt": bench.home / "a.txt", "sub/b": bench.home / "a.txt"})
    for event_id in ("1", "2"):
        bench.prepare(Context(name="first", event_id=event_id, correlation_id="", parent_event_id=root))
        files, pairs = bench.inputs()
        assert files == {"a.txt": "A", "sub/b": "A"}
        assert [pair["key"] for pair in pairs] == ["a.txt", "sub/b"]
        assert (bench.layout.base / root / event_id / "prepared").exists()
    bench.leaves({}, a="")
    bench.commit(Context(name="first", event_id="2", correlation_id=""))
    assert bench.published("2").correlation_id == "dev"


def test_a_root_is_no_event_to_prepare(bench: Bench) -> None:
    root = steps.init(bench.layout, {})
    refused(bench, UsageError, "Pass it as the parent event id", bench.prepare, replace(FIRST, event_id=root))


def test_a_root_with_a_file_that_cannot_be_had_is_not_made(bench: Bench) -> None:
    with pytest.raises(PermanentError, match="no such file"):
        steps.init(bench.layout, {"a": bench.home / "missing"})
    assert list(bench.layout.places()) == []


# Out of turn


def test_prepare_twice_is_refused(bench: Bench) -> None:
    bench.prepare()
    bench.leaves({"x": "X"})
    refused(bench, OutOfTurn, r"is prepared already.*commit it, or remove .*\.dev/1", bench.prepare)
    other = replace(FIRST, name="other")
    refused(bench, OutOfTurn, r"for module first\..* For another module pass a new event id", bench.prepare, other)


def test_commit_twice_is_refused(bench: Bench) -> None:
    bench.prepare()
    bench.commit()
    bench.leaves({"late": "X"}, late="late")
    refused(bench, OutOfTurn, r"is committed already.*Remove that to begin again", bench.commit)
    refused(bench, OutOfTurn, r"is committed already.*Remove .*\.dev/1 to begin again", bench.prepare)


def test_commit_before_prepare_is_refused(bench: Bench) -> None:
    bench.layout.base.mkdir()
    refused(bench, OutOfTurn, "is not prepared. Run prepare first", bench.commit)


def test_an_event_of_a_module_that_is_not_committed_is_refused(bench: Bench) -> None:
    bench.prepare()
    child = Context(name="second", event_id="2", correlation_id="fish", parent_event_id="1")
    refused(bench, OutOfTurn, "not committed yet. Commit that first", bench.prepare, child)


def test_a_commit_that_was_cut_short_is_finished_under_the_same_ids(bench: Bench) -> None:
    bench.prepare()
    bench.leaves({"x": "X"}, a="x", b="")
    bench.commit()
    whole = bench.state()
    place = bench.layout.find("1")
    assert place is not None
    (place.path / "committed").unlink()
    (place.events / "b.json").unlink()
    shutil.rmtree(place.metadata)
    place.make()
    shutil.rmtree(bench.root)  # the record is enough
    bench.commit()
    assert bench.state() == {path: text for path, text in whole.items() if not path.startswith("ion")}


def test_files_of_a_commit_that_never_was_are_gone_with_the_next(bench: Bench) -> None:
    bench.prepare()
    place = bench.layout.base / "1"
    for left in ("_blobs/left", "_metadata/left.json", "_new-0123", "_commit.json-0123"):
        (place / left).write_text("over")
    bench.leaves({"x": "X"}, a="x")
    bench.commit()
    assert [str(path) for path in place.rglob("*") if path.is_file() and path.read_text() == "over"] == []
    assert [path.name for path in (bench.layout.base / "1" / "_blobs").iterdir()] == ["x"]


def test_a_workspace_that_is_prepared_for_another_event_is_taken_over(bench: Bench) -> None:
    bench.prepare()
    lines = bench.prepare(replace(FIRST, event_id="2"))
    assert any("event 1 had been prepared" in line for line in lines)
    refused(bench, OutOfTurn, "holds another event now. Prepare it again", bench.commit)
    bench.prepare(root="elsewhere")
    bench.commit(root="elsewhere")
    bench.commit(replace(FIRST, event_id="2"))


# Wrong ids


def test_ids_that_contradict_what_was_published_are_refused(bench: Bench) -> None:
    bench.prepare()
    bench.leaves({}, a="")
    bench.commit()
    child = replace(FIRST, name="second", event_id=bench.published().event_id)
    wrong_flow = replace(child, correlation_id="bird")
    refused(bench, UsageError, "correlation id is not 'bird'. Pass 'fish'", bench.prepare, wrong_flow)
    wrong_parent = replace(child, parent_event_id="7")
    refused(bench, UsageError, "parent event id is not '7'. Pass '1'", bench.prepare, wrong_parent)
    unknown = replace(child, event_id="2", parent_event_id="1")
    refused(bench, UsageError, f"It published: {child.event_id}", bench.prepare, unknown)
    own = replace(child, event_id="2", parent_event_id="2")
    refused(bench, UsageError, "its own parent", bench.prepare, own)


def test_ids_that_are_not_those_of_prepare_are_refused(bench: Bench) -> None:
    bench.prepare()
    refused(bench, UsageError, "prepared for module 'first', not 'x'", bench.commit, replace(FIRST, name="x"))
    refused(bench, UsageError, "Pass 'fish'", bench.commit, replace(FIRST, correlation_id="x"))
    refused(bench, UsageError, "Leave it out", bench.commit, replace(FIRST, parent_event_id="x"))
    bench.commit()


def test_a_parent_that_nobody_knows_starts_a_flow_and_that_is_said(bench: Bench) -> None:
    lines = bench.prepare(replace(FIRST, parent_event_id="frontapi"))
    assert any("there is no event frontapi" in line for line in lines)
    bench.prepare(replace(FIRST, event_id="2", parent_event_id="frontapi"))
    for event_id in ("1", "2"):
        assert (bench.layout.base / event_id / "prepared").exists()


# Bad output, bad files


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", r"out/events/a\.json.*is not JSON"),
        ("", r"out/events/a\.json: is empty"),
        ('[{"key": "files", "value": "x"}]', "eventType is required"),
        ('[{"key": "eventType", "value": "nope"}]', r"may not publish 'nope' \(declared: made, other\)"),
        ('[{"key": "eventType", "value": "made"}, {"key": "files", "value": "x,missing"}]', "names 'missing'"),
        ('[{"key": "eventType", "value": "made"}, {"key": "files", "value": "../x"}]', r"segment '\.\.'"),
    ],
)
def test_output_that_breaks_the_contract_is_refused_and_can_be_mended(bench: Bench, text: str, said: str) -> None:
    bench.prepare()
    bench.leaves({"x": "X"})
    bench.emits("a.json", text)
    refused(bench, OutputRefused, said, bench.commit)
    bench.leaves({}, a="x")
    bench.commit()
    assert bench.published().parent_event_id == "1"


def test_an_event_file_whose_name_is_no_text_is_refused(bench: Bench) -> None:
    bench.prepare()
    (bench.root / "out" / "events" / "bad\udcff.json").write_text("[]")
    refused(bench, OutputRefused, "not valid Unicode", bench.commit)


def test_a_workspace_that_is_missing_is_not_committed(bench: Bench) -> None:
    bench.prepare()
    shutil.rmtree(bench.root)
    refused(bench, OutOfTurn, "ion: no such directory, so nothing was prepared there", bench.commit)


def test_a_link_in_the_workspace_is_not_followed(bench: Bench) -> None:
    bench.prepare()
    (bench.home / "secret").write_text("s")
    (bench.root / "out" / "data" / "x").symlink_to(bench.home / "secret")
    refused(bench, OutputRefused, "is a symbolic link", bench.commit)


def test_a_file_that_is_gone_from_the_layout_is_named_before_anything_changes(bench: Bench) -> None:
    bench.prepare()
    bench.leaves({"x": "X"}, a="x")
    bench.commit()
    child = replace(FIRST, event_id=bench.published().event_id)
    (bench.layout.base / "1" / "_blobs" / "x").unlink()
    refused(bench, BlobNotFound, r"_blobs/x: No such file.*Put it back", bench.prepare, child)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"files": ["../../secret"]}, "segment '..'"), ({"files": "x"}, "must be an array"), ({"data": 1}, "an array")],
)
def test_a_document_that_was_changed_by_hand_is_checked(bench: Bench, change: dict[str, Any], said: str) -> None:
    bench.prepare()
    bench.leaves({"x": "X"}, a="x")
    bench.commit()
    path = bench.layout.base / "1" / "_metadata" / "a.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    child = replace(FIRST, event_id=bench.published().event_id)
    refused(bench, (InvalidEvent, PermanentError), said, bench.prepare, child)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["{}", '{"context": "x"}', '{"document": []}', '{"document": {"context": {}}}'])
@pytest.mark.parametrize("note", ["_job.json", "_commit.json"])
def test_a_note_that_was_damaged_by_hand_is_said_to_be(bench: Bench, note: str, text: str) -> None:
    bench.prepare()
    bench.leaves({}, a="")
    bench.commit()
    place = bench.layout.base / "1"
    (place / "committed").unlink()
    (place / note).write_text(text)
    refused(bench, StateError, rf"{note}: is damaged\. Remove .*\.dev/1 to begin again", bench.commit)
    assert [described(bench.layout, found)["eventId"] for found in bench.layout.places()] == ["1"]
