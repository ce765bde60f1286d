"""``trace list``, ``trace flow`` and ``logs``, on documents that lie in the real embedded store."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ion_core.app import App
from ion_core.contracts.storage import Document
from ion_core.events import FAILURE, MODULE_LOGS
from tests.cli.running import Ion
from tests.cli.test_flow import attempt, commit, event

UUID = "8000fe0c-1e56-5bc4-8ea6-50d8ab3db51d"


def _store(ion: Ion, *documents: Document) -> None:
    async def put(app: App) -> None:
        for document in documents:
            await (await app.documents()).put(document)

    ion.in_app(put)


def _of(flow: str, document: Document) -> Document:
    body = {**document.body, "context": {**document.body["context"], "correlationId": flow}}
    return Document(kind=document.kind, id=document.id, correlation_id=flow, body=body)


@pytest.fixture
def stored(ion: Ion) -> Ion:
    _store(
        ion,
        _of("old", event("e0", "start")),
        event(UUID, "start"),
        commit("up", UUID, 2),
        event("e2", "made", name="up", parent=UUID),
        attempt("up", UUID, 1, "retried", reason="exit code 3"),
        attempt("up", UUID, 2, "committed", second=2),
        attempt("takes", "e2", 1, "committed", second=3),
    )
    return ion


def test_flows_are_listed_the_newest_first_with_how_they_stand(stored: Ion) -> None:
    new, old = stored("trace", "list", "--json").json
    assert new == {
        "correlationId": "c", "eventId": UUID, "type": "start", "outcome": "done", "events": 2,
        "jobs": {"committed": 2, "pending": 1}, "failing": [], "data": [], "files": [],
        "startedAt": "2026-01-01T00:00:00.000+00:00", "finishedAt": "2026-01-01T00:00:04.000+00:00",
    }  # fmt: skip
    assert (old["correlationId"], old["startedAt"], old["finishedAt"], old["outcome"]) == ("old", None, None, "done")
    assert len(stored("trace", "list", "--json", "--limit", "1").json) == 1
    assert stored("trace", "list").out.splitlines()[2].split() == ["old", "done", "start", "1", "-"]


def test_the_whole_id_of_an_event_without_a_document_is_not_the_beginning_of_another(stored: Ion) -> None:
    _store(stored, event("order-10", "start"), attempt("up", "order-10", 1, "committed"))
    _store(stored, _of("theirs", attempt("up", "order-1", 1, "retried", reason="exit code 3")))
    [log] = stored("logs", "order-1", "--json").json
    assert log["context"]["eventId"] == "order-1"
    [log] = stored("logs", "order-10", "--json").json
    assert log["context"]["eventId"] == "order-10"


def test_a_flow_is_running_while_something_waits_in_a_queue(ion: Ion) -> None:
    assert ion("event", "publish", "start", "--file", "note.txt", "--data", "a=b", "--correlation-id", UUID).code == 0
    assert ion("trace", "list").out.splitlines() == [
        "FLOW                                  OUTCOME  TYPE   EVENTS  AGE  BRINGS",
        f"{UUID}  running  start  1       -    note.txt a=b",
    ]
    ion.process("serve", "--until-idle")
    _, line = ion("trace", "list").out.splitlines()
    assert line.split()[:4] == [UUID, "dead", "start", "2"]
    began = ion("trace", "list", "--json").json[0]["startedAt"]
    assert ion("trace", "list", "-v").out.splitlines()[1].split()[4] == began
    [flow] = ion("trace", "list", "--failed", "--json").json
    assert (flow["outcome"], flow["failing"]) == ("dead", ["fails"])
    assert flow["jobs"] == {"committed": 2, "dead-lettered": 1}


def _with_failure(module: str, event_id: str, outcome: str) -> list[Document]:
    log = attempt(module, event_id, 1, outcome, reason="exit code 3")
    return [log, Document(kind=FAILURE, id=f"{module} {event_id}", correlation_id="c", body=log.body)]


@pytest.fixture
def four(ion: Ion) -> Ion:
    """Flows in the order of storing: dead, done, failed, and one whose failure is over."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")

    def late(document: Document) -> Document:
        body = {**document.body, "startedAt": now, "finishedAt": now}
        return Document(kind=document.kind, id=document.id, correlation_id="c", body=body)

    flows = {
        "dead": [event("e1", "start"), *_with_failure("up", "e1", "dead-lettered")],
        "done": [event("e2", "made"), *[late(attempt(it, "e2", 1, "committed")) for it in ("fails", "takes")]],
        "failed": [event("e3", "start"), *[late(it) for it in _with_failure("up", "e3", "retried")]],
        "over": [event("e4", "start"), *_with_failure("up", "e4", "dead-lettered"), commit("up", "e4")],
    }
    for name, documents in flows.items():
        _store(ion, *[_of(name, it) for it in documents])
    return ion


@pytest.mark.parametrize(
    ("filters", "flows"),
    [
        ([], ["over done", "failed failed", "done done", "dead dead"]),
        (["--failed"], ["failed failed", "dead dead"]),
        (["--failed", "--limit", "1"], ["failed failed"]),
        (["--failed", "--since", "1h"], ["failed failed"]),
        (["--since", "1h"], ["failed failed", "done done"]),
        (["--since", "99999d"], ["over done", "failed failed", "done done", "dead dead"]),
        (["--module", "takes"], ["done done"]),
        (["--module", "up", "--failed"], ["failed failed", "dead dead"]),
        (["--type", "made"], ["done done"]),
        (["--type", "made", "--failed"], []),
        (["--containing", "ART"], ["over done", "failed failed", "dead dead"]),
        (["--containing", "e4", "--failed"], []),
        (["--containing", "ail", "--failed"], ["failed failed"]),
    ],
)
def test_flows_are_listed_that_meet_every_condition(four: Ion, filters: list[str], flows: list[str]) -> None:
    listed = four("trace", "list", "--json", *filters)
    assert [f"{it['correlationId']} {it['outcome']}" for it in listed.json] == flows
    if not flows:
        assert four("trace", "list", *filters).err == "There are no such flows.\n"


def test_since_when_is_a_length_of_time(ion: Ion) -> None:
    for wrong in ("soon", "999999999d"):
        result = ion("trace", "list", "--since", wrong)
        assert (result.code, "--since" in result.err) == (2, True)


def test_of_a_flow_what_failed_can_be_shown_alone(stored: Ion) -> None:
    assert stored("trace", "flow", "c", "--failed").err == "Nothing of it has failed.\n"
    assert stored("trace", "flow", "c", "--failed", "--json").json == []
    _store(
        stored,
        attempt("fails", "e2", 1, "dead-lettered", reason="exit code 3", second=5),
        event("e5", "made", name="up", parent=UUID),
    )
    lines = stored("trace", "flow", "c", "--failed").out.splitlines()
    assert [line.strip(" │├└─").partition(" ")[0] for line in lines] == [
        "flow",
        "start",
        "up:",
        "attempt",
        "made",
        "fails:",
        "attempt",
    ]
    documents = stored("trace", "flow", "c", "--failed", "--json").json
    assert {it["context"]["eventId"] for it in documents} == {UUID, "e2"}


@pytest.mark.parametrize("arguments", [["trace", "flow", "long-"], ["files", "long-"], ["logs", "long"]])
def test_the_beginning_of_an_id_will_do_if_it_is_of_one(ion: Ion, arguments: list[str]) -> None:
    _store(ion, _of("long-flow-1", event("lengthy", "start")), _of("other", event("long-event", "start")))
    assert ion(*arguments).code == (2 if arguments[0] == "files" else 0)
    _store(ion, _of("long-flow-2", event("long-event-2", "start")))
    several = ion(*arguments)
    assert several.code == 2
    assert "have an id that begins so: long-" in several.err
    assert ion(*arguments[:-1], "lon").code == 1


def test_no_flows_are_told(ion: Ion) -> None:
    assert ion("trace", "list", "--json").json == []
    assert "There are no flows." in ion("trace", "list").err


def test_a_flow_is_an_array_of_all_its_documents_in_the_order_of_storing(stored: Ion) -> None:
    documents = stored("trace", "flow", "-c", "c", "--json").json
    assert [it["context"]["documentType"] for it in documents] == [
        "eventMeta", "commit", "eventMeta", "modulelogs", "modulelogs", "modulelogs",
    ]  # fmt: skip
    assert documents == stored("trace", "flow", "c", "--json").json


def test_a_flow_is_a_tree_for_people(stored: Ion) -> None:
    lines = stored("trace", "flow", "c").out.splitlines()
    assert lines[1] == "start  8000fe0c  from cli"
    assert lines[2].startswith("└─ up: committed, attempt 2")
    assert [line.strip(" │├└─") for line in lines[4:6]] == ["made  e2", "fails: pending"]
    assert "takes: committed" in lines[6]


def test_two_flows_are_one_too_many(stored: Ion) -> None:
    assert stored("trace", "flow", "a", "-c", "b").code == 2


def test_without_an_id_it_is_the_newest_flow_or_the_one_that_failed_last(ion: Ion) -> None:
    nothing = ion("trace", "flow", "--json")
    assert (nothing.code, nothing.json) == (0, [])
    assert "There are no flows" in nothing.err
    ion("event", "publish", "start", "--file", "note.txt", "--correlation-id", "bad")
    ion.process("serve", "--until-idle")
    (ion.home / "mended").touch()
    ion("event", "publish", "start", "--file", "note.txt", "--correlation-id", "good")
    ion.process("serve", "--until-idle")
    assert ion("trace", "flow").out.startswith("flow good")
    assert ion("trace", "flow", "--failed").out.startswith("flow bad")


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["files", "--module", "fail"], "fails"),
        (["files", "--module", "fail", "--json"], "fails"),
        (["files", "c", "--module", "tekes", "--get", "results"], "takes"),
        (["trace", "list", "--module", "fail"], "fails"),
        (["trace", "list", "--failed", "--module", "fail", "--json"], "fails"),
        (["trace", "list", "--type", "strat"], "start"),
        (["logs", "8000fe0c", "--module", "fail"], "fails"),
        (["logs", "8000fe0c", "--module", "fail", "--json"], "fails"),
        (["logs", "8000fe0c", "--module", "fail", "--follow"], "fails"),
        (["dlq", "list", "--module", "fail"], "fails"),
        (["event", "peek", "--module", "fail"], "fails"),
    ],
)
def test_a_filter_by_what_is_not_there_names_the_nearest(stored: Ion, arguments: list[str], near: str) -> None:
    refused = stored(*arguments)
    assert (refused.code, refused.out) == (2, "")
    assert f"Did you mean '{near}'?" in refused.err


def test_an_unknown_flow_is_an_error_that_says_what_would_do(stored: Ion) -> None:
    for arguments in (["nix"], ["nix", "--json"]):
        result = stored("trace", "flow", *arguments)
        assert (result.code, result.out) == (1, "")
        assert "`ion-core trace list`" in result.err
    assert stored("trace", "flow", UUID).err.endswith("Its flow: ion-core trace flow c\n")


@pytest.mark.parametrize("id", [UUID, "8000fe0c", "8000"])
def test_logs_of_every_attempt_are_found_by_an_id_or_its_beginning(stored: Ion, id: str) -> None:
    assert [log["attempt"] for log in stored("logs", id, "--json").json] == [1, 2]


def test_logs_can_be_narrowed(stored: Ion) -> None:
    assert [log["attempt"] for log in stored("logs", UUID, "--json", "--attempt", "2").json] == [2]
    assert len(stored("logs", UUID, "--json", "--module", "up").json) == 2
    assert stored("logs", UUID, "--json", "--module", "takes").json == []
    assert "has left such a log" in stored("logs", UUID, "--attempt", "7").err


def test_logs_are_text_for_people(ion: Ion) -> None:
    nasty = attempt("up", "e9", 1, "committed")
    logs = "Worker logs\n\tdone \x1b[2J\n"
    body = {**nasty.body, "logs": logs, "desc": "attempt 1: committed"}
    _store(ion, event("e9", "start"), Document(kind=nasty.kind, id=nasty.id, correlation_id="c", body=body))
    assert ion("logs", "e9").out == (
        "== up, attempt 1: committed  2026-01-01T00:00:00.000+00:00\nWorker logs\n\tdone \\x1b[2J\n\n"
    )


def test_logs_of_an_event_without_a_document_are_found_all_the_same(ion: Ion) -> None:
    _store(ion, attempt("up", "lonely", 1, "dead-lettered"))
    assert len(ion("logs", "lonely", "--json").json) == 1


def test_a_beginning_that_is_not_enough_is_misuse(stored: Ion) -> None:
    _store(stored, event("8000ffff", "start"))
    result = stored("logs", "8000")
    assert result.code == 2
    assert UUID in result.err


@pytest.mark.parametrize("id", ["nix", "800", "x" * 1024])
def test_an_unknown_event_is_an_error(stored: Ion, id: str) -> None:
    result = stored("logs", id)
    assert (result.code, result.out) == (1, "")
    assert "no event" in result.err


@pytest.mark.parametrize("command", [("logs",), ("why",), ("debug",), ("replay",)])
@pytest.mark.parametrize("id", ["flow-of-one", "flow"])
def test_where_the_id_of_a_flow_is_given_for_an_events_it_is_said_how_to_see_its_events(
    stored: Ion, command: tuple[str, ...], id: str
) -> None:
    _store(stored, _of("flow-of-one", event("e3", "start")))
    result = stored(*command, id)
    assert result.code == 1
    assert "'flow-of-one' is the id of a flow. Its events: ion-core trace flow flow-of-one" in result.err


@pytest.mark.parametrize("command", [("logs",), ("files",), ("why",), ("trace", "flow")])
def test_of_what_is_too_short_for_the_beginning_of_an_id_it_is_said_how_much_is_needed(
    stored: Ion, command: tuple[str, ...]
) -> None:
    needed = "The beginning of an id must have 4 characters or more."
    assert needed in stored(*command, UUID[:3]).err
    assert needed not in stored(*command, "absent").err


def test_an_event_that_no_attempt_was_made_for_has_no_logs(stored: Ion) -> None:
    result = stored("logs", "e0")
    assert (result.code, result.out) == (0, "")
    assert stored("logs", "e0", "--json").json == []


def test_logs_says_of_a_job_that_committed_that_its_log_was_lost(ion: Ion) -> None:
    event_id = ion("event", "publish", "start", "--file", "note.txt", "--json").json["context"]["eventId"]
    assert "No attempt for event" in ion("logs", event_id).err
    ion.process("serve", "--until-idle")

    async def lose(app: App) -> None:
        documents = await app.documents()
        async for document in documents.find(MODULE_LOGS):
            await documents.delete(MODULE_LOGS, document.id)

    ion.in_app(lose)
    said = ion("logs", event_id)
    assert "up: committed" in said.err
    assert "its log was lost with the process that ran it" in said.err
    assert "No attempt" not in said.err
    assert ion("logs", event_id, "--module", "takes").err.count("No attempt") == 1


def test_logs_are_printed_in_the_order_in_which_attempts_ended(ion: Ion) -> None:
    late, early = attempt("up", UUID, 1, "dead-lettered", second=7), attempt("up", UUID, 2, "retried", second=4)
    _store(ion, event(UUID, "start"), late, early)
    titles = [line for line in ion("logs", UUID).out.splitlines() if line.startswith("==")]
    assert [title[-29:-6] for title in titles] == ["2026-01-01T00:00:04.000", "2026-01-01T00:00:07.000"]
    assert [log["attempt"] for log in ion("logs", UUID, "--json").json] == [2, 1]


def test_a_flow_is_written_as_a_page(stored: Ion) -> None:
    assert stored("trace", "flow", "c", "--html", "flow.html").out == "flow.html\n"
    page = (stored.home / "flow.html").read_text(encoding="utf-8")
    assert "waits for attempt" not in page
    assert "attempt 2" in page
    assert stored("trace", "flow", "c", "--html", "-").out.startswith("<!doctype html>\n<html")
    assert sorted(it.name for it in stored.home.iterdir() if "flow.html" in it.name) == ["flow.html"]


def test_a_page_that_cannot_be_written_leaves_what_was_there(stored: Ion) -> None:
    (stored.home / "there").mkdir()
    failed = stored("trace", "flow", "c", "--html", "there")
    assert failed.code != 0
    assert "there" in failed.err
    assert [it.name for it in stored.home.iterdir() if it.name.startswith(".there")] == []
    assert stored("trace", "flow", "c", "--html", "a.html", "--json").code == 2


def test_a_page_of_what_failed_needs_something_that_did(stored: Ion) -> None:
    assert "Nothing of it has failed." in stored("trace", "flow", "c", "--failed", "--html", "no.html").err
    assert not (stored.home / "no.html").exists()
