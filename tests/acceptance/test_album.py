"""The example album: it waits for a photograph that is broken, or goes without and names it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ion_core.module_library import library
from tests.acceptance.pipeline import Pipeline

ALBUM = Path(__file__).resolve().parents[2] / "examples" / "album"
COUNT, BROKEN = 8, 3


@pytest.fixture
def album(tmp_path: Path) -> Pipeline:
    shutil.copytree(ALBUM, tmp_path / "album", ignore=shutil.ignore_patterns(".ion*", "photos"))
    pipeline = Pipeline(tmp_path / "album")
    made = pipeline.python("make_photos.py", "photos", "--count", str(COUNT), "--broken", str(BROKEN))
    assert made.returncode == 0, made.stderr
    photos = sorted(str(it.relative_to(pipeline.home)) for it in (pipeline.home / "photos").iterdir())
    pipeline.ion("event", "publish", "album.received", *(word for it in photos for word in ("--file", it)))
    return pipeline


def sheets(pipeline: Pipeline) -> list[dict[str, str]]:
    """The pairs of each event of a sheet; its picture is there."""
    found = []
    for meta in pipeline.documents("eventMeta"):
        if meta["type"] == "sheet.made":
            [blob] = meta["blobs"]
            assert (pipeline.state / "blobs" / "files" / blob["key"]).read_bytes().startswith(b"\x89PNG\r\n")
            found.append({it["key"]: it["value"] for it in meta["data"]})
    return found


def assert_without_the_broken_one(pipeline: Pipeline) -> None:
    [pairs] = sheets(pipeline)
    assert pairs["photographs"] == str(COUNT - 1)
    [broken] = [it["id"] for it in pipeline.documents("eventMeta") if brings(it, f"photo-{BROKEN:04}.png")]
    assert broken in pairs["missing"]


def brings(meta: dict[str, Any], photo: str) -> bool:
    return meta["type"] == "photo.found" and photo in meta["files"]


def test_it_waits_for_a_broken_photograph_until_that_is_purged(album: Pipeline) -> None:
    album.ion("serve", "--until-idle", code=1)
    assert sheets(album) == []
    assert "sheet waits for 1 job beneath album.received" in album.ion("trace", "flow").stdout
    assert json.loads(album.ion("dlq", "purge", "--all", "--yes", "--json").stdout) == {"purged": 1}
    album.ion("serve", "--until-idle")
    assert_without_the_broken_one(album)


def test_it_can_go_without_and_names_what_is_missing(album: Pipeline) -> None:
    album.ion("serve", "--until-idle", code=1, ALBUM_MISSING="go")
    assert_without_the_broken_one(album)


def test_what_it_gathered_can_be_recorded_and_replayed(album: Pipeline) -> None:
    album.ion("serve", "--until-idle", code=1, ALBUM_MISSING="go")
    [event] = [it["id"] for it in album.documents("eventMeta") if it["type"] == "ion.gathered.sheet"]
    album.ion("module", "record", event, "--module", "sheet", "--name", "seven")
    case = album.home / "cases" / "sheet" / "seven"
    assert len(json.loads((case / "in" / "gathered.json").read_text())["events"]) == COUNT - 1
    assert "1 passed" in album.ion("module", "test", "sheet").stdout
    assert "sheet: the same as what attempt 1 committed" in album.ion("replay", event).stdout
    (case / "in" / "gathered.json").unlink()
    assert "must be there, and an object" in album.ion("module", "test", "sheet", code=78).stderr


def test_its_copy_of_the_module_library_is_that_of_ion() -> None:
    assert (ALBUM / "modules" / "ion_module.py").read_text(encoding="utf-8") == library("python")
