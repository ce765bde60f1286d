"""A pipeline in a directory of its own, and a plugin that is really installed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ion_core.cli.logging_setup import log_to
from tests.cli.running import FAILS, PIPELINE, PLUGIN, UP, Ion


@pytest.fixture
def ion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Ion]:
    for name in [name for name in os.environ if name.startswith("ION_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    for name, text in {"ion.yaml": PIPELINE, "up.sh": UP, "fails.sh": FAILS, "note.txt": "remember\n"}.items():
        (home / name).write_text(text)
    monkeypatch.chdir(home)
    level = logging.getLogger().level
    yield Ion(home, capsys)
    log_to(logging.NullHandler(), level)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory for PYTHONPATH in which a plugin with commands of its own is installed."""
    site = tmp_path / "site"
    info = site / "ion_greeting-1.5.dist-info"
    info.mkdir(parents=True)
    (site / "ion_greeting.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ion-greeting\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text("[ion_core]\ngreeting = ion_greeting\n")
    return site
