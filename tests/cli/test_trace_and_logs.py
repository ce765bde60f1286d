"""``trace list``, ``trace flow`` and ``logs``, on documents that lie in the real embedded store."""

from __future__ import annotations

import pytest

from ion_core.app import App
from ion_core.contracts.storage import Document
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


def test_flows_are_listed_the_newest_first(stored: Ion) -> None:
    flows = stored("trace", "list", "--json").json
    began = "2026-01-01T00:00:00.000+00:00"
    assert flows == [
        {"correlationId": "c", "eventId": UUID, "type": "start", "events": 2, "startedAt": began},
        {"correlationId": "old", "eventId": "e0", "type": "start", "events": 1, "startedAt": None},
    ]
    assert len(stored("trace", "list", "--json", "--limit", "1").json) == 1
    assert stored("trace", "list").out.splitlines()[2].split() == ["old", "start", "1", "-"]


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


@pytest.mark.parametrize("arguments", [[], ["a", "-c", "b"]])
def test_which_flow_has_to_be_said(stored: Ion, arguments: list[str]) -> None:
    assert stored("trace", "flow", *arguments).code == 2


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


def test_an_event_that_no_attempt_was_made_for_has_no_logs(stored: Ion) -> None:
    result = stored("logs", "e0")
    assert (result.code, result.out) == (0, "")
    assert stored("logs", "e0", "--json").json == []
