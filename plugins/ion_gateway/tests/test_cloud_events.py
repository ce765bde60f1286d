"""CloudEvents by HTTP, as the SDK sends them, and as nobody may."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cloudevents.core.bindings.http import HTTPMessage, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from ion_core.errors import TransientError
from ion_gateway import gateway
from plugins.ion_gateway.tests.gateways import Running, running

EVENT: dict[str, Any] = {"specversion": "1.0", "id": "e-1", "source": "/cam era/ü", "type": "photo.received"}
STRUCTURED = {"Content-Type": "application/cloudevents+json"}
BATCH = {"Content-Type": "application/cloudevents-batch+json; charset=utf-8"}
BINARY = {"ce-specversion": "1.0", "ce-id": "e-1", "ce-source": "/cam%20era/%C3%BC", "ce-type": "photo.received"}
TIME = "2026-11-29T12:00:00.123456789+01:00"


@pytest.fixture(autouse=True)
def no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "LINGER_FOR", 0.05)


@pytest_asyncio.fixture
async def it(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path / "work", max_json="20KB") as found:
        yield found


async def post(it: Running, event: Any, headers: dict[str, str] = STRUCTURED) -> tuple[int, dict[str, Any], Any]:
    return await it.post("/events", data=event if isinstance(event, bytes) else json.dumps(event), headers=headers)


async def send(it: Running, message: HTTPMessage) -> tuple[int, dict[str, Any], Any]:
    return await post(it, message.body, message.headers)


async def test_what_the_sdk_sends_is_one_event_in_all_three_modes(it: Running) -> None:
    event = CloudEvent(
        {**EVENT, "subject": '100% "x"', "number": 5, "yes": True, "datacontenttype": "application/json"},
        {"a": {"b": [1, "ü"]}},
    )
    del event.get_attributes()["time"]
    structured = to_structured_event(event)
    sent = [await send(it, structured), await send(it, to_binary_event(event))]
    sent.append(await post(it, b"[" + structured.body + b"]", BATCH))
    assert [(status, said) for status, said, _ in sent] == [(202, sent[0][1])] * 3
    first, second, third = (event for event, _ in it.host.taken)
    assert first == third
    assert (first.context, first.type) == (second.context, second.type)
    told = dict(first.data)
    assert told == {
        "ce.id": "e-1",
        "ce.source": "/cam era/ü",
        "ce.type": "photo.received",
        "ce.specversion": "1.0",
        "ce.subject": '100% "x"',
        "ce.number": "5",
        "ce.yes": "true",
        "a.b.0": "1",
        "a.b.1": "ü",
    }
    assert dict(second.data) == {**told, "ce.yes": "True"}  # so the SDK writes it into a header


async def test_a_body_that_says_nothing_of_its_kind_is_json(it: Running) -> None:
    head = "POST /events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 9\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in BINARY.items())
    assert b" 202 " in (await it.raw(f'{head}\r\n{{"a":"b"}}'.encode())).splitlines()[0]
    assert dict(it.host.taken[0][0].data)["a"] == "b"


async def test_time_stays_the_text_that_it_was(it: Running) -> None:
    await post(it, {**EVENT, "time": TIME})
    await post(it, b"", {**BINARY, "ce-time": TIME})
    assert [dict(event.data)["ce.time"] for event, _ in it.host.taken] == [TIME, TIME]


async def test_source_and_id_say_which_event_it_is(it: Running) -> None:
    async def id_of(**other: str) -> str:
        return str((await post(it, {**EVENT, **other}))[1]["events"][0]["eventId"])

    assert await id_of() == await id_of(time=TIME)
    assert (
        len({await id_of(), await id_of(id="e-2"), await id_of(source="/other"), await id_of(id="1", source="/e-")})
        == 4
    )


@pytest.mark.parametrize(
    ("given", "pairs", "content"),
    [
        ({}, {}, None),
        ({"data": None}, {}, None),
        ({"data": {}}, {}, None),
        ({"data": "x"}, {"data": "x"}, None),
        ({"data": [1, "x"]}, {"data.0": "1", "data.1": "x"}, None),
        ({"data": 1.5, "datacontenttype": "application/vnd.x+json"}, {"data": "1.5"}, None),
        ({"data": "<x/>", "datacontenttype": "application/xml"}, {"ce.datacontenttype": "application/xml"}, b"<x/>"),
        ({"data_base64": base64.b64encode(b"\xff\0").decode()}, {}, b"\xff\0"),
    ],
)
async def test_data_is_pairs_where_it_is_json_and_else_a_file(
    it: Running, given: dict[str, Any], pairs: dict[str, str], content: bytes | None
) -> None:
    assert (await post(it, {**EVENT, **given}))[0] == 202
    event, files = it.host.taken[0]
    assert dict(event.data[4:]) == pairs
    assert files == ({} if content is None else {"data": content})
    await it.left()


async def test_binary_data_that_is_no_json_is_a_file(it: Running) -> None:
    assert (await post(it, b"\xff\0", {**BINARY, "Content-Type": "image/jpeg"}))[0] == 202
    event, files = it.host.taken[0]
    assert files == {"data": b"\xff\0"}
    assert dict(event.data)["ce.datacontenttype"] == "image/jpeg"


async def test_a_batch_is_published_in_its_order(it: Running) -> None:
    events = [{**EVENT, "id": str(n), "type": kind} for n, kind in enumerate(["photo.received", "report.asked"] * 3)]
    status, said, _ = await post(it, events, BATCH)
    assert status == 202
    assert [one["eventId"] for one in said["events"]] == [event.context.event_id for event, _ in it.host.taken]
    assert [dict(event.data)["ce.id"] for event, _ in it.host.taken] == [str(n) for n in range(6)]
    assert (await post(it, [], BATCH))[0] == 202


async def test_a_batch_that_fails_midway_is_the_same_when_it_is_sent_again(it: Running) -> None:
    events = [{**EVENT, "id": str(n)} for n in range(3)]
    publish = it.host.publish

    async def failing(*given: Any, **how: Any) -> Any:
        if len(it.host.taken) == 2:
            it.host.raising.append(TransientError("away"))
            it.host.publish = publish  # type: ignore[method-assign]
        return await publish(*given, **how)

    it.host.publish = failing  # type: ignore[method-assign]
    assert (await post(it, events, BATCH))[0] == 503
    status, said, _ = await post(it, events, BATCH)
    assert status == 202
    ids = [event.context.event_id for event, _ in it.host.taken]
    assert ids == [one["eventId"] for one in said["events"]][:2] + [one["eventId"] for one in said["events"]]


# Sent where a type is in the path


async def test_sent_to_its_type_it_is_the_same_event_and_answered_as_others_are(it: Running) -> None:
    event = {**EVENT, "data": {"a": 1}}
    _, first, _ = await post(it, event)
    sent = [
        await it.post(data=json.dumps(event), headers={**STRUCTURED, "Idempotency-Key": "of no meaning"}),
        await it.post(data=b'{"a": 1}', headers={**BINARY, "Content-Type": "application/json"}),
    ]
    for status, said, headers in sent:
        assert (status, said) == (202, first["events"][0])
        assert headers["Location"] == f"/events/{said['eventId']}"
    taken = [event for event, _ in it.host.taken]
    assert taken[0] == taken[1] == taken[2]
    headers = {**STRUCTURED, "Prefer": "wait=1"}
    assert (await it.post(data=json.dumps(event), headers=headers))[2]["Preference-Applied"] == "wait=1"


@pytest.mark.parametrize(
    ("body", "headers"),
    [(json.dumps({**EVENT, "type": "report.asked"}), STRUCTURED), (b"", {**BINARY, "ce-type": "report.asked"})],
)
async def test_sent_to_another_type_it_is_refused(it: Running, body: Any, headers: dict[str, str]) -> None:
    status, said, _ = await it.post(data=body, headers=headers)
    assert status == 422
    assert said["problems"][0].startswith("type: is 'report.asked', and 'photo.received' in the path. Send a CloudEv")
    assert it.host.taken == []


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("photo.received", [EVENT], BATCH, 415),
        ("photo.received", b"", {**BINARY, "Content-Type": "multipart/form-data; boundary=XX"}, 415),
        ("photo.received", b"{}", {"ce-type": "photo.received"}, 400),
        ("photo.received", b"{", STRUCTURED, 422),
        ("of.nobody", {**EVENT, "type": "of.nobody"}, STRUCTURED, 404),
        ("of.nobody", EVENT, STRUCTURED, 404),
    ],
)
async def test_what_is_none_or_several_is_refused_there(
    it: Running, path: str, body: Any, headers: dict[str, str], status: int
) -> None:
    sent = body if isinstance(body, bytes) else json.dumps(body)
    assert (await it.post(f"/events/{path}", data=sent, headers=headers))[0] == status
    assert it.host.taken == []


async def test_a_route_takes_it_as_the_json_that_it_is(tmp_path: Path) -> None:
    """Its type is often none that an event may have, and a route is what gives it another."""
    pairs = {"url": "/data/url"}
    routes = {
        "whole": {"path": "/whole", "type": "report.asked", "id": "/id", "pairs": pairs},
        "binary": {"path": "/binary", "type": "report.asked", "id": "ce-id"},
    }
    async with running(tmp_path / "work", routes=routes) as it:
        event = {**EVENT, "type": "Microsoft.Storage.BlobCreated", "data": {"url": "x"}}
        assert (await it.post("/whole", data=json.dumps(event), headers=STRUCTURED))[0] == 202
        for _ in range(2):
            headers = {**BINARY, "Content-Type": "application/json"}
            assert (await it.post("/binary", data=b'{"url": "x"}', headers=headers))[0] == 202
        first, second, third = (event for event, _ in it.host.taken)
        assert {it.type for it in (first, second, third)} == {"report.asked"}
        assert [it.data for it in (first, second)] == [(("url", "x"),)] * 2
        assert second == third


async def test_a_route_knows_it_by_source_and_id_unless_told_otherwise(tmp_path: Path) -> None:
    routes = {name: {"path": f"/{name}", "type": "report.asked", "pairs": {}} for name in ("one", "other")}
    async with running(tmp_path / "work", routes=routes) as it:

        async def status(path: str, event: Any, headers: dict[str, str]) -> int:
            body = event if isinstance(event, bytes) else json.dumps(event)
            return (await it.post(path, data=body, headers=headers))[0]

        for event, headers in ((EVENT, STRUCTURED), (EVENT, STRUCTURED | {"Idempotency-Key": "k"}), ({}, BINARY)):
            assert await status("/one", event, headers) == 202
        for event, path in (({**EVENT, "id": "2"}, "/one"), ({**EVENT, "source": "x"}, "/one"), (EVENT, "/other")):
            assert await status(path, event, STRUCTURED) == 202
        ids = [event.context.event_id for event, _ in it.host.taken]
        assert (len({*ids[:3]}), len({*ids})) == (1, 4), "in either mode it is one"
        for body, headers in (
            ({**EVENT, "id": ""}, STRUCTURED),
            ({**EVENT, "source": None}, STRUCTURED),
            ([], STRUCTURED),
            ({}, {name: it for name, it in BINARY.items() if name != "ce-source"}),
        ):
            assert await status("/one", body, headers) == 400
        assert await status("/one", [EVENT], BATCH) == 415
        assert len(it.host.taken) == 6


# Traces

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HOP = TRACE.replace("b7ad", "0000")


@pytest.mark.parametrize(("own", "hop", "taken"), [(TRACE, HOP, TRACE), (TRACE, "", TRACE), ("none", HOP, HOP)])
async def test_where_an_event_began_counts_and_not_which_hop_brought_it(
    tmp_path: Path, own: str, hop: str, taken: str
) -> None:
    routes = {"one": {"path": "/one", "type": "report.asked", "pairs": {}}}
    async with running(tmp_path / "work", routes=routes) as it:
        by = {"traceparent": hop} if hop else {}
        event = {**EVENT, "traceparent": own, "tracestate": "vendor=x"}
        for path, body, headers in (
            ("/events", event, STRUCTURED),
            ("/events", [event, {**EVENT, "id": "2"}], BATCH),
            ("/events", {}, {**BINARY, "ce-traceparent": own}),
            ("/events/photo.received", event, STRUCTURED),
            ("/one", event, STRUCTURED),
            ("/one", {}, {**BINARY, "ce-traceparent": own}),
        ):
            assert (await it.post(path, data=json.dumps(body), headers={**headers, **by}))[0] == 202
        assert [event.traceparent for event, _ in it.host.taken] == [taken, taken, hop, taken, taken, taken, taken]


async def test_one_that_is_sent_again_by_another_span_is_the_same_event(it: Running) -> None:
    for span in (TRACE, HOP):
        event = {**EVENT, "traceparent": span, "tracestate": f"vendor={span}"}
        assert (await post(it, event))[0] == 202
        binary = {**BINARY, "Content-Type": "application/json", "ce-traceparent": span, "ce-tracestate": span}
        assert (await post(it, b"", binary))[0] == 202
    assert len({event.data for event, _ in it.host.taken}) == 1


# What is refused


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({**EVENT, "id": None}, STRUCTURED),
        ({**EVENT, "id": ""}, STRUCTURED),
        ({name: it for name, it in EVENT.items() if name != "id"}, STRUCTURED),
        ([EVENT, {name: it for name, it in EVENT.items() if name != "id"}], BATCH),
        (b"{}", {name: it for name, it in BINARY.items() if name != "ce-id"}),
    ],
)
async def test_an_event_without_an_id_is_refused_since_it_would_be_another_each_time(
    it: Running, body: Any, headers: dict[str, str]
) -> None:
    status, said, _ = await post(it, body, headers)
    assert status == 400
    assert "id: is missing" in said["detail"]
    assert it.host.taken == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"source": ""}, "body.source: is missing"),
        ({"type": None}, "body.type: is missing"),
        ({"specversion": None}, "body.specversion: is missing"),
        ({"specversion": "0.3"}, "body.specversion: Attribute 'specversion' must be '1.0'"),
        ({"specversion": "1.1"}, "body.specversion: Attribute 'specversion' must be '1.0'"),
        ({"id": 1}, "body.id: must be text"),
        ({"time": "yesterday"}, "body.time: must be a time of RFC 3339, such as 2026-11-29T12:00:00Z"),
        ({"time": "2026-11-29T12:00:00"}, "body.time: Attribute 'time' must be timezone aware"),
        ({"subject": ""}, "body.subject: Attribute 'subject' must not be empty"),
        ({"Extension": "x"}, "body.Extension: Extension attribute 'Extension' should only contain"),
        ({"extension": {"a": 1}}, "body.extension: must be text, a number or a boolean"),
        ({"data": 1, "data_base64": ""}, "body: has data and data_base64. Leave one of them out."),
        ({"data_base64": "!"}, "body.data_base64: is no base64"),
        ({"data_base64": 1}, "body.data_base64: is no base64"),
        ({"data": {"ce": {"id": "x"}}}, "body.data: has the key 'ce.id', which an attribute has"),
        ({"data": {"a.b": 1, "a": {"b": 1}}}, "body: two values come out as the key 'a.b'"),
    ],
)
async def test_what_the_specification_does_not_allow_is_named_with_its_place(
    it: Running, change: dict[str, Any], problem: str
) -> None:
    status, said, _ = await post(it, {**EVENT, **change})
    assert status == 422
    assert said["problems"][0].startswith(problem)
    status, said, _ = await post(it, [EVENT, {**EVENT, **change}, 3], BATCH)
    assert status == 422
    assert said["problems"][-1] == "body[2]: must be a CloudEvent, an object"
    assert it.host.taken == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"ce-specversion": "2.0"}, "header ce-specversion: "),
        ({"ce-time": "2026-11-29"}, "header ce-time: Attribute 'time' must be timezone aware"),
        ({"ce-time": "%ff"}, "header ce-time: must be a time"),
        ({"ce-a-b": "x"}, "header ce-a-b: "),
    ],
)
async def test_headers_that_are_not_as_they_must_be_are_named(
    it: Running, change: dict[str, str], problem: str
) -> None:
    status, said, _ = await post(it, b"", {**BINARY, **change})
    assert status == 422
    assert said["problems"][0].startswith(problem)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b'{"a": NaN}', b"\xff"])
async def test_what_is_no_event_at_all_is_refused(it: Running, body: bytes) -> None:
    assert (await post(it, body))[0] == 422
    assert (await post(it, b"\xff", {**BINARY, "Content-Type": "application/json"}))[0] == 422


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json"},
        {},
        {**STRUCTURED, "Content-Encoding": "gzip"},
        {"Content-Type": "application/cloudevents+json; charset=utf-16"},
        {"Content-Type": "application/cloudevents+avro"},
    ],
)
async def test_other_forms_are_refused(it: Running, headers: dict[str, str]) -> None:
    status, _, _ = await post(it, json.dumps(EVENT).encode(), headers)
    assert status == 415


async def test_types_of_nobody_sizes_and_methods_are_refused(it: Running) -> None:
    assert (await post(it, {**EVENT, "type": "Microsoft.Storage.BlobCreated"}))[0] == 404
    assert (await post(it, [EVENT, {**EVENT, "type": "of.nobody"}], BATCH))[0] == 404
    assert (await post(it, {**EVENT, "data": "x" * 30_000}))[0] == 413
    assert (await it.ask("GET", "/events"))[0] == 405
    assert it.host.taken == []


async def test_who_may_not_is_told_nothing(tmp_path: Path) -> None:
    async with running(tmp_path / "work", auth={"github": "0123456789abcdef"}) as it:
        for body in (EVENT, {}, {**EVENT, "type": "of.nobody"}):
            assert (await post(it, body))[0] == 401
        assert it.host.taken == []
