"""The predecessor's front API, ``POST /``: what it answered, and what it took and should not have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ion_core.errors import IdTaken, Unroutable
from ion_gateway import gateway
from plugins.ion_gateway.tests.gateways import running

TOKEN = "0123456789abcdef"


@pytest.fixture(autouse=True)
def no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "LINGER_FOR", 0.05)


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "text/plain"])
async def test_a_link_becomes_an_event_and_is_answered_with_it(tmp_path: Path, kind: str) -> None:
    """Whatever its Content-Type says, as `curl -d` does."""
    async with running(tmp_path / "work", front_api=True) as it:
        body = json.dumps({"url": "https://example.org/ä", "other": 1})
        status, said, headers = await it.post("/", data=body, headers={"Content-Type": kind})
        [(event, files)] = it.host.taken
        id = event.context.event_id
        assert (status, headers["Content-Type"]) == (200, "application/json")
        assert said == {
            "context": {
                "name": "frontapi",
                "eventId": id,
                "correlationId": id,
                "parentEventId": "frontapi",
                "documentType": "eventMeta",
            },
            "type": "frontapi.new_link",
            "data": [{"key": "url", "value": "https://example.org/ä"}],
        }
        assert (event.type, event.data, files) == ("frontapi.new_link", (("url", "https://example.org/ä"),), {})


async def test_a_key_makes_a_link_one_event(tmp_path: Path) -> None:
    async with running(tmp_path / "work", front_api=True) as it:
        sent = [await it.post("/", json={"url": "x"}, headers={"Idempotency-Key": "k"}) for _ in range(2)]
        assert sent[0][1] == sent[1][1]
        it.host.raising.append(IdTaken("event id 'x': is that of another event", ["data 'url' has another value"]))
        assert (await it.post("/", json={"url": "y"}, headers={"Idempotency-Key": "k"}))[0] == 409
        assert (await it.post("/", json={"url": "y"}, headers={"Idempotency-Key": "a b"}))[0] == 400


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        (b"", 400, "body"),
        (b"{", 400, "body"),
        (b'{"url": "x"} {"url": "y"}', 400, "body"),
        (b'{"url": "x", "url": "y"}', 400, "body"),
        (b"\xff", 400, "body"),
        (b"url=x", 400, "body"),
        (b"[]", 422, 'body: must be an object {"url": "…"}'),
        (b'"x"', 422, 'body: must be an object {"url": "…"}'),
        (b"{}", 422, "body.url: is missing"),
        (b'{"URL": "x"}', 422, "body.url: is missing"),
        (b'{"url": null}', 422, "body.url: must be text, and not empty"),
        (b'{"url": ["x"]}', 422, "body.url: must be text, and not empty"),
        (b'{"url": ""}', 422, "body.url: must be text, and not empty"),
    ],
)
async def test_what_is_no_link_is_refused_and_never_published_with_an_empty_one(
    tmp_path: Path, body: bytes, status: int, problem: str
) -> None:
    async with running(tmp_path / "work", front_api=True) as it:
        found, said, _ = await it.post("/", data=body)
        assert found == status
        assert said["problems"][0].startswith(problem)
        assert it.host.taken == []


async def test_a_link_has_the_guard_and_the_limits_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ion_gateway.waiting.COUNTED_FOR", -1.0)
    async with running(tmp_path / "work", front_api=True, auth={"bearer": TOKEN}, max_json="1KB", max_pending=10) as it:
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert (await it.post("/", json={"url": "x"}))[0] == 401
        assert (await it.post("/", json={"url": "x" * 2000}, headers=bearer))[0] == 413
        assert (await it.post("/", data=b"{}", headers={**bearer, "Content-Encoding": "gzip"}))[0] == 415
        it.host.raising.append(Unroutable("no queue"))
        assert (await it.post("/", json={"url": "x"}, headers=bearer))[0] == 404
        status, _, headers = await it.ask("GET", "/", headers=bearer)
        assert (status, headers["Allow"]) == (405, "POST")
        it.host.waiting = 11
        assert (await it.post("/", json={"url": "x"}, headers=bearer))[0] == 429
        assert it.host.taken == []


async def test_a_page_of_another_host_sends_no_link(tmp_path: Path) -> None:
    async with running(tmp_path / "work", front_api=True) as it:
        assert (await it.post("/", json={"url": "x"}, headers={"Origin": "https://evil.example"}))[0] == 403


async def test_it_is_off_unless_it_is_configured(tmp_path: Path) -> None:
    async with running(tmp_path / "work") as it:
        assert (await it.post("/", json={"url": "x"}))[0] == 404
