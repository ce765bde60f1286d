"""The gateway by real HTTP: what becomes an event, what is refused and how, and that nothing of that is left."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import resource
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from multidict import CIMultiDict

from ion_core.contracts.service import FlowOutcome
from ion_core.contracts.storage import BlobInfo
from ion_core.errors import (
    ConfigError,
    IdTaken,
    InvalidEvent,
    IonError,
    MessageRefused,
    PermanentError,
    PluginFailed,
    StorageFull,
    TransientError,
    Unroutable,
)
from ion_core.listening import arriving, bodies, sockets
from ion_core.testing import ServiceConformance
from ion_gateway import gateway, waiting
from ion_gateway.gateway import Gateway
from ion_gateway.gateway_settings import GatewaySettings
from ion_gateway.receiving import event_id_of
from plugins.ion_gateway.tests.gateways import TYPES, Running, running, settings, until

PATH = "/events/photo.received"


@pytest.fixture(autouse=True)
def no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is refused and goes on sending is waited for; here nobody does."""
    monkeypatch.setattr(gateway, "LINGER_FOR", 0.05)


@pytest_asyncio.fixture
async def it(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path / "work", max_body="100KB", max_json="10KB", max_files=3, max_pairs=5) as found:
        yield found


def form(*parts: tuple[str, str | bytes, str | None]) -> tuple[bytes, str]:
    """A form as it is on the wire: name, content and file name of each part; with its content type."""
    body = b""
    for name, content, filename in parts:
        body += f'--XX\r\nContent-Disposition: form-data; name="{name}"'.encode()
        body += b"" if filename is None else f'; filename="{filename}"'.encode("utf-8", "surrogateescape")
        body += b"\r\n\r\n" + (content.encode() if isinstance(content, str) else content) + b"\r\n"
    return body + b"--XX--\r\n", "multipart/form-data; boundary=XX"


async def post_form(it: Running, *parts: tuple[str, str | bytes, str | None]) -> tuple[int, dict[str, Any], Any]:
    body, kind = form(*parts)
    return await it.post(data=body, headers={"Content-Type": kind})


# What becomes an event


async def test_an_object_is_taken_as_pairs_and_the_answer_says_where_to_ask(it: Running) -> None:
    status, said, headers = await it.post(json={"a": "x", "b": {"c": [1, True, None]}})
    event, files = it.host.taken[0]
    assert status == 202
    assert (event.type, event.data, files) == (
        "photo.received",
        (("a", "x"), ("b.c.0", "1"), ("b.c.1", "true"), ("b.c.2", "null")),
        {},
    )
    id = event.context.event_id
    assert said == {"eventId": id, "correlationId": id, "type": "photo.received"}
    assert headers["Location"] == f"/events/{id}"


async def test_pairs_are_taken_as_they_are_and_nothing_as_none(it: Running) -> None:
    pairs = [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]
    assert (await it.post(json=pairs))[0] == 202
    assert (await it.post())[0] == 202
    assert [event.data for event, _ in it.host.taken] == [(("a", "1"), ("a", "2")), ()]


async def test_a_form_brings_files_and_pairs_in_their_order(it: Running) -> None:
    status, _, _ = await post_form(
        it, ("z", "ü", None), ("f", b"\x00\xff", "b.bin"), ("y", "", None), ("f", b"", "frames/ä b.jpg")
    )
    event, files = it.host.taken[0]
    assert status == 202
    assert event.data == (("z", "ü"), ("y", ""))
    assert [*files.items()] == [("b.bin", b"\x00\xff"), ("frames/ä b.jpg", b"")]
    await it.left()


@pytest.mark.parametrize("chunk", [1, 7, 1000])
async def test_a_form_is_the_same_however_it_is_cut(it: Running, chunk: int) -> None:
    content = bytes(range(256)) * 40 + b"\r\n--X\r\n--Y--\r\n--\r"
    body, kind = form(("a", "1", None), ("f", content, "f"))

    async def cut() -> AsyncIterator[bytes]:
        for n in range(0, len(body) if chunk > 1 else 300, chunk):
            yield body[n : n + chunk]
        if chunk == 1:
            yield body[300:]

    status, said, _ = await it.post(data=cut(), headers={"Content-Type": kind})
    assert status == 202, said
    assert it.host.taken[0][1] == {"f": content}
    assert it.host.told[0] == {"f": BlobInfo(size=len(content), sha256=hashlib.sha256(content).hexdigest())}


@pytest.mark.parametrize("most", [1, 1000])
async def test_a_file_is_the_same_however_much_is_held(it: Running, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    for name in ("WRITTEN_AT_ONCE", "MOST_HELD"):
        monkeypatch.setattr(arriving, name, most)
    content = Random(1).randbytes(90_000)
    body, kind = form(("empty", b"", "empty"), ("f", content, "f"))
    assert (await it.post(data=io.BytesIO(body), headers={"Content-Type": kind}))[0] == 202
    assert it.host.taken[0][1] == {"empty": b"", "f": content}
    assert {name: it.size for name, it in it.host.told[0].items()} == {"empty": 0, "f": len(content)}
    assert it.host.told[0]["f"].sha256 == hashlib.sha256(content).hexdigest()
    await it.left()


async def test_a_file_is_written_as_it_comes_and_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arriving, "WRITTEN_AT_ONCE", 1024)
    async with running(tmp_path / "work") as it:
        more = asyncio.Event()

        async def cut() -> AsyncIterator[bytes]:
            yield b'--XX\r\nContent-Disposition: form-data; name="f"; filename="big"\r\n\r\n' + b"x" * 50_000
            await more.wait()
            yield b"y" * 50_000 + b"\r\n--XX--\r\n"

        posting = asyncio.create_task(it.post(data=cut(), headers={"Content-Type": "multipart/form-data; boundary=XX"}))
        await until(lambda: sum(path.stat().st_size for path in it.host.work.rglob("1")) > 40_000)
        more.set()
        assert (await posting)[0] == 202
        assert it.host.taken[0][1] == {"big": b"x" * 50_000 + b"y" * 50_000}
        await it.left()


async def test_who_asks_before_sending_is_told_to_go_on(it: Running) -> None:
    said = await it.raw(
        b"POST /events/photo.received HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b'Content-Length: 9\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n{"a":"b"}',
    )
    assert said.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\n")


# Once, however often it is sent


async def test_a_key_makes_the_same_event_from_every_gateway(it: Running, tmp_path: Path) -> None:
    async with running(tmp_path / "other", auth={"bearer": "t" * 16}) as other:
        first = await it.post(headers={"Idempotency-Key": "k-1"})
        second = await other.post(headers={"Idempotency-Key": '"k-1"', "Authorization": f"Bearer {'t' * 16}"})
    third = await it.post("/events/report.asked", headers={"Idempotency-Key": "k-1"})
    assert first[1]["eventId"] == second[1]["eventId"] == event_id_of("photo.received", "k-1")
    assert third[1]["eventId"] != first[1]["eventId"]


async def test_without_a_key_each_is_an_event_of_its_own(it: Running) -> None:
    assert (await it.post())[1]["eventId"] != (await it.post())[1]["eventId"]


async def test_a_key_of_another_event_is_refused_with_what_differs(it: Running) -> None:
    it.host.raising.append(IdTaken("event id 'x': is that of another event", ["data 'a' has another value"]))
    status, said, _ = await it.post(headers={"Idempotency-Key": "k-1"})
    assert (status, said["problems"]) == (409, ["data 'a' has another value"])


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ä", '""'])
async def test_a_key_that_is_none_is_refused(it: Running, key: str) -> None:
    status, said, _ = await it.post(headers={"Idempotency-Key": key})
    assert status == 400
    assert "Idempotency-Key must be there once" in said["detail"]


async def test_two_keys_are_refused(it: Running) -> None:
    head = b"POST /events/photo.received HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    said = await it.raw(head + b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 400")


# What is refused


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        ("{", ["body:1:2: is not JSON: Expecting property name enclosed in double quotes"]),
        ('"a"', ['body: must be an object, or an array of {"key": "…", "value": "…"}']),
        ('{"a": 1, "a": 2}', ["body: is not JSON: the key 'a' appears twice in one object"]),
        ('{"a": NaN}', ["body: is not JSON: NaN is not JSON"]),
        ('{"a.b": 1, "a": {"b": 2}}', ["body: two values come out as the key 'a.b'. Rename one of them."]),
        ("[" * 100, ["body: is nested too deeply, 64 levels are allowed. A few are enough for anything here."]),
        (
            '[{"key": 1, "value": "x"}, 3]',
            [
                "body[0].key: must be a string (got a number)",
                'body[1]: must be an object {"key": "…", "value": "…"} (got a number)',
            ],
        ),
        (json.dumps(dict.fromkeys("abcdef", "x")), ["body: has 6 pairs, 5 are allowed. Pass large data as files."]),
    ],
)
async def test_every_mistake_in_json_is_named_with_its_path(it: Running, body: str, problems: list[str]) -> None:
    status, said, headers = await it.post(data=body, headers={"Content-Type": "application/json"})
    assert (status, said["problems"]) == (422, problems)
    assert headers["Content-Type"].startswith("application/problem+json")
    assert it.host.taken == []


HOSTILE = ["../up", "/etc/passwd", "a//b", ".", "a/./b", "a\\b", "tab\tname", "", "x" * 256, "nul\x00", "\x7f"]


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_file_names_are_refused_and_the_others_read_on(it: Running, name: str) -> None:
    status, said, _ = await post_form(it, ("f", b"x", name), ("g", b"\xff", None), ("h", b"ok", "fine"))
    assert status == 422
    assert [problem.partition(":")[0] for problem in said["problems"]] == ["part 1 ('f')", "part 2 ('g')"]
    assert it.host.taken == []
    await it.left()


async def test_a_name_that_is_no_utf_8_is_refused(it: Running) -> None:
    status, _, _ = await post_form(it, ("f", b"x", "\udcff"))
    assert status == 400
    await it.left()


async def test_the_same_file_name_twice_is_refused(it: Running) -> None:
    status, said, _ = await post_form(it, ("f", b"x", "a"), ("f", b"y", "b"), ("f", b"z", "a"))
    assert status == 422
    assert said["problems"] == ["part 3 ('f'): the file name 'a' is there twice. Rename one of them."]


async def test_a_name_that_is_encoded_as_mail_has_it_is_understood(it: Running) -> None:
    body = (
        b"--XX\r\nContent-Disposition: form-data; name=\"f\"; filename*=UTF-8''gr%C3%BCn.jpg\r\n\r\nx\r\n"
        b"--XX\r\nContent-Disposition: form-data; name=\"f\"; filename*=UTF-8''%2e%2e%2fup\r\n\r\nx\r\n--XX--\r\n"
    )
    status, said, _ = await it.post(data=body, headers={"Content-Type": "multipart/form-data; boundary=XX"})
    assert status == 422
    assert len(said["problems"]) == 1
    assert "part 2" in said["problems"][0]


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([("f", b"", str(n)) for n in range(4)], "part 4 ('f'): is one file more than 3"),
        ([(str(n), b"", None) for n in range(6)], "part 6 ('5'): is one pair more than 5"),
    ],
)
async def test_more_parts_than_may_be_are_refused(it: Running, parts: list[Any], says: str) -> None:
    status, said, _ = await post_form(it, *parts)
    assert status == 422
    assert said["problems"][0].startswith(says)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--XX--\r\n" + b"more",
        b"no boundary at all",
        b'--XX\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\nx\r\n',
        b'--XX\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\nx\r\n--XX--\r\n' * 2,
        b"--XX\r\n\r\nx\r\n--XX--\r\n",
        b"--XX\r\nContent-Disposition: attachment\r\n\r\nx\r\n--XX--\r\n",
        b"--XX\r\nContent-Disposition: form-data\r\n\r\nx\r\n--XX--\r\n",
        b"--XX\r\nnothing\r\n\r\nx\r\n--XX--\r\n",
    ],
)
async def test_what_is_no_form_is_refused_and_nothing_left(it: Running, body: bytes) -> None:
    status, said, _ = await it.post(data=body, headers={"Content-Type": "multipart/form-data; boundary=XX"})
    assert status == 400
    assert "RFC 7578" in said["detail"]
    assert it.host.taken == []
    await it.left()


@pytest.mark.parametrize(
    "header", ["Content-Transfer-Encoding: base64", 'Content-Disposition: form-data; name="g"; filename="b"']
)
async def test_a_part_that_could_mean_two_things_is_refused(it: Running, header: str) -> None:
    body = f'--XX\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n{header}\r\n\r\nx\r\n--XX--\r\n'
    status, said, _ = await it.post(data=body, headers={"Content-Type": "multipart/form-data; boundary=XX"})
    assert status == 422
    assert said["problems"][0].startswith("part 1 (")


@pytest.mark.parametrize("headers", ["X: " + "y" * 5000, "\r\n".join(f"X{n}: y" for n in range(9))])
async def test_a_part_with_more_headers_than_may_be_is_refused(it: Running, headers: str) -> None:
    body = f'--XX\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n{headers}\r\n\r\nx\r\n--XX--\r\n'
    status, said, _ = await it.post(data=body, headers={"Content-Type": "multipart/form-data; boundary=XX"})
    assert status == 413
    assert "The form is too large" in said["detail"]
    assert it.host.taken == []
    await it.left()


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"Content-Type": "text/plain"}, "'text/plain' is not taken"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "is not taken"),
        ({"Content-Type": ""}, "is not taken"),
        ({"Content-Type": "application/json; charset=latin-1"}, "JSON is UTF-8"),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, "packed ('gzip') is not taken"),
    ],
)
async def test_what_is_neither_json_nor_a_form_is_refused(it: Running, headers: dict[str, str], says: str) -> None:
    status, said, _ = await it.post(data=b"{}", headers=headers)
    assert status == 415
    assert says in said["detail"]


@pytest.mark.parametrize("boundary", ["", "; boundary=", "; boundary=ä", '; boundary="', "; boundary=" + "x" * 2000])
async def test_a_form_without_a_boundary_is_refused(it: Running, boundary: str) -> None:
    assert (await it.post(data=b"x", headers={"Content-Type": f"multipart/form-data{boundary}"}))[0] == 400


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_sent_is_taken_or_refused_and_never_a_fault_of_ours(it: Running, seed: int) -> None:
    """Forms, JSON and CloudEvents with bytes taken out, put in and changed, and cut anywhere."""
    random = Random(seed)
    body, kind = form(("a", "1", None), ("f", bytes(range(256)), "b.bin"), ("g", "x" * 50, "ä/c"))
    event = {"specversion": "1.0", "id": "1", "source": "/x", "type": "photo.received", "time": "2026-11-29T12:00:00Z"}
    samples = [
        (PATH, kind, body),
        (PATH, "application/json", b'{"a": {"b": [1, null, "x"]}, "c": "\\u00e4"}'),
        (PATH, "application/json", b'[{"key": "a", "value": "b"}]'),
        ("/events", "application/cloudevents+json", json.dumps({**event, "data": {"a": 1}}).encode()),
        ("/events", "application/cloudevents-batch+json", json.dumps([{**event, "data_base64": "AAAA"}]).encode()),
    ]
    seen = set()
    for _ in range(60):
        path, kind, body = random.choice(samples)
        mutated = bytearray(body)
        for _ in range(random.randrange(4)):
            at = random.randrange(len(mutated))
            mutated[at : at + random.choice((0, 1, 1, 9))] = random.choice(
                (b"", b"\r\n", b"--XX", b'"', b"\xff", b"{", b"\0")
            )
        chunks = [bytes(mutated[n : n + 13]) for n in range(0, len(mutated), 13)] if random.random() < 0.5 else None

        async def cut(chunks: list[bytes] | None = chunks) -> AsyncIterator[bytes]:
            for chunk in chunks or ():
                yield chunk

        sent = cut() if chunks else bytes(mutated)
        status, _, _ = await it.post(path, data=sent, headers={"Content-Type": kind})
        seen.add(status)
    assert seen <= {202, 400, 404, 413, 415, 422}
    assert {202, 400, 422} <= seen
    await it.left()


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=XX"])
async def test_what_is_larger_than_may_be_is_refused_and_nothing_left(it: Running, kind: str, told: bool) -> None:
    body, _ = form(("f", b"x" * 200_000, "big"))

    async def untold() -> AsyncIterator[bytes]:
        for n in range(0, len(body), 10_000):
            yield body[n : n + 10_000]

    status, said, _ = await it.post(data=body if told else untold(), headers={"Content-Type": kind})
    assert status == 413
    assert "the limit" in said["detail"]
    assert it.host.taken == []
    await it.left()


async def test_a_type_that_nobody_takes_is_refused_with_the_nearest_before_the_body_is_read(it: Running) -> None:
    head = b"POST /events/photo.recieved HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n"
    said = await it.raw(head + b"Expect: 100-continue\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 404")
    assert b"Did you mean 'photo.received'?" in said


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/event", 404),
        ("POST", "/events/", 404),
        ("POST", "/events/Photo", 404),
        ("POST", "/events/photo.received/", 404),
        ("POST", "/events/..%2f..%2fetc", 404),
        ("PUT", PATH, 405),
        ("DELETE", PATH, 405),
    ],
)
async def test_other_paths_and_methods_are_refused(it: Running, method: str, path: str, status: int) -> None:
    assert (await it.ask(method, path))[0] == status


# What is away


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TransientError("/srv/ion/broker.sqlite: is locked"), 503),
        (StorageFull("/srv/ion: no space left"), 503),
        (MessageRefused("/srv/ion: too large"), 413),
        (Unroutable("no queue at /srv/ion"), 404),
        (PermanentError("/srv/ion/x: cannot be read"), 500),
        (PluginFailed("/srv/ion: kaputt"), 500),
        (ConfigError("/srv/ion"), 500),
        (RuntimeError("/srv/ion"), 500),
    ],
)
async def test_what_fails_is_told_without_where_and_the_service_goes_on(
    it: Running, error: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    it.host.raising.append(error)
    found, said, headers = await post_form(it, ("f", b"x", "a"))
    assert found == status
    assert ("Retry-After" in headers) == (status == 503)
    text = json.dumps(said) + str(dict(headers))
    for secret in ("/srv", "Traceback", "aiohttp", "Python", str(it.host.work), 'File "'):
        assert secret not in text
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert bool(tracebacks) == isinstance(error, (PluginFailed, RuntimeError)), "what explains itself has none"
    await it.left()
    assert (await it.post())[0] == 202


async def test_an_event_that_the_core_finds_wrong_is_refused_with_what_is(it: Running) -> None:
    it.host.raising.append(InvalidEvent(["file name 'a': is also the directory of another file. Rename one of them."]))
    status, said, _ = await it.post()
    assert status == 422
    assert said["problems"] == ["file name 'a': is also the directory of another file. Rename one of them."]


async def test_too_much_that_waits_keeps_others_out_until_it_is_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "COUNTED_FOR", -1.0)
    async with running(tmp_path / "work", max_pending=10) as it:
        it.host.waiting = 11
        status, _, headers = await it.post()
        assert (status, headers["Retry-After"]) == (429, "5")
        for few in (10, None):
            it.host.waiting = few
            assert (await it.post())[0] == 202


async def test_what_waits_is_counted_once_however_many_ask_meanwhile(
    it: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "COUNTED_FOR", 3600.0)
    it.host.counting = asyncio.Event()
    posting = [asyncio.create_task(it.post()) for _ in range(20)]
    other = asyncio.create_task(it.post("/events/report.asked"))
    await until(lambda: len(it.gateway._under_way) == 21 and it.host.asked == 2)
    it.host.counting.set()
    assert [(await it)[0] for it in [*posting, other]] == [202] * 21
    assert (await it.post())[0] == 202
    assert it.host.asked == 2, "one for each type"


async def test_a_count_that_was_slow_is_good_from_when_it_is_there(it: Running) -> None:
    """Else whoever waited for it finds it old, and counts again: one after the other, for as long as many come."""
    clock = asyncio.get_running_loop().time
    it.host.counting = asyncio.Event()
    it.host.waiting = 7
    counts = waiting.Waiting(it.host)
    first = asyncio.create_task(counts.count("photo.received"))
    await until(lambda: it.host.asked == 1)
    asked_at = clock()
    await until(lambda: clock() - asked_at > 0.05)
    it.host.counting.set()
    assert await first == 7
    counted_at, _ = counts._counts["photo.received"]
    assert counted_at - asked_at > 0.05
    assert await counts.count("of.nobody") is None
    assert it.host.asked == 1


async def test_more_requests_than_may_be_are_sent_away(tmp_path: Path) -> None:
    async with running(tmp_path / "work", max_requests=1) as it:
        it.host.holding = asyncio.Event()
        first = asyncio.create_task(it.post())
        await it.host.held.wait()
        status, _, headers = await it.post()
        assert (status, headers["Retry-After"]) == (503, "5")
        it.host.holding.set()
        assert (await first)[0] == 202
        assert (await it.post())[0] == 202


async def test_more_connections_than_may_be_are_closed_as_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sockets, "CONNECTIONS", 3)
    async with running(tmp_path / "work", max_requests=1) as it:
        kept = [await asyncio.open_connection(*it.address) for _ in range(3)]
        for _ in range(5):
            with pytest.raises(aiohttp.ClientConnectionError):
                await it.post()
        assert caplog.text.count("there are 3 connections already") == 1
        for _, writer in kept:
            writer.close()

        async def is_taken() -> bool:
            try:
                return (await it.post())[0] == 202
            except aiohttp.ClientConnectionError:  # those that left are counted until that is seen
                return False

        async with asyncio.timeout(20):
            while not await is_taken():
                pass
    assert "ERROR" not in caplog.text


@pytest.mark.parametrize(("files", "most"), [(100, 50), (1_000_000, 400), (resource.RLIM_INFINITY, 400), (1, 1)])
def test_connections_leave_half_of_the_files_to_others(monkeypatch: pytest.MonkeyPatch, files: int, most: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert sockets.most_connections(100) == most


# Clients that leave, or are slow, or are none

HEAD = (
    b"POST /events/photo.received HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    b"Content-Type: multipart/form-data; boundary=XX\r\nContent-Length: %d\r\n\r\n"
)


@pytest.mark.parametrize("how", ["shuts down", "resets"])
async def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(it: Running, how: str) -> None:
    body, _ = form(("f", b"x" * 50_000, "big"))
    _, writer = await asyncio.open_connection(*it.address)
    writer.write(HEAD % len(body) + body[:30_000])
    await writer.drain()
    await until(lambda: len(it.gateway._under_way) == 1)
    if how == "resets":
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.close()
    await it.left()
    assert it.host.taken == []
    assert (await it.post())[0] == 202


async def test_a_client_that_leaves_after_its_body_still_commits(it: Running) -> None:
    it.host.holding = asyncio.Event()
    body, _ = form(("f", b"x" * 1000, "big"))
    _, writer = await asyncio.open_connection(*it.address)
    writer.write(HEAD % len(body) + body)
    await writer.drain()
    await it.host.held.wait()
    writer.close()
    await writer.wait_closed()
    it.host.holding.set()
    await until(lambda: len(it.host.taken) == 1)
    assert it.host.taken[0][1] == {"big": b"x" * 1000}
    await it.left()


async def test_a_body_shorter_than_it_says_is_no_event(it: Running) -> None:
    body, _ = form(("f", b"x", "a"))
    await it.raw(HEAD % (len(body) + 10) + body, end=True)
    await it.left()
    assert it.host.taken == []


async def test_a_body_longer_than_it_says_is_no_second_event(it: Running) -> None:
    body, _ = form(("f", b"x", "a"))
    head = HEAD.replace(b"Connection: close\r\n", b"")
    said = await it.raw(head % len(body) + body + b"POST somewhere else entirely\r\n\r\n")
    assert b" 400 " in said.splitlines()[0]
    said = await it.raw(head % (len(body) - 5) + body)
    assert b" 400 " in said.splitlines()[0]
    assert it.host.taken == []
    await it.left()


@pytest.mark.parametrize(
    "lengths",
    [
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: -1\r\n\r\n",
    ],
)
async def test_a_body_of_two_lengths_is_refused(it: Running, lengths: bytes) -> None:
    said = await it.raw(b"POST /events/photo.received HTTP/1.1\r\nHost: localhost\r\n" + lengths)
    assert b" 400 " in said.splitlines()[0]
    assert it.host.taken == []


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"x, chunked"])
async def test_a_body_in_another_coding_is_refused_and_nothing_after_it_is_read(it: Running, coding: bytes) -> None:
    head = b"POST /events/photo.received HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    after = b"POST /events/report.asked HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    said = await it.raw(head + b"Transfer-Encoding: " + coding + b"\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + after)
    assert said.startswith(b"HTTP/1.1 501 ")
    assert said.count(b"HTTP/1.1 ") == 1
    assert it.host.taken == []


@pytest.mark.parametrize("expected", [b"200-ok", b"100-continue, x=y", b"", b"100-continue\r\nExpect: x"])
async def test_what_else_is_expected_is_refused(it: Running, expected: bytes) -> None:
    head = b"POST /events/photo.received HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n"
    said = await it.raw(head + b"Expect: " + expected + b"\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 417 ")
    assert it.host.taken == []


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"-1\r\n", b"2\r\n{}x", b"fffffffffffffffff\r\n"])
async def test_a_body_whose_chunks_are_none_is_refused(it: Running, chunk: bytes) -> None:
    head = b"POST /events/photo.received HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    said = await it.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)
    assert b" 400 " in said.splitlines()[0]
    assert it.host.taken == []
    await it.left()


async def test_two_requests_in_one_packet_are_two_events(it: Running) -> None:
    one = b"POST /events/photo.received HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    one += b'Content-Length: 9\r\n%s\r\n{"a":"%s"}'
    said = await it.raw(one % (b"", b"1") + one % (b"Connection: close\r\n", b"2"))
    assert said.count(b"HTTP/1.1 202 ") == 2
    assert [event.data for event, _ in it.host.taken] == [(("a", "1"),), (("a", "2"),)]


async def test_a_client_that_sends_nothing_more_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "SILENT_FOR", 0.05)
    async with running(tmp_path / "work") as it:
        body, _ = form(("f", b"x" * 50_000, "big"))
        said = await it.raw(HEAD % len(body) + body[:30_000])
        assert said.startswith(b"HTTP/1.1 408")
        await it.left()


async def test_a_client_that_sends_byte_after_byte_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "GRACE", 0.0)
    monkeypatch.setattr(bodies, "LEAST_RATE", 1e15)
    async with running(tmp_path / "work") as it:
        body, _ = form(("f", b"x" * 50_000, "big"))
        said = await it.raw(HEAD % len(body) + body[:30_000], body[30_000:30_001])
        assert said.startswith(b"HTTP/1.1 408")
        await it.left()


async def test_a_head_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "IDLE_FOR", 0.05)
    async with running(tmp_path / "work") as it:
        assert await it.raw(b"POST /events/photo.received HTTP/1.1\r\nHost: loc") == b""


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello over TLS\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /events/x HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 9000 + b"\r\n\r\n",
        b"GET /events/x HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(200)) + b"\r\n",
        b"GET /" + b"y" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /events/x HTTP/1.1\r\nHost: localhost\r\nbad header\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_answered_in_our_words(it: Running, sent: bytes) -> None:
    said = await it.raw(sent)
    assert said.split(b" ", 2)[1] == b"400"
    for secret in (b"aiohttp", b"Python", b"Traceback", b"yyyy"):
        assert secret not in said


async def test_no_answer_says_what_serves(it: Running) -> None:
    for method, path in (("POST", PATH), ("GET", "/events/x"), ("GET", "/"), ("PUT", PATH)):
        _, _, headers = await it.ask(method, path)
        assert headers["Server"] == "ion"


# What became of it


def over(event_id: str, **other: Any) -> FlowOutcome:
    jobs = {"committed": 1}
    return FlowOutcome(
        **{"correlation_id": event_id, "outcome": "done", "over": True, "events": 1, "jobs": jobs, **other}
    )


async def test_what_became_of_an_event_is_told(it: Running) -> None:
    it.host.outcomes["e:1"] = FlowOutcome(
        correlation_id="e:1", outcome="dead", over=True, events=2, jobs={"dead-lettered": 1}, failing=["blur"]
    )
    status, said, _ = await it.ask("GET", "/events/e:1")
    assert status == 200
    assert said == {
        "eventId": "e:1",
        "correlationId": "e:1",
        "outcome": "dead",
        "over": True,
        "events": 2,
        "jobs": {"dead-lettered": 1},
        "failing": ["blur"],
    }
    assert (await it.ask("GET", "/events/e2"))[0] == 404
    it.host.outcomes["e3"] = TransientError("/srv/ion/documents.sqlite: is locked")
    status, said, headers = await it.ask("GET", "/events/e3")
    assert (status, headers["Retry-After"]) == (503, "5")
    assert "/srv" not in json.dumps(said)


async def test_who_asks_and_waits_is_told_once_it_is_over(it: Running) -> None:
    it.host.outcomes["e1"] = over("e1", over=False, outcome="running")
    it.host.ends = over("e1")
    status, said, headers = await it.ask("GET", "/events/e1", headers={"Prefer": "wait=30"})
    assert (status, said["outcome"], headers["Preference-Applied"]) == (200, "done", "wait=30")
    assert it.host.waited == [0, 30]
    it.host.outcomes["e1"] = over("e1", over=False, outcome="running")
    status, said, headers = await it.ask("GET", "/events/e1")
    assert (status, said["outcome"], "Preference-Applied" in headers) == (200, "running", False)
    assert (await it.ask("GET", "/events/e2", headers={"Prefer": "wait=30"}))[0] == 404, "at once"


async def test_who_asks_and_waits_does_not_hold_up_the_end(it: Running) -> None:
    it.host.outcomes["e1"] = over("e1", over=False, outcome="running")
    it.host.flowing = asyncio.Event()
    waiting = asyncio.create_task(it.ask("GET", "/events/e1", headers={"Prefer": "wait=60"}))
    await until(lambda: len(it.host.waited) == 2)
    it.stop.set()
    status, said, _ = await waiting
    assert (status, said["outcome"]) == (200, "running")


# What is preferred


async def test_who_waits_is_told_what_became_of_it(it: Running) -> None:
    headers = {"Prefer": "wait=30", "Idempotency-Key": "k"}
    id = event_id_of("photo.received", "k")
    it.host.outcomes[id] = over(id)
    status, said, given = await it.post(headers=headers)
    assert (status, given["Preference-Applied"], given["Location"]) == (200, "wait=30", f"/events/{id}")
    assert (said["eventId"], said["outcome"], said["over"], said["jobs"]) == (id, "done", True, {"committed": 1})
    it.host.outcomes[id] = over(id, over=False, outcome="running")
    status, said, _ = await it.post(headers=headers)
    assert (status, said["outcome"]) == (202, "running")
    assert it.host.waited == [30, 30]


async def test_what_cannot_be_told_is_taken_all_the_same(it: Running) -> None:
    id = event_id_of("photo.received", "k")
    it.host.outcomes[id] = TransientError("/srv/ion: away")
    status, said, _ = await it.post(headers={"Prefer": "wait=30", "Idempotency-Key": "k"})
    assert (status, said) == (202, {"eventId": id, "correlationId": id, "type": "photo.received"})


@pytest.mark.parametrize(
    ("prefer", "waited"),
    [
        ("wait=30s", [30]),
        ('foo, Wait = "30" ; x=y', [30]),
        ("wait=999999", [60]),
        ("wait=0", [0]),
        ("respond-async", []),
        ("respond-async, wait=30", []),
        ("return=minimal", []),
        ("wait", []),
        ("wait=-1", []),
        ("wait=1e9", []),
        ("wait=\u0661", []),
        ("", []),
    ],
)
async def test_preferences_that_are_not_known_are_passed_over(it: Running, prefer: str, waited: list[float]) -> None:
    assert (await it.post(headers={"Prefer": prefer}))[0] == 202
    assert it.host.waited == waited


async def test_who_waits_does_not_hold_up_the_end(it: Running) -> None:
    it.host.flowing = asyncio.Event()
    waiting = asyncio.create_task(it.post(headers={"Prefer": "wait=60"}))
    await until(lambda: len(it.host.waited) == 1)
    it.stop.set()
    assert (await waiting)[0] == 202


# Ending


async def test_what_is_under_way_is_finished_and_nothing_new_is_taken(it: Running) -> None:
    it.host.holding = asyncio.Event()
    first = asyncio.create_task(it.post())
    await it.host.held.wait()
    it.stop.set()
    await until(lambda: it.gateway._stopping)
    with pytest.raises(aiohttp.ClientError):
        async with aiohttp.ClientSession() as other:
            await other.post(it.gateway.url + PATH)
    it.host.holding.set()
    assert (await first)[0] == 202


async def test_what_does_not_finish_is_cut_off_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "FINISH_WITHIN", 0.05)
    async with running(tmp_path / "work") as it:
        body, _ = form(("f", b"x" * 50_000, "big"))
        _, writer = await asyncio.open_connection(*it.address)
        writer.write(HEAD % len(body) + body[:30_000])
        it.host.holding = asyncio.Event()
        second = asyncio.create_task(post_form(it, ("f", b"x", "a")))
        await it.host.held.wait()
        await until(lambda: len(it.gateway._under_way) == 2)
    await it.left()
    assert it.host.taken == []
    with pytest.raises(aiohttp.ClientError):
        await second
    writer.close()


class TestGatewayIsAService(ServiceConformance):
    event_types = TYPES
    cause_look = None

    @pytest_asyncio.fixture
    async def service(self) -> AsyncIterator[Gateway]:
        yield Gateway(settings())

    async def cause_event(self, service: Gateway) -> str:
        """With a file, so that there is something to be left."""
        body, kind = form(("f", b"a photo", "photo.jpg"))
        async with aiohttp.ClientSession() as client:
            await client.post(service.url + PATH, data=body, headers={"Content-Type": kind})
        return "photo.received"

    async def send(self, service: Gateway, data: Mapping[str, str], files: Mapping[str, bytes]) -> bool:
        fields = [(name, value, None) for name, value in data.items()]
        body, kind = form(*fields, *((f"f{n}", files[name], name) for n, name in enumerate(files)))
        async with aiohttp.ClientSession() as client:
            answer = await client.post(service.url + PATH, data=body, headers={"Content-Type": kind})
        return answer.status == 202

    def reloads(self) -> list[tuple[GatewaySettings, list[str]]]:
        token = {"auth": {"bearer": "t" * 16}}
        return [
            (settings(**token), []),
            (settings(**token, listen="127.0.0.1:1"), ["listen"]),
            (settings(routes={"a": {"path": "/a", "type": "report.asked"}}), ["routes.a"]),
            (settings(), []),
        ]

    def unservable(self) -> Gateway:
        self.taken = socket.create_server(("127.0.0.1", 0))
        return Gateway(settings(listen=f"127.0.0.1:{self.taken.getsockname()[1]}"))


@pytest.mark.parametrize(
    ("listen", "says"), [("203.0.113.1:80", "cannot be listened on"), ("no.such.host.invalid:80", "cannot")]
)
async def test_an_address_that_is_not_ours_is_named_with_its_key(listen: str, says: str) -> None:
    made = settings(listen=listen, auth={"bearer": "x" * 16})
    with pytest.raises(IonError, match=rf"services\.gateway\.listen: {listen}: {says}"):
        await Gateway(made).run(None, asyncio.Event(), asyncio.Event())  # type: ignore[arg-type]


# Traces

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_the_trace_that_a_request_is_part_of_is_handed_on(it: Running) -> None:
    assert (await it.post(json={"a": "x"}, headers={"traceparent": TRACE}))[0] == 202
    cloud_event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "photo.received", "data": {}}
    kind = {"Content-Type": "application/cloudevents+json", "traceparent": TRACE}
    assert (await it.post(json=cloud_event, headers=kind))[0] == 202
    assert (await it.post(json={"a": "y"}))[0] == 202
    assert [event.traceparent for event, _ in it.host.taken] == [TRACE, TRACE, ""]


async def test_a_request_that_is_part_of_several_traces_is_part_of_none(it: Running) -> None:
    twice = CIMultiDict([("traceparent", TRACE), ("traceparent", TRACE.replace("b7ad", "b7ae"))])
    assert (await it.post(json={"a": "x"}, headers=twice))[0] == 202
    assert [event.traceparent for event, _ in it.host.taken] == [""]
