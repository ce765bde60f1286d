"""What a broker does while jobs run, seen from real ``ion-core serve`` processes: jobs go on, and commit once."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ion_rabbitmq.testing import RabbitServer
from tests.acceptance.pipeline import Pipeline

JOBS = 8
COMMITTED = "committed eventId="
"""Or already committed: a job that ends between the loss of its delivery and the next one finds its own commit."""
CONFIG = """
messaging: {{provider: rabbitmq, url: "${{env:AMQP_URL}}", timeout: 5s}}
modules:
  work:
    command: [sh, work.sh]
    source: modules
    subscribes: [work.asked]
    concurrency: 8
    env: {{RUNS: "{runs}"}}
"""
# Runs until the test lets all of them end, and notes each run outside of the workspace.
WORK = """
echo work >> "$RUNS"
while [ ! -e "$RUNS.go" ]; do sleep 0.1; done
echo done > "$HANDLER_BASE_DIR/out/data/done.txt"
"""
PUBLISHING = """
import asyncio, os
from pathlib import Path

from ion_core.app import App
from ion_core.config import load_config


async def publish():
    async with App.open(load_config(Path("ion.yaml"), environ=os.environ)) as app:
        intake = await app.intake()
        for _ in range({count}):
            await intake.publish("work.asked", name="test")


asyncio.run(publish())
"""


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline.make(tmp_path / "pipeline", config=CONFIG, modules={"work": WORK})


def publish(pipeline: Pipeline, count: int, own_server: RabbitServer) -> None:
    published = pipeline.python("-c", PUBLISHING.format(count=count), AMQP_URL=own_server.url)
    assert published.returncode == 0, published.stderr


def declared_for_good(own_server: RabbitServer) -> None:
    """3.10 killed within a second or so of a quorum queue's declaration has it back without a leader, for ever."""
    own_server.stop()
    own_server.start()


def assert_each_ran_and_committed_once(pipeline: Pipeline, count: int, own_server: RabbitServer) -> None:
    """And nothing is left for anybody."""
    pipeline.ion("serve", "--until-idle", AMQP_URL=own_server.url)
    assert pipeline.runs()["work"] == count, "a redelivery of a job that runs here is adopted"
    assert len(pipeline.documents("commit")) == count


@pytest.mark.parametrize("end", [RabbitServer.stop, RabbitServer.kill], ids=["kindly", "kill -9"])
def test_a_restart_with_jobs_running_is_red_and_runs_none_twice(
    pipeline: Pipeline, own_server: RabbitServer, end: Callable[[RabbitServer], None]
) -> None:
    own_server.start()
    publish(pipeline, JOBS, own_server)
    declared_for_good(own_server)
    with pipeline.serving(AMQP_URL=own_server.url) as served:
        served.until("job started", count=JOBS)
        end(own_server)
        served.until("not ready: queue work")
        own_server.start()
        served.until("ready again: queue work")
        (pipeline.home / "runs.go").touch()
        served.until(COMMITTED, count=JOBS)
        served.send(signal.SIGTERM)
        assert served.ended() == 128 + signal.SIGTERM
    assert_each_ran_and_committed_once(pipeline, JOBS, own_server)


def test_the_acknowledgement_timeout_under_a_long_job_leaves_one_run_and_one_commit(
    pipeline: Pipeline, own_server: RabbitServer
) -> None:
    own_server.configure(consumer_timeout=2000, channel_tick_interval=1000)
    own_server.start()
    publish(pipeline, 1, own_server)
    with pipeline.serving(AMQP_URL=own_server.url) as served:
        served.until("took back what was held for too long", count=2)
        assert re.search(
            r"write consumer_timeout = 7200000 \(milliseconds\) into rabbitmq.conf and restart it"
            r"|`ion-core rabbitmq policies --prefix ion --hours 2` prints \(consumer-timeout 7200000 milliseconds\)",
            served.log,
        ), "which of the two depends on the server's version"
        (pipeline.home / "runs.go").touch()
        served.until(COMMITTED)
        served.send(signal.SIGTERM)
        assert served.ended() == 128 + signal.SIGTERM
    assert_each_ran_and_committed_once(pipeline, 1, own_server)


def test_jobs_commit_and_sigterm_works_while_the_broker_is_away(pipeline: Pipeline, own_server: RabbitServer) -> None:
    own_server.start()
    publish(pipeline, 2, own_server)
    declared_for_good(own_server)
    with pipeline.serving(AMQP_URL=own_server.url) as served:
        served.until("job started", count=2)
        own_server.kill()
        served.until("not ready: queue work")
        (pipeline.home / "runs.go").touch()
        served.until("job lost", count=2)
        assert len(pipeline.documents("commit")) == 2, "the commit does not need the broker"
        served.send(signal.SIGTERM)
        assert served.ended() == 128 + signal.SIGTERM
    own_server.start()
    assert_each_ran_and_committed_once(pipeline, 2, own_server)
