"""Whole pipelines by ``ion-core serve`` on the stand-in, whose pods run: nothing is lost, and nothing runs twice."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from plugins.ion_kubernetes.tests.fake.admission import Admission
from plugins.ion_kubernetes.tests.served import ClusterPipeline, pipeline_config, served_by_cluster
from tests.acceptance.pipeline import JOIN, SPLIT, TIMEOUT, Pipeline

WHERE = "${HANDLER_BASE_DIR:-/ion}"
# Each tells by a FIFO that it runs, and goes on once there is a gate.
WAITING = f"""
echo split >> "$RUNS"
echo running > "$RUNS.started"
while [ ! -e "$RUNS.gate" ]; do sleep 0.05; done
echo done > "{WHERE}/out/data/line.txt"
"""
URI = re.compile(r"file://[^\"\\]+")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def script(shared: Path, name: str, text: str) -> list[str]:
    shared.mkdir(exist_ok=True)
    (shared / f"{name}.sh").write_text(text.replace("$HANDLER_BASE_DIR", WHERE), encoding="utf-8")
    return ["sh", str(shared / f"{name}.sh")]


def split_and_join(shared: Path) -> dict[str, dict[str, Any]]:
    env = {"RUNS": str(shared / "runs")}
    split = {"subscribes": ["whole.received"], "publishes": ["part.made"], "command": script(shared, "split", SPLIT)}
    join = {"subscribes": ["part.made"], "command": script(shared, "join", JOIN)}
    return {"split": {**split, "env": env}, "join": {**join, "env": env}}


@pytest.fixture
async def waiting(tmp_path: Path) -> AsyncIterator[ClusterPipeline]:
    """Three at a time of a module that waits, and is tried once only."""
    shared = tmp_path / "shared"
    split = {"subscribes": ["whole.received"], "command": script(shared, "split", WAITING), "retries": 0}
    split |= {"concurrency": 3, "env": {"RUNS": str(shared / "runs")}}
    os.mkfifo(shared / "runs.started")
    async with served_by_cluster(tmp_path, {"split": split}, drain_timeout="100ms") as made:
        yield made


async def until_they_run(it: ClusterPipeline, count: int) -> None:
    await asyncio.to_thread(_until_they_run, it.shared / "runs.started", count)


def _until_they_run(fifo: Path, count: int) -> None:
    told = b""
    with os.fdopen(os.open(fifo, os.O_RDWR), "rb", buffering=0) as started:  # never at its end
        while told.count(b"\n") < count:
            assert select.select([started], [], [], TIMEOUT)[0], f"{count} did not run: {told!r}"
            told += os.read(started.fileno(), 4096)


def open_gate(it: ClusterPipeline) -> None:
    (it.shared / "runs.gate").touch()


def runs(shared: Path) -> Counter[str]:
    return Counter((shared / "runs").read_text().split())


async def assert_each_committed_once(it: ClusterPipeline, count: int) -> None:
    assert len(it.documents("commit")) == count
    assert await asyncio.to_thread(it.pipeline.pending) == 0
    assert await asyncio.to_thread(it.pipeline.dead_letters) == []
    assert [key for key in it.cluster.store.objects if key[0] == "pods"] == [], "no pod is left"


async def test_what_pods_leave_is_what_processes_leave(tmp_path: Path) -> None:
    """Documents and traces, but for ids of their own, times, images and where files lie."""
    (tmp_path / "pods").mkdir()
    shared = tmp_path / "pods" / "shared"
    async with served_by_cluster(tmp_path / "pods", split_and_join(shared)) as it:
        await it.publish(event_id="e1")
        await it.ion("serve", "--until-idle")
        assert it.pods.lived == 4, "each job was one pod"
        await assert_each_committed_once(it, 4)
        by_pods = await asyncio.to_thread(left_by, it.pipeline)
    beside = tmp_path / "beside"
    config = pipeline_config(beside, {"provider": "process"}, split_and_join(beside))
    pipeline = Pipeline.make(tmp_path / "pipeline", config=config, modules={})
    await asyncio.to_thread(pipeline.publish, event_id="e1")
    await asyncio.to_thread(pipeline.ion, "serve", "--until-idle")
    by_processes = await asyncio.to_thread(left_by, pipeline)
    assert by_pods[0] == by_processes[0], "traces"
    assert by_pods[1] == by_processes[1], "documents"
    assert runs(shared) == runs(beside) == {"split": 1, "join": 3}


def left_by(pipeline: Pipeline) -> tuple[str, list[str]]:
    """The trace as people see it, and the documents as JSON, sorted."""
    trace = pipeline.ion("trace", "flow").stdout
    trace = re.sub(r"\d+(\.\d+)?( ms| s\b|(?=[,)]))", "TIME", UUID.sub("ID", trace))
    trace = re.sub(r"began \S+ \S+", "began", re.sub(r"\b[0-9a-f]{8}\b", "ID", trace))
    documents = json.loads(pipeline.ion("trace", "flow", "--json").stdout)
    return trace, sorted(json.dumps(plain(it), sort_keys=True) for it in documents)


def plain(value: Any, key: str = "") -> Any:
    if key in ("id", "key", "seconds", "token", "image", "imageDigest") or key.endswith("At"):
        return None
    if isinstance(value, Mapping):
        return {name: plain(it, name) for name, it in value.items()}
    if isinstance(value, str):
        return UUID.sub("ID", URI.sub("URI", value))
    return [plain(it, key) for it in value] if isinstance(value, list) else value


async def test_kill_9_with_three_pods_in_flight_and_each_commits_once(waiting: ClusterPipeline) -> None:
    for _ in range(3):
        await waiting.publish()
    async with waiting.serving() as served:
        await until_they_run(waiting, 3)
        served.send(signal.SIGKILL)
        await asyncio.to_thread(served.ended)
    async with waiting.serving("--until-idle") as again:
        await asyncio.to_thread(again.until, "its job is with the engine already", count=3)
        open_gate(waiting)
        assert await asyncio.to_thread(again.ended) == 0, again.log
    await assert_each_committed_once(waiting, 3)
    assert (runs(waiting.shared), waiting.pods.lived) == ({"split": 3}, 3), "nothing ran twice"


async def test_pods_go_on_as_they_were_made_whatever_the_configuration_says_now(waiting: ClusterPipeline) -> None:
    """Another image, command, environment and timeout, and room for fewer than run."""
    for _ in range(3):
        await waiting.publish()
    async with waiting.serving() as served:
        await until_they_run(waiting, 3)
        served.send(signal.SIGKILL)
        await asyncio.to_thread(served.ended)
    file = waiting.pipeline.home / "ion.yaml"
    config = json.loads(file.read_text())
    changed = {"concurrency": 1, "timeout": "1ms", "command": ["false"], "image": "registry.example/other:2", "env": {}}
    config["modules"]["split"] |= changed
    file.write_text(json.dumps(config))
    async with waiting.serving("--until-idle") as again:
        await asyncio.to_thread(again.until, "its job is with the engine already")
        open_gate(waiting)
        assert await asyncio.to_thread(again.ended) == 0, again.log
    await assert_each_committed_once(waiting, 3)
    assert (runs(waiting.shared), waiting.pods.lived) == ({"split": 3}, 3), "nothing ran twice"


async def test_a_drain_leaves_the_pod_which_commits_alone_and_is_fetched(waiting: ClusterPipeline) -> None:
    await waiting.publish()
    async with waiting.serving() as served:
        await until_they_run(waiting, 1)
        served.send(signal.SIGTERM)
        assert await asyncio.to_thread(served.ended) == 128 + signal.SIGTERM
    [name] = [key[2] for key in waiting.cluster.store.objects if key[0] == "pods"]
    open_gate(waiting)
    while waiting.cluster.pod(name)["status"]["phase"] != "Succeeded":
        await waiting.cluster.store.change()
    assert len(waiting.documents("commit")) == 1, "with no dispatcher anywhere"
    await waiting.ion("serve", "--until-idle")
    await assert_each_committed_once(waiting, 1)
    [log] = waiting.documents("modulelogs")
    assert log["outcome"] == "committed"
    assert waiting.pods.lived == 1


async def test_an_api_server_that_restarts_while_pods_run_is_no_matter(waiting: ClusterPipeline) -> None:
    for _ in range(3):
        await waiting.publish()
    async with waiting.serving("--until-idle") as served:
        await until_they_run(waiting, 3)
        await waiting.cluster.down()
        open_gate(waiting)  # they go on, and commit, while nobody can be asked
        await waiting.cluster.up()
        assert await asyncio.to_thread(served.ended) == 0, served.log
    await assert_each_committed_once(waiting, 3)
    assert waiting.pods.lived == 3


async def test_a_pod_that_is_evicted_runs_again_and_is_no_attempt(waiting: ClusterPipeline) -> None:
    await waiting.publish()
    async with waiting.serving("--until-idle") as served:
        await until_they_run(waiting, 1)
        [key] = [key for key in waiting.cluster.store.objects if key[0] == "pods"]
        waiting.cluster.node.disrupt(key, "EvictionByEvictionAPI")
        waiting.cluster.node.delete(key, 1)
        await until_they_run(waiting, 1)
        open_gate(waiting)
        assert await asyncio.to_thread(served.ended) == 0, served.log
    await assert_each_committed_once(waiting, 1)
    assert runs(waiting.shared) == {"split": 2}, "though it has no retries"


async def test_a_node_that_is_lost_is_given_up_and_the_job_runs_elsewhere(waiting: ClusterPipeline) -> None:
    await waiting.publish()
    async with waiting.serving("--until-idle") as served:
        await until_they_run(waiting, 1)
        [key] = [key for key in waiting.cluster.store.objects if key[0] == "pods"]
        waiting.cluster.node.there.clear()
        waiting.cluster.node.disrupt(key, "DeletionByTaintManager")
        waiting.cluster.node.delete(key, 1)
        await asyncio.to_thread(served.until, "the engine lost a job")
        assert key in waiting.cluster.store.objects, "nothing was forced"
        waiting.cluster.node.there.set()  # for the next one, and the first is let go of
        await until_they_run(waiting, 1)
        open_gate(waiting)
        assert await asyncio.to_thread(served.ended) == 0, served.log
    await assert_each_committed_once(waiting, 1)
    assert runs(waiting.shared) == {"split": 2}, "though it has no retries"


async def test_a_full_namespace_is_waited_for_and_said_once(waiting: ClusterPipeline) -> None:
    open_gate(waiting)
    waiting.cluster.admission.quota = {"pods": "0"}  # also a way to close a namespace for a while
    await waiting.publish()
    async with waiting.serving("--until-idle") as served:
        await asyncio.to_thread(served.until, "exceeded quota")
        waiting.cluster.admission = Admission()
        await until_they_run(waiting, 1)
        assert await asyncio.to_thread(served.ended) == 0, served.log
        assert served.log.count("exceeded quota") == 1
    await assert_each_committed_once(waiting, 1)
