"""Commit records: everything a job made, from which it can be published again and again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ion_core import strict_json
from ion_core.commits import Commit, child_event
from ion_core.events import COMMIT, Context, Event, StoredFile, parse_context
from ion_core.jobs import Attempt, Job

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
pairs = st.lists(st.tuples(text, text), max_size=4).map(tuple)


@st.composite
def commits(draw: Callable[..., Any]) -> Commit:
    context = Context(
        name=draw(text),
        event_id=draw(text),
        correlation_id=draw(text),
        parent_event_id=draw(text | st.just("")),
        document_type=COMMIT,
    )
    names = draw(st.lists(text, max_size=4, unique=True))
    files = tuple(
        StoredFile(name=name, key=draw(text), size=draw(st.integers(0, 2**50)), sha256="0f") for name in names
    )
    events = tuple(
        Event(
            context=Context(
                name=context.name,
                event_id=draw(text),
                correlation_id=context.correlation_id,
                parent_event_id=context.event_id,
            ),
            type="t",
            data=draw(pairs),
            files=tuple(draw(st.permutations(names))),
            hops=draw(st.integers(0, 64)),
        )
        for _ in range(draw(st.integers(0, 3)))
    )
    return Commit(
        job_id=draw(text),
        context=context,
        attempt=draw(st.integers(1, 9)),
        token=draw(text),
        image=draw(text | st.none()),
        started_at="2030-01-01T00:00:00.000+00:00",
        committed_at="2030-01-01T00:00:01.000+00:00",
        files=files,
        insights=draw(pairs),
        events=events,
    )


@given(commits())
def test_a_commit_survives_its_document(commit: Commit) -> None:
    document = commit.to_document()
    assert Commit.from_document(document) == commit
    assert strict_json.loads(strict_json.dumps(document.body), what="body", limit=1 << 20) == document.body
    assert document.pending == bool(commit.events or commit.insights)


@given(commits())
def test_its_documents_are_the_contract_s_and_always_the_same(commit: Commit) -> None:
    documents = commit.documents()
    assert Commit.from_document(commit.to_document()).documents() == documents
    assert [document.kind for document in documents] == ["eventMeta"] * len(commit.events) + ["insight"] * bool(
        commit.insights
    )
    for document in documents:
        problems: list[str] = []
        context = parse_context(document.body, what="document", problems=problems)
        assert not problems
        assert context.document_type == document.kind
        assert context.correlation_id == document.correlation_id == commit.context.correlation_id
        assert document.body["id"] == document.id
    for event, document in zip(commit.events, documents, strict=False):
        assert document.id == event.context.event_id
        assert [blob["name"] for blob in document.body["blobs"]] == list(event.files)


def test_an_insight_belongs_to_the_event_its_job_was_for() -> None:
    context = Context(name="detect", event_id="e1", correlation_id="c1", parent_event_id="e0", document_type=COMMIT)
    commit = Commit(
        job_id="j1",
        context=context,
        attempt=1,
        token="t",
        image=None,
        started_at="",
        committed_at="",
        insights=(("n", "1"),),
    )
    [insight] = commit.documents()
    assert json.loads(strict_json.dumps(insight.body)) == {
        "id": "j1",
        "context": {
            "name": "detect",
            "eventId": "e1",
            "correlationId": "c1",
            "parentEventId": "e0",
            "documentType": "insight",
        },
        "data": [{"key": "n", "value": "1"}],
    }


def test_a_child_comes_from_the_module_and_is_one_hop_further() -> None:
    cause = Event(context=Context(name="camera", event_id="e1", correlation_id="c1"), type="t", hops=4)
    first, second = (Attempt(job=Job(event=cause, module="detect"), number=n) for n in (1, 2))

    child = child_event(first, "a.json", event_type="u", data=(("k", "v"),), files=("f",))

    assert child == child_event(second, "a.json", event_type="u", data=(("k", "v"),), files=("f",))
    assert child.hops == 5
    assert child.context == Context(
        name="detect", event_id=first.job.child_id("a.json"), correlation_id="c1", parent_event_id="e1"
    )
