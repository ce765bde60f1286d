"""The plugin of docs/plugins.md, as `ion-core plugins new` writes it: installed, conforming, chosen by config."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ion_core.scaffold import plugin_files, write_new
from tests.acceptance.pipeline import Pipeline, environment
from tests.support.installing import install


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the distribution's sources; it is installed in ``site`` beside it."""
    home = tmp_path_factory.mktemp("plugin")
    source = home / "ion-shelf"
    write_new(source, plugin_files("blobs", "shelf"))
    install(source, home / "site")
    return source


def test_it_is_listed_and_chosen_by_config(shelf: Path, tmp_path: Path) -> None:
    site = str(shelf.parent / "site")
    pipeline = Pipeline(tmp_path)
    (tmp_path / "ion.yaml").write_bytes((shelf / "ion.yaml").read_bytes())

    listed = json.loads(pipeline.ion("plugins", "list", "--json", PYTHONPATH=site).stdout)
    assert [plugin for plugin in listed if plugin["distribution"] == "ion-shelf"] != []

    (tmp_path / "note.txt").write_text("noted")
    pipeline.ion("event", "publish", "file.received", "--file", "note.txt", PYTHONPATH=site)
    pipeline.ion("serve", "--until-idle", PYTHONPATH=site)

    [commit] = pipeline.documents("commit")
    assert [file["name"] for file in commit["outputs"]] == ["note.txt"]
    kept = [path for path in (pipeline.state / "shelf").iterdir() if path.suffix != ".key"]
    assert {path.read_text() for path in kept} == {"noted"}
    assert not (pipeline.state / "blobs").exists(), "the embedded store is not even opened"


def test_without_it_the_config_is_refused_with_what_is_installed(shelf: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    (tmp_path / "ion.yaml").write_bytes((shelf / "ion.yaml").read_bytes())

    refused = pipeline.ion("check", code=78)

    assert 'ion.yaml:2:21: storage.blobs.provider: no blob store called "shelf"' in refused.stderr
    assert "Installed: local, memory" in refused.stderr


def test_it_passes_the_conformance_kit(shelf: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=shelf,
        env=environment(PYTHONPATH=str(shelf.parent / "site")),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "failed" not in done.stdout
