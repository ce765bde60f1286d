"""A configuration with a container runtime, its state, and ``ion-core`` on it as a user has it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.support import commands
from tests.support.commands import ION
from tests.support.containers import RuntimeUnderTest

PATIENCE = 60.0


class Home:
    """``text`` is the configuration."""

    def __init__(self, path: Path, tested: RuntimeUnderTest, text: str) -> None:
        self.path = path
        self.tested = tested
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("ION_")}
        (path / "ion.yaml").write_text(text, encoding="utf-8")
        (path / "note").write_text("remember\n", encoding="utf-8")

    def ion(self, *arguments: str) -> Any:
        done = commands.run(*arguments, "--json", cwd=self.path, environ=self.environ, within=PATIENCE)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refused(self, *arguments: str) -> str:
        """What it says of a configuration that is none."""
        done = commands.run(*arguments, cwd=self.path, environ=self.environ, within=PATIENCE)
        assert done.returncode == 78, done.stdout + done.stderr
        return done.stderr

    def documents(self) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self.path / ".ion/documents.sqlite")) as database:
            return [json.loads(row[0]) for row in database.execute("SELECT body FROM documents")]

    def serve(self, *arguments: str, **environ: str) -> subprocess.Popen[bytes]:
        with (self.path / "said").open("ab") as said:
            command = [*ION, "serve", *arguments]
            return subprocess.Popen(command, cwd=self.path, env=self.environ | environ, stdout=said, stderr=said)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{what}: {(self.path / 'said').read_text()}"
            time.sleep(0.1)

    def has_said(self, text: str) -> bool:
        return text in (self.path / "said").read_text(encoding="utf-8")
