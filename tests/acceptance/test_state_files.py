"""State that is damaged, foreign or in the way: a clear error with what to do, never a traceback."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.acceptance.pipeline import Pipeline, assert_invariants

DATABASES = ["broker.sqlite", "documents.sqlite"]


@pytest.fixture
def used(tmp_path: Path) -> Pipeline:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    pipeline.publish()
    return pipeline


@pytest.mark.parametrize("name", DATABASES)
def test_a_damaged_database_ends_serve_and_is_named(used: Pipeline, name: str) -> None:
    for path in used.state.glob(f"{name}-*"):
        path.unlink()
    (used.state / name).write_bytes(b"this is no database\n" * 1000)

    refused = used.ion("serve", "--until-idle", code=78)

    assert str(used.state / name) in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("name", DATABASES)
def test_state_of_a_newer_version_is_left_alone(used: Pipeline, name: str) -> None:
    database = sqlite3.connect(used.state / name)
    database.execute("PRAGMA user_version = 99")
    database.close()

    refused = used.ion("serve", "--until-idle", code=78)

    assert str(used.state / name) in refused.stderr
    database = sqlite3.connect(used.state / name)
    assert database.execute("PRAGMA user_version").fetchone() == (99,)
    database.close()


def test_a_file_where_the_state_directory_should_be(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    pipeline.state.write_text("in the way")

    refused = pipeline.ion("serve", "--until-idle", code=78)

    assert str(pipeline.state) in refused.stderr
    assert "--state-dir" in refused.stderr


def test_leftovers_of_an_unknown_kind_do_not_stop_serve(used: Pipeline) -> None:
    left = used.state / "work" / "ion-split-0123456789ab"
    (left / "ion" / "out").mkdir(parents=True)
    (left / "job.json").write_text("{ torn")

    used.ion("serve", "--until-idle")

    assert_invariants(used, events=1, committed={"split": 1, "join": 3})


def test_two_state_directories_know_nothing_of_each_other(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    other = tmp_path / "elsewhere"
    pipeline.ion("event", "publish", "whole.received", "--state-dir", str(other))

    pipeline.ion("serve", "--until-idle")

    assert pipeline.documents() == []
    pipeline.ion("serve", "--until-idle", "--state-dir", str(other))
    assert pipeline.runs()["split"] == 1
