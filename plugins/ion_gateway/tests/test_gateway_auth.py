"""Who may publish: tokens, signatures, and what is told to whom before."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from ion_gateway import auth, gateway
from plugins.ion_gateway.tests.gateways import running

OLD, NEW = "old-token-0123456789", "new-token-0123456789"
WHSEC_OLD, WHSEC_NEW = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz", "whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4"
STRIPE_OLD, STRIPE_NEW = "whsec_old0123456789", "whsec_new0123456789"
PATH = "/events/photo.received"


@pytest.fixture(autouse=True)
def no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "LINGER_FOR", 0.05)


def github(body: bytes, secret: str = NEW) -> dict[str, str]:
    return {"X-Hub-Signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}


def webhook(
    body: bytes, secret: str = WHSEC_NEW, *, id: str = "msg_1", late: timedelta = timedelta(0)
) -> dict[str, str]:
    when = datetime.now(UTC) - late
    return {
        "webhook-id": id,
        "webhook-timestamp": str(int(when.timestamp())),
        "webhook-signature": Webhook(secret).sign(id, when, body.decode()),
    }


def stripe(body: bytes, secret: str = STRIPE_NEW, *, late: int = 0) -> dict[str, str]:
    """As https://docs.stripe.com/webhooks says that a signature is made."""
    when = str(int(time.time()) - late)
    mac = hmac.new(secret.encode(), when.encode() + b"." + body, hashlib.sha256)
    return {"Stripe-Signature": f"t={when},v1={mac.hexdigest()}"}


JSON = {"Content-Type": "application/json"}
BODY = b'{"a": "x"}'


@pytest.mark.parametrize("token", [OLD, NEW])
async def test_each_of_several_tokens_is_taken(tmp_path: Path, token: str) -> None:
    async with running(tmp_path / "work", auth={"bearer": [OLD, NEW]}) as it:
        assert (await it.post(headers={"Authorization": f"Bearer {token}"}))[0] == 202
        assert (await it.post(headers={"Authorization": f"bearer  {token} "}))[0] == 202


DENIED = [
    "",
    "Bearer",
    "Bearer x",
    f"Bearer {OLD}x",
    f"Bearer {OLD[:-1]}",
    f"Basic {OLD}",
    OLD,
    "Bearer ä",
    f"Bearer {OLD},{NEW}",
]


@pytest.mark.parametrize("given", DENIED)
async def test_without_a_token_nothing_is_told_nor_read(tmp_path: Path, given: str) -> None:
    async with running(tmp_path / "work", auth={"bearer": [OLD, NEW]}) as it:
        head = (
            f"Host: localhost\r\nAuthorization: {given}\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n".encode()
        )
        for path in (PATH, "/events/of.nobody"):
            said = await it.raw(f"POST {path} HTTP/1.1\r\n".encode() + head)
            assert said.startswith(b"HTTP/1.1 401")
            assert b"WWW-Authenticate: Bearer" in said
        assert (await it.ask("GET", "/events/x", headers={"Authorization": given} if given else {}))[0] == 401
        assert it.host.taken == []
        assert it.host.asked == 0


async def test_two_tokens_are_none(tmp_path: Path) -> None:
    async with running(tmp_path / "work", auth={"bearer": OLD}) as it:
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + f"Authorization: Bearer {OLD}\r\n" * 2
        assert b" 400 " in (await it.raw(head.encode() + b"\r\n")).splitlines()[0]


async def test_githubs_own_example_is_verified() -> None:
    """From its documentation, “Validating webhook deliveries”."""
    body, secret = b"Hello, World!", "It's a Secret to Everybody"
    assert github(body, secret)["X-Hub-Signature-256"] == (
        "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    )


@pytest.mark.parametrize("secret", [OLD, NEW])
async def test_a_signed_body_is_taken_with_its_files(tmp_path: Path, secret: str) -> None:
    body = b'--XX\r\nContent-Disposition: form-data; name="f"; filename="a.jpg"\r\n\r\nphoto\r\n--XX--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=XX"}
    async with running(tmp_path / "work", auth={"github": [OLD, NEW]}) as it:
        assert (await it.post(data=body, headers=kind | github(body, secret)))[0] == 202
        assert (await it.post(data=BODY, headers=JSON | github(BODY, secret)))[0] == 202
        assert [files for _, files in it.host.taken] == [{"a.jpg": b"photo"}, {}]
        await it.left()


async def test_a_delivery_that_github_sends_again_is_the_same_event(tmp_path: Path) -> None:
    async with running(tmp_path / "work", auth={"github": NEW}) as it:
        headers = JSON | github(BODY) | {"X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958"}
        assert len({(await it.post(data=BODY, headers=headers))[1]["eventId"] for _ in range(2)}) == 1


def _wrong() -> list[dict[str, str]]:
    right = github(BODY)["X-Hub-Signature-256"]
    return [
        {},
        github(BODY + b" "),
        github(BODY, "another-secret-of-somebody"),
        {"X-Hub-Signature-256": right.removeprefix("sha256=")},
        {"X-Hub-Signature-256": right.upper()},
        {"X-Hub-Signature-256": right + "0"},
        {"X-Hub-Signature-256": "sha256="},
        {"X-Hub-Signature-256": "sha256=ä"},
        {"X-Hub-Signature": "sha1=" + hmac.new(NEW.encode(), BODY, hashlib.sha1).hexdigest()},
    ]


@pytest.mark.parametrize("headers", _wrong())
@pytest.mark.parametrize("path", [PATH, "/events/of.nobody"])
async def test_a_wrong_signature_stores_nothing_and_tells_nothing(
    tmp_path: Path, headers: dict[str, str], path: str
) -> None:
    async with running(tmp_path / "work", auth={"github": [OLD, NEW]}) as it:
        status, said, _ = await it.post(path, data=BODY, headers=JSON | headers)
        assert status == 401
        assert "problems" not in said
        assert it.host.taken == []
        await it.left()


async def test_what_is_wrong_with_a_body_is_told_to_who_signed_it_only(tmp_path: Path) -> None:
    async with running(tmp_path / "work", auth={"github": NEW}) as it:
        assert (await it.post(data=b"{", headers=JSON | github(b"other")))[0] == 401
        assert (await it.post(data=b"{", headers=JSON | github(b"{")))[0] == 422
        assert (await it.post("/events/of.nobody", data=BODY, headers=JSON | github(BODY)))[0] == 404


async def test_a_body_that_is_signed_is_bounded(tmp_path: Path) -> None:
    async with running(tmp_path / "work", auth={"github": NEW}, max_signed=1000) as it:
        body = b"x" * 2000
        kind = {"Content-Type": "multipart/form-data; boundary=XX"}
        assert (await it.post(data=body, headers=kind | github(body)))[0] == 413


@pytest.mark.parametrize("secret", [WHSEC_OLD, WHSEC_NEW])
async def test_a_standard_webhook_is_taken_once(tmp_path: Path, secret: str) -> None:
    async with running(tmp_path / "work", auth={"standard_webhooks": [WHSEC_OLD, WHSEC_NEW]}) as it:
        found = [await it.post(data=BODY, headers=JSON | webhook(BODY, secret)) for _ in range(2)]
        found.append(await it.post(data=BODY, headers=JSON | webhook(BODY, secret, late=timedelta(minutes=4))))
        assert [status for status, _, _ in found] == [202] * 3
        assert len({said["eventId"] for _, said, _ in found}) == 1
        later = await it.post(data=BODY, headers=JSON | webhook(BODY, secret, id="msg_2"))
        assert later[1]["eventId"] != found[0][1]["eventId"]


def _forged() -> list[tuple[bytes, dict[str, str]]]:
    right = webhook(BODY)
    return [
        (BODY, {}),
        (BODY + b" ", right),
        (BODY, right | {"webhook-id": "msg_2"}),
        (BODY, right | {"webhook-timestamp": str(int(right["webhook-timestamp"]) + 1)}),
        (BODY, right | {"webhook-timestamp": "nan"}),
        (BODY, right | {"webhook-timestamp": "1e400"}),
        (BODY, right | {"webhook-signature": "v1"}),
        (BODY, right | {"webhook-signature": "v1,ä"}),
        (BODY, right | {"webhook-signature": right["webhook-signature"].replace("v1,", "v2,")}),
        (BODY, webhook(BODY, late=timedelta(hours=1))),
        (BODY, webhook(BODY, late=timedelta(hours=-1))),
        (BODY, webhook(BODY, "whsec_" + "QUFB" * 8)),
        (b"\xff\xfe", right),
        (b"", right),
    ]


@pytest.mark.parametrize(("body", "headers"), _forged())
async def test_a_standard_webhook_that_is_not_as_it_was_sent_stores_nothing(
    tmp_path: Path, body: bytes, headers: dict[str, str]
) -> None:
    async with running(tmp_path / "work", auth={"standard_webhooks": [WHSEC_OLD, WHSEC_NEW]}) as it:
        assert (await it.post(data=body, headers=JSON | headers))[0] == 401
        assert it.host.taken == []


STRIPE_EVENT = b'{"id": "evt_1", "type": "invoice.paid", "data": {"object": {"id": "in_1"}}, "pending_webhooks": %d}'


def test_what_stripes_library_signs_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signed by Stripe's own library, 16.1.0."""
    given = "t=1700000000,v1=33aa1568c6627d0d2d42556693c208077ca8f8b437ac8d9d6ebb6c2c650033eb"
    monkeypatch.setattr(auth, "time", lambda: 1_700_000_000 + 299)
    signed = auth._Stripe([b"whsec_test_secret"], given)
    signed.add(b'{"id": ')
    signed.add(b'"evt_1"}')
    signed.check()


@pytest.mark.parametrize("secret", [STRIPE_OLD, STRIPE_NEW])
async def test_what_stripe_sends_again_is_the_same_event(tmp_path: Path, secret: str) -> None:
    route = {
        "path": "/hooks/stripe",
        "type": "report.asked",
        "auth": {"stripe": [STRIPE_OLD, STRIPE_NEW]},
        "id": "/id",
        "pairs": {"invoice": "/data/object/id"},
    }
    async with running(tmp_path / "work", routes={"stripe": route}) as it:
        for n in (2, 1):
            body = STRIPE_EVENT % n
            late = 240 * (n - 1)
            assert (await it.post("/hooks/stripe", data=body, headers=stripe(body, secret, late=late)))[0] == 202
        assert len({event.context.event_id for event, _ in it.host.taken}) == 1
        assert [event.data for event, _ in it.host.taken] == [(("invoice", "in_1"),)] * 2


async def test_one_of_several_signatures_of_stripe_will_do(tmp_path: Path) -> None:
    async with running(tmp_path / "work", auth={"stripe": STRIPE_NEW}) as it:
        when, _, right = stripe(BODY)["Stripe-Signature"].partition(",")
        for others in (f"{right},v1={'0' * 64}", f"v1={'0' * 64},{right}", f"v0={'0' * 64}, {right}"):
            assert (await it.post(data=BODY, headers=JSON | {"Stripe-Signature": f"{when},{others}"}))[0] == 202
        body = b'--XX\r\nContent-Disposition: form-data; name="f"; filename="a.jpg"\r\n\r\nphoto\r\n--XX--\r\n'
        kind = {"Content-Type": "multipart/form-data; boundary=XX"}
        assert (await it.post(data=body, headers=kind | stripe(body)))[0] == 202
        assert (await it.ask("GET", "/events/x", headers=stripe(b"")))[0] == 404


def _not_stripes() -> list[dict[str, str]]:
    right = stripe(BODY)["Stripe-Signature"]
    when, _, signature = right.partition(",")
    return [
        {},
        stripe(BODY + b" "),
        stripe(BODY, "whsec_of_somebody_else"),
        stripe(BODY, STRIPE_NEW.removeprefix("whsec_")),
        *({"Stripe-Signature": it} for it in _broken(when, signature, right)),
    ]


def _broken(when: str, signature: str, right: str) -> list[str]:
    return [
        when,
        signature,
        f"t=,{signature}",
        f"t=-1,{signature}",
        f"t=nan,{signature}",
        f"t={'9' * 4000},{signature}",
        f"{when}0,{signature}",
        f"{when},{right}",
        f"{when},v1=",
        f"{when},v1=ä",
        f"{when},v0={signature.removeprefix('v1=')}",
        f"{when},{signature.upper()}",
        right.replace(",", ";"),
    ]


@pytest.mark.parametrize("headers", _not_stripes())
async def test_what_is_not_signed_as_stripe_does_stores_nothing(tmp_path: Path, headers: dict[str, str]) -> None:
    async with running(tmp_path / "work", auth={"stripe": [STRIPE_OLD, STRIPE_NEW]}) as it:
        assert (await it.post(data=BODY, headers=JSON | headers))[0] == 401
        assert it.host.taken == []


@pytest.mark.parametrize("late", [3600, -3600])
async def test_an_old_signature_of_stripe_is_none(tmp_path: Path, late: int) -> None:
    async with running(tmp_path / "work", auth={"stripe": STRIPE_NEW}) as it:
        assert (await it.post(data=BODY, headers=JSON | stripe(BODY, late=late)))[0] == 401


async def test_a_signed_body_that_is_no_json_is_told_so(tmp_path: Path) -> None:
    async with running(tmp_path / "work", auth={"standard_webhooks": WHSEC_NEW}) as it:
        status, said, _ = await it.post(data=b"{", headers=JSON | webhook(b"{"))
        assert (status, len(said["problems"])) == (422, 1)
        form = {"Content-Type": "multipart/form-data; boundary=XX"}
        assert (await it.post(data=b"--XX--", headers=form | webhook(b"--XX--")))[0] == 415


async def test_who_signs_asks_with_a_signature_too(tmp_path: Path) -> None:
    async with running(tmp_path / "work", auth={"github": NEW}) as it:
        assert (await it.ask("GET", "/events/x"))[0] == 401
        assert (await it.ask("GET", "/events/x", headers=github(b"")))[0] == 404


PAGES: list[dict[str, Any]] = [
    {"Host": "evil.example"},
    {"Host": "127.0.0.1.evil.example:8080"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Host": "[::1", "Origin": ""},
]


@pytest.mark.parametrize("headers", PAGES)
async def test_pages_of_others_may_not_publish_where_anybody_on_this_machine_may(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    async with running(tmp_path / "work") as it:
        status, _, _ = await it.post(headers=headers)
        assert status in (400, 403)
        assert it.host.taken == []


async def test_programs_and_pages_of_this_machine_may(tmp_path: Path) -> None:
    async with running(tmp_path / "work") as it:
        for headers in ({"Host": "localhost:80"}, {"Host": "127.0.0.1"}, {"Origin": "http://localhost:3000"}):
            assert (await it.post(headers=headers))[0] == 202


async def test_no_secret_is_in_any_answer_or_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="ion_gateway")
    async with running(tmp_path / "work", auth={"bearer": OLD}) as it:
        answers = [await it.post(headers={"Authorization": f"Bearer {given}"}) for given in (OLD, NEW)]
        assert OLD not in repr(it.gateway._settings)
    text = caplog.text + json.dumps([(status, said, dict(headers)) for status, said, headers in answers])
    assert OLD not in text
    assert NEW not in text
