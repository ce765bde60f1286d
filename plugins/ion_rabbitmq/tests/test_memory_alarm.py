"""A memory alarm over failing and good jobs of a real ``serve``: nothing is lost, and every place comes back."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from ion_rabbitmq.testing import RabbitServer
from tests.acceptance.pipeline import Pipeline, Served

GOOD, BAD, AT_ONCE = 50, 4, 4
LASTS = int(os.environ.get("ION_TEST_ALARM_SECONDS", "35"))
"""Seconds of the alarm. Longer than a settlement is tried for, and what is given up given back, is all that matters."""

CONFIG = """
messaging: {{provider: rabbitmq, url: "${{env:AMQP_URL}}", prefix: alarm}}
drain_timeout: 60s
modules:
  work:
    command: [sh, work.sh]
    source: modules
    subscribes: [work.asked]
    publishes: [work.done]
    concurrency: 4
    retries: 1
    retry: {{initial: 100ms}}
    env: {{RUNS: "{runs}"}}
  after:
    command: [sh, after.sh]
    source: modules
    subscribes: [work.done]
    concurrency: 4
    env: {{RUNS: "{runs}"}}
"""
# Runs until the test lets it; notes its run, and its place while it waits. Fails where the event says so.
WORK = """
echo work >> "$RUNS"
while [ ! -e "$RUNS.go" ]; do sleep 0.1; done
if grep -q '"fails"' "$HANDLER_BASE_DIR/in/eventmeta.json"; then echo failed >> "$RUNS"; exit 3; fi
if grep -q '"waits"' "$HANDLER_BASE_DIR/in/eventmeta.json"; then
    echo waiting >> "$RUNS"
    while [ ! -e "$RUNS.end" ]; do sleep 0.1; done
fi
echo done > "$HANDLER_BASE_DIR/out/data/done.txt"
printf '[{"key":"eventType","value":"work.done"},{"key":"files","value":"done.txt"}]' \\
    > "$HANDLER_BASE_DIR/out/events/0.json"
"""
AFTER = """
echo after >> "$RUNS"
cp "$HANDLER_BASE_DIR/in/data/done.txt" "$HANDLER_BASE_DIR/out/data/"
"""
PUBLISHING = """
import asyncio, os
from pathlib import Path

from ion_core.app import App
from ion_core.config import load_config


async def publish():
    async with App.open(load_config(Path("ion.yaml"), environ=os.environ)) as app:
        intake = await app.intake()
        for n, data in enumerate({data!r}):
            await intake.publish("work.asked", name="test", data=data, event_id=f"{prefix}{{n}}")


asyncio.run(publish())
"""


def publish(pipeline: Pipeline, prefix: str, data: list[list[tuple[str, str]]], rabbit: RabbitServer) -> None:
    published = pipeline.python("-c", PUBLISHING.format(data=data, prefix=prefix), AMQP_URL=rabbit.url)
    assert published.returncode == 0, published.stderr


def until_committed(pipeline: Pipeline, served: Served, count: int) -> None:
    while len(pipeline.documents("commit")) < count:
        served.until("job ", count=served.log.count("job ") + 1)


def queues(server: RabbitServer) -> dict[str, int]:
    """How many messages each has, ready or held."""
    listed = json.loads(server.ctl("list_queues", "name", "messages", "--formatter", "json"))
    return {queue["name"]: queue["messages"] for queue in listed if queue["messages"]}


@pytest.mark.timeout(600)
def test_an_alarm_over_failing_and_good_jobs_loses_nothing_and_gives_every_place_back(
    own_server: RabbitServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_server.start()
    url = {"AMQP_URL": own_server.url}
    pipeline = Pipeline.make(tmp_path / "pipeline", config=CONFIG, modules={"work": WORK, "after": AFTER})
    fail = {f"e{n}" for n in range(GOOD + BAD) if n % 14 == 1}
    assert len(fail) == BAD
    data = [[("fails", "yes")] if f"e{n}" in fail else [] for n in range(GOOD + BAD)]
    publish(pipeline, "e", data, own_server)

    with pipeline.serving(**url) as served:
        served.until("job started", count=AT_ONCE)
        own_server.ctl("set_vm_memory_high_watermark", "absolute", "1")
        (pipeline.home / "runs.go").touch()
        served.lasts(LASTS)
        own_server.ctl("set_vm_memory_high_watermark", "0.6")
        until_committed(pipeline, served, 2 * GOOD)
        while set(queues(own_server)) - {"alarm.queues"} != {"alarm.q.work.dead"}:
            pass
        runs = pipeline.runs()

        publish(pipeline, "late", [[("waits", "yes")]] * AT_ONCE, own_server)
        while pipeline.runs()["waiting"] < AT_ONCE:
            served.until("job started", count=served.log.count("job started") + 1)
        (pipeline.home / "runs.end").touch()
        until_committed(pipeline, served, 2 * (GOOD + AT_ONCE))
        served.send(signal.SIGTERM)
        assert served.ended() == 128 + signal.SIGTERM, "I6"
    pipeline.ion("serve", "--until-idle", **url)

    letters = json.loads(pipeline.ion("dlq", "list", "--json", **url).stdout)
    with capsys.disabled():
        print(
            f"\nRabbitMQ {own_server.ctl('version').strip()}, an alarm of {LASTS} s, {GOOD} good and {BAD} failing: "
            f"{runs['work']} runs, {runs['failed']} of them failed, {runs['after']} runs of what follows, "
            f"{len(pipeline.documents('commit'))} commits in all, {len(letters)} dead letters"
        )
    jobs = Counter((it["context"]["eventId"], it["context"]["name"]) for it in pipeline.documents("commit"))
    assert set(jobs.values()) == {1}, "I2"
    good = {f"e{n}" for n in range(GOOD + BAD)} - fail | {f"late{n}" for n in range(AT_ONCE)}
    assert {event_id for event_id, name in jobs if name == "work"} == good, "I1"
    assert {letter["eventId"] for letter in letters} == fail, "I1"
    assert {letter["reason"] for letter in letters} == {"exit code 3 (attempt 2, the last)"}
    assert len(letters) == BAD
    children = {event["id"] for it in pipeline.documents("commit") for event in it["events"]}
    assert {event_id for event_id, name in jobs if name == "after"} == children, "I3"
    visible = {file["key"] for it in pipeline.documents("commit") for file in it["outputs"]}
    files = pipeline.state / "blobs" / "files"
    assert {str(path.relative_to(files)) for path in files.rglob("*") if path.is_file()} == visible, "I4"
    for place in ("work", "run"):
        assert [path.name for path in (pipeline.state / place).iterdir() if not path.name.startswith(".spare-")] == []
    assert "low on memory" in served.log, "I6: why"
    assert "Traceback" not in served.log
