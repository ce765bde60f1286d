"""Our own disk full: stop taking, say so, go on by itself once there is room; nothing is corrupt, nothing lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import ANY

import pytest

from tests.acceptance.pipeline import ION, JOIN, Pipeline, Served, assert_invariants, environment
from tests.acceptance.small_disk import SmallDisk
from tests.acceptance.small_disk import disk as disk

# Reports in one FIFO that it runs, and goes on when somebody writes to another.
WAITING = """
echo split >> "$RUNS"
echo running > "$RUNS.started"
read -r line < "$RUNS.gate"
printf '[{"key":"eventType","value":"part.made"}]' > "$HANDLER_BASE_DIR/out/events/0.json"
"""


@dataclass
class OnSmallDisk:
    """A pipeline whose state lies on the small disk; its files and what its modules note do not."""

    pipeline: Pipeline
    disk: SmallDisk
    state: Path

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        command = self.disk.inside(*ION, *command, "--state-dir", str(self.state))
        environ = environment(ION_CONFIG=str(self.pipeline.home / "ion.yaml"))
        return subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def run(self, *command: str) -> tuple[int, str]:
        with self.start(*command) as process:
            _, complaint = process.communicate(timeout=60)
        return process.returncode, complaint.decode()

    def publish(self, *more: str) -> tuple[int, str]:
        return self.run("event", "publish", "whole.received", *more)

    def until_it_runs(self) -> None:
        assert (self.pipeline.home / "runs.started").read_text() == "running\n"

    def let_it_go_on(self) -> None:
        (self.pipeline.home / "runs.gate").write_text("on\n")

    def look_inside(self) -> Pipeline:
        """The pipeline as it was left: a copy, since sqlite resolves the way through /proc to the wrong place."""
        self.pipeline.state = self.pipeline.home / "seen"
        shutil.copytree(self.disk.path / "state", self.pipeline.state)
        return self.pipeline


@pytest.fixture
def small(disk: SmallDisk, tmp_path: Path) -> OnSmallDisk:
    pipeline = Pipeline.make(tmp_path / "pipeline", modules={"split": WAITING, "join": JOIN})
    for name in ("gate", "started"):
        os.mkfifo(pipeline.home / f"runs.{name}")
    return OnSmallDisk(pipeline, disk, tmp_path / "disk" / "state")


def test_a_full_disk_stops_the_work_and_room_resumes_it(small: OnSmallDisk) -> None:
    assert small.publish() == (0, ANY)
    with small.start("serve", "--until-idle") as process:
        served = Served(process)
        small.until_it_runs()
        small.disk.fill()
        small.let_it_go_on()
        served.until("not ready: storage")
        small.disk.free()
        served.until("ready again: storage")
        small.until_it_runs()
        small.let_it_go_on()
        assert served.ended() == 0, served.log
    pipeline = small.look_inside()
    assert_invariants(pipeline, events=1, committed={"split": 1, "join": 1})
    # The log of the run that could not be committed is there if the store still had a page to spare.
    logs = pipeline.documents("modulelogs")
    assert {log["attempt"] for log in logs} == {1}, "a full disk is not the module's fault"


def test_sigterm_works_while_the_disk_is_full(small: OnSmallDisk) -> None:
    assert small.publish() == (0, ANY)
    with small.start("serve") as process:
        served = Served(process)
        small.until_it_runs()
        small.disk.fill()
        small.let_it_go_on()
        served.until("not ready: storage")
        served.send(signal.SIGTERM)
        assert served.ended() == 128 + signal.SIGTERM, served.log
    small.disk.free()
    assert small.look_inside().pending() == 1


def test_publishing_to_a_full_disk_says_so_and_stores_nothing(small: OnSmallDisk) -> None:
    assert small.run("module", "list") == (0, ANY)
    large = small.pipeline.home / "large.bin"
    large.write_bytes(b"x" * (20 << 20))

    code, complaint = small.publish("--file", str(large))

    assert code == 75, complaint
    assert "no space left" in complaint.lower()
    pipeline = small.look_inside()
    assert pipeline.documents() == []
    assert pipeline.pending() == 0
    assert not any(path.is_file() for path in (pipeline.state / "blobs").rglob("*") if path.name != "lock")


def test_a_disk_that_is_full_at_the_start_is_try_later(small: OnSmallDisk) -> None:
    (small.disk.path / "state").mkdir()
    small.disk.fill()

    code, complaint = small.run("serve", "--until-idle")

    assert code in (75, 78), complaint
    assert "No space left" in complaint
    assert "Traceback" not in complaint
