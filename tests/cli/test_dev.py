"""``dev module`` and ``dev event``: what was prepared and committed, listed and selected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import Ion

EVENT = '[{"key": "eventType", "value": "made"}, {"key": "n", "value": "%d"}]'


def init(ion: Ion, *arguments: str) -> str:
    result = ion("dev", "module", "init", *arguments)
    assert result.code == 0, result.err
    assert result.out.startswith("new parent event id: ")
    return result.out.removeprefix("new parent event id: ").strip()


def prepare(ion: Ion, event_id: str, *arguments: str, name: str = "m") -> None:
    result = ion(
        "dev", "module", "prepare", "--name", name, "--event-types", "made", "--event-id", event_id, *arguments
    )
    assert result.code == 0, result.err


def leave(events: int = 1) -> None:
    for n in range(events):
        Path(f"ion/out/events/{n}.json").write_text(EVENT % n)


def events_of(ion: Ion, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ion("dev", "event", "list", "--json", *arguments).json
    return found


def test_a_flow_from_files_to_the_second_module(ion: Ion) -> None:
    root = init(ion, "--files", "note.txt, up.sh", "--files", "sub/name.txt=note.txt")
    prepare(ion, "1", "--parent-event-id", root)
    assert sorted(path.name for path in Path("ion/in/data").rglob("*")) == ["name.txt", "note.txt", "sub", "up.sh"]
    leave()
    committed = ion("dev", "module", "commit", "--name", "m", "--event-types", "made", "--event-id", "1")
    assert (committed.code, committed.out) == (0, "")
    [event] = events_of(ion, "--module-id", "1")
    assert event["context"]["correlationId"] == "dev"
    prepare(ion, event["context"]["eventId"], "--parent-event-id", "1", "--correlation-id", "dev", name="n")
    assert '"n","value":"0"' in Path("ion/in/eventmeta.json").read_text()
    assert Path(f".dev/{root}/1/{event['context']['eventId']}/prepared").exists()


def test_lists_tell_what_was_made_prepared_and_committed(ion: Ion) -> None:
    root = init(ion)
    prepare(ion, "1", "--parent-event-id", root, "--correlation-id", "fish")
    leave(2)
    ion("dev", "module", "commit", "--event-id", "1")
    child = events_of(ion, "--module-id", "1")[1]["context"]["eventId"]
    prepare(ion, child, name="n")
    other = init(ion)
    listed = ion("dev", "module", "list", "--json").json
    assert {found["eventId"] for found in listed} == {root, "1", child, other}
    assert ion("dev", "module", "list", "--root-event-id", root, "--json").json == [
        {
            "eventId": root, "parentEventId": None, "correlationId": "dev", "module": "init", "state": "root",
            "events": 0, "path": f".dev/{root}", "selected": False,
        },
        {
            "eventId": "1", "parentEventId": root, "correlationId": "fish", "module": "m", "state": "committed",
            "events": 2, "path": f".dev/{root}/1", "selected": False,
        },
        {
            "eventId": child, "parentEventId": "1", "correlationId": "fish", "module": "n", "state": "prepared",
            "events": 0, "path": f".dev/{root}/1/{child}", "selected": False,
        },
    ]  # fmt: skip
    table = ion("dev", "module", "list", "--root-event-id", "1").out.splitlines()
    assert [line.split()[:4] for line in table] == [
        ["EVENT", "ID", "MODULE", "STATE"],
        ["1", "m", "committed", "2"],
        [child, "n", "prepared", "0"],
    ]


def test_a_module_whose_workspace_holds_another_event_is_listed_as_displaced(ion: Ion) -> None:
    prepare(ion, "1")
    prepare(ion, "2")
    listed = ion("dev", "module", "list", "--json").json
    assert [(found["eventId"], found["state"]) for found in listed] == [("1", "displaced"), ("2", "prepared")]


def test_what_is_empty_is_said_to_be(ion: Ion) -> None:
    assert ion("dev", "module", "list", "--json").json == []
    result = ion("dev", "module", "list")
    assert (result.code, result.out, result.err) == (0, "", "Nothing was prepared in .dev.\n")
    prepare(ion, "1")
    result = ion("dev", "event", "list", "--module-id", "1")
    assert (result.code, result.out) == (0, "")
    assert "not committed" in result.err
    ion("dev", "module", "commit", "--event-id", "1")
    assert "published no events" in ion("dev", "event", "list", "--module-id", "1").err
    assert events_of(ion, "--module-id", "1") == []


def test_events_are_printed_as_they_travel_one_a_line(ion: Ion) -> None:
    prepare(ion, "1")
    leave(2)
    ion("dev", "module", "commit", "--event-id", "1")
    lines = ion("dev", "event", "list", "--module-id", "1").out.splitlines()
    assert lines == [Path(f".dev/1/_events/{n}.json").read_text() for n in range(2)]


def test_a_selected_module_is_what_the_next_commands_are_about(ion: Ion) -> None:
    prepare(ion, "1")
    result = ion("dev", "module", "select", "--module-id", "1")
    assert (result.code, result.out) == (0, "")
    assert Path("ion-module").resolve() == Path(".dev/1").resolve()
    leave()
    assert ion("dev", "module", "commit").code == 0
    [event] = events_of(ion)
    assert [found["selected"] for found in ion("dev", "module", "list", "--json").json] == [True]
    assert "1 *" in ion("dev", "module", "list").out
    child = event["context"]["eventId"]
    result = ion("dev", "module", "prepare", "--name", "n", "--event-id", "2")
    assert result.code == 2
    assert f"was not published by '1'. It published: {child}" in result.err
    prepare(ion, "2", "--parent-event-id", "")
    prepare(ion, child)
    ion("dev", "module", "select", "--module-id", child)
    assert Path("ion-module").resolve() == Path(f".dev/1/{child}").resolve()


def test_the_beginning_of_an_event_id_will_do(ion: Ion) -> None:
    for id in ("firm", "first-module"):
        prepare(ion, id)
    assert ion("dev", "module", "select", "--module-id", "firs").err.startswith("Selected: first-module, ")
    assert ion("dev", "module", "commit", "--name", "m").code == 0
    assert ion("dev", "event", "list", "--module-id", "first").err == "It published no events.\n"
    assert ion("dev", "event", "list", "--module-id", "fir").code == 2


def test_below_a_root_that_is_selected_a_module_needs_no_parent(ion: Ion) -> None:
    root = init(ion, "--files", "note.txt")
    ion("dev", "module", "select", "--module-id", root)
    prepare(ion, "1")
    assert Path("ion/in/data/note.txt").exists()


def test_a_link_that_is_none_of_ours_is_left_alone(ion: Ion) -> None:
    prepare(ion, "1")
    Path("ion-module").write_text("mine")
    result = ion("dev", "module", "select", "--module-id", "1")
    assert result.code == 2
    assert "ion-module: is in the way" in result.err
    assert Path("ion-module").read_text() == "mine"
    assert ion("dev", "module", "list", "--json").json[0]["selected"] is False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("module", "select", "--module-id", "../x"), "nothing in .dev is for event '../x'"),
        (("module", "list", "--root-event-id", "nope"), "--root-event-id: nothing in .dev"),
        (("event", "list", "--module-id", "nope"), "--module-id: nothing in .dev"),
        (("event", "list"), "--module-id: is needed, since no module is selected"),
        (("module", "commit"), "--event-id: is needed, since no module is selected"),
        (("module", "commit", "--event-id", "nope"), "is not prepared"),
        (("module", "prepare", "--event-id", "1"), "'--name'"),
        (("module", "prepare", "--name", "m"), "'--event-id'"),
        (("module", "prepare", "--name", "m", "--event-id", "1", "--event-types", "a b"), "must be lower-case"),
        (("module", "init", "--files", "missing.txt"), "no such file"),
        (("module", "init", "--files", "note.txt,./note.txt"), "two files would have the name 'note.txt'"),
        (("module", "init", "--files", "../x=note.txt"), "segment '..'"),
        (("module", "init", "--files", "a=note.txt,a/b=note.txt"), "'a': is also the directory of another file"),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(ion: Ion, arguments: tuple[str, ...], said: str) -> None:
    result = ion("dev", *arguments)
    assert result.code in (1, 2)
    assert said in result.err
    assert list(Path(".dev").glob("[!_]*")) == []


def test_another_directory_is_named_by_flag_or_variable(ion: Ion, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(ion, "1", "--development.basedir", "d1", "--base-dir", "w")
    monkeypatch.setenv("DEVELOPMENT_BASEDIR", "d2")
    prepare(ion, "2")
    assert [path.name for path in Path("d1").iterdir()] == ["1"]
    assert [found["eventId"] for found in ion("dev", "module", "list", "--json").json] == ["2"]
    assert Path("w/in/data").is_dir()
