"""The whole of it: `ion-core serve` with a container runtime, as a user has it, through its command line."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
from functools import partial
from pathlib import Path

import pytest

from ion_podman.testing import BUSYBOX
from tests.containers.home import PATIENCE, Home
from tests.support.containers import RuntimeUnderTest

CONFIG = """
runtimes: {{default: {runtime}}}
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
    subscribes: [work.asked]
    resources: {{memory: 32MiB}}
    retries: 0
  half:
    image: {image}
    command: ["sh", "-c", "sh -c 'x=0123456789abcdef; while :; do x=$x$x; done'; echo half > /ion/out/data/half"]
    subscribes: [work.asked]
    resources: {{memory: 32MiB}}
    retries: 0
  absent:
    image: localhost/no/such:1
    command: ["true"]
    subscribes: [work.asked]
    warm: 1
"""


@pytest.fixture
def home(tmp_path: Path, tested: RuntimeUnderTest) -> Home:
    return Home(tmp_path, tested, CONFIG.format(runtime=tested.written(), image=BUSYBOX))


def test_events_are_committed_with_the_digest_of_their_image_and_nothing_is_left(home: Home) -> None:
    published = home.ion("event", "publish", "work.asked", "--file", "note")
    assert home.serve("--until-idle").wait(PATIENCE) == 1, "three jobs are dead letters"
    assert home.tested.containers() == []
    with sqlite3.connect(home.path / ".ion/documents.sqlite") as database:
        text = "\n".join(str(row) for row in database.execute("SELECT * FROM documents"))
    database.close()
    (image,) = json.loads(home.tested.images.podman("image", "inspect", BUSYBOX))
    assert published["context"]["eventId"] in text
    assert image["Digest"] in text
    assert "SECRET=********" in text, "what a module prints of its secret is not kept"
    reasons = {it["module"]: it["reason"] for it in home.ion("dlq", "list")}
    assert "limit: memory 32 MiB" in reasons["eats"]
    assert "limit: memory 32 MiB), though it exited with 0" in reasons["half"]
    assert "image unavailable: localhost/no/such:1" in reasons["absent"]


def test_the_first_signal_drains_and_leaves_nothing(home: Home) -> None:
    serving = home.serve()
    home.until(lambda: len(home.tested.in_state("created")) == 2, "two warm slots")
    serving.send_signal(signal.SIGTERM)
    assert serving.wait(PATIENCE) == 143
    assert home.tested.containers() == []


def test_a_dispatcher_that_was_killed_leaves_what_the_next_one_removes(home: Home) -> None:
    home.ion("event", "publish", "long.asked")
    serving = home.serve()
    home.until(lambda: len(home.tested.in_state("running")) == 1, "the job")
    home.until(lambda: len(home.tested.in_state("created")) == 2, "two warm slots")
    serving.kill()
    serving.wait(PATIENCE)
    left = set(home.tested.containers())
    assert len(left) == 3
    again = home.serve()
    home.until(lambda: not left & set(home.tested.containers()), "what was left is removed")
    home.until(lambda: len(home.tested.in_state("running")) == 1, "the event is back")
    for word in ("draining", "hurrying"):
        again.send_signal(signal.SIGTERM)
        home.until(partial(home.has_said, f"SIGTERM received, {word}"), word)
    assert again.wait(PATIENCE) == 143
    assert home.tested.containers() == []


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
    config = {"runtimes": {"default": home.tested.section()}, "modules": {"calling": calling}}
    (home.path / "ion.yaml").write_text(json.dumps(config), encoding="utf-8")
    for _ in range(3):
        home.ion("event", "publish", "calling.asked", "--file", "note")
    assert home.serve("--until-idle").wait(PATIENCE) == 0
    assert home.tested.containers() == []
    bodies = home.documents()
    commits = [body for body in bodies if body["context"]["documentType"] == "commit"]
    assert [[file["name"] for file in commit["outputs"]] for commit in commits] == [["copy"]] * 3
    lines = "\n".join(body["logs"] for body in bodies if "logs" in body).splitlines()
    # What it printed just before its last /done may have come after the commit.
    last_words = re.findall(r"last words.*\bround\b", (home.path / "said").read_text(encoding="utf-8"))
    assert (lines.count("started"), lines.count("round") + len(last_words)) == (1, 3)
    assert "1" in lines, "the loopback interface is the only one"


CHECKED = """
runtimes: {{default: {runtime}}}
modules:
  crawler: {{image: {image}, subscribes: [a], network: host}}
  other: {{image: {image}, subscribes: [a], network: host}}
  named: {{image: {image}, subscribes: [a], network: lan}}
  built: {{build: absent, subscribes: [a]}}
"""


def test_what_is_not_allowed_is_refused_before_anything_is_served(home: Home) -> None:
    text = CHECKED.format(runtime=home.tested.written(allow={"host_network": ["crawler"]}), image=BUSYBOX)
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
runtimes: {{default: {home.tested.written()}}}
modules: {{built: {{build: module, subscribes: [built.asked]}}}}
"""
    (home.path / "ion.yaml").write_text(config, encoding="utf-8")
    home.ion("event", "publish", "built.asked", "--file", "note")
    assert home.serve("--until-idle").wait(PATIENCE) == 0
    (commit,) = [it for it in home.documents() if it["context"]["documentType"] == "commit"]
    images = json.loads(home.tested.images.podman("images", "--format", "json"))
    (image,) = [it for it in images if any(name.startswith("localhost/ion/built:") for name in it.get("Names") or ())]
    assert commit["image"] == image["Digest"]
    home.tested.images.podman("rmi", "--force", image["Id"])
