"""``serve --until-idle`` waits for what it lost: RabbitMQ shows it nowhere until it has noticed, and gives it back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

from proxy import proxy_to

from ion_rabbitmq.testing import RabbitServer
from tests.acceptance.pipeline import Pipeline

CONFIG = """
messaging: {{provider: rabbitmq, url: "${{env:AMQP_URL}}", prefix: lost, heartbeat: 3s}}
modules:
  work:
    command: [sh, work.sh]
    source: modules
    subscribes: [work.asked]
    retries: 0
    env: {{RUNS: "{runs}"}}
"""
# Runs until the test lets it end, and fails; outside of the workspace it notes each run.
FAILS = """
echo work >> "$RUNS"
while [ ! -e "$RUNS.go" ]; do sleep 0.1; done
exit 3
"""


async def test_an_event_whose_delivery_was_lost_is_waited_for_until_it_is_a_dead_letter(
    rabbit: RabbitServer, tmp_path: Path
) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline", config=CONFIG, modules={"work": FAILS})
    async with proxy_to(rabbit.port) as proxy:
        hang_up = _from_threads(proxy.hang_up)
        await asyncio.to_thread(_served_while_its_connections_end, pipeline, rabbit, proxy.port, hang_up)


def _served_while_its_connections_end(
    pipeline: Pipeline, rabbit: RabbitServer, port: int, hang_up: Callable[[], None]
) -> None:
    pipeline.ion("event", "publish", "work.asked", "--event-id", "e1", AMQP_URL=rabbit.url)
    with pipeline.serving("--until-idle", AMQP_URL=f"amqp://guest:guest@127.0.0.1:{port}/") as served:
        served.until("job started")
        hang_up()
        served.until("connection to RabbitMQ lost")
        (pipeline.home / "runs.go").touch()
        served.until("an event was lost before it was decided on; it is pending")
        assert served.ended() == 1, "it is a dead letter in the end"
    [letter] = json.loads(pipeline.ion("dlq", "list", "--json", AMQP_URL=rabbit.url).stdout)
    assert letter["eventId"] == "e1"
    assert pipeline.runs()["work"] == 2


def _from_threads(call: Callable[[], None]) -> Callable[[], None]:
    loop = asyncio.get_running_loop()
    return lambda: (loop.call_soon_threadsafe(call), None)[1]
