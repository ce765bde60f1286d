"""``ion-core module record`` and ``module test``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ion_core.module_library import library
from tests.cli.running import Ion

EVENT = "e-1"


@pytest.fixture
def recorded(ion: Ion) -> Ion:
    """`up` has worked on an event, and that is a case."""
    ion("event", "publish", "start", "--file", "note.txt", "--data", "who=me", "--event-id", EVENT)
    ion("serve", "--until-idle")
    done = ion("module", "record", EVENT, "--name", "note")
    assert (done.code, done.out) == (0, "cases/up/note\n"), done
    return ion


def files(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


def case(home: Path, **changes: str) -> Path:
    """A case of `up`, with some files otherwise."""
    path = home / "cases/up/made"
    texts = {"case.yaml": "event: start\n", **{name.replace("__", "/"): text for name, text in changes.items()}}
    for name, text in texts.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path


def change(ion: Ion, script: str) -> None:
    with (ion.home / "up.sh").open("a") as file:
        file.write(script + "\n")


def test_a_case_is_what_was_given_and_what_was_committed(recorded: Ion) -> None:
    found = files(recorded.home / "cases/up/note")
    assert 'event: "start"' in found.pop("case.yaml")
    assert found.pop("in/data/note.txt") == "remember\n"
    assert found.pop("expected/data/note.txt") == "remember\n"
    assert json.loads(found.pop("in/eventmeta.json")) == [{"key": "who", "value": "me"}]
    assert json.loads(found.pop("expected/insights.json")) == [{"key": "lines", "value": "3"}]
    assert json.loads(found.pop("expected/events.json")) == [
        {"type": "made", "files": ["note.txt"], "data": [{"key": "n", "value": "1"}]}
    ]
    assert found == {}


def test_a_recorded_case_passes_and_leaves_nothing(recorded: Ion) -> None:
    before = files(recorded.home / "cases")
    done = recorded("module", "test")
    assert done.code == 0
    assert done.out.splitlines()[:2] == ["1 recorded case", "."]
    assert done.out.splitlines()[2].startswith("1 passed in ")
    assert files(recorded.home / "cases") == before
    assert list((recorded.home / ".ion/rehearsals").iterdir()) == []


def test_it_needs_none_of_the_services_that_are_configured(recorded: Ion) -> None:
    with (recorded.home / "ion.yaml").open("a") as file:
        file.write("messaging: {provider: nowhere}\nstorage: {blobs: {provider: nowhere, url: '${env:NOT_SET}'}}\n")
    assert recorded("module", "test").code == 0
    assert recorded("check").code == 78


def test_nothing_is_committed_or_published(recorded: Ion) -> None:
    before = recorded("trace", "list", "--json").out, recorded("module", "list", "--json").out
    recorded("module", "test")
    assert (recorded("trace", "list", "--json").out, recorded("module", "list", "--json").out) == before


def test_the_module_reads_what_the_event_brought(recorded: Ion) -> None:
    change(recorded, 'cat "$HANDLER_BASE_DIR/in/eventmeta.json"; exit 4')
    [found] = recorded("module", "test", "--json").json
    assert (found["case"], found["outcome"], found["reason"]) == ("up/note", "failed", "exit code 4")
    [_, line] = found["logs"]
    who, note = json.loads(line)
    assert who == {"key": "who", "value": "me"}
    assert note["key"] == "note.txt"
    assert note["value"].startswith("file://")


def test_a_case_that_differs_fails_and_says_how(recorded: Ion) -> None:
    change(recorded, 'cd "$HANDLER_BASE_DIR/out"; echo more >> data/note.txt; rm events/*; echo x > data/new.txt')
    done = recorded("module", "test")
    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[1] == "F"
    assert "data/new.txt: is not expected (2 bytes)" in lines
    assert lines[lines.index("data/note.txt: differs") :][:6] == [
        "data/note.txt: differs",
        "--- expected",
        "+++ left",
        "@@ -1 +1,2 @@",
        " remember",
        "+more",
    ]
    assert "events/0: is missing; expected made" in lines
    assert "  worked hard" in lines
    assert "FAILED up/note - data/new.txt, data/note.txt, events/0" in lines
    assert lines[-1].startswith("1 failed in ")


def test_a_module_that_breaks_its_contract_fails(recorded: Ion) -> None:
    change(recorded, 'ln -s /etc/passwd "$HANDLER_BASE_DIR/out/data/link"')
    done = recorded("module", "test")
    assert done.code == 1
    assert "FAILED up/note - out/data/link: is a symbolic link; only files and directories are taken" in done.out


def test_comparators_of_the_case_decide(recorded: Ion) -> None:
    change(
        recorded,
        'cd "$HANDLER_BASE_DIR/out"; date > data/note.txt; echo \'[{"key":"lines","value":"3.0"}]\' > insights.json',
    )
    assert recorded("module", "test").code == 1
    path = recorded.home / "cases/up/note/case.yaml"
    rules = "compare:\n  data/*.txt: any\n  insights/lines: {by: json, relative: 0.01}\n"
    path.write_text(path.read_text().replace("compare: {}\n", rules))
    assert recorded("module", "test").code == 0


def test_update_expects_from_now_on_what_differs(recorded: Ion) -> None:
    case_yaml = (recorded.home / "cases/up/note/case.yaml").read_text()
    case(recorded.home, in__data__note="same\n", expected__data__old="gone\n")
    change(recorded, 'cd "$HANDLER_BASE_DIR/out"; echo 2 > data/note.txt; : > insights.json')
    assert recorded("module", "test").code == 1
    done = recorded("module", "test", "--update")
    assert done.code == 0
    assert done.out.splitlines()[1] == "UU"
    assert "data/note.txt: differs" in done.out
    assert done.out.splitlines()[-1].startswith("2 updated in ")

    found = files(recorded.home / "cases/up/note")
    assert found["expected/data/note.txt"] == "2\n"
    assert found["case.yaml"] == case_yaml
    assert "expected/insights.json" not in found
    assert sorted(files(recorded.home / "cases/up/made")) == [
        "case.yaml",
        "expected/data/note",
        "expected/data/note.txt",
        "expected/events.json",
        "in/data/note",
    ]
    assert recorded("module", "test").out.splitlines()[-1].startswith("2 passed in ")


def test_update_never_takes_what_a_failed_module_left(recorded: Ion) -> None:
    before = files(recorded.home / "cases")
    change(recorded, "exit 1")
    done = recorded("module", "test", "--update")
    assert (done.code, files(recorded.home / "cases")) == (1, before)


@pytest.mark.parametrize("reuse", ["true", "false"])
def test_a_module_that_calls_its_handler_is_replayed_too(ion: Ion, reuse: str) -> None:
    (ion.home / "ion_module.py").write_text(library("python"))
    loop = "import ion_module\nfor event in ion_module.events():\n    ion_module.emit('made', pairs=event.metadata)\n"
    (ion.home / "loop.py").write_text(loop)
    entry = (
        f"  loop: {{command: [python3, loop.py], source: ., subscribes: [start], publishes: [made], reuse: {reuse}}}\n"
    )
    with (ion.home / "ion.yaml").open("a") as file:
        file.write(entry)
    path = ion.home / "cases/loop/one"
    (path / "in").mkdir(parents=True)
    (path / "expected").mkdir()
    (path / "case.yaml").write_text("event: start\n")
    (path / "in/eventmeta.json").write_text('[{"key": "n", "value": "1"}]')
    (path / "expected/events.json").write_text('[{"type": "made", "data": [{"key": "n", "value": "1"}]}]')
    done = ion("module", "test")
    assert (done.code, done.out.splitlines()[1]) == (0, "."), done
    (path / "expected/events.json").unlink()
    assert ion("module", "test").code == 1


def test_names_and_expressions_choose(recorded: Ion) -> None:
    case(recorded.home)
    for arguments, ids in (
        (["up"], ["up/made", "up/note"]),
        (["up/note"], ["up/note"]),
        (["-k", "made or nothing"], ["up/made"]),
        (["up/note", "-k", "not note"], []),
    ):
        done = recorded("module", "test", *arguments, "--json")
        assert [it["case"] for it in done.json] == ids
        assert done.code == (5 if not ids else 1 if "up/made" in ids else 0)


def test_with_v_every_case_has_a_line(recorded: Ion) -> None:
    lines = recorded("module", "test", "-v").out.splitlines()
    assert lines[1].startswith("up/note PASSED in ")


def test_no_case_at_all_ends_with_5(ion: Ion) -> None:
    done = ion("module", "test")
    assert (done.code, done.out.splitlines()[0]) == (5, "0 recorded cases")
    assert "`ion-core module record`" in done.err


def test_cases_of_a_module_that_is_gone_are_passed_over_and_said_unless_they_are_asked_for(recorded: Ion) -> None:
    shutil.copytree(recorded.home / "cases/up", recorded.home / "cases/upp")
    said = "cases/upp: no module called 'upp' is in the configuration. Did you mean \"up\"?"
    done = recorded("module", "test")
    assert (done.code, done.out.splitlines()[0]) == (0, "1 recorded case"), done
    assert f"Passed over: {said}" in done.err
    asked = recorded("module", "test", "upp")
    assert (asked.code, asked.out) == (78, "")
    assert asked.err.startswith(said)


def test_a_removed_module_does_not_stop_the_tests_of_others(recorded: Ion) -> None:
    assert recorded("module", "remove", "up", "--yes").code == 0
    done = recorded("module", "test")
    assert done.code == 5, done
    assert "Passed over: cases/up: no module" in done.err


def test_a_name_without_a_case_is_an_error(recorded: Ion) -> None:
    done = recorded("module", "test", "up/nope", "takes")
    assert done.code == 78
    assert [line.split(":")[0] for line in done.err.splitlines()] == ["cases/up/nope", "cases/takes"]


def test_everything_wrong_with_case_files_is_said_at_once_with_its_path(ion: Ion) -> None:
    path = case(
        ion.home,
        **{
            "case.yaml": "event: other\ncompare:\n  data/*: byte\n  date/*: any\n  events/*: {by: json, relativ: 1}\n",
            "in__eventmeta.json": '[{"key": 1, "value": "x"}]',
            "expected__insights.json": "{",
            "expected__events.json": '[{"type": "A", "files": "x"}, {"typ": "made"}, 3]',
        },
    )
    (path / "in/data").mkdir()
    (path / "in/data/link").symlink_to("/etc/passwd")
    (ion.home / "cases/up/empty").mkdir()
    done = ion("module", "test")
    assert done.code == 78
    made = "cases/up/made"
    assert done.err.splitlines() == [
        "cases/up/empty/case.yaml: cannot be read: No such file or directory. It says at least `event: TYPE`.",
        f'{made}/case.yaml:3:11: compare.data/*: must be bytes, json or any (got "byte")',
        f'{made}/case.yaml:4:3: compare.date/*: must start with "data/", "insights/" or "events/", such as data/*.json',
        f'{made}/case.yaml:5:24: compare.events/*.relativ: unknown key. Did you mean "relative"?',
        f"{made}/in/data/link: is neither a file nor a directory. Put the file itself there.",
        f"{made}/in/eventmeta.json[0].key: must be a string (got a number)",
        f"{made}/expected/insights.json:1:2: is not JSON: Expecting property name enclosed in double quotes",
        f"{made}/expected/events.json[0].type: event type 'A' must be lower-case letters and digits, parts joined by "
        'single ".", "_" or "-", such as photo.received',
        f"{made}/expected/events.json[0].files: must be an array of strings",
        f'{made}/expected/events.json[1].typ: unknown; an event here has "type", "files" and "data"',
        f"{made}/expected/events.json[1].type: must be a string",
        f'{made}/expected/events.json[2]: must be an object {{"type": "…", "files": […], "data": […]}}',
    ]


def test_a_type_that_the_module_does_not_take_is_an_error(ion: Ion) -> None:
    case(ion.home, **{"case.yaml": "event: other\n"})
    done = ion("module", "test")
    assert done.code == 78
    assert done.err == (
        "cases/up/made/case.yaml:1:8: event: module up takes no events of type 'other'. It takes: start.\n"
    )


def test_a_provider_that_is_not_there_is_named(recorded: Ion) -> None:
    done = recorded("module", "test", "--runtime", "nowhere")
    assert done.code == 78
    assert 'no container runtime called "nowhere"' in done.err


def test_a_case_that_is_there_is_not_written_over(recorded: Ion) -> None:
    before = files(recorded.home / "cases")
    done = recorded("module", "record", EVENT, "--name", "note")
    assert done.code == 2
    assert "cases/up/note: is there already. Nothing was written. Name the case with --name." in done.err
    assert files(recorded.home / "cases") == before
    assert [path.name for path in (recorded.home / "cases/up").iterdir()] == ["note"]


def test_what_cannot_be_recorded_is_said(recorded: Ion) -> None:
    child = next(
        it["id"]
        for it in json.loads(recorded("trace", "flow", "-c", _flow(recorded), "--json").out)
        if it.get("type") == "made"
    )
    for arguments, code, said in (
        (["nope"], 1, "nope"),
        ([EVENT, "--module", "takes"], 1, f"event {EVENT}: module takes has not committed anything for it"),
        ([child, "--module", "fails"], 1, "module fails has not committed anything"),
        ([EVENT, "--module", "upp"], 2, "no module called 'upp'. Did you mean 'up'?"),
        ([EVENT, "--name", "../x"], 2, "--name: must be at most 64 letters"),
    ):
        done = recorded("module", "record", *arguments)
        assert done.code == code, done
        assert said in done.err
    assert recorded("module", "record", child[:8]).out == f"cases/takes/{child[:8]}\n"


def test_of_several_modules_one_has_to_be_named(recorded: Ion) -> None:
    (recorded.home / "mended").touch()
    recorded("dlq", "redrive", "--module", "fails", "--all")
    recorded("serve", "--until-idle")
    child = next(
        it["id"]
        for it in json.loads(recorded("trace", "flow", "-c", _flow(recorded), "--json").out)
        if it.get("type") == "made"
    )
    done = recorded("module", "record", child)
    assert done.code == 2
    assert f"several have committed for event {child}: fails, takes" in done.err


def _flow(ion: Ion) -> str:
    [flow] = ion("trace", "list", "--json").json
    return str(flow["correlationId"])
