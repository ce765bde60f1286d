"""A pipeline on this machine alone moves to RabbitMQ and S3, and back, by processes that are killed on the way."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

from ion_rabbitmq.testing import RabbitServer
from tests.acceptance.pipeline import CONFIG, ION, TIMEOUT, Pipeline, assert_invariants, environment
from tests.support.brokers import rabbit as rabbit
from tests.support.object_stores import ObjectStore
from tests.support.servers import s3 as s3

EVENTS = 12


def killed(pipeline: Pipeline, *arguments: str, after: float) -> None:
    """``ion-core …``, ended by SIGKILL if it has not ended by then."""
    process = subprocess.Popen(
        [*ION, *arguments], cwd=pipeline.home, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(TIMEOUT)


def test_nothing_is_lost_or_done_twice(rabbit: RabbitServer, s3: ObjectStore, tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "home")
    modules = CONFIG.format(runs=pipeline.home / "runs")
    place = {"provider": "fsspec", **s3.settings()}
    far = {
        "state": "far",
        "messaging": {"provider": "rabbitmq", "url": rabbit.url, "prefix": "far"},
        "storage": {"blobs": place, "documents": place},
    }
    (pipeline.home / "far.yaml").write_text(
        "".join(f"{key}: {json.dumps(value)}\n" for key, value in far.items()) + modules, encoding="utf-8"
    )
    (pipeline.home / "back.yaml").write_text("state: back\n" + modules, encoding="utf-8")
    chance = random.Random(23)

    pipeline.publish(files=2)
    pipeline.ion("serve", "--until-idle")
    for _ in range(EVENTS - 1):
        pipeline.publish(files=1)
    there = ("migrate", "--from", "ion.yaml", "--to", "far.yaml", "--yes", "--json")
    for _ in range(6):
        killed(pipeline, *there, after=chance.uniform(0.5, 2.5))
    pipeline.ion(*there)
    assert pipeline.pending() == 0
    pipeline.ion("serve", "--until-idle", "--config", "far.yaml")

    back = ("migrate", "--from", "far.yaml", "--to", "back.yaml", "--yes", "--json")
    for _ in range(3):
        killed(pipeline, *back, after=chance.uniform(0.5, 2.5))
    pipeline.ion(*back)
    pipeline.state = pipeline.home / "back"
    assert_invariants(pipeline, events=EVENTS, committed={"split": EVENTS, "join": 3 * EVENTS})
    assert pipeline.runs() == {"split": EVENTS, "join": 3 * EVENTS}, "what was moved twice is known for a double"
