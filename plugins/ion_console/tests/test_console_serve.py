"""The console in a real `serve` on the embedded defaults: what has happened is shown, counted and put right."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from ion_console.openapi import document
from ion_console.routing import OPERATIONS
from ion_core.testing.serve import ENVIRONMENT
from plugins.ion_console.tests.consoles import LOOK, MEND, Served, serving

HOSTILE = "<img src=x onerror=alert(1)>\u202e';--.html"
PIPELINE = """
modules:
  shout:
    command: [sh, shout.sh]
    source: .
    subscribes: [photo.received]
    publishes: [photo.shouted]
  slow: {command: [sh, -c, 'echo "$1" "<b>"; cat DIRECTORY/go', sh, begun], source: ., subscribes: [photo.slow]}
  bad:
    command: [sh, -c, 'echo "it is broken: $KEY"; exit 3']
    env: {KEY: "${file:key}"}
    source: .
    subscribes: [photo.shouted]
    retries: 0
services:
  console:
    listen: 127.0.0.1:0
    tokens: {look: "${file:look}", mend: "${file:mend}"}
drain_timeout: 1s
"""
SHOUT = """
cat "$HANDLER_BASE_DIR/in/data/"* | tr a-z A-Z > "$HANDLER_BASE_DIR/out/data/shouted"
echo "said loudly"
printf '[{"key": "eventType", "value": "photo.shouted"}]' > "$HANDLER_BASE_DIR/out/events/0.json"
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("served")
    (directory / "ion.yaml").write_text(PIPELINE.replace("DIRECTORY", str(directory)))
    os.mkfifo(directory / "go")
    (directory / "shout.sh").write_text(SHOUT)
    (directory / "key").write_text("key-canary-0123456789")
    (directory / "look").write_text(LOOK)
    (directory / "mend").write_text(MEND)
    (directory / HOSTILE).write_text("<b>a photo</b>")
    with serving(directory) as it:
        it.token = LOOK
        it.ion("event", "publish", "photo.received", "--file", HOSTILE)
        it.until(lambda: it.get("/api/dead-letters")["items"])
        it.until(lambda: it.get("/api/flows?outcome=dead")["items"])
        yield it


def test_a_flow_is_listed_and_shown_with_its_documents_and_logs(served: Served) -> None:
    [flow] = served.get("/api/flows?outcome=dead&outcome=failed&limit=10")["items"]
    assert (flow["outcome"], flow["type"], flow["failing"]) == ("dead", "photo.received", ["bad"])
    assert served.get("/api/flows?type=photo.shouted")["items"] == [flow]
    assert served.get("/api/flows?containing=" + flow["eventId"].upper())["items"] == [flow]
    assert served.get("/api/flows?containing=nothing%20of%20this")["items"] == []
    assert served.get("/api/flows?since=2999-01-01T00:00:00Z")["items"] == []
    whole = served.get(f"/api/flows/{flow['correlationId']}")
    assert whole["summary"] == flow
    assert [(it["module"], it["state"]) for it in whole["jobs"]] == [("shout", "committed"), ("bad", "dead-lettered")]
    assert whole["jobs"][0]["committedBy"]["attempt"] == 1
    documents = served.get(f"/api/flows/{flow['correlationId']}/documents?kind=eventMeta")["items"]
    assert [it["body"]["type"] for it in documents] == ["photo.received", "photo.shouted"]
    first = served.get(f"/api/flows/{flow['correlationId']}/documents?limit=1")
    rest = served.get(f"/api/flows/{flow['correlationId']}/documents?limit=1&after={first['cursor']}")
    assert first["items"] != rest["items"]
    [log] = served.get(f"/api/events/{flow['eventId']}/logs")
    assert (log["module"], log["attempt"]["outcome"], "said loudly" in log["text"]) == ("shout", "committed", True)


def test_why_an_event_died_is_told_with_the_rule_and_what_to_type(served: Served) -> None:
    [flow] = served.get("/api/flows")["items"]
    [letter] = served.get("/api/dead-letters")["items"]
    [bad] = served.get(f"/api/events/{letter['eventId']}/why")
    assert (bad["module"], bad["state"], bad["letter"]) == ("bad", "dead letter", {"queue": "bad", "id": letter["id"]})
    assert bad["rule"]["name"] == "module-failed"
    assert f"ion-core dlq redrive {letter['id']}" in bad["next"]
    assert [it["state"] for it in served.get(f"/api/events/{flow['eventId']}/why")] == ["committed"]
    assert served.get("/api/events/none/why?flow=none") == []


def test_a_report_is_saved_and_never_shown(served: Served) -> None:
    [flow] = served.get("/api/flows")["items"]
    status, page = served.curl(f"/api/flows/{flow['correlationId']}/report", "-D", "head")
    assert (status, page[:15]) == (200, "<!doctype html>")
    assert "<b>shout</b>" in page
    assert HOSTILE not in page
    assert escape(HOSTILE, quote=False).replace("\u202e", r"\u202e") in page
    head = (served.directory / "head").read_text().lower()
    assert f"content-disposition: attachment; filename*=utf-8''flow-{flow['correlationId']}.html" in head
    assert "content-type: text/html" in head
    assert "sandbox" in head
    assert served.curl("/api/flows/none/report")[0] == 404


def test_a_file_is_saved_and_never_shown(served: Served) -> None:
    [flow] = served.get("/api/flows")["items"]
    files = served.get(f"/api/flows/{flow['correlationId']}/files")
    assert sorted(it["name"] for it in files) == sorted([HOSTILE, "shouted"])
    [came_in] = [it for it in files if it["cameIn"]]
    path = f"/api/flows/{flow['correlationId']}/file"
    status, body = served.curl(path, "-D", "head", "-G", "--data-urlencode", f"key={came_in['key']}")
    assert (status, body) == (200, "<b>a photo</b>")
    head = (served.directory / "head").read_text().lower()
    assert "content-disposition: attachment; filename*=utf-8''%3cimg%20src%3dx" in head
    assert "content-type: application/octet-stream" in head
    assert "x-content-type-options: nosniff" in head
    assert "sandbox" in head
    assert served.curl(path, "-G", "--data-urlencode", "key=../../ion.yaml")[0] == 404


def test_a_download_that_broke_off_goes_on_and_what_is_known_is_not_sent_again(served: Served) -> None:
    [flow] = served.get("/api/flows?outcome=dead")["items"]
    [came_in] = [it for it in served.get(f"/api/flows/{flow['correlationId']}/files") if it["cameIn"]]
    asked = (f"/api/flows/{flow['correlationId']}/file", "-G", "--data-urlencode", f"key={came_in['key']}")
    (served.directory / "part").write_text("<b>a ")
    assert served.curl(*asked, "-C", "-", "-o", "part")[0] == 206
    assert (served.directory / "part").read_text() == "<b>a photo</b>"
    known = ("-H", f'If-None-Match: "{came_in["sha256"]}"')
    assert served.curl(*asked, *known) == (304, "")
    assert served.curl(asked[0], "-I", *asked[1:], "-o", "head")[0] == 200
    assert f"content-length: {came_in['size']}" in (served.directory / "head").read_text().lower()


def test_pipeline_queues_and_what_runs_are_shown(served: Served) -> None:
    pipeline = served.get("/api/modules")
    assert [it["name"] for it in pipeline["modules"]] == ["shout", "slow", "bad"]
    assert {"source": "shout", "type": "photo.shouted", "target": "bad"} in pipeline["links"]
    assert {it["name"]: it["stats"]["dead"] for it in served.get("/api/queues")} == {"shout": 0, "slow": 0, "bad": 1}
    assert served.get("/api/running") == []


def test_metrics_say_what_happened(served: Served) -> None:
    status, said = served.curl("/metrics")
    assert status == 200
    for line in (
        'ion_attempts_finished_total{module="shout",outcome="committed",type="photo.received"} 1.0',
        'ion_attempts_finished_total{module="bad",outcome="dead-lettered",type="photo.shouted"}',
        'ion_events_published_total{type="photo.shouted"} 1.0',
        'ion_step_seconds_count{module="shout",step="module"} 1.0',
        'ion_step_seconds_count{module="shout",step="commit"} 1.0',
        'ion_dead_letters{queue="bad"} 1.0',
        'ion_slots{module="shout"}',
        "ion_ready 1.0",
    ):
        assert line in said


def test_dead_letters_are_grouped_put_back_seen_to_die_again_and_deleted(served: Served) -> None:
    [letter] = served.get("/api/dead-letters?module=bad&containing=EXIT")["items"]
    assert (letter["queue"], letter["type"], letter["logTail"]) == ("bad", "photo.shouted", ["it is broken: ********"])
    [group] = served.get("/api/dead-letters/groups")
    assert group["count"] == 1
    one = {"ids": [{"queue": "bad", "id": letter["id"]}]}
    assert served.curl("/api/dead-letters/redrive", "--json", json.dumps(one))[0] == 403
    served.token = MEND
    try:
        assert served.get("/api/dead-letters/redrive", "--json", json.dumps(one)) == {"redriven": 1}
        served.until(lambda: [it["id"] for it in served.get("/api/dead-letters")["items"]] not in ([], [letter["id"]]))
        again = {"reason": group["key"]}
        assert served.get("/api/dead-letters/redrive", "--json", json.dumps(again)) == {"redriven": 1}
        served.until(lambda: served.get("/api/dead-letters")["items"])
        assert served.get("/api/dead-letters/purge", "--json", '{"type": "photo.none"}') == {"purged": 0}
        assert served.get("/api/dead-letters/purge", "--json", '{"all": true}') == {"purged": 1}
        assert served.curl("/api/dead-letters/purge", "--json", json.dumps(one))[0] == 404
    finally:
        served.token = LOOK


def test_changes_come_as_they_happen_and_no_token_is_in_the_log(served: Served) -> None:
    command = ["curl", "-sSN", "-H", f"Authorization: Bearer {LOOK}", f"{served.url}/api/changes"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        try:
            assert following.stdout.readline() == ": hello\n"
            served.ion("event", "publish", "photo.received")
            told: list[str] = []
            while sum(line.startswith("event: finished") for line in told) < 2:
                told.append(following.stdout.readline())
        finally:
            following.kill()
    data = [json.loads(line.removeprefix("data: ")) for line in told if line.startswith("data: ")]
    assert {"published", "started"} <= {it["kind"] for it in data}
    assert data[0]["correlationId"]
    assert "canary" not in (served.directory / "serve.log").read_text()


def test_what_a_module_prints_is_followed_until_it_ends(served: Served) -> None:
    event = json.loads(served.ion("event", "publish", "photo.slow", "--json"))["context"]["eventId"]
    served.until(lambda: served.get("/api/running"))
    [runs] = served.get("/api/running")
    assert (runs["eventId"], runs["module"], runs["attempt"]) == (event, "slow", 1)
    command = ["curl", "-sSN", "-H", f"Authorization: Bearer {LOOK}", f"{served.url}/api/events/{event}/logs/follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        try:
            told = [following.stdout.readline() for _ in range(5)]
            assert told[2:] == [
                "id: 1\n",
                "event: line\n",
                'data: {"module": "slow", "attempt": 1, "text": "begun <b>"}\n',
            ]
            (served.directory / "go").write_text("over\n")
            rest = following.stdout.read()
        finally:
            following.kill()
    assert '"text": "over"' in rest
    assert "event: end\n" in rest


def test_no_secret_is_in_any_answer(served: Served) -> None:
    [flow] = served.get("/api/flows?type=photo.shouted&limit=1")["items"]
    ids = [it["eventId"] for it in served.get(f"/api/flows/{flow['correlationId']}")["events"]]
    paths = [
        it.path.format(flow=flow["correlationId"], event=event)
        for it in OPERATIONS
        for event in ids
        if it.method == "GET" and it.kind != "text/event-stream"
    ]
    said = {path: served.curl(path)[1] for path in paths}
    logs = [text for path, text in said.items() if path.endswith("/logs")]
    assert any("broken: ***" in text for text in logs), "the module has printed it"
    assert [path for path, text in said.items() if "canary" in text] == []


def test_a_token_is_replaced_without_a_restart(served: Served) -> None:
    new = "new-canary-0123456789"
    (served.directory / "look").write_text(new)
    served.process.send_signal(signal.SIGHUP)
    served.until(lambda: served.curl("/api/queues")[0] == 401)
    served.token = new
    try:
        assert served.curl("/api/queues")[0] == 200
    finally:
        (served.directory / "look").write_text(LOOK)
        served.process.send_signal(signal.SIGHUP)
        served.until(lambda: served.curl("/api/queues")[0] == 401)
        served.token = LOOK
    assert "canary" not in (served.directory / "serve.log").read_text()


def test_what_it_answers_is_valid_openapi_without_a_secret(served: Served) -> None:
    said = served.get("/api/openapi.json")
    assert said == document(guarded=True)
    validate(said, cls=OpenAPIV31SpecValidator)
    validate(document(guarded=False), cls=OpenAPIV31SpecValidator)
    assert not re.search("canary", json.dumps(said))


README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def block(before: str) -> str:
    """The first block of the page after these words."""
    return README.partition(before)[2].partition("```")[2].partition("\n")[2].partition("```")[0]


def test_the_example_of_the_page_works_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "ion.yaml").write_text(block("<!-- file: ion.yaml -->").replace("127.0.0.1:8090", "127.0.0.1:0"))
    publishing, *asking = block("<!-- run -->").splitlines() + block("<!-- run: publishing -->").splitlines()
    with serving(tmp_path) as it:
        it.ion(*publishing.split()[1:])
        it.until(lambda: it.get("/api/dead-letters")["items"])
        said = [
            subprocess.run(
                ["sh", "-c", line.replace("http://127.0.0.1:8090", it.url)],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            ).stdout
            for line in asking
        ]
    ready, metrics, flows, groups, redriven, by_json, by_form, listed = said
    assert json.loads(ready) == {"ready": True, "draining": False, "problems": []}
    assert 'ion_dead_letters{queue="shout"} 1.0' in metrics
    assert json.loads(flows)["items"][0]["outcome"] == "dead"
    assert json.loads(groups)[0]["count"] == 1
    assert json.loads(redriven) == {"redriven": 1}
    assert json.loads(by_json)["eventId"] == "note-1"
    assert {it["eventId"] for it in json.loads(listed)["items"]} == {"note-1", json.loads(by_form)["eventId"]}


SCHEMATHESIS = [
    *(sys.executable, "-m", "schemathesis.cli", "run"),
    *("--phases", "coverage,fuzzing", "--max-examples", "10", "--generation-deterministic"),
    *(
        "--checks",
        "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
        "response_schema_conformance,unsupported_method,allow_header_conformance,ignored_auth",
    ),
    *("--continue-on-failure", "--warnings", "off", "--no-color", "--exclude-path-regex", "follow|changes|purge"),
    *("--request-timeout", "60", "--request-retries", "3", "--suppress-health-check", "all"),
]


@pytest.mark.timeout(400)
def test_what_it_says_is_true_of_a_console_that_is_served(served: Served) -> None:
    """By Schemathesis, as in the gateway's test; streams have no end, and purging would leave nothing to others."""
    ran = subprocess.run(
        [*SCHEMATHESIS, f"{served.url}/api/openapi.json", "--header", f"Authorization: Bearer {MEND}"],
        cwd=served.directory,
        env={**ENVIRONMENT, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "a request" not in (served.directory / "serve.log").read_text(), "none failed"
