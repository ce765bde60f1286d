"""kill -9 after each step of the commit protocol, then a restart: as if nothing had happened (docs/delivery.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from ion_core.crash import STEPS
from tests.acceptance.pipeline import Pipeline, assert_invariants

BEFORE_START = {"S0", "S1", "S2", "S3", "S4"}
AFTER_FENCE = {"S9", "S10", "S11", "S12"}


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_changes_nothing(step: str, tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    correlation_id = pipeline.publish(files=3)

    pipeline.ion("serve", "--until-idle", code=137, ION_TESTING="1", ION_CRASH_AT=step)
    at_the_crash = {commit["id"]: commit for commit in pipeline.documents("commit")}
    committed = step in AFTER_FENCE
    assert bool(at_the_crash) is committed
    runs_at_the_crash = pipeline.runs()["split"]
    assert runs_at_the_crash == (0 if step in BEFORE_START else 1)

    pipeline.ion("serve", "--until-idle")

    assert_invariants(pipeline, events=1, committed={"split": 1, "join": 3})
    assert pipeline.runs()["split"] == (2 if runs_at_the_crash > 0 and not committed else 1)
    assert {document["context"]["correlationId"] for document in pipeline.documents()} == {correlation_id}
    for commit in pipeline.documents("commit"):
        if commit["id"] in at_the_crash:
            assert commit == at_the_crash[commit["id"]], "what was committed before the crash stays as it was"
    assert list((pipeline.state / "broker.sqlite.owners").iterdir()) == [], "I5: no lock is left"


def test_crash_points_are_refused_outside_of_tests(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")

    refused = pipeline.ion("serve", "--until-idle", code=2, ION_CRASH_AT="S5")

    assert "ION_CRASH_AT" in refused.stderr
    assert "ION_TESTING=1" in refused.stderr


def test_an_unknown_crash_point_is_named(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")

    refused = pipeline.ion("serve", "--until-idle", code=2, ION_CRASH_AT="S13", ION_TESTING="1")

    assert "S13" in refused.stderr
    assert "S12" in refused.stderr
