"""Gatherers on RabbitMQ and S3: two dispatchers that are killed, jobs at an engine, containers of Podman."""

from __future__ import annotations

import json
import random
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest

from ion_podman.testing import BUSYBOX, podman_service
from ion_rabbitmq.testing import RabbitServer
from tests.acceptance.pipeline import Pipeline
from tests.support.brokers import rabbit as rabbit
from tests.support.object_stores import ObjectStore
from tests.support.servers import s3 as s3

BASE = '"$${HANDLER_BASE_DIR:-/ion}"'  # $${ is what a configuration writes for ${
SPLIT = f"""
for n in 1 2 3 4; do
    echo $n > {BASE}/out/data/$n.txt
    printf '[{{"key":"eventType","value":"part.made"}},{{"key":"files","value":"%s.txt"}}]' $n \\
        > {BASE}/out/events/$n.json
done
"""
JOIN = f"""
mkdir {BASE}/out/data/same
cat {BASE}/in/data/* > {BASE}/out/data/same/name.txt
printf '[{{"key":"eventType","value":"part.joined"}},{{"key":"files","value":"same/name.txt"}}]' > {BASE}/out/events/0
"""
BIND = f"""
cat {BASE}/in/data/*/same/name.txt > {BASE}/out/data/all.txt
cp {BASE}/in/gathered.json {BASE}/out/data/
"""


def made(home: Path, messaging: dict[str, Any], store: ObjectStore, runtime: dict[str, Any], **more: Any) -> Pipeline:
    """A pipeline of shell modules whose broker and stores are elsewhere."""
    home.mkdir()

    def module(script: str, **said: Any) -> dict[str, Any]:
        return {"command": ["sh", "-c", script], "source": ".", "retries": 5, **more, **said}

    place = {"provider": "fsspec", **store.settings()}
    config = {
        "messaging": messaging,
        "runtimes": {"default": runtime},
        "storage": {"blobs": place, "documents": place},
        "modules": {
            "split": module(SPLIT, subscribes=["whole.received"], publishes=["part.made"]),
            "join": module(JOIN, subscribes=["part.made"], publishes=["part.joined"], concurrency=2),
            "bind": module(BIND, gather={"events": ["part.joined"], "within": "whole.received"}),
        },
    }
    (home / "ion.yaml").write_text(json.dumps(config), encoding="utf-8")
    return Pipeline(home)


def messaging(rabbit: RabbitServer, prefix: str) -> dict[str, Any]:
    return {"provider": "rabbitmq", "url": rabbit.url, "prefix": prefix}


def assert_gathered_once(pipeline: Pipeline, flow: str) -> None:
    documents = json.loads(pipeline.ion("trace", "flow", flow, "--json").stdout)
    commits = [it for it in documents if it["context"]["documentType"] == "commit"]
    assert sorted(it["context"]["name"] for it in commits) == ["bind", *["join"] * 4, "split"]
    results = pipeline.home / f"results-{flow}"
    pipeline.ion("files", flow, "--module", "bind", "--get", str(results))
    files = {it.name: it.read_text() for it in results.rglob("*") if it.is_file()}
    assert sorted(files) == ["all.txt", "gathered.json"]
    told, text = json.loads(files["gathered.json"]), files["all.txt"]
    assert (len(told["events"]), told["missing"], text) == (4, [], "1\n2\n3\n4\n")


@pytest.mark.parametrize("provider", ["process", "subprocess"])
def test_modules_as_processes_and_at_an_engine(
    provider: str, rabbit: RabbitServer, s3: ObjectStore, tmp_path: Path
) -> None:
    pipeline = made(tmp_path / "home", messaging(rabbit, provider), s3, {"provider": provider})
    flow = pipeline.publish(files=0)
    pipeline.ion("serve", "--until-idle")
    assert_gathered_once(pipeline, flow)


def test_modules_in_containers(rabbit: RabbitServer, s3: ObjectStore, tmp_path: Path) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="ion-podman-") as directory,
        podman_service(Path(directory) / "podman") as service,
    ):
        service.build_busybox()
        runtime = {"provider": "podman", "url": service.url}
        pipeline = made(tmp_path / "home", messaging(rabbit, "podman"), s3, runtime, image=BUSYBOX)
        flow = pipeline.publish(files=0)
        pipeline.ion("serve", "--until-idle")
        assert_gathered_once(pipeline, flow)


def test_two_dispatchers_that_are_killed_gather_each_flow_once(
    rabbit: RabbitServer, s3: ObjectStore, tmp_path: Path
) -> None:
    first = made(tmp_path / "first", messaging(rabbit, "killed"), s3, {"provider": "process"})
    shutil.copytree(first.home, tmp_path / "second")
    second = Pipeline(tmp_path / "second")
    flows = [first.publish(files=0) for _ in range(2)]
    chance = random.Random(17)
    for _ in range(4):
        with first.serving("--until-idle") as one, second.serving("--until-idle") as other:
            mortal = chance.choice([one, other])
            mortal.until("serving modules")
            mortal.lasts(chance.uniform(0.2, 1.5))
            one.send(signal.SIGKILL)
            other.send(signal.SIGKILL)
    with first.serving("--until-idle") as one, second.serving("--until-idle") as other:
        assert (one.ended(), other.ended()) == (0, 0), one.log + other.log
    for flow in flows:
        assert_gathered_once(first, flow)
