"""Scripts of the predecessor, and development directories that it left, mean here what they meant there."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from ion_core.cli.logging_setup import log_to
from tests.cli.running import Ion, Result

EVENT = '[{"key": "eventType", "value": "made"}, {"key": "files", "value": "a.txt"}, {"key": "n", "value": "1"}]'


@pytest.fixture
def ion(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Ion]:
    monkeypatch.chdir(tmp_path)
    level = logging.getLogger().level
    yield Ion(tmp_path, capsys)
    log_to(logging.NullHandler(), level)


def handler(ion: Ion, step: str, event_id: str, parent: str = "", *more: str, name: str = "first") -> Result:
    ids = [f"--context.eventid={event_id}", f"--context.parenteventid={parent}", "--context.correlationid=dev"]
    world = ["--valideventtypes=made", "--basedir=ion", "--development.enabled"]
    return ion("handler", step, f"--context.name={name}", *ids, *world, *more)


def leave(text: str = "made") -> None:
    Path("ion/out/data/a.txt").write_text(text)
    Path("ion/out/events/x.json").write_text(EVENT)


def brought() -> tuple[dict[str, str], list[str]]:
    """The files in ``in/data``, and the keys of the pairs."""
    data, pairs = Path("ion/in/data"), Path("ion/in/eventmeta.json")
    files = {str(path.relative_to(data)): path.read_text() for path in data.rglob("*") if path.is_file()}
    return files, [pair["key"] for pair in json.loads(pairs.read_text())] if pairs.exists() else []


def published(place: str) -> str:
    event_id: str = json.loads(Path(place, "_events/x.json").read_text())["context"]["eventId"]
    return event_id


# Parents


def test_a_parent_that_nobody_knows_leaves_the_module_at_the_top(ion: Ion) -> None:
    """The predecessor's scripts pass ``--context.parenteventid=0`` for the first module."""
    said = handler(ion, "prepare", "1", "0")
    assert (said.code, "there is no event 0 in .dev: this one starts a flow" in said.err) == (0, True)
    leave()
    assert handler(ion, "commit", "1", "0").code == 0
    assert Path(".dev/1/committed").exists()
    assert not Path(".dev/0").exists()


def test_a_fabricated_event_id_with_an_extracted_one_as_parent_is_given_what_that_event_brings(ion: Ion) -> None:
    """The predecessor's recipe for chaining modules in a script."""
    handler(ion, "prepare", "1", "0")
    leave()
    handler(ion, "commit", "1", "0")
    extracted = published(".dev/1")
    said = handler(ion, "prepare", "fabricated", extracted, name="second")
    assert said.code == 0
    assert f"nobody published event fabricated: it is given what {extracted} brings" in said.err
    assert brought() == ({"a.txt": "made"}, ["n", "a.txt"])
    leave("made again")
    assert handler(ion, "commit", "fabricated", extracted, name="second").code == 0
    place = f".dev/1/{extracted}/fabricated"
    context = json.loads(Path(place, "_events/x.json").read_text())["context"]
    assert (context["parentEventId"], context["correlationId"]) == ("fabricated", "dev")
    assert handler(ion, "prepare", "third", published(place), name="third").code == 0
    assert brought()[0] == {"a.txt": "made again"}


def test_so_several_modules_take_one_event_each_under_an_id_of_its_own(ion: Ion) -> None:
    handler(ion, "prepare", "1")
    leave()
    handler(ion, "commit", "1")
    extracted = published(".dev/1")
    for fabricated in ("2", "3"):
        assert handler(ion, "prepare", fabricated, extracted).code == 0
        assert brought()[0] == {"a.txt": "made"}
    assert handler(ion, "prepare", extracted, "1").code == 0, "the event itself may still be taken"
    again = handler(ion, "prepare", extracted, "1", name="other")
    assert "For another module pass a new event id, and this one as its parent" in again.err
    assert handler(ion, "prepare", "4", extracted, name="other").code == 0
    listed = ion("dev", "module", "list", "--json").json
    assert [(it["eventId"], it["parentEventId"]) for it in listed] == [
        ("1", None), (extracted, "1"), ("2", extracted), ("3", extracted), ("4", extracted)
    ]  # fmt: skip


def test_the_flow_of_the_parent_is_that_of_the_new_event(ion: Ion) -> None:
    handler(ion, "prepare", "1", "", "--context.correlationid=fish")
    leave()
    handler(ion, "commit", "1", "", "--context.correlationid=fish")
    prepare = ["dev", "module", "prepare", "--name", "n", "--event-id", "2", "--parent-event-id", published(".dev/1")]
    assert ion(*prepare).code == 0
    listed = ion("dev", "module", "list", "--json").json
    assert {it["correlationId"] for it in listed if it["module"]} == {"fish"}


def test_below_a_module_that_did_not_publish_it_a_new_event_is_told_what_to_pass(ion: Ion) -> None:
    handler(ion, "prepare", "1")
    leave()
    handler(ion, "commit", "1")
    refused = handler(ion, "prepare", "fabricated", "1")
    assert refused.code == 2
    assert f"It published: {published('.dev/1')}. Pass one of these" in refused.err


def test_without_development_the_parent_that_is_stored_is_named_as_what_to_pass(ion: Ion) -> None:
    Path("ion.yaml").write_text("modules: {first: {command: ['true'], subscribes: [made]}}")
    assert ion("event", "publish", "made", "--event-id", "e1").code == 0
    ids = ["--context.eventid=fabricated", "--context.parenteventid=e1", "--context.correlationid=c"]
    refused = ion("handler", "prepare", "--context.name=first", *ids, "--basedir=ion")
    assert refused.code == 66
    assert "Event 'e1' is: pass it as the event id, and no parent." in refused.err


# Flags


@pytest.mark.parametrize(
    "enabled", ["--development", "--development=true", "--development.enabled", "--development.enabled=true"]
)
def test_handler_start_does_what_its_action_says(ion: Ion, enabled: str) -> None:
    ids = ["--context.name=first", "--context.eventid=1", "--context.correlationid=dev", "--context.parenteventid=0"]
    world = ["--valideventtypes=made", "--base-dir=ion", enabled]
    assert ion("handler", "start", "--action=prepare", *ids, *world).code == 0
    leave()
    assert ion("handler", "start", "--action=Commit", *ids, *world).code == 0
    assert Path(".dev/1/committed").exists()
    assert ion("handler", "start", "--action=other", *ids, *world).code == 2
    assert "--action" in ion("handler", "start", *ids, *world).err


def test_loglevel_and_logfile_are_taken(ion: Ion) -> None:
    said = handler(ion, "prepare", "1", "", "--loglevel=INFO", "--logfile=handler.log")
    leave()
    handler(ion, "commit", "1", "", "--loglevel=debug", "--logfile", "handler.log")
    assert said.code == 0
    assert "INFO" not in said.err
    lines = Path("handler.log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines if "first" in line] == [
        "INFO prepared module=first eventId=1 correlationId=dev",
        "INFO committed module=first eventId=1 correlationId=dev",
    ]


def test_what_is_logged_goes_to_stderr_without_a_file_and_is_warnings_without_a_level(ion: Ion) -> None:
    assert "INFO" not in handler(ion, "prepare", "1").err
    assert "INFO prepared module=first" in handler(ion, "prepare", "2", "", "--loglevel=info").err


def test_a_log_file_that_cannot_be_written_is_said_before_anything_is_done(ion: Ion) -> None:
    refused = handler(ion, "prepare", "1", "", "--logfile=absent/handler.log")
    assert refused.code == 2
    assert "--logfile: absent/handler.log cannot be written: No such file or directory" in refused.err
    assert not Path(".dev").exists()


def test_printconfig_shows_what_was_given(ion: Ion) -> None:
    shown = handler(ion, "prepare", "1", "0", "--printconfig").json
    assert (shown["action"], shown["context.parenteventid"], shown["valideventtypes"]) == ("prepare", "0", ["made"])
    assert shown["development.enabled"] is True


def test_trace_flow_takes_correlationid(ion: Ion) -> None:
    Path("ion.yaml").write_text("modules: {first: {command: ['true'], subscribes: [made]}}")
    ion("event", "publish", "made", "--event-id", "e1")
    [flow] = ion("trace", "list", "--json").json
    for option in ("-c", "--correlation-id", "--correlationid"):
        assert ion("trace", "flow", option, flow["correlationId"], "--json").json[0]["id"] == "e1"


# Directories that the predecessor left


@pytest.fixture
def left() -> Path:
    """Contexts are flat or nested by its version, documents have no id, and one event is there twice."""
    place = Path(".dev/1")
    for name in ("_blobs/sub", "_events", "_metadata", "_insights"):
        (place / name).mkdir(parents=True)
    (place / "_blobs/a.txt").write_text("made in 2018")
    (place / "_blobs/sub/b.txt").write_text("this too")
    flat = {"correlationId": "fish", "parentEventId": "1", "name": "old"}
    for name, event_id, files in (("x.json", "e1", ["a.txt", "./sub/b.txt"]), ("y.json", "e2", [""])):
        context = flat | {"eventId": event_id}
        pairs = [{"key": "n", "value": "1"}, {"key": "a.txt", "value": "/gone/a.txt"}]
        document = context if event_id == "e1" else {"context": context}
        (place / "_metadata" / name).write_text(
            json.dumps({**document, "files": files, "data": pairs if files[0] else None})
        )
        event = json.dumps({"context": context, "type": "made", "previousStages": None, "data": None})
        for written in (name, "event0.json"):
            (place / "_events" / written).write_text(event)
    for marker in ("prepared", "committed"):
        (place / marker).write_text("{}")
    return place


def test_what_it_published_is_prepared(ion: Ion, left: Path) -> None:
    assert handler(ion, "prepare", "e1", "1", "--context.correlationid=fish").code == 0
    assert brought() == ({"a.txt": "made in 2018", "sub/b.txt": "this too"}, ["n", "a.txt", "a.txt", "sub/b.txt"])
    assert handler(ion, "prepare", "e2", "1", "--context.correlationid=fish").code == 0
    assert brought() == ({}, [])
    assert Path(".dev/1/e1/prepared").exists()


def test_what_it_published_is_named(ion: Ion, left: Path) -> None:
    refused = handler(ion, "prepare", "new", "1")
    assert "It published: e1, e2. " in refused.err


def test_its_modules_and_events_are_listed(ion: Ion, left: Path) -> None:
    [module] = ion("dev", "module", "list", "--json").json
    assert module | {"path": "", "selected": False} == {
        "eventId": "1", "parentEventId": None, "correlationId": "fish", "module": "old", "state": "committed",
        "events": 2, "path": "", "selected": False,
    }  # fmt: skip
    events = ion("dev", "event", "list", "--module-id", "1", "--json").json
    assert [event["context"]["eventId"] for event in events] == ["e1", "e2"]


def test_what_its_init_made_is_where_a_flow_starts(ion: Ion) -> None:
    for name in ("_blobs", "_events"):
        Path(".dev/root", name).mkdir(parents=True)
    Path(".dev/root/_blobs/a.txt").write_text("a start")
    assert handler(ion, "prepare", "1", "root").code == 0
    assert brought() == ({"a.txt": "a start"}, ["a.txt"])
    assert [it["state"] for it in ion("dev", "module", "list", "--json").json] == ["root", "prepared"]
