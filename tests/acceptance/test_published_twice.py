"""An event in two messages whose job fails: one round of attempts and one dead letter, through crashes, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.pipeline import Pipeline

CONFIG = """
modules:
  fails:
    command: [sh, fails.sh]
    source: modules
    subscribes: [work.asked]
    retries: 1
    retry: {{initial: 10ms}}
    env: {{RUNS: "{runs}"}}
"""
FAILS = """
echo fails >> "$RUNS"
exit 3
"""
pytestmark = pytest.mark.timeout(300)  # a dozen processes one after the other, on a slow machine

RUNS = 2
"""Of one round."""


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline.make(tmp_path / "pipeline", config=CONFIG, modules={"fails": FAILS})


def publish(pipeline: Pipeline, *, times: int = 1) -> str:
    return [pipeline.publish("work.asked", event_id="e") for _ in range(times)][-1]


def serve(pipeline: Pipeline, *, code: int = 1) -> str:
    return pipeline.ion("serve", "--until-idle", code=code).stderr


def letters(pipeline: Pipeline) -> list[str]:
    return [letter["eventId"] for letter in pipeline.dead_letters()]


def test_one_round_one_dead_letter_and_the_flow_says_so(pipeline: Pipeline) -> None:
    correlation_id = publish(pipeline, times=3)
    said = serve(pipeline)
    assert "`ion-core dlq list` shows it" in said
    assert (pipeline.runs()["fails"], letters(pipeline)) == (RUNS, ["e"])
    assert pipeline.pending() == 0
    flow = pipeline.ion("trace", "flow", correlation_id).stdout
    assert "1 dead-lettered" in flow
    assert "duplicate" not in flow


@pytest.mark.parametrize("times", [1, 2])
def test_a_crash_between_record_and_settlement_loses_nothing(pipeline: Pipeline, times: int) -> None:
    """At the first attempt, and at the last."""
    publish(pipeline, times=times)
    for crashes in (1, 2):
        pipeline.ion("serve", "--until-idle", code=137, ION_TESTING="1", ION_CRASH_AT="failed")
        [record] = pipeline.documents("round")
        assert record["attempt"] == 1, "given back as it was, it is the same attempt once more"
        assert (pipeline.runs()["fails"], letters(pipeline)) == (crashes, [])
    serve(pipeline)
    assert (pipeline.runs()["fails"], letters(pipeline)) == (2 + RUNS, ["e"])


def test_a_crash_before_it_becomes_a_dead_letter_loses_nothing(tmp_path: Path) -> None:
    config = CONFIG.replace("retries: 1", "retries: 0")
    pipeline = Pipeline.make(tmp_path / "pipeline", config=config, modules={"fails": FAILS})
    publish(pipeline, times=2)
    pipeline.ion("serve", "--until-idle", code=137, ION_TESTING="1", ION_CRASH_AT="failed")
    [record] = pipeline.documents("round")
    assert (record["state"], letters(pipeline)) == ("dead", [])
    serve(pipeline)
    assert (pipeline.runs()["fails"], letters(pipeline)) == (2, ["e"])


def test_what_is_redriven_runs_and_commits(pipeline: Pipeline) -> None:
    publish(pipeline, times=2)
    serve(pipeline)
    pipeline.ion("dlq", "redrive", "--all")
    assert pipeline.documents("round") == []
    serve(pipeline)
    assert (pipeline.runs()["fails"], letters(pipeline)) == (2 * RUNS, ["e"])
    (pipeline.home / "modules" / "fails.sh").write_text('echo fails >> "$RUNS"')
    pipeline.ion("dlq", "redrive", "--all")
    publish(pipeline)
    serve(pipeline, code=0)
    assert (len(pipeline.documents("commit")), letters(pipeline)) == (1, [])
    assert pipeline.runs()["fails"] == 2 * RUNS + 1


def test_published_anew_beside_its_dead_letter_it_does_not_run_and_after_a_purge_it_does(pipeline: Pipeline) -> None:
    publish(pipeline)
    serve(pipeline)
    publish(pipeline)
    assert "redrive it, or purge it and publish the event anew" in serve(pipeline, code=0)
    assert (pipeline.runs()["fails"], letters(pipeline)) == (RUNS, ["e"])
    pipeline.ion("dlq", "purge", "--all", "--yes")
    assert pipeline.documents("round") == []
    publish(pipeline)
    serve(pipeline)
    assert (pipeline.runs()["fails"], letters(pipeline)) == (2 * RUNS, ["e"])


def test_a_dropped_queue_takes_its_records_with_it(pipeline: Pipeline) -> None:
    publish(pipeline)
    serve(pipeline)
    config = pipeline.home / "ion.yaml"
    theirs = config.read_text()
    config.write_text(theirs.replace("  fails:", "  other:"))
    pipeline.ion("module", "drop", "fails", "--yes")
    assert pipeline.documents("round") == []
    config.write_text(theirs)
    publish(pipeline)
    serve(pipeline)
    assert (pipeline.runs()["fails"], letters(pipeline)) == (2 * RUNS, ["e"])


def test_the_record_goes_with_its_flow(pipeline: Pipeline) -> None:
    publish(pipeline, times=2)
    serve(pipeline)
    assert json.loads(pipeline.ion("gc", "--older-than", "0s", "--json").stdout)["flows"] == 0, "its letter is there"
    pipeline.ion("dlq", "redrive", "--all")
    serve(pipeline)
    letter = pipeline.dead_letters()[0]["id"]
    assert len(pipeline.documents("round")) == 1
    pipeline.ion("dlq", "purge", letter, "--yes")
    removed = json.loads(pipeline.ion("gc", "--older-than", "0s", "--json").stdout)
    assert (removed["flows"], pipeline.documents()) == (1, [])
