"""The whole of it: `ion-core serve` with Podman, as a user has it, through its command line."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ion_podman.testing import BUSYBOX, PodmanService

ION = str(Path(sys.executable).with_name("ion-core"))
PATIENCE = 60.0
CONFIG = """
runtimes: {{default: {{provider: podman, url: "{url}"}}}}
modules:
  work:
    image: {image}
    command: ["sh", "-c", "cat /ion/in/data/* > /ion/out/data/copy; echo SECRET=$SHARED_SECRET"]
    subscribes: [work.asked]
    warm: 1
  long:
    image: {image}
    command: ["sh", "-c", "trap 'exit 3' TERM; sleep 300 & wait"]
    subscribes: [long.asked]
    warm: 1
  eats:
    image: {image}
    command: ["sh", "-c", "x=0123456789abcdef; while :; do x=$x$x; done"]
    subscribes: [eats.asked]
    resources: {{memory: 32MiB}}
    retries: 0
  half:
    image: {image}
    command: ["sh", "-c", "sh -c 'x=0123456789abcdef; while :; do x=$x$x; done'; echo half > /ion/out/data/half"]
    subscribes: [half.asked]
    resources: {{memory: 32MiB}}
    retries: 0
  absent:
    image: localhost/no/such:1
    command: ["true"]
    subscribes: [absent.asked]
    warm: 1
"""


class Home:
    """A configuration, its state, and ``ion-core`` on it."""

    def __init__(self, path: Path, service: PodmanService) -> None:
        self.path = path
        self.service = service
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("ION_")}
        (path / "ion.yaml").write_text(CONFIG.format(url=service.url, image=BUSYBOX), encoding="utf-8")
        (path / "note").write_text("remember\n", encoding="utf-8")

    def ion(self, *arguments: str) -> Any:
        done = subprocess.run(
            [ION, *arguments, "--json"],
            cwd=self.path,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refused(self, *arguments: str) -> str:
        """What it says of a configuration that is none."""
        done = subprocess.run(
            [ION, *arguments],
            cwd=self.path,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 78, done.stdout + done.stderr
        return done.stderr

    def documents(self) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self.path / ".ion/documents.sqlite")) as database:
            return [json.loads(row[0]) for row in database.execute("SELECT body FROM documents")]

    def serve(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.path / "said").open("ab") as said:
            return subprocess.Popen(
                [ION, "serve", *arguments], cwd=self.path, env=self.environ, stdout=said, stderr=said
            )

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{what}: {(self.path / 'said').read_text()}"
            time.sleep(0.1)

    def has_said(self, text: str) -> bool:
        return text in (self.path / "said").read_text(encoding="utf-8")

    def containers(self, state: str) -> list[str]:
        listed = self.service.podman("ps", "--all", "--filter", f"status={state}", "--format", "{{.Names}}")
        return listed.split()


@pytest.fixture
def home(tmp_path: Path, service: PodmanService) -> Home:
    return Home(tmp_path, service)


def test_events_are_committed_with_the_digest_of_their_image_and_nothing_is_left(home: Home) -> None:
    published = home.ion("event", "publish", "work.asked", "--file", "note")
    for name in ("eats", "half", "absent"):
        home.ion("event", "publish", f"{name}.asked")
    assert home.serve("--until-idle").wait(PATIENCE) == 1, "three jobs are dead letters"
    assert home.service.containers() == []
    with sqlite3.connect(home.path / ".ion/documents.sqlite") as database:
        text = "\n".join(str(row) for row in database.execute("SELECT * FROM documents"))
    database.close()
    (image,) = json.loads(home.service.podman("image", "inspect", BUSYBOX))
    assert published["context"]["eventId"] in text
    assert image["Digest"] in text
    assert "SECRET=********" in text, "what a module prints of its secret is not kept"
    reasons = {it["module"]: it["reason"] for it in home.ion("dlq", "list")}
    assert "limit: memory 32 MiB" in reasons["eats"]
    assert "limit: memory 32 MiB), though it exited with 0" in reasons["half"]
    assert "image unavailable: localhost/no/such:1" in reasons["absent"]


def test_the_first_signal_drains_and_leaves_nothing(home: Home) -> None:
    serving = home.serve()
    home.until(lambda: len(home.containers("initialized")) == 2, "two warm slots")
    serving.send_signal(signal.SIGTERM)
    assert serving.wait(PATIENCE) == 143
    assert home.service.containers() == []


def test_a_dispatcher_that_was_killed_leaves_what_the_next_one_removes(home: Home) -> None:
    home.ion("event", "publish", "long.asked")
    serving = home.serve()
    home.until(lambda: len(home.containers("running")) == 1, "the job")
    home.until(lambda: len(home.containers("initialized")) == 2, "two warm slots")
    serving.kill()
    serving.wait(PATIENCE)
    left = set(home.service.containers())
    assert len(left) == 3
    again = home.serve()
    home.until(lambda: not left & set(home.service.containers()), "what was left is removed")
    home.until(lambda: len(home.containers("running")) == 1, "the event is back")
    for word in ("draining", "hurrying"):
        again.send_signal(signal.SIGTERM)
        home.until(partial(home.has_said, f"SIGTERM received, {word}"), word)
    assert again.wait(PATIENCE) == 143
    assert home.service.containers() == []


CALLING = """
call() {
    n=0
    until wget -q -O /dev/null --header "secret: $SHARED_SECRET" "http://localhost:$HANDLER_PORT$1" 2>/tmp/said; do
        grep -q 'server returned error' /tmp/said && return 1
        n=$((n + 1)); [ $n -lt 50 ] || return 1
        sleep 0.1
    done
}
echo started
ip addr | grep -c '^[0-9]'
while call /ready; do
    cp /ion/in/data/note /ion/out/data/copy
    echo round
    call /done || exit 3
done
"""


def test_a_module_without_a_network_calls_its_handler_and_is_given_one_event_after_the_other(home: Home) -> None:
    calling = {
        "image": BUSYBOX,
        "command": ["sh", "-c", CALLING],
        "subscribes": ["calling.asked"],
        "network": "none",
        "reuse": True,
        "warm": 1,
    }
    config = {"runtimes": {"default": {"provider": "podman", "url": home.service.url}}, "modules": {"calling": calling}}
    (home.path / "ion.yaml").write_text(json.dumps(config), encoding="utf-8")
    for _ in range(3):
        home.ion("event", "publish", "calling.asked", "--file", "note")
    assert home.serve("--until-idle").wait(PATIENCE) == 0
    assert home.service.containers() == []
    bodies = home.documents()
    commits = [body for body in bodies if body["context"]["documentType"] == "commit"]
    assert [[file["name"] for file in commit["outputs"]] for commit in commits] == [["copy"]] * 3
    lines = "\n".join(body["logs"] for body in bodies if "logs" in body).splitlines()
    # What it printed just before its last /done may have come after the commit.
    last_words = re.findall(r"last words.*\bround\b", (home.path / "said").read_text(encoding="utf-8"))
    assert (lines.count("started"), lines.count("round") + len(last_words)) == (1, 3)
    assert "1" in lines, "the loopback interface is the only one"


CHECKED = """
runtimes: {{default: {{provider: podman, url: "{url}", allow: {{host_network: [crawler]}}}}}}
modules:
  crawler: {{image: {image}, subscribes: [a], network: host}}
  other: {{image: {image}, subscribes: [a], network: host}}
  named: {{image: {image}, subscribes: [a], network: lan}}
  built: {{build: absent, subscribes: [a]}}
"""


def test_what_podman_does_not_allow_is_refused_before_anything_is_served(home: Home) -> None:
    text = CHECKED.format(url=home.service.url, image=BUSYBOX)
    (home.path / "ion.yaml").write_text(text, encoding="utf-8")
    assert re.findall(r"ion\.yaml:(\d+:\d+: \S+:.*?no such directory)", home.refused("check")) == [
        "7:18: modules.built.build: no such directory"
    ]
    (home.path / "ion.yaml").write_text(text.replace("build: absent", f"image: {BUSYBOX}"), encoding="utf-8")
    column = text.splitlines()[4].rindex("host") + 1
    for command in (("check",), ("serve", "--until-idle")):
        said = home.refused(*command)
        assert re.findall(r"ion\.yaml:(\d+:\d+: \S+):", said) == [f"5:{column}: modules.other.network"]
        assert 'network "host"' in said


def test_a_module_is_built_when_its_first_event_comes(home: Home) -> None:
    context = home.path / "module"
    context.mkdir()
    (context / "Containerfile").write_text(f'FROM {BUSYBOX}\nCOPY . /module\nCMD ["sh", "/module/run.sh"]\n')
    (context / "run.sh").write_text("cp /ion/in/data/note /ion/out/data/copy\n")
    config = f"""
runtimes: {{default: {{provider: podman, url: "{home.service.url}"}}}}
modules: {{built: {{build: module, subscribes: [built.asked]}}}}
"""
    (home.path / "ion.yaml").write_text(config, encoding="utf-8")
    home.ion("event", "publish", "built.asked", "--file", "note")
    assert home.serve("--until-idle").wait(PATIENCE) == 0
    (commit,) = [it for it in home.documents() if it["context"]["documentType"] == "commit"]
    images = json.loads(home.service.podman("images", "--format", "json"))
    (image,) = [it for it in images if any(name.startswith("localhost/ion/built:") for name in it.get("Names") or ())]
    assert commit["image"] == image["Digest"]
    home.service.podman("rmi", "--force", image["Id"])
