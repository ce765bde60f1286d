"""Real ``ion-core serve`` processes on a real RabbitMQ."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ion_rabbitmq.testing import RabbitServer
from tests.acceptance.pipeline import JOIN, SPLIT, Pipeline

ROOT = Path(__file__).resolve().parents[3]
EVENTS = 250
"""Each makes three more: 1,000 in all."""

CONFIG = """
messaging: {{{{provider: rabbitmq, url: "${{{{env:AMQP_URL}}}}", prefix: {prefix}}}}}
storage:
  blobs: {{{{provider: local, path: "{shared}/blobs"}}}}
  documents: {{{{provider: sqlite, path: "{shared}/documents.sqlite"}}}}
modules:
  split:
    command: [sh, split.sh]
    source: modules
    subscribes: [whole.received]
    publishes: [part.made]
    concurrency: 4
    env: {{{{RUNS: "{{runs}}"}}}}
  join:
    command: [sh, join.sh]
    source: modules
    subscribes: [part.made]
    concurrency: 4
    env: {{{{RUNS: "{{runs}}"}}}}
"""


@pytest.fixture
def environ(rabbit: RabbitServer) -> dict[str, str]:
    return {"AMQP_URL": rabbit.url}


def make(home: Path, prefix: str) -> Pipeline:
    """Documents and blobs are where several state directories find them."""
    shared = home / "shared"
    config = CONFIG.format(prefix=prefix, shared=shared)
    pipeline = Pipeline.make(home / "pipeline", config=config, modules={"split": SPLIT, "join": JOIN})
    pipeline.state = shared
    return pipeline


@pytest.mark.timeout(300)
def test_two_dispatchers_killed_at_random_lose_and_double_nothing(tmp_path: Path, environ: dict[str, str]) -> None:
    pipeline = make(tmp_path, "random-kills")
    publish = "import asyncio; from publishing import publish; asyncio.run(publish())"
    (pipeline.home / "publishing.py").write_text(PUBLISHING.format(count=EVENTS))
    published = pipeline.python("-c", publish, **environ)
    assert published.returncode == 0, published.stderr
    chance = random.Random(4)
    for _ in range(5):
        with (
            pipeline.serving("--state-dir", str(tmp_path / "a"), **environ) as first,
            pipeline.serving("--state-dir", str(tmp_path / "b"), **environ) as second,
        ):
            victim, other = chance.sample([first, second], 2)
            victim.until("job committed", count=chance.randint(1, 40))
            victim.send(signal.SIGKILL)
            victim.ended()
            other.until("job committed", count=chance.randint(20, 60))
            other.send(signal.SIGKILL)
            other.ended()
    for name in ("a", "b"):
        pipeline.ion("serve", "--until-idle", "--state-dir", str(tmp_path / name), **environ)

    commits = pipeline.documents("commit")
    jobs = Counter((commit["context"]["eventId"], commit["context"]["name"]) for commit in commits)
    assert max(jobs.values()) == 1, "I2"
    assert Counter(name for _, name in jobs) == {"split": EVENTS, "join": 3 * EVENTS}, "I1"
    children = {event["id"] for commit in commits for event in commit["events"]}
    assert {event_id for event_id, name in jobs if name == "join"} == children, "I3"
    visible = {file["key"] for commit in commits for file in commit["outputs"]}
    files = pipeline.state / "blobs" / "files"
    assert {str(path.relative_to(files)) for path in files.rglob("*") if path.is_file()} == visible, "I4"
    assert json.loads(pipeline.ion("dlq", "list", "--json", **environ).stdout) == []


def test_an_event_published_beside_another_store_does_not_run_without_its_files(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    """One broker, and the default stores in two state directories: as on two machines."""
    text = CONFIG[: CONFIG.index("storage:")] + CONFIG[CONFIG.index("modules:") :]
    modules = {"split": SPLIT, "join": JOIN}
    pipeline = Pipeline.make(tmp_path / "pipeline", config=text.format(prefix="two-stores"), modules=modules)
    here, there = (("--state-dir", str(tmp_path / name)) for name in ("a", "b"))
    (pipeline.home / "f.txt").write_text("content")
    pipeline.ion("event", "publish", "whole.received", "--file", "f.txt", *here, **environ)

    served = pipeline.ion("serve", "--until-idle", *there, code=1, **environ)

    [letter] = json.loads(pipeline.ion("dlq", "list", "--json", **environ).stdout)
    assert f"storage.documents (sqlite, {tmp_path}/b/documents.sqlite)" in letter["reason"]
    assert "storage.documents: sqlite keeps documents for this machine alone" in served.stderr
    assert not pipeline.runs()


PUBLISHING = """
import os
import shutil
from pathlib import Path

from ion_core.app import App
from ion_core.config import load_config


async def publish():
    async with App.open(load_config(Path("ion.yaml"), environ=os.environ)) as app:
        intake = await app.intake()
        for _ in range({count}):
            await intake.publish("whole.received", name="test")
"""


def test_faces_runs_unchanged_and_the_flow_equals_the_embedded_one(tmp_path: Path, environ: dict[str, str]) -> None:
    example = ROOT / "examples" / "faces"
    text = (example / "ion.yaml").read_text()
    messaging = 'messaging: {provider: rabbitmq, url: "${env:AMQP_URL}", prefix: faces}\n'
    flows = []
    for name, config in (("embedded", text), ("rabbit", messaging + text)):
        home = tmp_path / name
        shutil.copytree(example, home, ignore=shutil.ignore_patterns(".ion*"))
        (home / "ion.yaml").write_text(config)
        pipeline = Pipeline(home)
        photo = str(example / "photos" / "collage.jpg")
        pipeline.ion("event", "publish", "photo.received", "--file", photo, "--event-id", "e", "--json", **environ)
        pipeline.ion("serve", "--until-idle", **environ)
        flows.append(sorted(_lasting(document) for document in pipeline.documents()))
    embedded, rabbit = flows
    assert Counter(kind for kind, *_ in embedded)["commit"] == 7
    assert embedded == rabbit


def _lasting(document: dict[str, Any]) -> tuple[str, ...]:
    """What is the same in every run: ids, which derive from the first event's, names, types and data."""
    context = document["context"]
    event_type = document.get("type", "")
    data = json.dumps(document["data"]) if event_type else ""
    id = document["id"].removesuffix(f"-{document.get('token')}")  # of an attempt, which is another in every run
    return context["documentType"], id, context["name"], context["parentEventId"], event_type, data


def test_a_queue_declared_by_somebody_else_ends_serve_with_78(tmp_path: Path, environ: dict[str, str]) -> None:
    pipeline = make(tmp_path, "foreign-78")
    pipeline.ion("module", "list", **environ)
    config = pipeline.home / "ion.yaml"
    pipeline.ion("event", "publish", "whole.received", **environ)
    config.write_text(config.read_text().replace("prefix: foreign-78", "prefix: foreign-78, queue_type: classic"))

    refused = pipeline.ion("serve", "--until-idle", code=78, **environ)

    assert "inequivalent arg 'x-queue-type'" in refused.stderr
    assert environ["AMQP_URL"] not in refused.stderr


def test_nobody_at_the_address_is_69_and_names_it(tmp_path: Path) -> None:
    pipeline = make(tmp_path, "nobody")

    refused = pipeline.ion("serve", "--until-idle", code=69, AMQP_URL="amqp://me:canary@127.0.0.1:1/")

    assert "amqp://127.0.0.1:1" in refused.stderr
    assert "canary" not in refused.stderr


def test_serve_warns_of_guest_and_of_plain_amqp_beyond_this_machine(tmp_path: Path) -> None:
    pipeline = make(tmp_path, "unwise")

    refused = pipeline.ion("serve", "--until-idle", code=69, AMQP_URL="amqp://guest:canary@broker.invalid/")

    warned = [line for line in refused.stderr.splitlines() if "WARNING messaging" in line]
    assert len(warned) == 2
    assert "amqp://broker.invalid:5672 is not encrypted" in warned[0]
    assert "is used as guest" in warned[1]
    assert "canary" not in refused.stderr


def test_a_module_that_takes_longer_than_rabbitmq_holds_an_event_is_a_warning_of_check_and_serve(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    pipeline = make(tmp_path, "long-jobs")
    config = pipeline.home / "ion.yaml"
    config.write_text(config.read_text().replace("  split:\n", "  split:\n    timeout: 2h\n"))

    offline = pipeline.ion("check", AMQP_URL="amqp://me:canary@127.0.0.1:1/").stdout
    served = pipeline.ion("serve", "--until-idle", **environ).stderr

    [said] = [line for line in offline.splitlines() if "modules.split.timeout: warning" in line]
    assert said.startswith("ion.yaml:8:14: modules.split.timeout: warning: an event may be held for 2h30s")
    assert "rabbitmq takes it back after 30m" in said
    assert "Up to RabbitMQ 3.11 write consumer_timeout = 10800000 (milliseconds) into rabbitmq.conf" in said
    assert "--prefix long-jobs --hours 3" in said
    [logged] = [line for line in served.splitlines() if "modules.split.timeout" in line]
    assert "WARNING" in logged
    assert re.search(r"RabbitMQ \d+\.\d+\.\d+ has (one|a) timeout for (all queues|each queue): ", logged)

    config.write_text(config.read_text().replace("prefix: long-jobs", "prefix: long-jobs, consumer_timeout: 3h"))
    assert "modules.split.timeout" not in pipeline.ion("check", **environ).stdout
    assert "modules.split.timeout" not in pipeline.ion("serve", "--until-idle", **environ).stderr


def test_peek_get_and_dead_letters_work_here_too(tmp_path: Path, environ: dict[str, str]) -> None:
    pipeline = make(tmp_path, "looking")
    for event_id in ("e1", "e2"):
        pipeline.ion("event", "publish", "whole.received", "--event-id", event_id, **environ)
    peeked = json.loads(pipeline.ion("event", "peek", "--module", "split", "--json", **environ).stdout)
    assert len(peeked) == 2
    pipeline.ion("event", "get", "--module", "split", **environ)
    (pipeline.home / "modules" / "split.sh").write_text("exec /no/such/program")
    pipeline.ion("serve", "--until-idle", code=1, **environ)
    [letter] = json.loads(pipeline.ion("dlq", "list", "--json", **environ).stdout)
    assert (letter["eventId"], letter["module"], letter["attempts"]) == ("e2", "split", 1)
    (pipeline.home / "modules" / "split.sh").write_text(SPLIT)
    pipeline.ion("dlq", "redrive", letter["id"], **environ)
    pipeline.ion("serve", "--until-idle", **environ)
    assert len(pipeline.documents("commit")) == 4


@pytest.mark.timeout(300)
def test_what_waits_for_a_renamed_module_is_told_of_and_can_be_moved(tmp_path: Path, environ: dict[str, str]) -> None:
    pipeline = make(tmp_path, "renamed")
    for event_id in ("e1", "e2"):
        pipeline.ion("event", "publish", "whole.received", "--event-id", event_id, **environ)
    config = pipeline.home / "ion.yaml"
    config.write_text(config.read_text().replace("  split:\n", "  cut:\n"))

    checked = pipeline.ion("check", "--connect", **environ).stdout
    assert "queue split: no module of this configuration takes it. Events in it: 2 waiting." in checked
    assert "It goes on collecting whole.received." in checked
    moved = json.loads(pipeline.ion("module", "move", "split", "cut", "--yes", "--json", **environ).stdout)
    assert moved == {"queue": "split", "to": "cut", "moved": 2}
    pipeline.ion("event", "publish", "whole.received", "--event-id", "e3", **environ)
    served = pipeline.ion("serve", "--until-idle", **environ).stderr
    assert "no module of this configuration" not in served, "it is empty and collects nothing"
    done = {it["context"]["eventId"] for it in pipeline.documents("commit") if it["context"]["name"] == "cut"}
    assert done == {"e1", "e2", "e3"}
    pipeline.ion("module", "drop", "split", "--yes", **environ)
    listed = json.loads(pipeline.ion("module", "list", "--json", **environ).stdout)
    assert [module["name"] for module in listed] == ["cut", "join"]


def test_policies_prints_what_to_run(tmp_path: Path) -> None:
    printed = Pipeline(tmp_path).ion("rabbitmq", "policies", "--hours", "24").stdout
    assert "rabbitmqctl set_policy ion-events" in printed
    assert "86400000" in printed
