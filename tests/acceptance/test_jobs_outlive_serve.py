"""Whole jobs as local processes: they outlive `ion-core serve`, and the next one fetches them."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import pytest

from ion_core.embedded.jobs import layout
from ion_core.embedded.programs import table
from ion_core.events import MODULE_LOGS
from tests.acceptance.pipeline import TIMEOUT, Pipeline, assert_invariants

RUNTIME = "runtimes: {{default: {{provider: subprocess}}}}\n"
CONFIG = (
    RUNTIME
    + """
modules:
  split:
    command: [sh, split.sh]
    source: modules
    subscribes: [whole.received]
    concurrency: 3
    env: {{RUNS: "{runs}"}}
"""
)
# Each runs until there is a gate, and reports before that in a FIFO that it runs.
WAITING = """
echo split >> "$RUNS"
echo "$$" > "$RUNS.started"
while [ ! -e "$RUNS.gate" ]; do sleep 0.05; done
echo done > "$HANDLER_BASE_DIR/out/data/line.txt"
"""


@pytest.fixture
def waiting(tmp_path: Path) -> Pipeline:
    pipeline = Pipeline.make(tmp_path / "pipeline", config=CONFIG, modules={"split": WAITING})
    os.mkfifo(pipeline.home / "runs.started")
    return pipeline


def until_they_run(pipeline: Pipeline, count: int) -> list[int]:
    """Wait until so many modules run; their pids."""
    pids: list[int] = []
    fd = os.open(pipeline.home / "runs.started", os.O_RDWR)  # so that it does not end between two writers
    with os.fdopen(fd, "rb", buffering=0) as started:
        while len(pids) < count:
            pids.append(int(started.readline()))
    return pids


def let_them_go_on(pipeline: Pipeline) -> None:
    (pipeline.home / "runs.gate").touch()


def supervisors(pipeline: Pipeline) -> list[int]:
    found = (layout.supervised(str(job))[0] for job in (pipeline.state / "jobs").iterdir())
    return [it.pid for it in found if it is not None]


def has_ended(fd: int) -> bool:
    """Whether the process of that descriptor ends, in good time."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    found = bool(poll.poll(1000 * TIMEOUT))
    os.close(fd)
    return found


def test_three_jobs_outlive_a_killed_serve_and_commit_once(waiting: Pipeline) -> None:
    for _ in range(3):
        waiting.publish()
    with waiting.serving("--until-idle") as first:
        pids = until_they_run(waiting, 3)
        first.send(signal.SIGKILL)
        assert first.ended() == -signal.SIGKILL
    for pid in pids:
        os.kill(pid, 0)  # it runs
    with waiting.serving("--until-idle") as second:
        second.until("its job is with the engine already", count=3)
        let_them_go_on(waiting)
        assert second.ended() == 0, second.log
    assert_invariants(waiting, events=3, committed={"split": 3})
    assert waiting.runs()["split"] == 3, "a job ran twice"
    assert list((waiting.state / "jobs").iterdir()) == []


def test_jobs_go_on_as_they_were_started_whatever_the_configuration_says_now(waiting: Pipeline) -> None:
    """Another command, environment and timeout, and room for fewer than run: what comes next has those."""
    for _ in range(3):
        waiting.publish()
    with waiting.serving("--until-idle") as first:
        until_they_run(waiting, 3)
        first.send(signal.SIGKILL)
        first.ended()
    file = waiting.home / "ion.yaml"
    changed = file.read_text().replace("concurrency: 3", "concurrency: 1\n    timeout: 1ms\n    retries: 0")
    file.write_text(changed.replace("[sh, split.sh]", "[sh, -c, exit 9]").replace("RUNS:", "OTHER:"))
    with waiting.serving("--until-idle") as second:
        second.until("its job is with the engine already")
        let_them_go_on(waiting)
        assert second.ended() == 0, second.log
    assert_invariants(waiting, events=3, committed={"split": 3})
    assert waiting.runs()["split"] == 3
    assert list((waiting.state / "jobs").iterdir()) == []
    waiting.publish()
    waiting.ion("serve", "--until-idle", code=1)
    assert len(waiting.dead_letters()) == 1, "the next job is as the configuration says"


def test_jobs_that_end_while_nobody_serves_are_fetched_by_the_next(waiting: Pipeline) -> None:
    waiting.publish()
    with waiting.serving("--until-idle") as first:
        until_they_run(waiting, 1)
        first.send(signal.SIGKILL)
        assert first.ended() == -signal.SIGKILL
    (supervisor,) = supervisors(waiting)
    fd = os.pidfd_open(supervisor)
    let_them_go_on(waiting)
    assert has_ended(fd), "its supervisor ends when the job does"
    waiting.ion("serve", "--until-idle")
    assert_invariants(waiting, events=1, committed={"split": 1})
    assert waiting.runs()["split"] == 1, "it ran twice"


def test_a_job_whose_supervisor_is_killed_runs_again_and_is_no_failed_attempt(waiting: Pipeline) -> None:
    waiting.publish()
    with waiting.serving("--until-idle") as served:
        (orphan,) = until_they_run(waiting, 1)
        (supervisor,) = supervisors(waiting)
        os.kill(supervisor, signal.SIGKILL)
        (again,) = until_they_run(waiting, 1)
        assert again != orphan
        assert table.identify(orphan) is None, "it runs on"  # a zombie does not: process 1 may not wait for it yet
        let_them_go_on(waiting)
        assert served.ended() == 0, served.log
        assert "the engine lost a job" in served.log
    assert_invariants(waiting, events=1, committed={"split": 1})
    assert [log["attempt"] for log in waiting.documents(MODULE_LOGS)] == [1]
