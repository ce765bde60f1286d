"""Developing modules by hand, as a user would: real commands, and scripts that only read and write files."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ion_core.events import Context, Event
from ion_core.jobs import Job
from tests.acceptance.pipeline import ION, Pipeline, assert_invariants, environment

CAUSE = Event(context=Context(name="-", event_id="1", correlation_id="c"), type="start")
FIRST = """
cp ion/in/data/* ion/out/data/ 2>/dev/null
mkdir -p ion/out/data/frames
echo image > ion/out/data/img1.png
echo image > ion/out/data/frames/img2.png
echo '[{"key": "faces", "value": "2"}]' > ion/out/insights.json
echo '[{"key": "eventType", "value": "face_detected"}, {"key": "files", "value": "img1.png, frames/img2.png"},
  {"key": "abc", "value": "123"}]' > ion/out/events/event1.json
"""
WALK = """
set -eu
handler() {
    step=$1; shift
    ion-core handler "$step" "$@" --context.correlationid fish --valideventtypes "face_detected , face_seen" \\
        --basedir ion --development.enabled --development.basedir .dev
}
handler prepare --context.name testmodule --context.eventid 1111111
sh first.sh
handler commit --context.name testmodule --context.eventid 1111111
next=$(sed 's/.*"eventId":"\\([^"]*\\)".*/\\1/' .dev/1111111/_events/event1.json)
handler prepare --context.name second --context.eventid "$next" --context.parenteventid 1111111
echo "$next"
"""


def shell(home: Path, script: str, **environ: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(ION[0]).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-c", script],
        cwd=home,
        env=environment(PATH=path, **environ),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def test_the_predecessors_walk_through(tmp_path: Path) -> None:
    (tmp_path / "first.sh").write_text(FIRST)
    done = shell(tmp_path, WALK)
    assert done.returncode == 0, done.stderr
    event_id = done.stdout.strip()
    place = tmp_path / ".dev" / "1111111"

    for marker in ("prepared", "committed", f"{event_id}/prepared"):
        assert (place / marker).read_text() == "{}"
    assert not (place / event_id / "committed").exists()
    assert (place / "_blobs/frames/img2.png").read_text() == "image\n"
    assert read(place / "_insights/insights.json")["data"] == [{"key": "faces", "value": "2"}]
    event = read(place / "_events/event1.json")
    assert event["type"] == "face_detected"
    assert event["context"] == {
        "name": "testmodule",
        "eventId": event_id,
        "correlationId": "fish",
        "parentEventId": "1111111",
        "documentType": "eventMeta",
    }
    meta = read(place / "_metadata/event1.json")
    assert (meta["context"], meta["files"]) == (event["context"], ["img1.png", "frames/img2.png"])

    inputs = tmp_path / "ion" / "in"
    files = {str(path.relative_to(inputs)): path.read_text() for path in inputs.rglob("*.png")}
    assert files == {"data/img1.png": "image\n", "data/frames/img2.png": "image\n"}
    pairs = read(inputs / "eventmeta.json")
    assert pairs[0] == {"key": "abc", "value": "123"}
    assert [pair["key"] for pair in pairs[1:]] == ["img1.png", "frames/img2.png"]
    for pair in pairs[1:]:
        assert Path(pair["value"].removeprefix("file://")).read_text() == "image\n"
    assert list((tmp_path / "ion/out").rglob("*.*")) == [tmp_path / "ion/out/insights.json"]


def test_the_same_with_the_predecessors_commands_for_developers(tmp_path: Path) -> None:
    (tmp_path / "first.sh").write_text(FIRST)
    (tmp_path / "photo.txt").write_text("a photo")
    done = shell(
        tmp_path,
        """
        set -eu
        root=$(ion-core dev module init --files photo.txt | sed 's/new parent event id: //')
        module="--base-dir ion --correlation-id dev"
        first="--name first --event-types face_detected --event-id 1 --parent-event-id $root"
        ion-core dev module prepare $module $first
        sh first.sh
        ion-core dev module commit $module $first
        next=$(ion-core dev event list --module-id 1 | sed 's/.*"eventId":"\\([^"]*\\)".*/\\1/')
        ion-core dev module prepare $module --name second --event-types x --event-id "$next" --parent-event-id 1
        ion-core dev module list --root-event-id "$root" --json
        """,
    )
    assert done.returncode == 0, done.stderr
    states = [(found["module"], found["state"]) for found in json.loads(done.stdout)]
    assert states == [("init", "root"), ("first", "committed"), ("second", "prepared")]
    assert (tmp_path / "ion/in/data/frames/img2.png").exists()
    assert not (tmp_path / "ion/in/data/photo.txt").exists()


def test_a_schedulers_job_and_serve_do_one_job_once(tmp_path: Path) -> None:
    """The three steps by hand, with the configuration's providers; ``serve`` finds the commit and goes on from it."""
    pipeline = Pipeline.make(tmp_path / "pipeline")
    flow = pipeline.publish(event_id="e1")
    job = ["--context.name", "split", "--context.eventid", "e1", "--context.correlationid", flow, "--basedir", "w"]
    pipeline.ion("handler", "prepare", *job)
    world = {"HANDLER_BASE_DIR": str(pipeline.home / "w"), "RUNS": str(pipeline.home / "runs")}
    assert shell(pipeline.home, "sh modules/split.sh", **world).returncode == 0
    pipeline.ion("handler", "commit", *job)
    pipeline.ion("serve", "--until-idle")
    assert pipeline.runs() == {"split": 1, "join": 3}
    assert_invariants(pipeline, events=1, committed={"split": 1, "join": 3})


@pytest.mark.parametrize("step", ["S8", "S9", "S10"])
def test_a_commit_that_was_killed_is_not_one_and_is_done_again_under_the_same_ids(tmp_path: Path, step: str) -> None:
    (tmp_path / "first.sh").write_text(FIRST)
    job = "--context.name first --context.eventid 1 --context.correlationid c --valideventtypes face_detected"
    world = "--basedir ion --development.enabled"
    assert shell(tmp_path, f"ion-core handler prepare {job} {world} && sh first.sh").returncode == 0

    killed = shell(tmp_path, f"ion-core handler commit {job} {world}", ION_TESTING="1", ION_CRASH_AT=step)
    assert killed.returncode == 137
    place = tmp_path / ".dev" / "1"
    assert not (place / "committed").exists()
    refused = shell(tmp_path, f"ion-core handler prepare {job} --context.parenteventid 0 {world}")
    assert refused.returncode == 2

    assert shell(tmp_path, f"ion-core handler commit {job} {world}").returncode == 0
    [event] = [read(path) for path in (place / "_events").iterdir()]
    assert event["context"]["eventId"] == Job(event=CAUSE, module="first").child_id("event1.json")
    assert [read(path)["id"] for path in (place / "_metadata").iterdir()] == [event["context"]["eventId"]]
    blobs = sorted(str(path.relative_to(place)) for path in place.rglob("*.png"))
    assert blobs == ["_blobs/frames/img2.png", "_blobs/img1.png"]
    assert {path.name for path in place.iterdir()} == {
        "_blobs", "_commit.json", "_events", "_insights", "_job.json", "_metadata", "committed", "prepared"
    }  # fmt: skip


@pytest.mark.parametrize("step", ["S9", "S10"])
def test_a_schedulers_commit_that_was_killed_is_finished_by_the_next(tmp_path: Path, step: str) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    flow = pipeline.publish(event_id="e1")
    job = ["--context.name", "split", "--context.eventid", "e1", "--context.correlationid", flow, "--basedir", "w"]
    pipeline.ion("handler", "prepare", *job)
    world = {"HANDLER_BASE_DIR": str(pipeline.home / "w"), "RUNS": str(pipeline.home / "runs")}
    assert shell(pipeline.home, "sh modules/split.sh", **world).returncode == 0
    pipeline.ion("handler", "commit", *job, code=137, ION_TESTING="1", ION_CRASH_AT=step)
    pipeline.ion("handler", "commit", *job)
    pipeline.ion("serve", "--until-idle")
    assert pipeline.runs() == {"split": 1, "join": 3}
    assert_invariants(pipeline, events=1, committed={"split": 1, "join": 3})


def on_read_only(home: Path, directory: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``ion-core`` where ``directory`` is a read-only file system, which stops root too."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    script = f'mount -t tmpfs -o ro none {directory} && exec "$@"'
    return subprocess.run(
        ["unshare", *user, "--mount", "sh", "-c", script, "sh", *ION, *arguments],
        cwd=home,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_what_may_not_be_written_is_named_with_what_would_do(tmp_path: Path) -> None:
    job = ["--context.name", "m", "--context.eventid", "1", "--context.correlationid", "c", "--development.enabled"]
    for name in ("ion", "dev", "d"):
        (tmp_path / name).mkdir()

    done = on_read_only(tmp_path, "ion", "handler", "prepare", *job, "--basedir", "ion", "--development.basedir", "d")
    assert done.returncode == 2, done.stderr
    assert "ion: cannot be the base directory: Read-only file system" in done.stderr
    assert done.stderr.rstrip().endswith("Name one that you may write, with --basedir.")
    assert list((tmp_path / "d").iterdir()) == []

    done = on_read_only(tmp_path, "dev", "handler", "prepare", *job, "--basedir", "w", "--development.basedir", "dev")
    assert done.returncode == 2
    assert "Read-only file system. Name a directory that you may write with --development.basedir." in done.stderr
