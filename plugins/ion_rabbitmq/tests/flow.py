"""A pipeline under way: events are published all the time, two dispatchers take them, what became of each is counted.

One module succeeds, the other always fails, and has one retry. Everything is a real process.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.acceptance.pipeline import ION, Pipeline, environment

PATIENCE = 240.0
"""Seconds without what is waited for, after which a test has failed."""
LETTER_IS_THERE = "is a dead letter"
"""What is said of a delivery whose settlement was cut short after its dead letter had been written."""
GOOD, BAD = "work", "fail"
RETRIES = 1
CONFIG = """
messaging:
  provider: rabbitmq
  urls: ["${{{{env:URL_1}}}}", "${{{{env:URL_2}}}}", "${{{{env:URL_3}}}}"]
  prefix: {prefix}
  watch: 5s
storage:
  blobs: {{{{provider: local, path: "{shared}/blobs"}}}}
  documents: {{{{provider: sqlite, path: "{shared}/documents.sqlite"}}}}
modules:
  work:
    command: [sh, work.sh]
    source: modules
    subscribes: [work.asked]
    concurrency: 2
    env: {{{{RUNS: "{{runs}}"}}}}
  fail:
    command: [sh, fail.sh]
    source: modules
    subscribes: [fail.asked]
    retries: {retries}
    retry: {{{{initial: 1s}}}}
    env: {{{{RUNS: "{{runs}}"}}}}
"""
SCRIPTS = {
    "work": 'echo work >> "$RUNS"; echo done > "$HANDLER_BASE_DIR/out/data/result.txt"',
    "fail": 'echo fail >> "$RUNS"; exit 1',
}
PUBLISHING = """
import asyncio, json, os, sys
from pathlib import Path
from ion_core.app import App
from ion_core.config import load_config
from ion_core.errors import TransientError

EVERY, BAD_ONE_IN, AGAIN_AFTER = 0.1, 6, 1.0
ids, again = [], []

async def accepted(intake, kind, id):
    while True:
        try:
            return await intake.publish(f"{kind}.asked", name="test", event_id=id)
        except TransientError as error:
            again.append(str(error))
            await asyncio.sleep(AGAIN_AFTER)

async def publish():
    async with App.open(load_config(Path("ion.yaml"), environ=os.environ)) as app, asyncio.TaskGroup() as group:
        intake = await app.intake()
        told = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
        while not told.done():
            kind = "work" if len(ids) % BAD_ONE_IN else "fail"
            ids.append(f"{kind}-{len(ids)}")
            group.create_task(accepted(intake, kind, ids[-1]))
            await asyncio.wait([told], timeout=EVERY)

asyncio.run(publish())
print(json.dumps({"ids": ids, "again": again}))
"""


class Serving:
    """``ion-core serve``, whose log is read as it comes."""

    def __init__(self, pipeline: Pipeline, state: Path, environ: dict[str, str], news: threading.Condition) -> None:
        self.log: list[dict[str, Any]] = []
        self.over = False
        self._news = news
        self._kept = (pipeline.home / f"{state.name}.log").open("w", encoding="utf-8")  # for who looks
        self.process = subprocess.Popen(
            [*ION, "serve", "--log-format", "json", "--state-dir", str(state)],
            cwd=pipeline.home,
            env=environment(**environ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._kept.write(line)
            self._kept.flush()
            with self._news:
                if line.startswith("{"):
                    self.log.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self.over = True
            self._news.notify_all()

    def is_ready(self) -> bool:
        return any(line["message"] == "serving" for line in self.log)

    def drained(self) -> int:
        """Told to end; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE)
        self._reading.join()
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reading.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        self._kept.close()


class Publishing:
    """Publishes until it is told to end, each event again until it is accepted."""

    def __init__(self, pipeline: Pipeline, environ: dict[str, str], news: threading.Condition) -> None:
        self.failed = False
        self._news = news
        self._errors = (pipeline.home / "publisher.log").open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-c", PUBLISHING],
            cwd=pipeline.home,
            env=environment(**environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._waiting = threading.Thread(target=self._wait)
        self._waiting.start()

    def _wait(self) -> None:
        failed = self._process.wait() != 0
        with self._news:
            self.failed = failed
            self._news.notify_all()

    def told_to_end(self) -> dict[str, Any]:
        """Returns, once all is accepted, which events there were, and what was said of those that were not at once."""
        said, _ = self._process.communicate("", PATIENCE)
        self._waiting.join()
        assert not self.failed, f"it failed. What it said is in {self._errors.name}"
        published: dict[str, Any] = json.loads(said)
        return published

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._waiting.join()
        self._errors.close()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Counted from documents, dead letters, what the modules noted and logs, after everything was settled."""

    events: Counter[str]
    """Of each module, that were accepted."""
    runs: Counter[str]
    commits: int
    letters: Counter[str]
    """Of each event."""
    again: int
    """How often the publisher tried again."""
    gap: float
    """Seconds between two commits, at most."""

    def __str__(self) -> str:
        return (
            f"{self.events[GOOD]}+{self.events[BAD]} events: {self.runs[GOOD]} runs, {self.commits} commits; "
            f"{self.runs[BAD]} runs of what fails, {self.letters.total()} dead letters; longest gap between commits "
            f"{self.gap:.1f} s; {self.again} publishes tried again"
        )


class Flow:
    """Two dispatchers and a publisher; all of them know all addresses. ``urls``: of the publisher and the first one.

    The second one begins with the second address. They share documents and blobs.
    """

    def __init__(self, home: Path, prefix: str, urls: Sequence[str]) -> None:
        shared = home / "shared"
        config = CONFIG.format(prefix=prefix, shared=shared, retries=RETRIES)
        self.pipeline = Pipeline.make(home / "pipeline", config=config, modules=SCRIPTS)
        self.pipeline.state = shared
        self._home = home
        self._news = threading.Condition()
        self.environs = [_environ([*urls[n:], *urls[:n]]) for n in range(len(urls))]
        self.serving: list[Serving] = []
        self._publisher: Publishing | None = None

    @contextmanager
    def under_way(self) -> Iterator[None]:
        with self.idle("a", "b"):
            self._publisher = Publishing(self.pipeline, self.environs[0], self._news)
            try:
                yield
            finally:
                self._publisher.close()

    @contextmanager
    def idle(self, *names: str) -> Iterator[None]:
        """As many dispatchers as names, and nothing is published."""
        try:
            for name, environ in zip(names, self.environs, strict=False):
                serving = Serving(self.pipeline, self._home / name, environ, self._news)
                self.serving.append(serving)
                self.until(serving.is_ready, "serving")  # the first one declares: leaders are where it is connected
            yield
        finally:
            for serving in self.serving:
                serving.close()

    def until(self, happened: Callable[[], bool], what: str) -> None:
        """Returns once it has, looking whenever a line was logged."""
        with self._news:
            found = self._news.wait_for(lambda: happened() or self._ended(), PATIENCE)
        assert found, f"not within {PATIENCE:g} s: {what}. What serve says is in {self.pipeline.home}"
        assert not self._ended(), f"a process has ended. What it said is in {self.pipeline.home}"

    def _ended(self) -> bool:
        """Whether a process has that should go on."""
        return any(it.over for it in self.serving) or (self._publisher is not None and self._publisher.failed)

    def listed(self) -> list[dict[str, Any]]:
        """What ``module list`` says of each module's queue, asked at the first address first."""
        done = subprocess.run(
            [*ION, "module", "list", "--json"],
            cwd=self.pipeline.home,
            env=environment(**self.environs[0]),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return [module["queue"] for module in found]

    def until_more_commits(self, count: int) -> None:
        self.until_commits(len(self._logged("job committed")) + count)

    def until_commits(self, count: int) -> None:
        self.until(lambda: len(self._logged("job committed")) >= count, f"{count} commits")

    def until_said(self, what: str) -> None:
        """By one of the dispatchers, since it was started."""
        self.until(lambda: any(what in line["message"] for it in self.serving for line in it.log), f"said: {what}")

    def _logged(self, message: str) -> list[dict[str, Any]]:
        return [line for it in self.serving for line in it.log if line["message"].startswith(message)]

    def outcome(self) -> Outcome:
        """Nothing more is published; everything that was is brought to its end, by the same two dispatchers."""
        assert self._publisher is not None
        published = self._publisher.told_to_end()
        good, bad = ({id for id in published["ids"] if id.startswith(kind)} for kind in (GOOD, BAD))

        def all_over() -> bool:
            done = {line["eventId"] for it in ("job committed", "job already committed") for line in self._logged(it)}
            dead = {line["eventId"] for line in self._logged("job dead-lettered")}
            dead |= {line["eventId"] for line in self._logged("job duplicate") if LETTER_IS_THERE in line["message"]}
            return done >= good and dead >= bad

        self.until(all_over, "an end of every event")
        assert [it.drained() for it in self.serving] == [128 + signal.SIGTERM] * 2
        last = self.pipeline.ion(
            "serve", "--until-idle", "--state-dir", str(self._home / "a"), code=None, **self.environs[0]
        )
        assert last.returncode in (0, 1), last.stderr
        letters = json.loads(self.pipeline.ion("dlq", "list", "--json", **self.environs[0]).stdout)
        commits = Counter(it["context"]["eventId"] for it in self.pipeline.documents("commit"))
        assert set(commits) == good, "every event of what succeeds is committed, and no other"
        assert max(commits.values()) == 1, "nothing is committed twice"
        queues = json.loads(self.pipeline.ion("module", "list", "--json", **self.environs[0]).stdout)
        for module in queues:
            assert {name: module["queue"][name] for name in ("ready", "delayed")} == {"ready": 0, "delayed": 0}
        times = sorted(datetime.fromisoformat(line["time"]) for line in self._logged("job committed"))
        return Outcome(
            events=Counter({GOOD: len(good), BAD: len(bad)}),
            runs=self.pipeline.runs(),
            commits=commits.total(),
            letters=Counter(letter["eventId"] for letter in letters),
            again=len(published["again"]),
            gap=max((b - a).total_seconds() for a, b in pairwise(times)),
        )


def _environ(urls: Sequence[str]) -> dict[str, str]:
    return {f"URL_{n}": url for n, url in enumerate(urls, start=1)}
