"""As process 1 of a container ``serve`` reaps what modules leave behind, and is told to end like any other."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ion_core.embedded.programs import table
from tests.acceptance.pipeline import ION, TIMEOUT, Pipeline, Served, environment

CONFIG = """
modules:
  leaves:
    command: [sh, leaves.sh]
    source: modules
    subscribes: [wanted]
    concurrency: 2
"""
LEAVES = "(sleep 1000 &)\n(true &)\n"
AS_PROCESS_1 = ["unshare", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    if os.geteuid() and subprocess.run([*AS_PROCESS_1, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no process can be process 1 of a namespace here")
    return Pipeline.make(tmp_path / "home", config=CONFIG, modules={"leaves": LEAVES})


def until(condition: Callable[[], bool]) -> None:
    """Once it holds; asked again and again, since nobody is told."""
    pause = threading.Event()
    for _ in range(int(TIMEOUT * 20)):
        if condition():
            return
        pause.wait(0.05)
    raise AssertionError("never")


def zombies_below(pid: int) -> list[int]:
    return [it for it in table.descendants(pid) if (table._stat(it) or "X")[0] == "Z"]


def serving(pipeline: Pipeline, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*AS_PROCESS_1, *ION, "serve", *arguments],
        cwd=pipeline.home,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # as in a container that has no terminal
    )


def test_nothing_that_modules_leave_stays_a_zombie_and_a_signal_ends_it(pipeline: Pipeline) -> None:
    for event_id in ("e1", "e2"):
        pipeline.publish("wanted", event_id=event_id)
    process = serving(pipeline)
    try:
        served = Served(process)
        served.until("job committed", count=2)
        until(lambda: not zombies_below(process.pid))
        process_1, *others = table.descendants(process.pid)
        assert others, "a child of it does the work"
        subprocess.run(["kill", "-TERM", str(process_1)], check=True)
        assert served.ended() == 128 + signal.SIGTERM
        assert served.log.count("received, draining") == 1, "and it is told once"
        served.close()
    finally:
        process.kill()
        process.wait()


def test_sighup_reaches_who_does_the_work_and_ends_nothing(pipeline: Pipeline) -> None:
    process = serving(pipeline)
    try:
        served = Served(process)
        served.until("INFO serving")
        process_1 = table.descendants(process.pid)[0]
        subprocess.run(["kill", "-HUP", str(process_1)], check=True)
        served.until("the configuration was read again")
        subprocess.run(["kill", "-TERM", str(process_1)], check=True)
        assert served.ended() == 128 + signal.SIGTERM
        served.close()
    finally:
        process.kill()
        process.wait()


def test_its_exit_code_is_that_of_who_does_the_work(pipeline: Pipeline) -> None:
    (pipeline.home / "modules" / "leaves.sh").write_text("exit 126")
    pipeline.publish("wanted")
    process = serving(pipeline, "--until-idle")
    _, log = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1, log
