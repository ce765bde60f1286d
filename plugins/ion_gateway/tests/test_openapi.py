"""What the gateway says that it answers: valid OpenAPI, true of a gateway that is served, and without a secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from ion_gateway import gateway
from ion_gateway.openapi import document
from plugins.ion_gateway.tests.gateways import TYPES, running, settings
from plugins.ion_gateway.tests.test_gateway_serve import ENVIRONMENT, serving
from tests.support import commands

TOKEN = "0123456789abcdef"
WEBHOOK = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
ROUTES: dict[str, Any] = {
    "hook": {"path": "/hook", "type": "report.asked", "auth": "none", "when": {"/a": "b"}, "id": "X-Id"},
    "other": {"path": "/other", "type": "report.asked", "id": "/id", "pairs": {"b": "/b"}, "file": "body.json"},
    "signed": {"path": "/signed", "type": "photo.received", "auth": {"github": TOKEN}},
}


@pytest.fixture(autouse=True)
def no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "LINGER_FOR", 0.05)


@pytest.mark.parametrize("more", [{}, {"front_api": True, "routes": ROUTES, "max_files": 1}], ids=["least", "most"])
@pytest.mark.parametrize(
    "auth",
    ["none", {"bearer": TOKEN}, {"github": TOKEN}, {"standard_webhooks": WEBHOOK}, {"stripe": WEBHOOK}],
    ids=["none", "bearer", "github", "standard_webhooks", "stripe"],
)
def test_it_is_valid_and_has_no_secret(auth: Any, more: dict[str, Any]) -> None:
    for types in (TYPES, ()):
        found = document(settings(auth=auth, **more), types)
        validate(found, cls=OpenAPIV31SpecValidator)
        assert TOKEN not in json.dumps(found)
        assert WEBHOOK not in json.dumps(found)


def test_it_says_who_may_what_is_taken_and_what_is_there() -> None:
    found = document(settings(auth={"bearer": TOKEN}, routes=ROUTES), TYPES)
    assert set(found["paths"]) == {"/events/{name}", "/events", "/openapi.json", "/hook", "/other", "/signed"}
    assert found["components"]["schemas"]["Type"] == {"enum": [*TYPES]}
    assert {path: it["post"]["security"] for path, it in found["paths"].items() if "post" in it} == {
        "/events/{name}": [{"bearer": []}],
        "/events": [{"bearer": []}],
        "/hook": [],
        "/other": [{"bearer": []}],
        "/signed": [{"X-Hub-Signature-256": []}],
    }
    assert {"401", "403"} & set(found["paths"]["/hook"]["post"]["responses"]) == {"403"}
    assert {"401", "403"} & set(found["paths"]["/other"]["post"]["responses"]) == {"401"}
    forms = [
        "multipart/form-data"
        in document(settings(auth=auth), TYPES)["paths"]["/events/{name}"]["post"]["requestBody"]["content"]
        for auth in ({"github": TOKEN}, {"standard_webhooks": WEBHOOK})
    ]
    assert forms == [True, False]


@pytest.mark.parametrize(
    ("auth", "security", "refused"),
    [
        ({"certificate": "any"}, [{"certificate": []}], set()),
        ({"certificate": "robot"}, [{"certificate": []}], {"403"}),
        ({"bearer": TOKEN}, [{"certificate": [], "bearer": []}], {"401"}),
        ({"stripe": WEBHOOK}, [{"certificate": [], "Stripe-Signature": []}], {"401"}),
    ],
)
def test_it_says_who_has_to_have_a_certificate(auth: Any, security: list[Any], refused: set[str]) -> None:
    found = document(settings(auth=auth, cert_file="server.pem", client_ca_file="ca.pem"), TYPES)
    validate(found, cls=OpenAPIV31SpecValidator)
    post = found["paths"]["/events/{name}"]["post"]
    assert post["security"] == security
    assert {"401", "403"} & set(post["responses"]) == refused


async def test_it_is_shown_to_those_who_may(tmp_path: Path) -> None:
    async with running(tmp_path / "work", auth={"bearer": TOKEN}, routes=ROUTES) as it:
        assert (await it.ask("GET", "/openapi.json"))[0] == 401
        headers = {"Authorization": f"Bearer {TOKEN}"}
        status, said, _ = await it.ask("GET", "/openapi.json", headers=headers)
        assert (status, said) == (200, document(settings(auth={"bearer": TOKEN}, routes=ROUTES), TYPES))
        assert (await it.ask("HEAD", "/openapi.json", headers=headers))[:2] == (200, None)
        status, _, given = await it.post("/openapi.json", headers=headers)
        assert (status, given["Allow"]) == (405, "GET, HEAD")
        assert it.host.taken == []


MODULES = "modules: {report: {command: ['true'], source: ., subscribes: [report.asked, photo.received]}}\n"
ONE = f"services: {{gateway: {{auth: {{bearer: {TOKEN}}}}}}}\n"
TWO = "services: {front: {provider: gateway, auth: none}, back: {provider: gateway, auth: none, front_api: true}}\n"


@pytest.mark.parametrize(
    ("services", "arguments", "code", "says"),
    [
        (ONE, [], 0, '"photo.received"'),
        (ONE, ["gateway"], 0, '"photo.received"'),
        (ONE, ["gatway"], 2, 'no gateway "gatway". There are: gateway.'),
        (TWO, [], 2, "which gateway? There are: back, front."),
        (TWO, ["back"], 0, '"/": {'),
        ("", [], 2, "which gateway? There are: none."),
    ],
)
def test_the_command_prints_it(tmp_path: Path, services: str, arguments: list[str], code: int, says: str) -> None:
    (tmp_path / "ion.yaml").write_text(MODULES + services)
    ran = commands.run("gateway", "openapi", *arguments, cwd=tmp_path, environ=ENVIRONMENT)
    assert ran.returncode == code
    assert says in (ran.stderr if code else ran.stdout)
    if not code:
        assert json.loads(ran.stdout)["openapi"] == "3.1.1"
    assert TOKEN not in ran.stdout + ran.stderr


SERVED = f"""
modules: {{rest: {{command: [sleep, "600"], source: ., subscribes: [report.asked, photo.received, frontapi.new_link]}}}}
drain_timeout: 0s
services:
  gateway:
    listen: 127.0.0.1:0
    auth: {{bearer: {TOKEN}}}
    front_api: true
    max_pairs: 20
    max_files: 3
    max_json: 10KB
    routes:
      hook: {{path: /hook, type: report.asked, auth: none, when: {{/a: b}}, id: X-Id}}
      other: {{path: /other, type: report.asked, auth: none, pairs: {{b: /b}}, file: body.json}}
"""
SCHEMATHESIS = [
    *(sys.executable, "-m", "schemathesis.cli", "run"),
    *("--phases", "coverage,fuzzing,stateful", "--max-examples", "15", "--generation-deterministic"),
    *(
        "--checks",
        "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
        "response_schema_conformance,unsupported_method,allow_header_conformance,ignored_auth",
    ),
    *("--continue-on-failure", "--report-har-path", "sent.har", "--warnings", "off", "--no-color"),
    *("--request-timeout", "60", "--request-retries", "3", "--suppress-health-check", "all"),
]


@pytest.mark.timeout(400)
def test_what_it_says_is_true_of_a_gateway_that_is_served(tmp_path: Path) -> None:
    """By Schemathesis, which makes requests of the document, as it says and otherwise: the same ones at each run."""
    (tmp_path / "ion.yaml").write_text(SERVED)
    with serving(tmp_path) as it:
        ran = subprocess.run(
            [*SCHEMATHESIS, f"{it.url}/openapi.json", "--header", f"Authorization: Bearer {TOKEN}"],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        said = ran.stdout + ran.stderr
        assert ran.returncode == 0, said
    sent = json.loads((tmp_path / "sent.har").read_text())["log"]["entries"]
    statuses = {it["response"]["status"] for it in sent}
    assert {200, 202, 400, 401, 404, 405, 415, 422} <= statuses, said
    assert "ERROR" not in (tmp_path / "serve.log").read_text()
