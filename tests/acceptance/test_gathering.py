"""A gatherer by real ``serve`` processes: kill -9 at each step, purges that are cut short, two dispatchers."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ion_core import crash
from tests.acceptance.pipeline import Pipeline

SPLIT = """
echo split >> "$RUNS"
for n in 1 2 3 4; do
    printf '[{"key":"eventType","value":"part.made"},{"key":"n","value":"%s"}]' $n \\
        > "$HANDLER_BASE_DIR/out/events/$n.json"
done
"""
JOIN = """
echo join >> "$RUNS"
if grep -q '"value": *"'"${BROKEN:-none}"'"' "$HANDLER_BASE_DIR/in/eventmeta.json"; then exit 3; fi
cp "$HANDLER_BASE_DIR/in/eventmeta.json" "$HANDLER_BASE_DIR/out/data/same.json"
printf '[{"key":"eventType","value":"part.joined"},{"key":"files","value":"same.json"}]' \\
    > "$HANDLER_BASE_DIR/out/events/0"
"""
BIND = """
echo bind >> "$RUNS"
cp -r "$HANDLER_BASE_DIR/in/." "$HANDLER_BASE_DIR/out/data/"
"""
CONFIG = """
modules:
  split:
    command: [sh, split.sh]
    source: modules
    subscribes: [whole.received]
    publishes: [part.made]
    env: {{RUNS: "{runs}"}}
  join:
    command: [sh, join.sh]
    source: modules
    subscribes: [part.made]
    publishes: [part.joined]
    concurrency: 2
    retries: 0
    env: {{RUNS: "{runs}", BROKEN: "${{env:BROKEN:-none}}"}}
  bind:
    command: [sh, bind.sh]
    source: modules
    gather: {{events: [part.joined], within: whole.received, missing: "${{env:MISSING:-wait}}"}}
    env: {{RUNS: "{runs}"}}
"""
AFTER_A_COMMIT = {"S9", "S11", crash.DECIDED, crash.STARTED}
"""Points after which something is committed, so that a process that crashes there again and again comes to an end."""


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    modules = {"split": SPLIT, "join": JOIN, "bind": BIND}
    return Pipeline.make(tmp_path / "pipeline", config=CONFIG, modules=modules)


def gathered(pipeline: Pipeline) -> list[dict[str, Any]]:
    """What each commit of the gatherer was given: it keeps its input."""
    found = []
    for commit in pipeline.documents("commit"):
        if commit["context"]["name"] == "bind":
            [key] = [it["key"] for it in commit["outputs"] if it["name"] == "gathered.json"]
            found.append(json.loads((pipeline.state / "blobs" / "files" / key).read_text()))
    return found


def parts(told: dict[str, Any]) -> list[str]:
    return [it["directory"] for it in told["events"]]


def assert_gathered_once(pipeline: Pipeline, count: int = 4, missing: int = 0) -> None:
    [told] = gathered(pipeline)
    assert (len(told["events"]), len(told["missing"])) == (count, missing)
    assert pipeline.pending() == 0
    for kind in ("commit", "gathering", "givenUp"):
        assert pending(pipeline, kind) == []


def pending(pipeline: Pipeline, kind: str) -> list[str]:
    with closing(sqlite3.connect(pipeline.state / "documents.sqlite")) as database:
        return [id for (id,) in database.execute("SELECT id FROM documents WHERE pending = 1 AND kind = ?", (kind,))]


@pytest.mark.parametrize("step", [*crash.STEPS, crash.WAITING, crash.DECIDED, crash.STARTED])
def test_a_crash_at_any_step_changes_nothing(step: str, pipeline: Pipeline) -> None:
    pipeline.publish(files=0)
    for _ in range(7 if step in AFTER_A_COMMIT else 1):
        done = pipeline.ion("serve", "--until-idle", code=None, ION_TESTING="1", ION_CRASH_AT=step)
        assert done.returncode in (0, 137), done.stderr
        assert len(gathered(pipeline)) <= 1
        if done.returncode == 0:
            break
    pipeline.ion("serve", "--until-idle")
    assert_gathered_once(pipeline)


@pytest.mark.parametrize("missing", ["wait", "go"])
def test_a_crash_as_a_job_is_given_up_changes_nothing(pipeline: Pipeline, missing: str) -> None:
    pipeline.publish(files=0)
    crashing = {"ION_TESTING": "1", "ION_CRASH_AT": crash.FAILED}
    pipeline.ion("serve", "--until-idle", code=137, BROKEN="2", MISSING=missing, **crashing)
    pipeline.ion("serve", "--until-idle", code=1, BROKEN="2", MISSING=missing)
    if missing == "wait":
        assert gathered(pipeline) == []
        pipeline.ion("dlq", "purge", "--all", "--yes")
        pipeline.ion("serve", "--until-idle", MISSING=missing)
    assert_gathered_once(pipeline, 3, 1)


@pytest.mark.parametrize("point", [crash.GIVEN_UP, crash.PURGED])
def test_a_purge_that_dies_leads_to_the_gatherer_all_the_same(point: str, pipeline: Pipeline) -> None:
    pipeline.publish(files=0)
    pipeline.ion("serve", "--until-idle", code=1, BROKEN="2")
    crashing = {"ION_TESTING": "1", "ION_CRASH_AT": point}
    pipeline.ion("dlq", "purge", "--all", "--yes", code=137, **crashing)
    pipeline.ion("serve", "--until-idle")
    if point == crash.GIVEN_UP:
        assert gathered(pipeline) == []
        assert len(pipeline.dead_letters()) == 1  # it is there, and holds it back
        pipeline.ion("dlq", "purge", "--all", "--yes")
        pipeline.ion("serve", "--until-idle")
    assert_gathered_once(pipeline, 3, 1)


@pytest.mark.parametrize("event_type", ["part.joined", "ion.gathered.bind"])
def test_it_is_tried_with_what_was_gathered_and_nothing_else(pipeline: Pipeline, event_type: str) -> None:
    refused = pipeline.ion("module", "run", "bind", "--type", event_type, code=2).stderr
    assert f"takes no events of type '{event_type}', only what was gathered" in refused
    assert "`ion-core trace flow` shows that as ion.gathered.bind" in refused
    pipeline.publish(files=0)
    pipeline.ion("serve", "--until-idle")
    given = next(it for it in pipeline.documents() if it.get("type") == "ion.gathered.bind")
    assert "bind would commit" in pipeline.ion("module", "run", "bind", "--event", given["id"]).stdout


def test_a_purge_starts_it_at_once(pipeline: Pipeline) -> None:
    flow = pipeline.publish(files=0, event_id="whole")
    pipeline.ion("serve", "--until-idle", code=1, BROKEN="2")
    [letter] = pipeline.dead_letters()
    waits = f"bind waits for 1 job beneath whole.received whole: join of part.made {letter['eventId']}, a dead letter"
    assert waits in pipeline.ion("trace", "flow", flow).stdout.splitlines()
    assert waits in (why := pipeline.ion("why", "whole").stdout.splitlines())
    assert "  ion-core dlq list --module join" in why
    [told] = json.loads(pipeline.ion("why", letter["eventId"], "--json").stdout)["gatherers"]
    assert (told["gatherer"], told["scope"]["eventId"], len(told["awaited"])) == ("bind", "whole", 1)
    with pipeline.serving() as served:
        served.until("serving")
        pipeline.ion("dlq", "purge", "--all", "--yes")
        served.until("module=bind", count=2)
    assert_gathered_once(pipeline, 3, 1)
    assert "waits" not in pipeline.ion("trace", "flow", flow).stdout
