"""`ion-core serve --workers N`: real processes, killed, stopped and told to end, as one `serve` each."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from ion_core.crash import DIED, STEPS
from tests.acceptance.pipeline import JOIN, Pipeline, Served, assert_invariants
from tests.acceptance.test_following import watching
from tests.acceptance.test_killed import WAITING, is_alive, let_it_go_on, until_it_runs

TWO = ("--workers", "2")


@pytest.fixture
def waiting(tmp_path: Path) -> Pipeline:
    """A pipeline whose module reports in a FIFO that it runs, and waits at another."""
    pipeline = Pipeline.make(tmp_path / "pipeline", modules={"split": WAITING, "join": JOIN})
    os.mkfifo(tmp_path / "pipeline" / "runs.gate")
    os.mkfifo(tmp_path / "pipeline" / "runs.started")
    return pipeline


def workers_of(served: Served) -> dict[int, int]:
    """The pid of each, as it was started last."""
    served.until("INFO serving")
    return {int(n): int(pid) for n, pid in re.findall(r"worker started worker=(\d+) pid=(\d+)", served.log)}


def who_runs(served: Served, module: str = "split") -> int:
    """The number of the worker that has begun the last job of that module."""
    served.until("job started")
    return int(re.findall(rf"job started .*module={module} .*worker=(\d+)", served.log)[-1])


def assert_nothing_is_left(pipeline: Pipeline, *pids: int) -> None:
    assert not any(is_alive(pid) for pid in pids)
    assert list(pipeline.state.glob("live*.sock")) == []
    assert list(pipeline.state.glob("work-*")) == []


def test_two_workers_share_the_jobs_and_end_as_one_serve(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    for _ in range(2):
        pipeline.publish()

    with pipeline.serving(*TWO, "--until-idle") as served:
        assert served.ended() == 0, served.log

    pids = workers_of(served)
    assert sorted(pids) == [1, 2]
    assert_invariants(pipeline, events=2, committed={"split": 2, "join": 6})
    assert len(set(re.findall(r"job committed .*module=split .*worker=(\d)", served.log))) == 1, "its concurrency is 1"
    assert_nothing_is_left(pipeline, *pids.values())


def test_each_line_of_a_log_in_json_says_which_worker_it_is_of(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    pipeline.publish()

    done = pipeline.ion("serve", *TWO, "--until-idle", "--log-format", "json")

    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["worker"] for line in lines if line["message"] == "job committed"} <= {1, 2}
    assert sum(line["message"] == "job committed" for line in lines) == 4


def test_a_dead_letter_of_any_worker_is_the_exit_code(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline", modules={"split": "exit 3", "join": JOIN})
    pipeline.publish()

    pipeline.ion("serve", *TWO, "--until-idle", code=1)

    assert len(pipeline.dead_letters()) == 1


def test_a_dead_letter_of_a_worker_that_is_killed_at_once_is_the_exit_code(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline", modules={"split": "exit 3", "join": JOIN})
    pipeline.publish()

    done = pipeline.ion("serve", *TWO, "--until-idle", code=1, ION_TESTING="1", ION_CRASH_AT=DIED)

    assert "ended with exit code 137" in done.stderr
    assert len(pipeline.dead_letters()) == 1


@pytest.mark.parametrize("step", STEPS)
def test_a_worker_that_dies_at_any_step_is_replaced_and_nothing_is_lost(step: str, tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    pipeline.publish(files=3)

    done = pipeline.ion("serve", *TWO, "--until-idle", ION_TESTING="1", ION_CRASH_AT=step)

    assert "ended with exit code 137. It is started again in" in done.stderr
    assert_invariants(pipeline, events=1, committed={"split": 1, "join": 3})
    assert_nothing_is_left(pipeline)


def test_a_worker_that_is_killed_is_replaced_and_its_job_comes_back(waiting: Pipeline) -> None:
    waiting.publish()
    with waiting.serving(*TWO, "--until-idle") as served:
        orphan = until_it_runs(waiting)
        number, pids = who_runs(served), workers_of(served)
        os.kill(pids[number], signal.SIGKILL)
        until_it_runs(waiting)
        assert not is_alive(orphan), "the module of the worker that died is gone before its job runs again"
        let_it_go_on(waiting)
        assert served.ended() == 0, served.log
    assert f"worker {number}: was ended by SIGKILL" in served.log
    assert f"ready again: worker {number}" in served.log
    assert_invariants(waiting, events=1, committed={"split": 1})
    assert waiting.runs()["split"] == 2
    assert_nothing_is_left(waiting, *pids.values())


def test_workers_end_with_a_serve_that_is_killed(waiting: Pipeline) -> None:
    waiting.publish()
    with waiting.serving(*TWO) as served:
        orphan = until_it_runs(waiting)
        pids = workers_of(served)
        served.send(signal.SIGKILL)
        assert served.ended() == -signal.SIGKILL  # nobody holds its stderr any more
    with waiting.serving(*TWO, "--until-idle") as again:  # nobody holds the state directory any more
        until_it_runs(waiting)
        assert not any(is_alive(pid) for pid in (orphan, *pids.values()))
        let_it_go_on(waiting)
        assert again.ended() == 0, again.log
    assert_invariants(waiting, events=1, committed={"split": 1})
    assert_nothing_is_left(waiting)


def test_one_serve_without_workers_clears_up_after_some_that_were_killed(waiting: Pipeline) -> None:
    waiting.publish()
    with waiting.serving(*TWO) as served:
        orphan = until_it_runs(waiting)
        served.send(signal.SIGKILL)
        served.ended()
    with waiting.serving("--until-idle") as again:
        until_it_runs(waiting)
        assert not is_alive(orphan)
        let_it_go_on(waiting)
        assert again.ended() == 0, again.log
    assert_invariants(waiting, events=1, committed={"split": 1})
    assert [path.name for path in waiting.state.glob("work-*") if any(path.iterdir())] == []
    assert list(waiting.state.glob("live*.sock")) == []


def test_a_worker_that_hangs_is_killed_and_its_job_comes_back(waiting: Pipeline) -> None:
    """It takes as long as a worker may be silent."""
    waiting.publish()
    with waiting.serving(*TWO, "--until-idle") as served:
        until_it_runs(waiting)
        number, pids = who_runs(served), workers_of(served)
        os.kill(pids[number], signal.SIGSTOP)
        served.until("gives no sign of life")
        until_it_runs(waiting)
        let_it_go_on(waiting)
        assert served.ended() == 0, served.log
    assert_invariants(waiting, events=1, committed={"split": 1})
    assert_nothing_is_left(waiting, *pids.values())


def test_a_worker_that_hangs_keeps_serve_no_longer_than_its_time_to_drain(waiting: Pipeline) -> None:
    config = waiting.home / "ion.yaml"
    config.write_text("drain_timeout: 1s\n" + config.read_text())
    waiting.publish()
    with waiting.serving(*TWO) as served:
        until_it_runs(waiting)
        number, pids = who_runs(served), workers_of(served)
        os.kill(pids[number], signal.SIGSTOP)
        served.send(signal.SIGTERM)
        assert served.ended() == 128 + signal.SIGTERM, served.log
    assert re.search(rf"gives no sign of life, and is killed .*worker={number} .*seconds=5\b", served.log), served.log
    assert waiting.pending() == 1
    assert not any(is_alive(pid) for pid in pids.values())


def test_sigterm_lets_the_jobs_of_all_workers_finish(waiting: Pipeline) -> None:
    waiting.publish()
    with waiting.serving(*TWO) as served:
        until_it_runs(waiting)
        served.send(signal.SIGTERM)
        served.until("INFO draining")
        let_it_go_on(waiting)
        assert served.ended() == 128 + signal.SIGTERM, served.log
    assert_invariants(waiting, events=1, committed={"split": 1})
    assert waiting.runs()["split"] == 1
    assert_nothing_is_left(waiting, *workers_of(served).values())


def test_a_second_sigterm_stops_what_runs_in_workers(waiting: Pipeline) -> None:
    waiting.publish()
    with waiting.serving(*TWO) as served:
        pid = until_it_runs(waiting)
        served.send(signal.SIGTERM)
        served.until("INFO draining")
        served.send(signal.SIGTERM)
        assert served.ended() == 128 + signal.SIGTERM, served.log
    assert not is_alive(pid), "no orphan"
    assert waiting.documents("commit") == []
    assert waiting.pending() == 1
    assert_nothing_is_left(waiting, *workers_of(served).values())


def test_a_signal_that_all_processes_are_sent_drains_once(waiting: Pipeline) -> None:
    """As systemd sends it, or a terminal."""
    waiting.publish()
    with waiting.serving(*TWO) as served:
        until_it_runs(waiting)
        for pid in (served.process.pid, *workers_of(served).values()):
            os.kill(pid, signal.SIGTERM)
        served.until("INFO draining")
        let_it_go_on(waiting)
        assert served.ended() == 128 + signal.SIGTERM, served.log
    assert_invariants(waiting, events=1, committed={"split": 1})
    assert waiting.runs()["split"] == 1


OVERLAPPING = """
modules:
  fan:
    command: [sh, fan.sh]
    source: modules
    subscribes: [begun]
    publishes: [asked]
  much:
    command: [sh, much.sh]
    source: modules
    subscribes: [asked]
    concurrency: 3
    env: {{NOTED: "{runs}"}}
"""
FAN = """
for n in 1 2 3 4 5 6 7 8 9 10 11 12; do
    echo '[{"key":"eventType","value":"asked"}]' > "$HANDLER_BASE_DIR/out/events/$n.json"
done
"""
MUCH = """
echo begin >> "$NOTED"
sleep 0.2
echo end >> "$NOTED"
"""


@pytest.mark.parametrize("workers", ["2", "3", "9"])
def test_concurrency_is_that_of_all_workers_together(workers: str, tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline", config=OVERLAPPING, modules={"fan": FAN, "much": MUCH})
    pipeline.publish("begun", files=0)

    done = pipeline.ion("serve", "--workers", workers, "--until-idle")

    at_once = [0]
    for word in (pipeline.home / "runs").read_text().split():
        at_once.append(at_once[-1] + (1 if word == "begin" else -1))
    assert max(at_once) <= 3
    assert len(pipeline.documents("commit")) == 13
    assert ("4 of 9 workers are started" in done.stderr) is (workers == "9")


FOLLOWED = """
modules:
  slow:
    command: [sh, slow.sh]
    source: modules
    subscribes: [asked]
    concurrency: 2
    env: {{GO: "{runs}"}}
"""
SLOW = """
echo one
while [ ! -e "$GO" ]; do sleep 0.05; done
echo two
"""


def test_what_a_job_prints_in_a_worker_is_followed(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline", config=FOLLOWED, modules={"slow": SLOW})
    pipeline.ion("event", "publish", "asked", "--event-id", "e1")
    with pipeline.serving(*TWO) as served:
        served.until("job started")
        with watching(pipeline, "e1") as watched:
            watched.until(b"one")
            (pipeline.home / "runs").touch()
            watched.until(b"two")
            assert watched.process.wait(60) == 0


def test_who_follows_a_job_is_told_that_its_worker_has_died(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline", config=FOLLOWED, modules={"slow": SLOW})
    pipeline.ion("event", "publish", "asked", "--event-id", "e1")
    with pipeline.serving(*TWO) as served:
        served.until("job started")
        number, pids = who_runs(served, "slow"), workers_of(served)
        with watching(pipeline, "e1") as watched:
            watched.until(b"one")
            os.kill(pids[number], signal.SIGKILL)
            assert watched.process.wait(60) == 69
            assert watched.process.stderr is not None
            assert b"the worker of it that ran the job has died" in watched.process.stderr.read()


def test_a_broker_of_one_process_is_refused_before_anything_runs(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    path = pipeline.home / "ion.yaml"
    path.write_text("messaging: {provider: memory}\n" + path.read_text(encoding="utf-8"), encoding="utf-8")

    refused = pipeline.ion("serve", *TWO, "--until-idle", code=78)

    assert refused.stderr.count("memory keeps what it has for one process alone") == 1
    assert "ion.yaml:1:23: messaging" in refused.stderr
    assert "worker started" not in refused.stderr


def test_what_keeps_a_worker_from_being_ready_is_said_once(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    pipeline.state.mkdir(mode=0o700)
    (pipeline.state / "work-2").write_text("in the way")

    refused = pipeline.ion("serve", *TWO, "--until-idle", code=78)

    assert refused.stderr.count("cannot be used for workspaces") == 1
    assert_nothing_runs_of(pipeline)


def test_a_worker_that_cannot_be_replaced_ends_serve(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    with pipeline.serving(*TWO) as served:
        pids = workers_of(served)
        shutil.rmtree(pipeline.state / "work-1")
        (pipeline.state / "work-1").write_text("in the way")
        os.kill(pids[1], signal.SIGKILL)
        assert served.ended() == 78, served.log
    assert "worker 1 cannot be replaced, serving ends" in served.log
    assert not is_alive(pids[2])


def test_without_what_workers_are_forked_from_serve_ends(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    with pipeline.serving(*TWO) as served:
        pids = workers_of(served)
        said = Path(f"/proc/{pids[1]}/status").read_text()
        os.kill(int(re.findall(r"^PPid:\s*(\d+)", said, re.MULTILINE)[0]), signal.SIGKILL)
        assert served.ended() == 70, served.log
    assert "the process that workers are forked from has ended. Start this again." in served.log
    assert ".. It is" not in served.log
    assert list(pipeline.state.glob("live*.sock")) == []
    assert not any(is_alive(pid) for pid in pids.values())


def test_a_second_serve_is_told_who_holds_the_state_directory(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    with pipeline.serving(*TWO) as served:
        workers_of(served)
        refused = pipeline.ion("serve", *TWO, "--until-idle", code=75)
        assert f"pid {served.process.pid}" in refused.stderr


@pytest.mark.parametrize("said", ["0", "-1", "two", "257", ""])
def test_a_number_of_workers_that_is_none_is_refused(said: str, tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")

    refused = pipeline.ion("serve", "--workers", said, code=2)

    assert "must be a number from 1 to 256, or auto" in refused.stderr


def test_auto_is_a_number_of_workers(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    pipeline.publish()

    pipeline.ion("serve", "--workers", "auto", "--until-idle")

    assert_invariants(pipeline, events=1, committed={"split": 1, "join": 3})


def assert_nothing_runs_of(pipeline: Pipeline) -> None:
    """No process has its directory as its own."""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            where = link.resolve(strict=True)
        except OSError:
            continue
        assert where != pipeline.home, link
