"""`ion-core logs --follow`: what a job prints, while it runs."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.pipeline import ION, TIMEOUT, Pipeline, environment

CONFIG = """
modules:
  slow:
    command: [sh, slow.sh]
    source: modules
    subscribes: [asked]
    env: {{GO: "{runs}"}}
"""
SLOW = """
echo one
echo "secret $SHARED_SECRET"
while [ ! -e "$GO" ]; do sleep 0.05; done
echo two
"""


class Watching:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.said = b""

    def until(self, text: bytes) -> None:
        assert self.process.stdout is not None
        while text not in self.said:
            ready, _, _ = select.select([self.process.stdout], [], [], TIMEOUT)
            assert ready, f"{text!r} did not appear: {self.said!r}"
            chunk = os.read(self.process.stdout.fileno(), 4096)
            assert chunk, f"it ended: {self.said!r}"
            self.said += chunk


@contextmanager
def watching(pipeline: Pipeline, event_id: str, *arguments: str) -> Iterator[Watching]:
    with subprocess.Popen(
        [*ION, "logs", event_id, "--follow", *arguments],
        cwd=pipeline.home,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        yield Watching(process)
        process.kill()


@pytest.fixture(params=["a", "/".join(["deep"] * 30)], ids=["short path", "long path"])
def pipeline(request: pytest.FixtureRequest, tmp_path: Path) -> Pipeline:
    return Pipeline.make(tmp_path / request.param / "home", config=CONFIG, modules={"slow": SLOW})


def test_a_job_is_followed_line_by_line_and_one_that_waits_from_its_start(pipeline: Pipeline) -> None:
    with pipeline.serving() as served:
        served.until("serving")
        for event_id in ("running", "waiting"):
            pipeline.publish("asked", event_id=event_id)
        with watching(pipeline, "running") as running, watching(pipeline, "waiting") as waiting:
            running.until(b"secret ********\n")
            assert running.said.startswith(b"== slow, attempt 1: running\none\n")
            assert b"two" not in running.said
            assert waiting.process.stderr is not None
            assert (
                waiting.process.stderr.readline()
                == b"No job for this event has run: waiting for the first. Ctrl-C ends this.\n"
            )
            (pipeline.home / "runs").touch()
            for one in (running, waiting):
                one.until(b"two\n")
                assert one.process.wait(TIMEOUT) == 0
            assert waiting.said == running.said
    assert "two" in pipeline.ion("logs", "waiting").stdout, "it is stored as ever"


def test_of_a_job_that_another_dispatcher_runs_the_log_is_printed_once_it_has_ended(tmp_path: Path) -> None:
    """It has a state directory of its own, on whichever machine, and shares broker and stores with ours."""
    shared = tmp_path / "shared"
    shared.mkdir()
    common = f"""
messaging: {{{{provider: sqlite, path: "{shared}/broker.sqlite"}}}}
storage:
  documents: {{{{provider: sqlite, path: "{shared}/documents.sqlite"}}}}
  blobs: {{{{provider: local, path: "{shared}/blobs"}}}}
"""
    theirs = Pipeline.make(tmp_path / "theirs" / "home", config=common + CONFIG, modules={"slow": SLOW})
    other = CONFIG.replace("slow:", "quick:").replace("asked", "asked.quickly")
    ours = Pipeline.make(tmp_path / "ours" / "home", config=common + other, modules={"slow": SLOW})
    with theirs.serving() as served, ours.serving() as idle:
        served.until("serving")
        idle.until("serving")
        theirs.publish("asked", event_id="the-event")
        with watching(ours, "the-event") as watched:
            assert watched.process.stderr is not None
            assert watched.process.stderr.readline().startswith(b"No job for this event has run: waiting for the first")
            (theirs.home / "runs").touch()
            watched.until(b"two\n")
            assert watched.process.wait(TIMEOUT) == 0
    assert watched.said.decode().strip() == ours.ion("logs", "the-event").stdout.strip()


def test_a_dispatcher_that_dies_is_no_end_of_the_job(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "home", config=CONFIG, modules={"slow": SLOW})
    with pipeline.serving() as served:
        pipeline.publish("asked", event_id="the-event")
        served.until("job started")
        with watching(pipeline, "the-event") as watched:
            watched.until(b"one\n")
            served.send(signal.SIGKILL)
            assert watched.process.wait(TIMEOUT) == 69
            assert watched.process.stderr is not None
            assert b"can be followed no further" in watched.process.stderr.read()


def test_a_dispatcher_that_is_told_to_end_is_the_end_of_what_is_waited_for(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "home", config=CONFIG, modules={"slow": SLOW})
    pipeline.publish("asked", event_id="in its place")
    with pipeline.serving() as served:
        served.until("job started")
        pipeline.publish("asked", event_id="the-event")
        with watching(pipeline, "the-event") as watched:
            assert watched.process.stderr is not None
            assert watched.process.stderr.readline().startswith(b"No job for this event has run")
            served.send(signal.SIGTERM)
            served.until("draining")
            (pipeline.home / "runs").touch()
            served.ended()
            assert watched.process.wait(TIMEOUT) == 0


def test_without_a_dispatcher_it_says_so_and_ends(pipeline: Pipeline) -> None:
    pipeline.publish("asked", event_id="the-event")
    done = pipeline.ion("logs", "the-event", "-f")
    assert done.stdout == ""
    assert "no `ion-core serve` runs on this machine" in done.stderr


def test_what_is_over_is_printed_as_without_it(pipeline: Pipeline) -> None:
    (pipeline.home / "runs").touch()
    pipeline.publish("asked", event_id="the-event")
    pipeline.ion("serve", "--until-idle")
    assert pipeline.ion("logs", "the-event", "--follow").stdout == pipeline.ion("logs", "the-event").stdout
    assert not (pipeline.state / "live.sock").exists()


def test_it_cannot_be_json(pipeline: Pipeline) -> None:
    assert "--json" in pipeline.ion("logs", "x", "--follow", "--json", code=2).stderr
