"""A pipeline of shell modules in a directory of its own, driven through real `ion-core` processes."""

from __future__ import annotations

import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import commands
from tests.support.commands import ION as ION

TIMEOUT = 60.0

# `split` writes three files and an event for each; `join` takes those. Both note each run outside of the workspace.
SPLIT = """
echo split >> "$RUNS"
echo "splitting for $(cat "$HANDLER_BASE_DIR/in/eventmeta.json" 2>/dev/null)"
for n in 1 2 3; do
    mkdir -p "$HANDLER_BASE_DIR/out/data/part$n"
    cat "$HANDLER_BASE_DIR"/in/data/* > "$HANDLER_BASE_DIR/out/data/part$n/piece.txt"
    printf '[{"key":"eventType","value":"part.made"},{"key":"files","value":"part%s/piece.txt"}]' $n \\
        > "$HANDLER_BASE_DIR/out/events/$n.json"
done
printf '[{"key":"parts","value":"3"}]' > "$HANDLER_BASE_DIR/out/insights.json"
"""
JOIN = """
echo join >> "$RUNS"
cp -r "$HANDLER_BASE_DIR/in/data/." "$HANDLER_BASE_DIR/out/data/"
"""
CONFIG = """
modules:
  split:
    command: [sh, split.sh]
    source: modules
    subscribes: [whole.received]
    publishes: [part.made]
    retries: 1
    retry: {{initial: 10ms}}
    env: {{RUNS: "{runs}"}}
  join:
    command: [sh, join.sh]
    source: modules
    subscribes: [part.made]
    concurrency: 2
    env: {{RUNS: "{runs}"}}
"""


def environment(**more: str) -> dict[str, str]:
    """Ours, without what would configure Ion."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ION_")} | more


@dataclass
class Pipeline:
    """``home`` has ion.yaml, modules/ and, once used, .ion/."""

    home: Path
    state: Path = field(init=False)

    def __post_init__(self) -> None:
        self.state = self.home / ".ion"

    @classmethod
    def make(cls, home: Path, *, config: str = CONFIG, modules: Mapping[str, str] | None = None) -> Pipeline:
        (home / "modules").mkdir(parents=True)
        (home / "ion.yaml").write_text(config.format(runs=home / "runs"), encoding="utf-8")
        for name, script in ({"split": SPLIT, "join": JOIN} if modules is None else modules).items():
            (home / "modules" / f"{name}.sh").write_text(script, encoding="utf-8")
        return cls(home)

    def ion(self, *arguments: str, code: int | None = 0, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run ``ion-core`` to its end; asserts its exit code unless ``code`` is None."""
        try:
            done = commands.run(*arguments, cwd=self.home, environ=environment(**environ), within=TIMEOUT)
        except subprocess.TimeoutExpired as error:
            said = (error.stderr or b"").decode(errors="replace")
            raise AssertionError(f"not within {TIMEOUT:g} s: ion-core {' '.join(arguments)}\n{said}") from None
        if code is not None:
            assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def python(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run this Python in the pipeline's directory."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.home,
            env=environment(**environ),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def publish(self, event_type: str = "whole.received", *, files: int = 1, event_id: str | None = None) -> str:
        """Publish an event with so many files; returns its correlation id."""
        arguments = ["event", "publish", event_type, "--json"]
        for n in range(files):
            path = self.home / f"input{n}.txt"
            path.write_text(f"input {n}\n", encoding="utf-8")
            arguments += ["--file", str(path)]
        if event_id is not None:
            arguments += ["--event-id", event_id]
        correlation_id: str = json.loads(self.ion(*arguments).stdout)["context"]["correlationId"]
        return correlation_id

    @contextmanager
    def serving(self, *arguments: str, **environ: str) -> Iterator[Served]:
        """``ion-core serve`` in the background, killed at the end if it has not ended by then."""
        process = commands.start("serve", *arguments, cwd=self.home, environ=environment(**environ))
        served = Served(process)
        try:
            yield served
        finally:
            process.kill()
            process.wait(TIMEOUT)
            served.close()

    def runs(self) -> Counter[str]:
        """How often each module was started."""
        noted = self.home / "runs"
        return Counter(noted.read_text().split()) if noted.exists() else Counter()

    def documents(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Bodies of all documents, from the database itself."""
        with _reading(self.state / "documents.sqlite") as database:
            rows = database.execute("SELECT kind, body FROM documents ORDER BY rowid").fetchall()
        return [json.loads(body) for found, body in rows if kind in (None, found)]

    def pending(self) -> int:
        with _reading(self.state / "broker.sqlite") as database:
            return int(database.execute("SELECT count(*) FROM messages").fetchone()[0])

    def dead_letters(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.ion("dlq", "list", "--json").stdout)
        return found


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(path)
    try:
        yield database
    finally:
        database.close()


class Served:
    """A running ``serve``: its log is read as it comes."""

    def __init__(self, process: subprocess.Popen[bytes] | commands.Forked) -> None:
        self.process = process
        self.log = ""
        assert process.stderr is not None
        self._stderr = process.stderr
        os.set_blocking(self._stderr.fileno(), False)

    def until(self, text: str, *, count: int = 1) -> str:
        """Read the log until ``text`` was in it so often; fails after a minute, or when the process has ended."""
        while self.log.count(text) < count:
            ready, _, _ = select.select([self._stderr], [], [], TIMEOUT)
            assert ready, f"{text!r} did not appear in the log:\n{self.log}"
            chunk = self._stderr.read()
            assert chunk, f"ended before {text!r} appeared in its log:\n{self.log}"
            self.log += chunk.decode("utf-8", "replace")
        return self.log

    def lasts(self, seconds: float) -> None:
        """Read the log for that long, for what is a matter of time; fails when the process ends meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self._stderr], [], [], left)[0]:
                chunk = self._stderr.read()
                assert chunk, f"ended:\n{self.log}"
                self.log += chunk.decode("utf-8", "replace")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Wait for the end, reading the rest of the log; the exit code."""
        while True:
            ready, _, _ = select.select([self._stderr], [], [], TIMEOUT)
            assert ready, f"did not end:\n{self.log}"
            chunk = self._stderr.read()
            if not chunk:
                return self.process.wait(TIMEOUT)
            self.log += chunk.decode("utf-8", "replace")

    def close(self) -> None:
        self._stderr.close()


def assert_invariants(pipeline: Pipeline, *, events: int, committed: Mapping[str, int]) -> None:
    """I1 to I5 after everything has settled, counted from documents and files, not from our own counters.

    ``events`` were accepted from outside; ``committed`` is how many jobs of each module must have committed.
    """
    commits = pipeline.documents("commit")
    metas = {meta["id"]: meta for meta in pipeline.documents("eventMeta")}
    jobs = Counter((commit["context"]["eventId"], commit["context"]["name"]) for commit in commits)
    assert max(jobs.values()) == 1, "I2: one commit record per job"
    assert Counter(name for _, name in jobs) == Counter(committed), "I1: every event ends in exactly one place"
    assert pipeline.pending() == 0, "I1: nothing is left in a queue"
    children = [(event["id"], event["type"]) for commit in commits for event in commit["events"]]
    assert len(set(children)) == len(children)
    assert len(metas) == events + len(children), "I3: every child event's document is there, and no other"
    for event_id, event_type in children:
        assert metas[event_id]["type"] == event_type
        if event_type == "part.made":
            assert (event_id, "join") in jobs, "I3: every child event was published"
    visible = {file["key"] for commit in commits for file in commit["outputs"]}
    visible |= {blob["key"] for meta in metas.values() for blob in meta["blobs"]}
    files = pipeline.state / "blobs" / "files"
    stored = {str(path.relative_to(files)) for path in files.rglob("*") if path.is_file()}
    assert stored == visible, "I4: no file without a commit, none missing"
    for place in filter(Path.is_dir, (pipeline.state / name for name in ("work", "run", "jobs"))):
        left = [path.name for path in place.iterdir() if not path.name.startswith(".spare-")]
        assert left == [], f"I5: nothing is left in {place.name}"
