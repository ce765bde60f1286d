"""The console by real HTTP before the kit's host: who may, what is refused and how, that streams are bounded."""

from __future__ import annotations

import asyncio
import io
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from pydantic import ValidationError

from ion_console import streams
from ion_console.console import Console
from ion_console.plugin import ion_services
from ion_console.routing import OPERATIONS
from ion_console.settings import ConsoleSettings
from ion_core.contracts.looking import (
    Change,
    FlowSummary,
    HealthView,
    Link,
    OutboxView,
    Page,
    Pipeline,
    Problem,
    QueueView,
    SlotsView,
)
from ion_core.contracts.messaging import QueueStats
from ion_core.contracts.provider import Provider
from ion_core.contracts.service import Service
from ion_core.errors import PermanentError, TransientError
from ion_core.listening.validity import not_valid_for_long
from ion_core.testing import ProviderConformance, ServiceConformance
from ion_core.testing.host import Host
from plugins.ion_console.tests.consoles import LOOK, MEND, TOKENS, Running, bearer, running, settings
from tests.support.certificates import Authority, Days

GETS = [it.path.format(flow="a", event="b") for it in OPERATIONS if it.method == "GET" and it.role]
POSTS = [it.path for it in OPERATIONS if it.takes == "Which"]


class Telling(Host):
    """Tells of what is in ``told``, and is as ``is_``."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, taken=("photo.received",))
        self.told: asyncio.Queue[Change | Exception] = asyncio.Queue()
        self.is_ = HealthView(live=True, ready=True, draining=False)
        self.of_queues: list[QueueView] = []
        self.holding: asyncio.Event | None = None
        self.held = asyncio.Event()

    def pipeline(self) -> Pipeline:
        return Pipeline(modules=[], links=[Link(source="", type="photo.received", target="")])

    def health(self) -> HealthView:
        return self.is_

    async def flows(self, **asked: Any) -> Page[FlowSummary]:
        self.asked = asked
        if self.holding is not None:
            self.held.set()
            await self.holding.wait()
        return Page(items=[], cursor="more")

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[AsyncIterator[Change]]:
        async with super().changes():
            yield self._changes()

    async def _changes(self) -> AsyncIterator[Change]:
        while True:
            told = await self.told.get()
            if isinstance(told, Exception):
                raise told
            yield told

    async def queues(self) -> list[QueueView]:
        await super().queues()
        return self.of_queues


@pytest_asyncio.fixture
async def it(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, Telling(tmp_path), **TOKENS, max_streams=3) as found:
        yield found


@pytest.mark.parametrize("path", GETS)
async def test_who_has_no_token_sees_nothing(it: Running, path: str) -> None:
    for headers in ({}, bearer("x" * 22), {"Authorization": LOOK}, {"Authorization": f"Basic {LOOK}"}):
        status, said, given = await it.ask(path, headers=headers)
        assert (status, given["WWW-Authenticate"], said["title"]) == (401, "Bearer", "Unauthorized")
    assert it.host.looked_at.qsize() == 1, "the changes that are counted"


@pytest.mark.parametrize("path", POSTS)
async def test_only_who_may_mend_mends(it: Running, path: str) -> None:
    answers = [(await it.ask(path, "POST", json={"all": True}, headers=bearer(token)))[0] for token in (LOOK, MEND)]
    assert answers == [403, 200]
    assert (await it.ask("/api/queues", headers=bearer(MEND)))[0] == 200


async def test_a_token_that_is_there_twice_is_none(it: Running) -> None:
    headers = [("Authorization", f"Bearer {LOOK}"), ("Authorization", f"Bearer {MEND}")]
    assert (await it.ask("/api/queues", headers=headers))[0] == 400


async def test_health_is_told_to_all_and_its_reasons_to_those_who_may_look(it: Running) -> None:
    assert (await it.ask("/healthz"))[:2] == (200, {"live": True})
    assert (await it.ask("/readyz"))[:2] == (200, {"ready": True, "draining": False})
    problem = Problem(where="broker", what="is away", would_do="Start it.", since=datetime(2026, 1, 2, tzinfo=UTC))
    it.host.is_ = HealthView(live=True, ready=False, draining=False, problems=[problem])
    status, said, headers = await it.ask("/readyz")
    assert (status, said) == (503, {"ready": False, "draining": False})
    assert headers["Retry-After"]
    status, said, _ = await it.ask("/readyz", headers=bearer(LOOK))
    about = {"where": "broker", "what": "is away", "wouldDo": "Start it.", "since": "2026-01-02T00:00:00Z"}
    assert (status, said["problems"]) == (503, [about])
    it.host.is_ = replace(it.host.is_, live=False)
    assert (await it.ask("/healthz"))[:2] == (503, {"live": False})


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/api/flows?outcome=lost", "outcome: must be one of dead, failed, running, done"),
        ("/api/flows?limit=0", "limit: must be a number from 1 to 1,000"),
        ("/api/flows?limit=1001", "limit: must be a number from 1 to 1,000"),
        ("/api/flows?limit=%D9%A1", "limit: must be a number"),
        ("/api/flows?since=yesterday", "since: must be a time with its zone"),
        ("/api/flows?since=2026-01-01T00:00:00", "since: must be a time with its zone"),
        ("/api/flows?since=0001-01-01T00:00:00%2B23:00", "since: must be a time with its zone"),
        ("/api/flows?since=9999-12-31T23:00:00-23:00", "since: must be a time with its zone"),
        ("/api/flows?containing=", "containing: must have 1 to 1,024 characters"),
        ("/api/flows?module=", "module: must have 1 to 1,024 characters"),
        ("/api/flows?module=a&module=b", "module: may be there once"),
        ("/api/flows?offset=1", "offset: is not known here"),
        ("/api/flows/a/file", "key: is required"),
        (f"/api/flows/{'a' * 1025}", "flow: must have at most 1,024 characters"),
        ("/api/dead-letters/groups?by=colour", "by: must be one of reason, module, type"),
    ],
)
async def test_what_is_asked_for_and_is_none_is_named(it: Running, path: str, says: str) -> None:
    status, said, headers = await it.ask(path, headers=bearer(LOOK))
    assert status == 422
    assert said["problems"][0].startswith(says)
    assert headers["Content-Type"].startswith("application/problem+json")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"all": false}',
        b'{"all": true, "module": "a"}',
        b'{"module": ""}',
        b'{"module": 1}',
        b'{"module": "\\ud800"}',
        b'{"ids": [{"queue": "a", "id": "\\ud800"}]}',
        b'{"colour": "red"}',
        b'{"ids": []}',
        b'{"ids": ["a"]}',
        b'{"ids": [{"queue": "a"}]}',
        b'{"ids": [{"queue": "a", "id": 1}]}',
        b'{"ids": [{"queue": "a", "id": "1"}], "module": "a"}',
    ],
)
async def test_what_dead_letters_are_meant_must_be_said(it: Running, body: bytes) -> None:
    headers = bearer(MEND) | {"Content-Type": "application/json"}
    for path in POSTS:
        status, said, _ = await it.ask(path, "POST", data=body, headers=headers)
        assert status == 422
        assert (said["problems"] == ["all: must be true, and alone"]) is (b'"all"' in body)
    assert it.host.looked_at.qsize() == 1


async def test_bodies_are_bounded_and_of_one_kind(it: Running) -> None:
    headers = bearer(MEND) | {"Content-Type": "application/json"}
    assert (await it.ask(POSTS[0], "POST", data=io.BytesIO(b" " * (1024**2 + 1)), headers=headers))[0] == 413
    assert (await it.ask(POSTS[0], "POST", data=b"all=1", headers=bearer(MEND)))[0] == 415
    packed = headers | {"Content-Encoding": "gzip"}
    assert (await it.ask(POSTS[0], "POST", data=b"{}", headers=packed))[0] == 415


async def test_what_is_not_there_is_404_and_other_methods_are_405(it: Running) -> None:
    for path in ("/api", "/api/flows/", "/api/flows/a/", "/api/flows/..%2f..%2fetc/x", "/metrics/x", "//healthz"):
        assert (await it.ask(path, headers=bearer(LOOK)))[0] == 404
    assert (await it.ask("/api/flows/a", headers=bearer(LOOK)))[0] == 404
    assert (await it.ask("/api/flows/a/file?key=x", headers=bearer(LOOK)))[0] == 404
    ids = {"ids": [{"queue": "a", "id": "1"}]}
    assert (await it.ask(POSTS[0], "POST", json=ids, headers=bearer(MEND)))[0] == 404
    status, _, headers = await it.ask("/api/flows", "DELETE", headers=bearer(LOOK))
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    status, _, headers = await it.ask(POSTS[0], "GET", headers=bearer(MEND))
    assert (status, headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("path", [*GETS, "/healthz", "/api/nothing"])
async def test_what_fails_shows_nothing_of_us(it: Running, path: str) -> None:
    for error, expected in ((TransientError("/secret/path: away"), 503), (PermanentError("/secret/path"), 500)):
        it.host.unanswering = error
        async with it.client.get(it.console.url + path, headers=bearer(LOOK)) as answer:
            assert answer.headers["Server"] == "ion"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "sandbox" in answer.headers["Content-Security-Policy"]
            assert answer.headers["Cache-Control"] == "no-store"
            if answer.content_type == "text/event-stream":
                continue
            assert "secret" not in await answer.text()
            assert answer.status in (200, 404, 422, expected)


async def test_what_is_no_http_is_answered_in_our_words(it: Running) -> None:
    host, _, port = it.console.url.partition("://")[2].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"nonsense\r\n\r\n")
    async with asyncio.timeout(20):
        said = await reader.read()
    writer.close()
    assert b" 400 Bad Request\r\n" in said
    assert b"aiohttp" not in said
    assert b"nonsense" not in said


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        (b"/api/queues", b"[::1", 200),
        (b"/api/queues", b"a b:c:d/../", 200),
        (b"/api/queues?limit=1%00", b"x", 422),
        (b"/api/flows/%ff%00", b"x", 404),
        (b"/api/flows/%", b"x", 404),
        (b"http://elsewhere.example/api/queues", b"x", 200),
        (b"*", b"x", 400),
    ],
)
async def test_hostile_targets_and_hosts_are_answered(it: Running, target: bytes, host: bytes, status: int) -> None:
    address, _, port = it.console.url.partition("://")[2].rpartition(":")
    reader, writer = await asyncio.open_connection(address, int(port))
    head = [b"GET " + target + b" HTTP/1.1", b"Host: " + host, f"Authorization: Bearer {LOOK}".encode()]
    writer.write(b"\r\n".join([*head, b"Connection: close", b"", b""]))
    async with asyncio.timeout(20):
        said = await reader.read()
    writer.close()
    assert int(said.split()[1]) == status


async def test_pages_of_other_hosts_are_refused_where_anybody_may(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        assert (await it.ask("/api/queues"))[0] == 200
        for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Origin": "null"}):
            assert (await it.ask("/api/queues", headers=headers))[0] == 403
            assert (await it.ask(POSTS[0], "POST", json={"all": True}, headers=headers))[0] == 403


async def test_pages_of_other_hosts_change_nothing_where_a_proxy_says_who_may(tmp_path: Path) -> None:
    """A browser sends a form anywhere, with what the proxy knows its user by, and asks nobody before."""
    async with running(tmp_path, auth="none", exposed=True) as it:
        its = it.console.url.removeprefix("http://")
        form = aiohttp.FormData({"event": '{"type": "photo.received"}'}, default_to_multipart=True)
        others = ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"})
        for headers in (*others, {"Sec-Fetch-Site": "same-site"}):
            assert (await it.ask("/api/events", "POST", data=form, headers=headers))[0] == 403
            assert (await it.ask(POSTS[0], "POST", json={"all": True}, headers=headers))[0] == 403
            assert (await it.ask("/api/queues", headers=headers))[0] == 200, "whose answer that page cannot read"
        assert it.host.published.empty()
        for headers in ({}, {"Origin": f"http://{its}"}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
            assert (await it.ask("/api/events", "POST", data=form, headers=headers))[0] == 200


async def test_streams_are_bounded_and_room_comes_back_when_one_leaves(it: Running) -> None:
    url, headers = f"{it.console.url}/api/changes", bearer(LOOK)
    opened = [await it.client.get(url, headers=headers) for _ in range(3)]
    assert [answer.status for answer in opened] == [200] * 3
    refused = await asyncio.gather(*(it.ask("/api/changes", headers=headers) for _ in range(1_000)))
    assert {(status, "Retry-After" in given) for status, _, given in refused} == {(429, True)}
    assert (await it.ask("/api/queues", headers=headers))[0] == 200
    opened.pop().close()
    async with asyncio.timeout(20):
        while (again := await it.client.get(url, headers=headers)).status == 429:
            again.close()
    for answer in [*opened, again]:
        answer.close()


async def test_requests_are_bounded_and_streams_are_not_among_them(tmp_path: Path) -> None:
    host = Telling(tmp_path)
    async with (
        running(tmp_path, host, max_requests=1) as it,
        it.client.get(f"{it.console.url}/api/changes") as stream,
    ):
        await stream.content.readuntil(b"\n\n")
        host.holding = asyncio.Event()
        first = asyncio.create_task(it.ask("/api/flows"))
        await host.held.wait()
        status, _, headers = await it.ask("/api/modules")
        assert (status, "Retry-After" in headers) == (503, True)
        for path in ("/healthz", "/readyz"):  # of which a supervisor would end it
            assert (await it.ask(path))[0] == 200
        host.holding.set()
        assert (await first)[0] == 200
        assert (await it.ask("/api/modules"))[0] == 200


async def test_a_stream_shows_that_it_lives_and_who_comes_again_is_told_to_look_anew(
    it: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT", 0.01)
    async with it.client.get(f"{it.console.url}/api/changes", headers=bearer(LOOK)) as answer:
        assert await answer.content.readuntil(b"\n\n") == b": hello\n\n"
        assert await answer.content.readuntil(b"\n\n") == b": alive\n\n"
    again = bearer(LOOK) | {"Last-Event-ID": "7"}
    async with it.client.get(f"{it.console.url}/api/changes", headers=again) as answer:
        assert await answer.content.readuntil(b"\n\n") == b"id: 1\nevent: refresh\ndata: {}\n\n"


async def test_a_stream_ends_when_its_token_is_gone(it: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT", 0.01)
    async with it.client.get(f"{it.console.url}/api/changes", headers=bearer(LOOK)) as answer:
        await answer.content.readuntil(b": alive\n\n")
        it.console.reload(settings(tokens={"look": "another-0123456789"}, max_streams=3))
        async with asyncio.timeout(20):
            await answer.content.read()


async def test_a_stream_whose_source_fails_is_cut_and_nothing_else_is_said_in_it(
    it: Running, caplog: pytest.LogCaptureFixture
) -> None:
    async with it.client.get(f"{it.console.url}/api/changes", headers=bearer(LOOK)) as answer:
        await answer.content.readuntil(b": hello\n\n")
        for _ in range(2):  # one of them is for what counts
            it.host.told.put_nowait(RuntimeError("a fault"))
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.read()
    assert "a request failed" in caplog.text
    assert "what happens is not counted" in caplog.text
    assert (await it.ask("/api/queues", headers=bearer(LOOK)))[0] == 200


async def test_streams_end_with_the_service(it: Running) -> None:
    async with it.client.get(f"{it.console.url}/api/changes", headers=bearer(LOOK)) as answer:
        it.stop.set()
        async with asyncio.timeout(20):
            await answer.content.read()


async def test_queues_of_others_have_one_label_and_a_broker_that_is_away_is_told(it: Running) -> None:
    stats = QueueStats(ready=2, delayed=1, unsettled=None, dead=3)
    it.host.of_queues = [QueueView(name=name, topics=[], taken=False, stats=stats) for name in ('a"\n', "b")]
    _, said, headers = await it.ask("/metrics", headers=bearer(LOOK))
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'ion_queue_ready{queue="other"} 4.0' in said
    assert 'ion_dead_letters{queue="other"} 6.0' in said
    assert "ion_queues_known 1.0" in said
    it.host.unanswering = TransientError("away")
    _, said, _ = await it.ask("/metrics", headers=bearer(LOOK))
    assert "ion_queues_known 0.0" in said
    assert "ion_dead_letters{" not in said


async def test_slots_and_what_commits_owe_are_told_as_they_are(it: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = [SlotsView(module="m", warm=2, ready=1, found=3, reused=4, made=5)]
    monkeypatch.setattr(it.host, "slots", lambda: slots)
    monkeypatch.setattr(it.host, "outbox", lambda: OutboxView(owed=6, published=7, looked_at=None))
    _, said, _ = await it.ask("/metrics", headers=bearer(LOOK))
    for line in (
        'ion_slots_warm{module="m"} 1.0',
        'ion_slots_taken_total{how="warm",module="m"} 3.0',
        'ion_slots_taken_total{how="reused",module="m"} 4.0',
        'ion_slots_taken_total{how="made",module="m"} 5.0',
        "ion_outbox_owed 6.0",
        "ion_outbox_published_total 7.0",
    ):
        assert f"{line}\n" in said


async def test_what_happens_is_counted_and_names_of_others_have_one_label(it: Running) -> None:
    for n in range(1_000):
        about = Change(kind="finished", at=datetime.now(UTC), type=f"t{n}", module=f"m{n}", outcome=f"o{n}")
        it.host.told.put_nowait(replace(about, seconds={"module": 0.3, "all": 0.4}))
        it.host.told.put_nowait(replace(about, kind="published"))
    it.host.told.put_nowait(Change(kind="published", at=datetime.now(UTC), type="photo.received"))
    it.host.told.put_nowait(Change(kind="missed", at=datetime.now(UTC)))
    async with asyncio.timeout(20):
        while "ion_changes_missed_total 1.0" not in (said := (await it.ask("/metrics", headers=bearer(LOOK)))[1]):
            pass
    assert 'ion_events_published_total{type="photo.received"} 1.0' in said
    assert 'ion_events_published_total{type="other"} 1000.0' in said
    assert 'ion_attempts_finished_total{module="other",outcome="other",type="other"} 1000.0' in said
    assert 'ion_step_seconds_bucket{le="0.5",module="other",step="module"} 1000.0' in said
    assert "m1" not in said


async def test_a_page_asks_for_as_many_flows_as_it_shows(it: Running) -> None:
    """What a page then reads is a rule of the host's own, held by its tests."""
    query = "outcome=dead&module=m&type=t&since=2026-01-01T01:00:00%2B01:00&containing=x&after=c&limit=7"
    _, said, _ = await it.ask(f"/api/flows?{query}", headers=bearer(LOOK))
    assert said == {"items": [], "cursor": "more", "damaged": []}
    since = datetime(2026, 1, 1, tzinfo=UTC)
    about = {"outcomes": ["dead"], "module": "m", "type": "t", "since": since, "containing": "x"}
    assert it.host.asked == {**about, "after": "c", "limit": 7}
    await it.ask("/api/flows", headers=bearer(LOOK))
    nothing = dict.fromkeys(("outcomes", "module", "type", "since", "containing", "after"))
    assert it.host.asked == {**nothing, "limit": 50}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, and its key."""
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", str(key), "-out", str(certificate)]
    subject = ["-nodes", "-subj", "/CN=me", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", "req", "-x509", *new, *subject], check=True, capture_output=True, timeout=60)
    return certificate, key


async def test_it_speaks_tls(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    trusting = ssl.create_default_context(cafile=str(certificate))
    trusting.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    async with running(tmp_path, cert_file=certificate, key_file=key) as it:
        assert it.console.url.startswith("https://")
        assert (await it.ask("/healthz", ssl=trusting))[0] == 200
    assert [*settings(cert_file=certificate, key_file=key).findings()] == []
    [finding] = settings(cert_file=key, key_file=certificate).findings()
    assert finding.where == "services.console.cert_file"


@pytest.mark.parametrize(
    ("days", "says"),
    [
        ((-20, -5), "has expired, and is refused. Renew it."),
        ((5, 10), "is not valid yet. Is the clock right?"),
        ((-80, 10), "the certificate expires on 20"),
        ((-1, 5), None),
        ((-5, 1), "the certificate expires on 20"),
        ((-80, 20), None),
    ],
)
def test_a_certificate_that_is_not_valid_for_long_is_told(tmp_path: Path, days: Days, says: str | None) -> None:
    certificate, key = Authority(tmp_path / "ca", "ours").issue("it", days=days)
    found = [*settings(cert_file=certificate, key_file=key).findings()]
    assert [(it.severity, it.where) for it in found] == [("warning", "services.console.cert_file")] * len(found)
    assert [says is not None and says in it.text for it in found] == ([] if says is None else [True])


def test_what_cannot_be_told_of_a_certificate_is_not_said(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert [*not_valid_for_long(missing, missing)] == []


async def test_tokens_are_replaced_while_it_serves(it: Running) -> None:
    new = settings(tokens={"look": [LOOK, "another-0123456789"]}, max_streams=3)
    assert it.console.reload(new) == []
    look = [(await it.ask("/api/queues", headers=bearer(one)))[0] for one in (LOOK, "another-0123456789", MEND)]
    assert look == [200, 200, 401]
    assert it.console.reload(settings(max_streams=3, trusted_proxies=["10.0.0.1"])) == ["trusted_proxies", "auth"]
    assert (await it.ask("/api/queues"))[0] == 401


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"auth": "none", **TOKENS}, "only one of them"),
        ({"tokens": {}}, "must have a token"),
        ({"tokens": {"look": "short"}}, "must have at least 16 characters"),
        ({"auth": "none", "listen": "0.0.0.0:1"}, "lets anybody look and mend"),
        ({"key_file": "x", "auth": "none"}, "cert_file is not given"),
    ],
)
def test_settings_that_would_open_it_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says) as raised:
        settings(**given)
    assert LOOK not in str(raised.value)


class TestConsoleIsAService(ServiceConformance):
    cause_event = send = None

    @pytest_asyncio.fixture
    async def service(self) -> AsyncIterator[Console]:
        yield Console(settings())

    async def cause_look(self, service: Console) -> None:
        async with aiohttp.ClientSession() as client:
            await client.get(f"{service.url}/api/queues")

    def reloads(self) -> list[tuple[ConsoleSettings, list[str]]]:
        return [
            (settings(**TOKENS), []),
            (settings(**TOKENS, max_streams=7), ["max_streams"]),
            (settings(listen="127.0.0.1:1"), ["listen", "auth"]),
            (settings(), []),
        ]

    def unservable(self) -> Console:
        self.taken = socket.create_server(("127.0.0.1", 0))
        return Console(settings(listen=f"127.0.0.1:{self.taken.getsockname()[1]}"))


class TestConsoleProvider(ProviderConformance):
    not_set_up = None

    @pytest.fixture
    def provider(self) -> Provider[Service]:
        return next(iter(ion_services()))

    def section(self, tmp_path: Path) -> dict[str, Any]:
        return {"listen": "127.0.0.1:0", **TOKENS}

    def unusable(self, tmp_path: Path) -> dict[str, Any]:
        return {**self.section(tmp_path), "cert_file": str(tmp_path / "missing.pem")}
