"""The gateway in a real `serve`: from curl to what the module made of it, and through the end of the process."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ion_core.testing import serve
from ion_core.testing.serve import ENVIRONMENT, Serve, run_ion
from ion_gateway.gateway_settings import GatewaySettings, Route
from tests.support import commands

PIPELINE = """
modules:
  shout:
    command: [sh, shout.sh]
    source: .
    subscribes: [photo.received]
    publishes: [photo.shouted]
  listen: {command: ["true"], source: ., subscribes: [photo.shouted]}
  bad: {command: ["false"], source: ., subscribes: [photo.broken], retries: 0}
services:
  gateway: {listen: "127.0.0.1:0", auth: none}
"""
SHOUT = """
cat "$HANDLER_BASE_DIR/in/data/"* | tr a-z A-Z > "$HANDLER_BASE_DIR/out/data/shouted"
printf '[{"key": "eventType", "value": "photo.shouted"}]' > "$HANDLER_BASE_DIR/out/events/0.json"
"""


class Serving(Serve):
    def curl(self, *arguments: str) -> dict[str, Any]:
        """What is answered, with its status."""
        status, body = self.curled(*arguments)
        return {**json.loads(body), "status": status}

    def over(self, event_id: str) -> dict[str, Any]:
        """What became of it, once it is over."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            found = self.curl(f"{self.url}/events/{event_id}")
            if found.get("over"):
                return found
        raise AssertionError(f"not over: {found}")


@contextmanager
def serving(directory: Path, *, start_new_session: bool = False) -> Iterator[Serving]:
    with serve.serving(directory, "gateway", start_new_session=start_new_session) as it:
        yield Serving(it.directory, it.url, it.process)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    directory = tmp_path_factory.mktemp("served")
    (directory / "ion.yaml").write_text(PIPELINE)
    (directory / "shout.sh").write_text(SHOUT)
    (directory / "photo.jpg").write_bytes(b"a photo")
    with serving(directory) as it:
        yield it


def test_a_photo_by_curl_goes_through_the_whole_flow_once(served: Serving) -> None:
    sent = [
        served.curl(
            "-F", "file=@photo.jpg", "-F", "who=me", "-H", "Idempotency-Key: one", f"{served.url}/events/photo.received"
        )
        for _ in range(2)
    ]
    assert [it["status"] for it in sent] == [202, 202]
    assert sent[0]["eventId"] == sent[1]["eventId"]
    found = served.over(sent[0]["eventId"])
    assert (found["outcome"], found["events"], found["jobs"]) == ("done", 2, {"committed": 2})
    documents = json.loads(run_ion(served.directory, "trace", "flow", sent[0]["correlationId"], "--json"))
    events = [it for it in documents if it["context"]["documentType"] == "eventMeta"]
    assert len(events) == 2
    assert events[0]["context"]["name"] == "gateway"
    assert events[0]["data"] == [{"key": "who", "value": "me"}]
    run_ion(served.directory, "files", sent[0]["correlationId"], "--get", "got")
    assert [path.read_text() for path in (served.directory / "got" / "shout").rglob("shouted")] == ["A PHOTO"]


def test_many_at_once_with_one_key_are_one_event(served: Serving) -> None:
    url, form = f"{served.url}/events/photo.received", ["-F", "file=@photo.jpg", "-F", "who=me"]
    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(lambda _: served.curl(*form, "-H", "Idempotency-Key: many", url), range(8)))
    assert [it["status"] for it in sent] == [202] * 8
    assert len({it["eventId"] for it in sent}) == 1
    found = served.over(sent[0]["eventId"])
    assert (found["outcome"], found["events"], found["jobs"]) == ("done", 2, {"committed": 2})


def test_a_key_that_is_used_for_something_else_is_told_what_differs(served: Serving) -> None:
    url, key = f"{served.url}/events/photo.received", "Idempotency-Key: two"
    (served.directory / "other.jpg").write_bytes(b"another photo")
    assert served.curl("-F", "file=@photo.jpg", "-F", "who=me", "-H", key, url)["status"] == 202
    found = served.curl("-F", "file=@other.jpg;filename=photo.jpg", "-F", "who=you", "-H", key, url)
    assert found["status"] == 409
    assert found["problems"] == ["data 'who' has another value", "file 'photo.jpg' has 13 bytes, not 7"]


def test_a_job_that_was_given_up_is_told(served: Serving) -> None:
    sent = served.curl("--json", '{"a": 1}', f"{served.url}/events/photo.broken")
    found = served.over(sent["eventId"])
    assert (found["outcome"], found["failing"], found["jobs"]) == ("dead", ["bad"], {"dead-lettered": 1})


def test_who_prefers_to_wait_is_told_once_the_flow_is_over(served: Serving) -> None:
    found = served.curl("-F", "f=@photo.jpg", "-H", "Prefer: wait=60", f"{served.url}/events/photo.received")
    assert (found["status"], found["outcome"], found["jobs"]) == (200, "done", {"committed": 2})


def test_what_the_core_refuses_is_refused_with_what_is_wrong(served: Serving) -> None:
    url = f"{served.url}/events/photo.received"
    found = served.curl("-F", "f=@photo.jpg;filename=a", "-F", "g=@photo.jpg;filename=a/b", url)
    assert found["status"] == 422
    assert "is also the directory of another file" in found["problems"][0]
    big = served.directory / "big.json"
    big.write_text(json.dumps({"a": "x" * 700_000}))
    found = served.curl("-H", "Content-Type: application/json", "--data-binary", "@big.json", url)
    assert found["status"] == 422
    assert "Pass large data as files" in found["problems"][0]
    assert served.curl("-X", "POST", f"{served.url}/events/photo.recieved")["detail"] == (
        "No module takes events of type 'photo.recieved'. Did you mean 'photo.received'?"
    )


def test_a_process_that_is_killed_in_an_upload_leaves_nothing_for_the_next(tmp_path: Path) -> None:
    (tmp_path / "ion.yaml").write_text(PIPELINE)
    work = tmp_path / ".ion" / "services" / "gateway" / "work"
    with serving(tmp_path) as it:
        host = it.url.removeprefix("http://")
        client = http.client.HTTPConnection(host, timeout=30)
        client.putrequest("POST", "/events/photo.received")
        client.putheader("Content-Type", "multipart/form-data; boundary=XX")
        client.putheader("Content-Length", str(10_000_000))
        client.endheaders(b'--XX\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + b"x" * 3_000_000)
        until = time.monotonic() + 30
        while not [*work.rglob("1")] and time.monotonic() < until:
            time.sleep(0.02)
        assert [*work.rglob("1")]
        it.process.send_signal(signal.SIGKILL)
        it.process.wait(30)
        client.close()
    assert [*work.iterdir()]
    with serving(tmp_path):
        assert [*work.iterdir()] == []
    assert run_ion(tmp_path, "trace", "list", "--json").strip() == "[]"


README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def typed(served: Serving, commands: str) -> list[dict[str, Any]]:
    """Commands of the page, at the port that there is; what they print."""
    assert "http://127.0.0.1:8080" in commands
    ran = subprocess.run(
        ["sh", "-eu", "-c", commands.replace("http://127.0.0.1:8080", served.url).replace("curl ", "curl -sS ")],
        cwd=served.directory,
        env={**ENVIRONMENT, "SECRET": "0123456789abcdef"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [json.loads(line) for line in ran.stdout.splitlines()]


def block(before: str) -> str:
    """The first block of the page after these words."""
    return README.partition(before)[2].partition("```")[2].partition("\n")[2].partition("```")[0]


def test_the_first_example_of_the_page_works_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "ion.yaml").write_text(block("<!-- file: ion.yaml -->").replace("127.0.0.1:8080", "127.0.0.1:0"))
    with serving(tmp_path) as it:
        (sent,) = typed(it, block("<!-- run -->"))
        assert set(sent) == {"eventId", "correlationId", "type"}
        assert it.over(sent["eventId"])["outcome"] == "done"
    run_ion(tmp_path, "files", sent["correlationId"], "--get", "got")
    assert [path.read_text() for path in (tmp_path / "got" / "shout").rglob("shouted.txt")] == ["HELLO\n"]


def test_the_signature_of_the_page_is_taken(tmp_path: Path) -> None:
    config = block("<!-- file: ion.yaml -->").replace("127.0.0.1:8080", "127.0.0.1:0")
    (tmp_path / "ion.yaml").write_text(config.replace("auth: none", 'auth: {github: "0123456789abcdef"}'))
    (tmp_path / "body.json").write_text('{"from": "me"}\n')
    with serving(tmp_path) as it:
        (sent,) = typed(it, block("`$SECRET`:"))
    assert set(sent) == {"eventId", "correlationId", "type"}


def test_a_link_goes_through_a_flow_whose_first_event_is_as_in_2018(tmp_path: Path) -> None:
    modules = 'modules: {scrape: {command: ["true"], source: ., subscribes: [frontapi.new_link]}}'
    (tmp_path / "ion.yaml").write_text(
        f'{modules}\nservices: {{gateway: {{listen: "127.0.0.1:0", auth: none, front_api: true}}}}\n'
    )
    with serving(tmp_path) as it:
        sent = it.curl("-d", '{"url": "https://example.org/"}', f"{it.url}/")
        assert sent["status"] == 200
        assert it.over(sent["context"]["eventId"])["jobs"] == {"committed": 1}
    documents = json.loads(run_ion(tmp_path, "trace", "flow", sent["context"]["correlationId"], "--json"))
    [event] = [it for it in documents if it["context"]["documentType"] == "eventMeta"]
    assert (event["context"], event["data"]) == (sent["context"], sent["data"])
    assert (event["context"]["name"], event["context"]["parentEventId"]) == ("frontapi", "frontapi")


def test_the_page_says_what_the_settings_are() -> None:
    table = README.partition("| key | default | |")[2].partition("\n\n")[0]
    told = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert told == set(GatewaySettings.model_fields)
    table = README.partition("| key of a route | default | |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(Route.model_fields)


def test_the_route_of_the_page_can_be_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GATEWAY_TOKEN", "GITHUB_SECRET", "STRIPE_SECRET"):
        monkeypatch.setitem(ENVIRONMENT, name, "whsec_0123456789abcdef")
    modules = 'modules: {build: {command: ["true"], source: ., subscribes: [push.received, invoice.paid]}}'
    (tmp_path / "ion.yaml").write_text(f"{modules}\n{block('gets a path of its own:')}")
    assert "ok: 1 module" in run_ion(tmp_path, "check")


def test_what_is_wrong_with_a_secret_is_said_and_the_secret_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = "(its value comes from ${env:IT} and is not shown)"
    for key, secret, says in (
        ("bearer", "canary", f"must have at least 16 characters, such as `openssl rand -hex 32` prints {note}"),
        ("standard_webhooks", "whsec_canary-0123456789", f"prints. A signing secret of Stripe's is for stripe {note}"),
        ("stripe", "sk_live_canary0123456789", f"as Stripe shows it; not an API key {note}"),
    ):
        monkeypatch.setitem(ENVIRONMENT, "IT", secret)
        (tmp_path / "ion.yaml").write_text(f'{HEAD}    auth: {{{key}: "${{env:IT}}"}}\n')
        done = commands.run("check", cwd=tmp_path, environ=ENVIRONMENT)
        assert says in done.stderr
        assert "canary" not in done.stderr


HEAD = """modules:
  report: {command: ["true"], source: ., subscribes: [report.asked]}
services:
  gateway:
"""


@pytest.mark.parametrize(
    ("gateway", "says"),
    [
        ("{}", "services.gateway.auth: is required"),
        (
            "{auth: nobody}",
            "services.gateway.auth: must be none, or one of bearer, github, standard_webhooks",
        ),
        ("{auth: {}}", "services.gateway.auth: must be none, or one of bearer"),
        ("{auth: {bearer: []}}", "services.gateway.auth: must have one of bearer"),
        ("{auth: {bearer: secret}}", "services.gateway.auth.bearer: must have at least 16 characters"),
        ('{auth: {bearer: "0123456789 0123456789"}}', "services.gateway.auth.bearer: must be ASCII without blanks"),
        (
            '{auth: {bearer: "0123456789abcdef", github: "0123456789abcdef"}}',
            "services.gateway.auth: must have one of bearer, github, standard_webhooks, stripe and certificate",
        ),
        ("{auth: {standard_webhooks: whsec_short}}", "services.gateway.auth.standard_webhooks: must be whsec_ and"),
        ("{auth: {bearer: [0123456789abcdef, x]}}", "services.gateway.auth.bearer[1]: must have at least 16"),
        ("{auth: {stripe: sk_live_0123456789}}", "services.gateway.auth.stripe: must be the signing secret of an"),
        ("{auth: {hmac: x}}", "services.gateway.auth.hmac: unknown key"),
        ("{auth: none, listen: 0.0.0.0:8080}", "services.gateway.auth: none lets anybody publish who reaches 0.0.0.0"),
        ("{auth: none, listen: gate.example:8080}", "services.gateway.auth: none lets anybody publish"),
        ("{auth: none, listen: localhost}", "services.gateway.listen: must be an address and a port"),
        ('{auth: none, listen: "127.0.0.1:99999"}', "services.gateway.listen: must be an address and a port"),
        ('{auth: none, listen: "[::g]:80"}', "services.gateway.listen: must"),
        ("{auth: none, max_body: much}", "services.gateway.max_body: must be a size"),
        ("{auth: none, max_files: 0}", "services.gateway.max_files"),
        ("{auth: none, key_file: key.pem}", "services.gateway.key_file: is the key of a certificate, and cert_file"),
        (
            "{auth: none, client_ca_file: ca.pem}",
            "gateway.client_ca_file: asks clients for certificates, which",
        ),
        ("{auth: none, trusted_proxies: [10.0.0.1/8]}", "trusted_proxies[0]: must be an address or a network, such as"),
        ("{auth: none, trusted_proxies: [proxy.example]}", "trusted_proxies[0]: must be an address or a network"),
        ("{auth: {certificate: any}}", "services.gateway.auth: asks for certificates of clients. Give client_ca_file"),
        ("{auth: {certificate: ' a'}, cert_file: a, client_ca_file: b}", "auth.certificate: must be a name as"),
        (
            "{auth: none, routes: {a: {path: /a, type: report.asked, auth: {certificate: any}}}}",
            "services.gateway.routes: asks for certificates of clients",
        ),
        ("{auth: none, routes: {a: {path: /a}}}", "services.gateway.routes.a.type: is required"),
        ("{auth: none, routes: {a: {type: report.asked}}}", "services.gateway.routes.a.path: is required"),
        ("{auth: none, routes: {a: {path: a, type: report.asked}}}", "routes.a.path: must be a path such as /hooks"),
        ("{auth: none, routes: {a: {path: /a/, type: report.asked}}}", "routes.a.path: must be a path such as /hooks"),
        (
            "{auth: none, routes: {a: {path: /events/a, type: report.asked}}}",
            "routes.a.path: must not be below /events",
        ),
        (
            "{auth: none, front_api: true}",
            'services.gateway.front_api: no module takes "frontapi.new_link", so it would be refused.',
        ),
        (
            "{auth: none, routes: {a: {path: /openapi.json, type: report.asked}}}",
            "routes.a.path: must not be /openapi.json",
        ),
        ("{auth: none, routes: {A: {path: /a, type: report.asked}}}", "lower-case letters"),
        (
            "{auth: none, routes: {a: {path: /a, type: report.asked}, b: {path: /a, type: report.asked}}}",
            "services.gateway.routes: a and b have one path, /a. Give one of them another",
        ),
        (
            "{auth: none, routes: {a: {path: /a, type: report.askd}}}",
            'services.gateway.routes.a.type: no module takes "report.askd", so it would be refused. Did you mean',
        ),
        ("{auth: none, routes: {a: {path: /a, type: report.asked, id: /x~2}}}", "routes.a.id: must be a JSON Pointer"),
        ("{auth: none, routes: {a: {path: /a, type: report.asked, id: x y}}}", "routes.a.id: must be a JSON Pointer"),
        ("{auth: none, routes: {a: {path: /a, type: report.asked, file: ../x}}}", "routes.a.file: key '../x'"),
        (
            "{auth: {github: 0123456789abcdef}, listen: 0.0.0.0:80,"
            " routes: {a: {path: /a, type: report.asked, auth: none}}}",
            "services.gateway.routes: none lets anybody publish who reaches 0.0.0.0:80",
        ),
    ],
)
def test_check_names_what_cannot_be_served(tmp_path: Path, gateway: str, says: str) -> None:
    (tmp_path / "ion.yaml").write_text(f"{HEAD}    {gateway}\n")
    checked = commands.run("check", cwd=tmp_path, environ=ENVIRONMENT)
    said = checked.stdout + checked.stderr
    assert checked.returncode == 78
    assert says in said
    assert "0123456789" not in said


@pytest.mark.parametrize(
    "gateway",
    [
        "{auth: none}",
        '{auth: none, listen: "[::1]:8080"}',
        "{auth: none, listen: localhost:8080}",
        "{auth: none, listen: 0.0.0.0:8080, exposed: true}",
        '{auth: {bearer: "${env:GATE}"}, listen: 0.0.0.0:8080}',
        "{auth: none, routes: {a: {path: /a, type: report.asked, id: X-Id, pairs: {a: /a/0, b: ''}, when: {/x: y}}}}",
        "{auth: {stripe: [whsec_0123456789abcdef, whsec_abcdef0123456789]}}",
        "{auth: {standard_webhooks: [whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz]}}",
    ],
)
def test_check_lets_pass_what_can_be_served(tmp_path: Path, gateway: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "GATE", "0123456789abcdef")
    (tmp_path / "ion.yaml").write_text(f"{HEAD}    {gateway}\n")
    assert "ok: 1 module" in run_ion(tmp_path, "check")
    assert "0123456789abcdef" not in run_ion(tmp_path, "config", "show")
