"""Real kill -9, at moments nobody chose, and signals that ask politely."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.pipeline import CONFIG, ION, JOIN, Pipeline, assert_invariants, environment

# Runs until somebody opens the other end of the FIFO, so that a test knows that it runs and decides when it goes on.
WAITING = """
echo split >> "$RUNS"
echo $$ > "$RUNS.pid"
echo "module is waiting" > "$RUNS.started"
read -r line < "$RUNS.gate"
echo "$line" > "$HANDLER_BASE_DIR/out/data/line.txt"
"""


@pytest.fixture
def waiting(tmp_path: Path) -> Pipeline:
    """A pipeline whose module reports in a FIFO that it runs, and waits at another."""
    pipeline = Pipeline.make(tmp_path / "pipeline", modules={"split": WAITING, "join": JOIN})
    os.mkfifo(tmp_path / "pipeline" / "runs.gate")
    os.mkfifo(tmp_path / "pipeline" / "runs.started")
    return pipeline


def until_it_runs(pipeline: Pipeline) -> int:
    """Wait until the module runs; its pid."""
    assert (pipeline.home / "runs.started").read_text() == "module is waiting\n"
    return int((pipeline.home / "runs.pid").read_text())


def let_it_go_on(pipeline: Pipeline) -> None:
    (pipeline.home / "runs.gate").write_text("on\n")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state not in "ZX"


def test_kill_9_in_the_middle_of_a_job_is_as_if_nothing_had_happened(waiting: Pipeline) -> None:
    waiting.publish()
    with waiting.serving("--until-idle") as first:
        orphan = until_it_runs(waiting)
        first.send(signal.SIGKILL)
        assert first.ended() == -signal.SIGKILL
    with waiting.serving("--until-idle") as second:
        again = until_it_runs(waiting)
        assert again != orphan
        assert not is_alive(orphan), "the module of the earlier life is gone before the next one starts"
        let_it_go_on(waiting)
        assert second.ended() == 0, second.log
        assert "earlier life" in second.log
    assert_invariants(waiting, events=1, committed={"split": 1})
    assert waiting.runs()["split"] == 2


def test_many_kills_at_random_lose_and_double_nothing(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    for _ in range(8):
        pipeline.publish()
    chance = random.Random(7)
    for _ in range(6):
        with pipeline.serving("--until-idle") as served:
            served.until("job committed", count=chance.randint(1, 4))
            served.send(signal.SIGKILL)
            assert served.ended() in (-signal.SIGKILL, 0)
    pipeline.ion("serve", "--until-idle")
    assert_invariants(pipeline, events=8, committed={"split": 8, "join": 24})


def test_sigterm_lets_the_running_job_finish(waiting: Pipeline) -> None:
    waiting.publish()
    with waiting.serving() as served:
        until_it_runs(waiting)
        served.send(signal.SIGTERM)
        served.until("draining")
        let_it_go_on(waiting)
        assert served.ended() == 128 + signal.SIGTERM
    assert_invariants(waiting, events=1, committed={"split": 1})
    assert waiting.runs()["split"] == 1


def test_sigint_drains_too_and_has_its_own_exit_code(waiting: Pipeline) -> None:
    with waiting.serving() as served:
        served.until("serving")
        served.send(signal.SIGINT)
        assert served.ended() == 128 + signal.SIGINT


def test_a_second_sigterm_stops_the_module_and_gives_the_event_back(waiting: Pipeline) -> None:
    waiting.publish()
    with waiting.serving() as served:
        pid = until_it_runs(waiting)
        served.send(signal.SIGTERM)
        served.until("draining")
        served.send(signal.SIGTERM)
        assert served.ended() == 128 + signal.SIGTERM
    assert not is_alive(pid), "no orphan"
    assert waiting.documents("commit") == []
    assert waiting.pending() == 1
    [log] = waiting.documents("modulelogs")
    assert log["outcome"] == "released"

    with waiting.serving("--until-idle") as again:
        until_it_runs(waiting)
        let_it_go_on(waiting)
        assert again.ended() == 0
    *_, log = waiting.documents("modulelogs")
    assert (log["attempt"], log["succeeded"]) == (1, True), "a shutdown does not count as an attempt"


def test_the_drain_timeout_bounds_the_drain(tmp_path: Path) -> None:
    pipeline = Pipeline.make(
        tmp_path / "pipeline", config="drain_timeout: 100ms\n" + CONFIG, modules={"split": WAITING, "join": JOIN}
    )
    os.mkfifo(pipeline.home / "runs.gate")
    os.mkfifo(pipeline.home / "runs.started")
    pipeline.publish()
    with pipeline.serving() as served:
        pid = until_it_runs(pipeline)
        served.send(signal.SIGTERM)
        assert served.ended() == 128 + signal.SIGTERM
    assert not is_alive(pid)
    assert pipeline.pending() == 1


def test_two_serves_on_one_state_directory_the_second_names_the_first(waiting: Pipeline) -> None:
    with waiting.serving() as first:
        first.until("serving")
        second = waiting.ion("serve", "--until-idle", code=75)
        assert f"pid {first.process.pid}" in second.stderr
        first.send(signal.SIGTERM)
        assert first.ended() == 128 + signal.SIGTERM


def test_an_event_published_while_serving_is_taken_at_once(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    with pipeline.serving() as served:
        served.until("serving")
        pipeline.publish()
        served.until("job committed", count=4)
        served.send(signal.SIGTERM)
        assert served.ended() == 128 + signal.SIGTERM
    assert_invariants(pipeline, events=1, committed={"split": 1, "join": 3})


def test_the_same_event_twice_is_one_commit(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    for _ in range(2):
        pipeline.ion("event", "publish", "whole.received", "--event-id", "e1", "--correlation-id", "c1")
    pipeline.ion("serve", "--until-idle")
    assert_invariants(pipeline, events=1, committed={"split": 1, "join": 3})
    assert pipeline.runs()["split"] == 1


def test_publish_from_many_processes_at_once_loses_nothing(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    processes = [
        subprocess.Popen(
            [*ION, "event", "publish", "whole.received"],
            cwd=pipeline.home,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for _ in range(6)
    ]
    for process in processes:
        _, complaint = process.communicate(timeout=60)
        assert process.returncode == 0, complaint
    pipeline.ion("serve", "--until-idle")
    assert_invariants(pipeline, events=6, committed={"split": 6, "join": 18})
