"""Commands in this process and as real processes, and the pipeline of shell modules that they work on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ion_core.app import App
from ion_core.cli import main
from ion_core.cli.session import load, run
from ion_core.cli.whole import Options
from tests.support import commands

T = TypeVar("T")

PIPELINE = """\
modules:
  up:
    command: [sh, up.sh]
    source: .
    subscribes: [start]
    publishes: [made]
  fails:
    command: [sh, fails.sh]
    source: .
    subscribes: [made]
    retries: 1
    retry: {initial: 10ms}
  takes:
    command: [sh, -c, "true"]
    source: .
    subscribes: [made]
"""

UP = """\
cp "$HANDLER_BASE_DIR"/in/data/* "$HANDLER_BASE_DIR"/out/data/
echo '[{"key":"eventType","value":"made"},{"key":"files","value":"note.txt"},{"key":"n","value":"1"}]' \\
  > "$HANDLER_BASE_DIR"/out/events/made.json
echo '[{"key":"lines","value":"3"}]' > "$HANDLER_BASE_DIR"/out/insights.json
echo worked hard
"""

FAILS = """\
test -e mended && exit 0
echo oh no >&2
exit 3
"""

PLUGIN = """\
import click
from ion_core.hookspecs import hookimpl

@click.command()
@click.argument("what", default="world")
def greet(what):
    "Say hello."
    print("hello", what)

@click.command()
def boom():
    "Fail by a bug."
    raise RuntimeError("kaputt")

@click.command()
def interrupt():
    "Be interrupted."
    raise KeyboardInterrupt

@hookimpl
def ion_commands():
    return [greet, boom, interrupt]
"""


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Ion:
    """``ion-core`` in the directory of a pipeline: called, it runs in this process."""

    home: Path
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> Result:
        self.capsys.readouterr()
        code = main(arguments)
        out, err = self.capsys.readouterr()
        return Result(code, out, err)

    def in_app(self, work: Callable[[App], Awaitable[T]]) -> T:
        """What a test does to the stores itself, with the same configuration."""
        return run(load(Options()), work)

    def process(self, *arguments: str, environ: Mapping[str, str] | None = None) -> Result:
        """Without a terminal."""
        done = commands.run(*arguments, cwd=self.home, environ={**os.environ, **(environ or {})})
        return Result(done.returncode, done.stdout, done.stderr)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ion_core", *arguments]
