"""`ion-core gc`."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from tests.acceptance.pipeline import Pipeline


def test_gc_removes_what_is_old_and_says_so(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    pipeline.publish(files=2)
    pipeline.ion("serve", "--until-idle")
    waits = pipeline.publish()

    assert "Removed 0 flows" in pipeline.ion("gc", "--older-than", "30d").stdout
    would = pipeline.ion("gc", "--older-than", "0s", "--dry-run").stdout
    assert "Would remove 1 flow" in would
    assert pipeline.documents("commit") != []

    removed = json.loads(pipeline.ion("gc", "--older-than", "0s", "--json").stdout)
    assert removed == {
        "dryRun": False, "flows": 1, "documents": 13, "files": 8, "kept": 0, "failed": 0, "uncommittedFiles": 0,
        "environments": 0,
    }  # fmt: skip
    [event] = pipeline.documents()
    assert event["context"]["correlationId"] == waits
    files = [path for path in (pipeline.state / "blobs" / "files").rglob("*") if path.is_file()]
    assert len(files) == 1
    pipeline.ion("serve", "--until-idle")


def test_an_age_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    for age, said in (("soon", "must be a duration"), ("999999999999d", "duration"), ("900000d", "than there are")):
        done = pipeline.ion("gc", "--older-than", age, code=2)
        assert said in done.stderr
    assert "--older-than" in pipeline.ion("gc", code=2).stderr


def test_a_damaged_document_is_named_and_hides_no_other(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    flows = [pipeline.publish(files=2) for _ in range(2)]
    pipeline.ion("serve", "--until-idle")
    with sqlite3.connect(pipeline.state / "documents.sqlite") as connection:
        [(id,)] = connection.execute(
            "SELECT id FROM documents WHERE kind = 'eventMeta' AND correlation_id = ? ORDER BY seq LIMIT 1", flows[:1]
        ).fetchall()
        connection.execute("UPDATE documents SET body = '{' WHERE kind = 'eventMeta' AND id = ?", (id,))
    connection.close()
    shown = pipeline.ion("trace", "list", code=1)
    assert f"eventMeta '{id}': is damaged" in shown.stderr
    assert flows[1] in shown.stdout
    collected = pipeline.ion("gc", "--older-than", "0s", code=1)
    assert "Removed 1 flow " in collected.stdout
    assert "Could not remove 1 entry" in collected.stdout
    assert f"eventMeta '{id}': is damaged" in collected.stderr
    assert pipeline.ion("gc", "--older-than", "0s", "--json", code=1).stdout.count('"failed":1') == 1
