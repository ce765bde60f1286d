"""Standard streams that the caller has closed are /dev/null: a command does its work and says so by its exit code."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.acceptance.pipeline import ION, TIMEOUT, Pipeline, environment


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline.make(tmp_path / "home")


def closed(pipeline: Pipeline, which: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``ion-core`` as a shell does that was told to close some of its descriptors."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {which}', "sh", *ION, *arguments],
        cwd=pipeline.home,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.mark.parametrize("which", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_an_event_is_published_once_and_that_is_no_error(which: str, pipeline: Pipeline) -> None:
    done = closed(pipeline, which, "event", "publish", "whole.received")
    assert done.returncode == 0, done.stderr
    assert "a bug" not in done.stderr
    assert pipeline.pending() == 1


@pytest.mark.parametrize("which", ["2>&-", "<&- >&- 2>&-"])
def test_serve_does_its_work_though_nobody_is_told(which: str, pipeline: Pipeline) -> None:
    pipeline.publish()
    done = closed(pipeline, which, "serve", "--until-idle")
    assert done.returncode == 0
    assert pipeline.runs() == {"split": 1, "join": 3}
    assert pipeline.pending() == 0


@pytest.mark.parametrize("more", [(), ("--json",)], ids=["text", "json"])
def test_an_event_that_was_published_but_not_printed_is_named(more: tuple[str, ...], pipeline: Pipeline) -> None:
    """A script would publish it again."""
    done = closed(pipeline, ">/dev/full", "event", "publish", "whole.received", "--event-id", "e1", *more)
    assert done.returncode == 1
    assert "What was printed is not complete. The event was published: e1." in done.stderr
    assert pipeline.pending() == 1


def test_the_state_is_not_written_over_by_what_is_printed(pipeline: Pipeline) -> None:
    """A file that was opened next would have got the number of the one that is closed, and all that is printed."""
    closed(pipeline, ">&- 2>&-", "event", "publish", "nobody.takes", "--json")
    closed(pipeline, ">&- 2>&-", "trace", "list")
    pipeline.publish()
    assert pipeline.ion("trace", "list").stdout.count("whole.received") == 1


def test_errors_are_still_told_by_the_exit_code(pipeline: Pipeline) -> None:
    assert closed(pipeline, "2>&-", "check", "--config", "nowhere.yaml").returncode == 78
    assert closed(pipeline, ">&- 2>&-", "no-such-command").returncode == 2
