"""Events: shapes of the module contract, read strictly, written in one form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ion_core import strict_json
from ion_core.errors import InvalidEvent
from ion_core.events import (
    MAX_ID_LENGTH,
    MAX_MESSAGE_BYTES,
    Context,
    Event,
    StoredFile,
    checked_traceparent,
    encode_event,
    event_meta,
    parse_event,
    read_pairs,
    type_problem,
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
pairs = st.lists(st.tuples(text, text), max_size=8).map(tuple)
types = st.from_regex(r"[a-z0-9]{1,6}([._-][a-z0-9]{1,6}){0,3}", fullmatch=True)
contexts = st.builds(Context, name=ids, event_id=ids, correlation_id=ids, parent_event_id=text, document_type=ids)
events = st.builds(Event, context=contexts, type=types, data=pairs, hops=st.integers(0, 70))

CONTEXT = {"name": "camera", "eventId": "e1", "correlationId": "c1", "parentEventId": "", "documentType": "eventMeta"}


def wire(**changes: Any) -> bytes:
    """A good event with these parts changed; a part that is ``...`` is left out."""
    parts = {"context": CONTEXT, "type": "photo.received"} | changes
    return json.dumps({key: value for key, value in parts.items() if value is not ...}).encode()


def problems(raw: bytes) -> list[str]:
    with pytest.raises(InvalidEvent) as refused:
        parse_event(raw)
    return list(refused.value.problems)


@given(events)
def test_an_event_survives_the_wire(event: Event) -> None:
    assert parse_event(encode_event(event), hops=event.hops) == event


@given(events)
def test_an_event_has_one_form_on_the_wire(event: Event) -> None:
    raw = encode_event(event)
    assert encode_event(parse_event(raw)) == raw
    assert ("data" in json.loads(raw)) == bool(event.data), "`data` is there when there is any"


@given(pairs)
def test_pairs_survive_their_file_order_and_repetition_included(found: tuple[tuple[str, str], ...]) -> None:
    raw = strict_json.dumps([{"key": key, "value": value} for key, value in found])
    assert read_pairs(raw, what="file", limit=1 << 20) == found


def test_the_wire_is_the_contract_s() -> None:
    context = Context(name="detect", event_id="e2", correlation_id="c1", parent_event_id="e1")
    event = Event(context=context, type="face.detected", data=(("x", "1"),), files=("a.png",), hops=3)

    assert json.loads(encode_event(event)) == {
        "context": {
            "name": "detect",
            "eventId": "e2",
            "correlationId": "c1",
            "parentEventId": "e1",
            "documentType": "eventMeta",
        },
        "type": "face.detected",
        "data": [{"key": "x", "value": "1"}],
    }


def test_the_document_of_an_event_says_where_its_files_lie() -> None:
    event = Event(context=Context(name="a", event_id="e", correlation_id="c"), type="t", files=("x",))
    stored = StoredFile(name="x", key="c/e/a/1/x", size=3, sha256="00")

    document = event_meta(event, [stored])

    assert document["id"] == "e"
    assert document["files"] == ["x"]
    assert StoredFile.from_json(document["blobs"][0]) == stored


def test_a_flat_context_is_read() -> None:
    assert parse_event(json.dumps({**CONTEXT, "type": "photo.received"}).encode()) == parse_event(wire())


def test_parent_and_document_type_may_be_missing() -> None:
    event = parse_event(wire(context={"name": "a", "eventId": "b", "correlationId": "c"}))
    assert event.context.parent_event_id == ""
    assert event.context.document_type == "eventMeta"


@pytest.mark.parametrize("data", [None, []])
def test_no_data_is_no_data(data: Any) -> None:
    assert parse_event(wire(data=data)).data == ()


def test_unknown_parts_are_left_alone() -> None:
    assert parse_event(wire(version=2)).type == "photo.received"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"type": ...}, "event.type: must be a string (it is missing)"),
        ({"type": 7}, "event.type: must be a string (got a number)"),
        ({"type": ["a"]}, "event.type: must be a string (got an array)"),
        ({"context": None}, "event.context: must be an object (got null)"),
        ({"context": "c1"}, "event.context: must be an object (got a string)"),
        ({"context": {**CONTEXT, "eventId": 5}}, "event.context.eventId: must be a string (got a number)"),
        ({"context": {**CONTEXT, "eventId": ""}}, "event.context.eventId: is required"),
        (
            {"context": {**CONTEXT, "parentEventId": True}},
            "event.context.parentEventId: must be a string (got a boolean)",
        ),
        ({"data": {"a": "b"}}, 'event.data: must be an array of {"key": "…", "value": "…"} (got an object)'),
        ({"data": 0}, 'event.data: must be an array of {"key": "…", "value": "…"} (got a number)'),
        ({"data": ""}, 'event.data: must be an array of {"key": "…", "value": "…"} (got a string)'),
        ({"data": [["a", "b"]]}, 'event.data[0]: must be an object {"key": "…", "value": "…"} (got an array)'),
        ({"data": [{"key": "a"}]}, "event.data[0].value: must be a string (it is missing)"),
        ({"data": [{"key": "a", "value": 1.5}]}, "event.data[0].value: must be a string (got a number)"),
        ({"data": [{"key": None, "value": ""}]}, "event.data[0].key: must be a string (got null)"),
        (
            {"data": [{"key": "a", "value": "b"}, {"key": "a", "value": "b", "unit": "m"}]},
            'event.data[1].unit: unknown; a pair has "key" and "value" only',
        ),
    ],
)
def test_what_is_wrong_is_named_by_its_path(changes: dict[str, Any], expected: str) -> None:
    assert problems(wire(**changes)) == [expected]


def test_everything_wrong_is_said_at_once() -> None:
    found = problems(wire(type="NO", context={"name": "a"}, data=[{"key": 1, "value": 2}]))
    assert [problem.split(":")[0] for problem in found] == [
        "event.context.eventId",
        "event.context.correlationId",
        "event.type",
        "event.data[0].key",
        "event.data[0].value",
    ]


@pytest.mark.parametrize(
    ("raw", "kind"), [(b"[]", "an array"), (b'"a"', "a string"), (b"null", "null"), (b"1", "a number")]
)
def test_an_event_is_an_object(raw: bytes, kind: str) -> None:
    assert problems(raw) == [f'event: must be an object {{"context": …, "type": …}} (got {kind})']


def test_of_very_many_problems_the_message_has_some_and_their_number() -> None:
    with pytest.raises(InvalidEvent) as refused:
        parse_event(wire(data=[1] * 50_000))
    assert len(refused.value.problems) == 50_000
    assert len(str(refused.value)) < 4_000
    assert "and 49,980 more problems" in str(refused.value)


@pytest.mark.parametrize("name", ["name", "eventId", "correlationId", "parentEventId"])
def test_ids_have_any_alphabet_and_a_length_that_is_named(name: str) -> None:
    longest = "ü/../🙂\u0000 "[:7] * 200
    longest = longest[:MAX_ID_LENGTH]
    event = parse_event(wire(context={**CONTEXT, name: longest}))
    assert longest in event.context.to_json().values()

    [problem] = problems(wire(context={**CONTEXT, name: longest + "x"}))
    assert problem == f"event.context.{name}: is 1,025 characters long, 1,024 are allowed"


@pytest.mark.parametrize(
    "event_type", ["photo.received", "face_detected", "frontapi.new_link", "a", "0", "a-b_c.d", "x" * 128]
)
def test_event_types_of_the_contract_are_taken(event_type: str) -> None:
    assert type_problem(event_type) is None


@pytest.mark.parametrize(
    "event_type",
    [
        "",
        "Photo",
        "photo.",
        ".photo",
        "photo..received",
        "photo received",
        "photo/received",
        "ä",
        "a\n",
        "a._b",
        "photo.*",
    ],
)
def test_other_event_types_are_refused_with_an_example(event_type: str) -> None:
    problem = type_problem(event_type)
    assert problem is not None
    assert repr(event_type) in problem
    assert "photo.received" in problem


def test_the_length_of_an_event_type_is_named() -> None:
    assert type_problem("x" * 129) == "event type is 129 characters long, 128 are allowed"


def test_an_event_too_large_for_the_wire_is_refused_with_both_numbers() -> None:
    context = Context(name="a", event_id="b", correlation_id="c")
    with pytest.raises(
        InvalidEvent, match=r"event t: is 5\d\d,\d\d\d bytes long, the limit is 524,288. Pass large data as files"
    ):
        encode_event(Event(context=context, type="t", data=(("k", "x" * MAX_MESSAGE_BYTES),)))


def test_a_message_too_large_is_not_even_parsed() -> None:
    [problem] = problems(b" " * (MAX_MESSAGE_BYTES + 1))
    assert "524,289 bytes" in problem


def test_pairs_of_a_file_name_file_and_path() -> None:
    with pytest.raises(InvalidEvent, match=r"out/insights\.json\[1\]\.value: must be a string \(got null\)"):
        read_pairs(b'[{"key": "a", "value": "b"}, {"key": "c", "value": null}]', what="out/insights.json")


TRACE = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (f"00-{TRACE}", f"00-{TRACE}"),
        (f" 00-{TRACE}\t", f"00-{TRACE}"),
        (f"cc-{TRACE}", f"00-{TRACE}"),
        (f"cc-{TRACE}-what-comes-later", f"00-{TRACE}"),
        (f"00-{TRACE}-what-comes-later", ""),
        (f"cc-{TRACE}.", ""),
        (f"ff-{TRACE}", ""),
        (f"00-{TRACE.upper()}", ""),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", ""),
        (f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01", ""),
        (f"00-{TRACE}\n", ""),
        ("", ""),
        ("x" * 100_000, ""),
    ],
)
def test_a_traceparent_is_taken_as_its_standard_says(said: str, found: str) -> None:
    assert checked_traceparent(said) == found
