"""Routes: webhooks in the form that they have, as events."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from ion_gateway import gateway
from plugins.ion_gateway.tests.gateways import Running, running

SECRET = "It's a Secret to Everybody"
PUSH = {
    "ref": "refs/heads/main",
    "before": "6113728f27ae82c7b1a177c8d03f9e96e0adf246",
    "after": "0d1a26e67d8f5eaf1f6ba5c57fc3c7d91ac0fd1c",
    "created": False,
    "repository": {"id": 186853002, "full_name": "Codertocat/Hello-World", "owner": {"login": "Codertocat"}},
    "pusher": {"name": "Codertocat", "email": "21031067+Codertocat@users.noreply.github.com"},
    "commits": [{"id": "0d1a26e6", "message": "Grüße", "added": ["a.txt"], "removed": []}],
    "head_commit": None,
}
GITHUB: dict[str, Any] = {
    "path": "/hooks/github",
    "type": "report.asked",
    "auth": {"github": SECRET},
    "id": "X-GitHub-Delivery",
    "when": {"X-GitHub-Event": "push", "/ref": ["refs/heads/main", "refs/heads/trunk"]},
    "pairs": {"repository": "/repository/full_name", "commit": "/after", "commits": "/commits", "head": "/head_commit"},
}


@pytest.fixture(autouse=True)
def no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "LINGER_FOR", 0.05)


async def push(it: Running, payload: Any = PUSH, **headers: str) -> tuple[int, dict[str, Any], Any]:
    """As GitHub sends it."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    mac = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    given = {
        "Content-Type": "application/json",
        "User-Agent": "GitHub-Hookshot/044aadd",
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        "X-Hub-Signature-256": f"sha256={mac}",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return await it.post("/hooks/github", data=body, headers=given)


async def test_a_push_becomes_an_event_with_what_is_wanted_of_it_once(tmp_path: Path) -> None:
    async with running(tmp_path / "work", routes={"github": GITHUB}) as it:
        first, again = await push(it), await push(it)
        other = await push(it, X_GitHub_Delivery="another")
        assert [status for status, _, _ in (first, again, other)] == [202] * 3
        assert first[1]["eventId"] == again[1]["eventId"] != other[1]["eventId"]
        event, files = it.host.taken[0]
        assert (event.type, files) == ("report.asked", {})
        assert event.data == (
            ("repository", "Codertocat/Hello-World"),
            ("commit", PUSH["after"]),
            ("commits", '[{"id":"0d1a26e6","message":"Grüße","added":["a.txt"],"removed":[]}]'),
            ("head", "null"),
        )


@pytest.mark.parametrize(
    ("payload", "headers"),
    [({"zen": "Design for failure."}, {"X_GitHub_Event": "ping"}), ({**PUSH, "ref": "refs/heads/other"}, {}), ({}, {})],
)
async def test_what_a_route_is_not_for_is_passed_over(tmp_path: Path, payload: Any, headers: dict[str, str]) -> None:
    async with running(tmp_path / "work", routes={"github": GITHUB}) as it:
        status, said, _ = await push(it, payload, **headers)
        assert (status, said["published"]) == (200, False)
        assert it.host.taken == []


async def test_a_route_has_its_own_guard(tmp_path: Path) -> None:
    async with running(
        tmp_path / "work",
        auth={"bearer": "0123456789abcdef"},
        routes={
            "github": GITHUB,
            "open": {"path": "/open", "type": "report.asked", "auth": "none"},
            "other": {"path": "/other", "type": "report.asked"},
        },
    ) as it:
        bearer = {"Authorization": "Bearer 0123456789abcdef"}
        assert (await push(it))[0] == 202
        assert (await push(it, X_Hub_Signature_256="sha256=" + "0" * 64))[0] == 401
        assert (await it.post("/hooks/github", json=PUSH, headers=bearer))[0] == 401
        assert (await it.post("/open", json={}))[0] == 202
        assert (await it.post("/open", json={}, headers={"Origin": "https://evil.example"}))[0] == 403
        assert (await it.post("/other", json={}))[0] == 401
        assert (await it.post("/other", json={}, headers=bearer))[0] == 202
        assert (await it.post("/events/report.asked", json={}))[0] == 401
        assert len(it.host.taken) == 3


async def test_a_request_that_does_not_say_which_event_it_is_is_refused(tmp_path: Path) -> None:
    routes = {"hook": {"path": "/hook", "type": "report.asked", "id": "/data/id"}}
    async with running(tmp_path / "work", routes=routes) as it:
        for payload in ({}, {"data": {}}, {"data": {"id": ""}}, {"data": {"id": None}}, {"data": [1]}, [], 3):
            status, said, _ = await it.post("/hook", json=payload)
            assert status == 400
            assert "/data/id: is missing" in said["detail"]
        ids = [(await it.post("/hook", json={"data": {"id": id}}))[1]["eventId"] for id in (1, "1", "\n", "ä" * 2000)]
        assert len(set(ids)) == 3
        assert ids[0] == ids[1]


async def test_ids_of_two_routes_are_apart(tmp_path: Path) -> None:
    routes = {name: {"path": f"/{name}", "type": "report.asked", "id": "/id"} for name in ("a", "b")}
    async with running(tmp_path / "work", routes=routes) as it:
        ids = {(await it.post(f"/{name}", json={"id": 1}))[1]["eventId"] for name in "ab"}
        ids.add((await it.post("/events/report.asked", headers={"Idempotency-Key": "1"}))[1]["eventId"])
        assert len(ids) == 3


async def test_without_pairs_the_body_is_flattened_and_it_may_be_a_file_too(tmp_path: Path) -> None:
    routes = {"hook": {"path": "/hook", "type": "report.asked", "file": "in/payload.json"}}
    async with running(tmp_path / "work", routes=routes) as it:
        body = b'{"a": [1.10, {"b": "x"}]}'
        assert (await it.post("/hook", data=body, headers={"Content-Type": "text/plain; charset=UTF-8"}))[0] == 202
        event, files = it.host.taken[0]
        assert event.data == (("a.0", "1.1"), ("a.1.b", "x"))
        assert files == {"in/payload.json": body}
        await it.left()


async def test_a_pointer_that_leads_nowhere_makes_no_pair(tmp_path: Path) -> None:
    pairs = {"a": "/a/1", "b": "/a/-", "c": "/a/x", "d": "/a/01", "e": "X-None", "f": "/a/0", "g": "", "h": "/x~1y"}
    routes = {"hook": {"path": "/hook", "type": "report.asked", "pairs": pairs}}
    async with running(tmp_path / "work", routes=routes) as it:
        await it.post("/hook", json={"a": ["text"], "x/y": 1})
        assert it.host.taken[0][0].data == (("f", "text"), ("g", '{"a":["text"],"x/y":1}'), ("h", "1"))


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 422),
        (b"payload=%7B%7D", {"Content-Type": "application/x-www-form-urlencoded"}, 422),
        (b'{"a": 1, "a": 2}', {}, 422),
        (b"3", {}, 422),
        (b"x" * 30_000, {}, 413),
        (b"{}", {"Content-Encoding": "gzip"}, 415),
    ],
)
async def test_what_is_no_json_is_refused(tmp_path: Path, body: bytes, headers: dict[str, str], status: int) -> None:
    routes = {"hook": {"path": "/hook", "type": "report.asked"}}
    async with running(tmp_path / "work", routes=routes, max_json="20KB") as it:
        assert (await it.post("/hook", data=body, headers=headers))[0] == status
        assert (await it.ask("GET", "/hook"))[0] == 405
        assert it.host.taken == []
