"""Whole jobs as processes of their own: serve may be killed at any step, and nothing runs twice (decision 0043)."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ion_core.crash import STEPS
from tests.acceptance.pipeline import CONFIG, JOIN, Pipeline, assert_invariants
from tests.acceptance.test_killed import WAITING, is_alive, let_it_go_on, until_it_runs

ELSEWHERE = "runtimes: {{default: {{provider: subprocess}}}}\n" + CONFIG
IN_A_PROCESS_OF_ITS_OWN = {"S4", "S8", "S9"}
BEFORE_START = {"S0", "S1", "S2", "S3"}


@pytest.fixture
def waiting(tmp_path: Path) -> Pipeline:
    """A pipeline whose module tells by a FIFO that it runs, and waits at another."""
    return _waiting(tmp_path / "pipeline", "drain_timeout: 100ms\n" + ELSEWHERE)


def _waiting(home: Path, config: str) -> Pipeline:
    pipeline = Pipeline.make(home, config=config, modules={"split": WAITING, "join": JOIN})
    os.mkfifo(home / "runs.gate")
    os.mkfifo(home / "runs.started")
    return pipeline


def assert_nothing_is_left(pipeline: Pipeline) -> None:
    """Directories in the making of a killed `serve` neither."""
    assert [path.name for path in (pipeline.state / "jobs").iterdir()] == []


@pytest.mark.parametrize("step", [step for step in STEPS if step not in IN_A_PROCESS_OF_ITS_OWN])
def test_serve_may_crash_at_any_step_of_its_own(step: str, tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline", config=ELSEWHERE)
    pipeline.publish(files=3)
    pipeline.ion("serve", "--until-idle", code=137, ION_TESTING="1", ION_CRASH_AT=step)
    assert pipeline.runs()["split"] <= (0 if step in BEFORE_START else 1)

    pipeline.ion("serve", "--until-idle")

    assert_invariants(pipeline, events=1, committed={"split": 1, "join": 3})
    assert pipeline.runs() == {"split": 1, "join": 3}, "no module ran twice"
    assert_nothing_is_left(pipeline)
    logs = {log["context"]["name"] for log in pipeline.documents("modulelogs")}
    assert logs == {"split", "join"}


@pytest.mark.parametrize("step", sorted(IN_A_PROCESS_OF_ITS_OWN))
def test_steps_elsewhere_may_crash_and_cost_no_attempt(step: str, tmp_path: Path) -> None:
    """After S9 the first one has committed for all that."""
    pipeline = Pipeline.make(tmp_path / "pipeline", config=ELSEWHERE.replace("retries: 1", "retries: 0"))
    pipeline.publish(files=1)
    with pipeline.serving(ION_TESTING="1", ION_CRASH_AT=step) as served:
        served.until("job committed" if step == "S9" else "the engine lost a job")
        served.send(signal.SIGKILL)
        served.ended()
    pipeline.ion("serve", "--until-idle")
    assert len(pipeline.documents("commit")) == 4
    assert pipeline.pending() == 0
    assert_nothing_is_left(pipeline)


def test_a_drain_leaves_the_job_and_the_next_serve_fetches_it(waiting: Pipeline) -> None:
    waiting.publish()
    with waiting.serving() as served:
        pid = until_it_runs(waiting)
        served.send(signal.SIGTERM)
        assert served.ended() == 128 + signal.SIGTERM
    assert is_alive(pid)
    let_it_go_on(waiting)
    waiting.ion("serve", "--until-idle")
    [commit] = waiting.documents("commit")
    [log] = waiting.documents("modulelogs")
    assert (log["token"], log["outcome"]) == (commit["token"], "committed")
    assert waiting.runs()["split"] == 1
    assert_nothing_is_left(waiting)


def test_a_second_sigterm_stops_the_job(tmp_path: Path) -> None:
    pipeline = _waiting(tmp_path / "pipeline", ELSEWHERE)
    pipeline.publish()
    with pipeline.serving() as served:
        pid = until_it_runs(pipeline)
        served.send(signal.SIGTERM)
        served.until("draining")
        served.send(signal.SIGTERM)
        assert served.ended() == 128 + signal.SIGTERM
    assert not is_alive(pid), "no orphan"
    assert pipeline.documents("commit") == []
    assert pipeline.pending() == 1
    assert_nothing_is_left(pipeline)


def test_what_runs_one_step_here_says_that_an_executor_does_not(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline", config=ELSEWHERE)
    refused = pipeline.ion("module", "run", "split", "--type", "whole.received", code=78)
    assert "runtimes.default: subprocess takes whole jobs of `serve`" in refused.stderr
    assert "--runtime process" in refused.stderr
    pipeline.ion("module", "run", "split", "--type", "whole.received", "--runtime", "process")
