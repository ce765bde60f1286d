"""Both pipelines through one combination, by real ``ion-core`` processes, and what they leave."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.acceptance.pipeline import environment
from tests.everywhere import pipelines
from tests.everywhere.backends import Combination, modules_at
from tests.everywhere.site import Site
from tests.support import commands

Json = dict[str, Any]
PATIENCE = 900.0
FAILS, DONE = 1, 0
"""How ``serve --until-idle`` ends: with dead letters, and without a new one."""


@dataclass(frozen=True)
class Left:
    """All documents of the flow, the dead letters, and digests of files by their names."""

    documents: list[Json]
    dead_letters: list[Json]
    files: Mapping[str, str]


@dataclass
class Run:
    """``home`` is a new directory. What it needs of ``site`` is started by ``make``."""

    combination: Combination
    site: Site
    home: Path
    environ: Mapping[str, str] = field(init=False)

    def make(self) -> None:
        self.home.mkdir(parents=True)
        with self.site.one_at_a_time:
            self.environ = self.combination.runtime.environ(self.site)
        self.configure()

    def configure(self, *, gives_in: bool = False) -> None:
        name = self.combination.name
        with self.site.one_at_a_time:  # what it asks for may have to be started
            sections = [{"provider": it.provider, **it.settings(self.site, name)} for it in self.combination.all]
            said, before = modules_at(self.combination.runtime, self.site)
        broker, runtime, blobs, documents = sections
        config = {
            "messaging": broker,
            "runtimes": {"default": runtime},
            "storage": {"blobs": blobs, "documents": documents},
            "modules": pipelines.modules(said, before, gives_in=gives_in),
        }
        (self.home / "ion.yaml").write_text(json.dumps(config, indent=1), encoding="utf-8")

    def ion(self, *arguments: str, code: int = 0) -> str:
        """Standard output. Asserts the exit code."""
        called = f"ion-core {' '.join(arguments)}"
        try:
            done = commands.run(*arguments, cwd=self.home, environ=environment(**self.environ), within=PATIENCE)
        except subprocess.TimeoutExpired as error:
            said = (error.stderr or b"").decode(errors="replace")
            raise AssertionError(f"{called}: does not end within {PATIENCE:g} s\n{said}") from None
        said = f"{called}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == code, said
        return done.stdout

    def run(self) -> Left:
        """Events in, all work done; then a dead letter is redriven, and commits."""
        lines = pipelines.batch(self.home)
        (self.home / "batch.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        self.ion("event", "publish", "--batch", "batch.jsonl")
        self.ion("serve", "--until-idle", code=FAILS)
        self.configure(gives_in=True)
        self.ion("dlq", "redrive", "--module", "stubborn")
        self.ion("serve", "--until-idle", code=DONE)
        return Left(
            json.loads(self.ion("trace", "flow", pipelines.FLOW, "--json")),
            json.loads(self.ion("dlq", "list", "--json")),
            self._files(),
        )

    def _files(self) -> dict[str, str]:
        """Those that came in and those that were made, as they are fetched."""
        directory = self.home / "fetched"
        self.ion("files", pipelines.FLOW, "--get", str(directory))
        return {
            str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in directory.rglob("*")
            if path.is_file()
        }
