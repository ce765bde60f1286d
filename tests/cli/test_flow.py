"""A flow read from documents and drawn as a tree, whatever the documents are like."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from ion_core.cli.flow.text import lines
from ion_core.contracts.storage import Document
from ion_core.flows import Flow, FlowReader, children
from ion_core.modules import Module

MODULES = [Module(name="detect", subscribes=("photo",)), Module(name="blur", subscribes=("face",))]


def _document(kind: str, name: str, event_id: str, parent: str = "", *, id: str = "", **body: Any) -> Document:
    context = {
        "name": name,
        "eventId": event_id,
        "correlationId": "c",
        "parentEventId": parent,
        "documentType": kind,
    }
    whole = {"id": id or event_id, "context": context, **body}
    return Document(kind=kind, id=id or event_id, correlation_id="c", body=whole)


def event(id: str, type: str, *, name: str = "cli", parent: str = "", **body: Any) -> Document:
    return _document("eventMeta", name, id, parent, type=type, **body)


def attempt(module: str, event_id: str, number: int, outcome: str, *, reason: str = "", second: int = 0) -> Document:
    return _document(
        "modulelogs",
        module,
        event_id,
        id=f"module:{module}-event:{event_id}-attempt:{number}",
        logs="x" * 100,
        attempt=number,
        outcome=outcome,
        reason=reason,
        succeeded=outcome == "committed",
        startedAt=f"2026-01-01T00:00:{second:02}.000+00:00",
        finishedAt=f"2026-01-01T00:00:{second + 1:02}.000+00:00",
        seconds={"prepare": 0.01, "module": 0.9, "commit": 0.02, "all": 1.0},
    )


def commit(module: str, event_id: str, number: int = 1, **body: Any) -> Document:
    return _document("commit", module, event_id, id=f"job {module} {event_id}", attempt=number, **body)


def flow_of(*documents: Document, modules: list[Module] = MODULES) -> Flow:
    reader = FlowReader("c", modules)
    for document in documents:
        reader.add(document)
    return reader.flow()


def tree(*documents: Document, modules: list[Module] = MODULES) -> list[str]:
    return list(lines(flow_of(*documents, modules=modules)))


WHOLE = [
    event("e1", "photo", files=["me.jpg"], data=[{"key": "album", "value": "summer"}]),
    attempt("detect", "e1", 1, "retried", reason="exit code 3"),
    commit("detect", "e1", 2),
    event("e2", "face", name="detect", parent="e1"),
    event("e3", "face", name="detect", parent="e1"),
    _document("insight", "detect", "e1", id="job", data=[{"key": "faces", "value": "2"}]),
    attempt("detect", "e1", 2, "committed", second=2),
    attempt("blur", "e2", 1, "dead-lettered", reason="exit code 126", second=4),
]


def test_events_hang_below_the_job_that_made_them() -> None:
    assert tree(*WHOLE) == [
        "flow c · 3 events · 3 jobs: 1 committed, 1 dead-lettered, 1 pending · began 2026-01-01 00:00:00 · 5.00 s",
        "photo  e1  from cli  me.jpg album=summer",
        "└─ detect: committed, attempt 2 in 1.00 s (prepare 0.010, module 0.900, commit 0.020)",
        "   │  attempt 1 retried in 1.00 s (prepare 0.010, module 0.900, commit 0.020): exit code 3",
        "   │  insight faces=2",
        "   ├─ face  e2",
        "   │  └─ blur: dead-lettered",
        "   │        attempt 1 dead-lettered in 1.00 s (prepare 0.010, module 0.900, commit 0.020): exit code 126",
        "   └─ face  e3",
        "      └─ blur: pending",
    ]


def test_the_order_of_documents_does_not_matter() -> None:
    drawn = tree(*reversed(WHOLE))
    assert drawn[:5] == tree(*WHOLE)[:5]
    assert sorted(line.lstrip(" │├└─") for line in drawn) == sorted(line.lstrip(" │├└─") for line in tree(*WHOLE))


def test_without_lines_in_the_output_it_is_drawn_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    drawn = tree(*WHOLE)
    assert all(line.isascii() for line in drawn)
    assert drawn[-1] == "      `- blur: pending"


def test_a_job_that_waits_for_its_retry_says_so() -> None:
    [_, _, job, note] = tree(event("e1", "photo"), attempt("detect", "e1", 1, "retried", reason="exit code 1"))
    assert job == "└─ detect: waits for attempt 2"
    assert note.endswith("exit code 1")


def test_a_released_job_is_pending() -> None:
    assert tree(event("e1", "photo"), attempt("detect", "e1", 1, "released"))[2] == "└─ detect: pending"


def test_after_a_redrive_the_latest_attempt_counts() -> None:
    old = [attempt("detect", "e1", n, "dead-lettered", second=n) for n in (2, 3)]
    assert tree(event("e1", "photo"), *old, attempt("detect", "e1", 1, "retried", second=30))[2].endswith("attempt 2")


def test_events_that_are_committed_and_not_published_yet_are_there() -> None:
    committed = commit("detect", "e1", events=[{"id": "e9", "type": "face", "data": [], "files": []}])
    assert tree(event("e1", "photo"), committed)[-2:] == ["   └─ face  e9", "      └─ blur: pending"]


def test_a_job_for_an_event_without_a_document_is_shown() -> None:
    drawn = tree(attempt("detect", "gone", 1, "committed"), commit("detect", "gone"), modules=[])
    assert drawn[1] == "(unknown)  gone"
    assert drawn[2].startswith("└─ detect: committed")


def test_flat_contexts_are_read_as_nested_ones_are() -> None:
    flat = {"id": "e2", "name": "detect", "eventId": "e2", "correlationId": "c", "parentEventId": "e1", "type": "face"}
    old = Document(kind="eventMeta", id="e2", correlation_id="c", body=flat)
    drawn = tree(event("e1", "photo"), commit("detect", "e1"), old)
    assert drawn[3] == "   └─ face  e2"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"context": 5},
        {"context": {"name": 1, "eventId": None}, "type": 7, "files": "x", "data": {"a": 1}, "events": [3, {}]},
        {"attempt": "x", "seconds": [1], "outcome": None, "reason": {}, "startedAt": 5, "finishedAt": "now"},
        {"context": {"name": "x" * 5000, "eventId": "y" * 5000}, "data": [5, {"key": 1}]},
    ],
)
@pytest.mark.parametrize("kind", ["eventMeta", "insight", "modulelogs", "commit", "other"])
def test_documents_of_any_shape_are_survived(kind: str, body: dict[str, Any]) -> None:
    drawn = tree(Document(kind=kind, id="e", correlation_id="c", body=body), event("e1", "photo"))
    assert any("photo  e1" in line for line in drawn)
    assert max(map(len, drawn)) < 400


def test_foreign_text_cannot_break_a_line() -> None:
    nasty = "\x1b[2J\n\u202e"
    drawn = tree(
        event("e1\n", nasty, files=[nasty], data=[{"key": nasty, "value": nasty}]),
        attempt(nasty, "e1\n", 1, "dead-lettered", reason=nasty * 100),
    )
    assert "".join(drawn).isprintable()
    assert max(map(len, drawn)) < 400


@pytest.mark.parametrize(
    "parents",
    [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "b", "b": "c", "c": "b", "d": "c"}],
)
def test_circles_are_opened_and_each_event_is_shown_once(parents: dict[str, str]) -> None:
    flow = flow_of(*(event(id, "photo", parent=parent) for id, parent in parents.items()))
    assert sorted(it.id for it in flow.events()) == sorted(parents)


def test_ten_thousand_events_in_a_row_or_side_by_side() -> None:
    row = [event(str(n), "photo", name="detect", parent=str(n - 1) if n else "") for n in range(10_000)]
    row += [commit("detect", str(n)) for n in range(10_000)]
    drawn = tree(*row)
    assert len(drawn) == 20_001
    assert max(map(len, drawn)) < 400
    beside = [event("top", "photo"), *(event(f"n{n}", "face", name="detect", parent="top") for n in range(10_000))]
    assert len(tree(*beside, commit("detect", "top"))) == 20_003


def test_every_event_has_one_place() -> None:
    flow = flow_of(*WHOLE)
    assert [it.id for it in flow.roots] == ["e1"]
    assert [it.id for it in children(flow.roots[0])] == ["e2", "e3"]
