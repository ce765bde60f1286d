"""``event publish``, ``create``, ``peek`` and ``get``."""

from __future__ import annotations

import os
from typing import Any

import pytest

from ion_core.app import App
from ion_core.contracts.messaging import RetryPolicy
from tests.cli.running import Ion, command

WIRE = {"context", "type", "data"}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_publish_prints_ids_and_says_what_to_do_next(ion: Ion) -> None:
    result = ion("event", "publish", "start", "--config", "ion.yaml", "--correlation-id", "my flow")
    assert result.code == 0
    event_id, correlation_id = (line.split("  ")[-1].strip() for line in result.out.splitlines())
    assert (len(event_id), correlation_id) == (36, "my flow")
    assert result.err.endswith("ion-core trace flow --config ion.yaml 'my flow'\n")


def test_publish_prints_the_event_as_it_travels(ion: Ion) -> None:
    published = ion("event", "publish", "start", "--json", "--data", "k=v=w", "--data", "ä=", "--event-id", "e1").json
    assert set(published) == WIRE
    assert published["data"] == [{"key": "k", "value": "v=w"}, {"key": "ä", "value": ""}]
    assert published["context"]["name"] == "cli"
    assert published["context"]["eventId"] == "e1"
    assert [entry["event"] for entry in ion("event", "peek", "--module", "up", "--json").json] == [published]


@pytest.mark.parametrize("said", [TRACE, "", "none"])
def test_the_trace_that_it_is_started_in_is_that_of_the_flow(
    ion: Ion, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    monkeypatch.setenv("TRACEPARENT", said)
    (ion.home / "events.jsonl").write_text('{"data": {"n": 1}}\n{"data": {"n": 2}}\n')
    for arguments in (["publish", "start"], ["publish", "start", "--batch", "events.jsonl"]):
        assert ion("event", *arguments).code == 0
    assert ion("event", "create", "--event-type", "start").code == 0

    async def look(app: App) -> list[str | None]:
        return [it.headers.get("traceparent") for it in await (await app.broker()).peek("up", limit=10)]

    assert ion.in_app(look) == [TRACE if said == TRACE else None] * 4


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("note.txt", "note.txt"),
        ("sub/else.txt=note.txt", "sub/else.txt"),
        ("a=b.txt", "a=b.txt"),
        ("x=a=b.txt", "x"),
    ],
)
def test_a_file_has_its_own_name_or_the_one_given(ion: Ion, given: str, name: str) -> None:
    (ion.home / "a=b.txt").write_text("with an =")
    event = ion("event", "publish", "start", "--json", "--file", given).json
    [meta] = ion("trace", "flow", event["context"]["correlationId"], "--json").json
    assert meta["files"] == [name]


def test_create_prints_the_event_with_the_context_given(ion: Ion) -> None:
    ids = ["--event-id", "1", "--correlation-id", "c", "--parent-event-id", "p", "--event-name", "frontapi"]
    event = ion("event", "create", "--event-type", "start", *ids, "--files", "note.txt, up.sh").json
    assert event == {
        "context": {
            "name": "frontapi",
            "eventId": "1",
            "correlationId": "c",
            "parentEventId": "p",
            "documentType": "eventMeta",
        },
        "type": "start",
    }
    assert ion("trace", "flow", "c", "--json").json[0]["files"] == ["note.txt", "up.sh"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "nothing"], "must be KEY=VALUE"),
        (["--data", "=v"], "must be KEY=VALUE"),
        (["--data", "a=\0"], "NUL"),
        (["--data", "a=\udcff"], "not valid UTF-8"),
        (["--file", "nowhere"], "no such file"),
        (["--file", "name=nowhere"], "no such file"),
        (["--file", "."], "is a directory"),
        (["--file", "/dev/null"], "is not a regular file"),
        (["--file", "fifo"], "is not a regular file"),
        (["--file", ""], "must not be empty"),
        (["--file", "a\0b"], "NUL"),
        (["--file", "x" * 5000], "File name too long"),
        (["--file", "note.txt", "--file", "note.txt=up.sh"], "two files would have the name"),
        (["--file", "../up=note.txt"], "segment '..'"),
        (["--file", "/abs=note.txt"], "segment ''"),
        (["--event-id", "x" * 100_000], "1,024 are allowed"),
        (["--event-id", ""], "must not be empty"),
        (["--correlation-id", "\udcff"], "not valid UTF-8"),
        (["--no-such-option"], "--no-such-option"),
        (["more"], "there is no place for 'more'. Files are given with --file, pairs with --data KEY=VALUE."),
        (["name=a b"], "there is no place for 'name=a b'. A pair is given as --data 'name=a b'"),
        (["note.txt", "more"], "A file is given as --file note.txt"),
        (["x" * 5000], "there is no place for"),
    ],
)
def test_what_is_given_wrongly_is_misuse_and_publishes_nothing(ion: Ion, arguments: list[str], said: str) -> None:
    os.mkfifo(ion.home / "fifo")
    result = ion("event", "publish", "start", *arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert "Traceback" not in result.err
    assert len(result.err) < 1000
    assert ion("event", "peek", "--module", "up", "--json").json == []


@pytest.mark.parametrize("event_type", ["Start", "../x", "a b", "x" * 500, "\0", "\udcff", ""])
def test_a_type_that_is_none_is_misuse(ion: Ion, event_type: str) -> None:
    result = ion("event", "publish", event_type)
    assert result.code == 2
    assert len(result.err) < 1000


def test_bytes_that_are_no_text_are_refused_by_the_real_program(ion: Ion) -> None:
    result = ion.process("event", "publish", "start", "--data", os.fsdecode(b"a=\xff"))
    assert result.code == 2
    assert "not valid UTF-8" in result.err


def test_a_type_nobody_takes_names_those_that_are_taken(ion: Ion) -> None:
    result = ion("event", "publish", "strat")
    assert result.code == 1
    assert result.err == "ion-core: no module takes events of type 'strat'. Did you mean 'start'? Taken: made, start.\n"


def test_peek_leaves_what_it_shows_and_get_takes_one(ion: Ion) -> None:
    for n in ("1", "2"):
        ion("event", "publish", "start", "--event-id", n)
    assert ion("event", "peek", "--module", "up", "--limit", "1").out.count("\n") == 2
    taken = ion("event", "get", "--module", "up")
    assert taken.json["context"]["eventId"] == "1"
    assert "gone from the queue" in taken.err
    assert [entry["eventId"] for entry in ion("event", "peek", "--module", "up", "--json").json] == ["2"]


@pytest.mark.parametrize("published", [False, True])
def test_get_ends_with_75_when_nothing_waits(ion: Ion, published: bool) -> None:
    if published:
        ion("event", "publish", "start")
        ion("event", "get", "--module", "up")
    result = ion("event", "get", "--module", "up", "--wait", "0.1")
    assert (result.code, result.out, result.err) == (75, "", "No event waits for up.\n")


def test_a_module_that_is_not_there_is_misuse(ion: Ion) -> None:
    for verb in ("peek", "get"):
        result = ion("event", verb, "--module", "upp")
        assert result.code == 2
        assert "Did you mean 'up'?" in result.err


def test_what_is_no_event_is_shown_as_such(ion: Ion) -> None:
    async def put(app: App) -> None:
        broker = await app.broker()
        await broker.declare("up", topics=["start"], retry=RetryPolicy())
        await broker.publish("start", b"\xff{\x1b[2J", headers={})

    ion.in_app(put)
    assert "(unreadable)" in ion("event", "peek", "--module", "up").out
    [entry] = ion("event", "peek", "--module", "up", "--json").json
    assert entry["body"] == "\\xff{\x1b[2J"
    assert "not UTF-8" in entry["unreadable"]
    taken: dict[str, Any] = ion("event", "get", "--module", "up").json
    assert taken["unreadable"] == entry["unreadable"]


def test_an_event_that_could_not_be_printed_stays_in_the_queue(ion: Ion) -> None:
    import subprocess

    ion("event", "publish", "start", "--event-id", "kept")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command("event", "get", "--module", "up"), cwd=ion.home, stdout=writing, stderr=subprocess.PIPE, timeout=60
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
    assert [entry["eventId"] for entry in ion("event", "peek", "--module", "up", "--json").json] == ["kept"]
