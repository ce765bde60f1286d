"""`ion-core handler serve`: the handler beside a module that somebody started by hand."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.pipeline import ION, TIMEOUT, Pipeline, environment

EVENT = '[{"key": "eventType", "value": "part.made"}, {"key": "files", "value": "f.txt"}]'


class Standing:
    """A handler that listens, and what a module would call it by."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said = ""
        self.port = self.until(r"http://localhost:(\d+)")
        self.until("HANDLER_BASE_DIR=")

    def until(self, pattern: str) -> str:
        assert self.process.stderr is not None
        while not (found := re.search(pattern, self.said)):
            line = self.process.stderr.readline()
            assert line, self.said
            self.said += line
        return found[found.lastindex or 0]

    def call(self, path: str, secret: str = "given") -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers={"secret": secret})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                said = json.loads(error.read())
            return said["statusCode"] if said["statusCode"] == error.code else -1, said["message"]

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT)


@contextmanager
def standing(home: Path, *arguments: str, **environ: str) -> Iterator[Standing]:
    with subprocess.Popen(
        [*ION, "handler", "serve", "--serverport", "0", "--basedir", "ion", *arguments],
        cwd=home,
        env=environment(**environ),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Standing(process)
        finally:
            process.kill()


def leave(home: Path, text: str) -> None:
    (home / "ion/out/data/f.txt").write_text(text)
    (home / "ion/out/events/0.json").write_text(EVENT)


TYPES = ("--valideventtypes", "part.made")
IDS = ("--context.name", "split", "--context.eventid", "e1", "--context.correlationid", "c1")


@pytest.mark.parametrize("development", ["--development", "--development=true", "--development.enabled"])
def test_in_development_it_needs_no_configuration(tmp_path: Path, development: str) -> None:
    with standing(tmp_path, development, "--sharedsecret", "given", *IDS, *TYPES) as handler:
        assert "given" not in handler.said.replace("(as given)", ""), "a secret that was given is not printed"
        assert handler.call("/ready", "wrong")[0] == 401
        assert handler.call("/done") == (400, "no event is prepared: call /ready first")
        assert not (tmp_path / "ion").exists()
        assert handler.call("/ready") == (200, "")
        assert (tmp_path / "ion/in/data").is_dir()
        assert handler.call("/ready")[0] == 400
        leave(tmp_path, "left")
        (tmp_path / "ion/out/data/link").symlink_to("/etc/passwd")
        status, message = handler.call("/done")
        assert (status, "out/data/link" in message) == (500, True)
        assert not (tmp_path / ".dev/e1/committed").exists()
        (tmp_path / "ion/out/data/link").unlink()
        assert handler.call("/done") == (200, "")
        assert (tmp_path / ".dev/e1/_blobs/f.txt").read_text() == "left"
        for path in ("/ready", "/done"):
            assert handler.call(path) == (400, "this event is committed already")
        assert handler.end(signal.SIGINT) == 130


def test_without_ids_each_ready_starts_a_flow(tmp_path: Path) -> None:
    with standing(tmp_path, "--development", *TYPES) as handler:
        secret = handler.until(r"SHARED_SECRET=(\S+)")
        assert len(secret) > 16
        for n in range(3):
            assert handler.call("/ready", secret) == (200, "")
            assert not (tmp_path / "ion/out/data/f.txt").exists(), "clean"
            leave(tmp_path, str(n))
            assert handler.call("/done", secret) == (200, "")
        assert handler.end(signal.SIGTERM) == 143
    kept = sorted(path.read_text() for path in tmp_path.glob(".dev/*/_blobs/f.txt"))
    assert kept == ["0", "1", "2"]


def test_with_providers_it_is_the_handler_of_one_job(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "home")
    pipeline.publish(event_id="e1")
    flow = json.loads(pipeline.ion("trace", "list", "--json").stdout)[0]["correlationId"]
    ids = ("--context.name", "split", "--context.eventid", "e1", "--context.correlationid", flow)
    with standing(pipeline.home, *ids, SHARED_SECRET="given") as handler:
        assert handler.call("/ready") == (200, "")
        assert (pipeline.home / "ion/in/data/input0.txt").read_text() == "input 0\n"
        leave(pipeline.home, "left")
        assert handler.call("/done") == (200, "")
        assert handler.end(signal.SIGTERM) == 143
    pipeline.ion("serve", "--until-idle")
    assert pipeline.runs() == {"join": 1}, "the handler's commit counts: split does not run again"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--context.eventid"),
        (("--context.eventid", "e", "--context.correlationid", "c", "--context.name", "split"), "--sharedsecret"),
        (("--development", "--serverport", "70000"), "--serverport"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    pipeline = Pipeline.make(tmp_path / "home")
    assert said in pipeline.ion("handler", "serve", *arguments, code=2).stderr


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with standing(tmp_path, "--development") as handler:
        pipeline = Pipeline.make(tmp_path / "home")
        refused = pipeline.ion("handler", "serve", "--development", "--serverport", handler.port, code=2)
        assert f"port {handler.port} cannot be had" in refused.stderr
