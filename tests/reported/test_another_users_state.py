"""Commands of another user in a state directory: nothing of his is left there, and the owner goes on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from ion_core.errors import StateError
from ion_core.state import State
from tests.acceptance.pipeline import Pipeline

SOMEBODY = 54321

READING = [
    ("check",),
    ("trace", "list"),
    ("dlq", "list"),
    ("module", "list"),
    ("event", "peek", "--module", "join"),
    ("gc", "--older-than", "1d", "--dry-run"),
    ("config", "show"),
]
WRITING = [
    ("event", "publish", "whole.received"),
    ("serve", "--until-idle"),
    ("event", "get", "--module", "join", "--wait", "0.1"),
    ("dlq", "redrive", "--all"),
    ("gc", "--older-than", "1d"),
]

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline.make(tmp_path / "home")


def everything(home: Path) -> set[Path]:
    return set(home.rglob("*"))


def owned_by(uid: int, paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.lstat().st_uid == uid]


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_command_that_reads_makes_nothing(command: tuple[str, ...], pipeline: Pipeline) -> None:
    before = everything(pipeline.home)
    pipeline.ion(*command)
    assert everything(pipeline.home) == before


@pytest.mark.parametrize("command", [("trace", "flow", "c1"), ("logs", "e1"), ("dlq", "show", "1")], ids=" ".join)
def test_what_is_not_there_to_be_read_is_not_found_and_not_made(command: tuple[str, ...], pipeline: Pipeline) -> None:
    before = everything(pipeline.home)
    said = pipeline.ion(*command, code=1).stderr
    assert "a bug" not in said
    assert everything(pipeline.home) == before


@only_root
@pytest.mark.parametrize("command", WRITING, ids=" ".join)
def test_a_command_that_writes_is_refused_naming_the_owner(command: tuple[str, ...], pipeline: Pipeline) -> None:
    pipeline.state.mkdir(mode=0o700)
    os.chown(pipeline.state, SOMEBODY, SOMEBODY)
    said = pipeline.ion(*command, code=78).stderr
    assert f"is the state directory of uid {SOMEBODY}, and this runs as root (uid 0)" in said
    assert list(pipeline.state.iterdir()) == []


@only_root
@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_what_root_brings_about_by_reading_is_the_owners(command: tuple[str, ...], pipeline: Pipeline) -> None:
    pipeline.state.mkdir(mode=0o700)
    os.chown(pipeline.state, SOMEBODY, SOMEBODY)
    pipeline.ion(*command)
    assert owned_by(0, everything(pipeline.state)) == []


def test_a_directory_that_root_made_names_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = State.open(tmp_path / ".ion")
    monkeypatch.setattr("os.geteuid", lambda: SOMEBODY)
    with pytest.raises(StateError, match=rf"is the state directory of .*uid {os.getuid()}.* runs as uid {SOMEBODY}"):
        State.open(state.path)
    with pytest.raises(StateError, match=rf"uid {os.getuid()}"), State.looking(state.path):
        pass
