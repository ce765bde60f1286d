"""What RabbitMQ tells no client is shown as unknown; of a server that was not asked nothing is said."""

from __future__ import annotations

import json
from pathlib import Path

from on_rabbit import EVENT, take

from ion_rabbitmq.broker import RabbitBroker, open_rabbit_broker
from ion_rabbitmq.testing import RabbitServer
from tests.acceptance.pipeline import Pipeline

CONFIG = """
messaging: {{provider: rabbitmq, url: "${{env:AMQP_URL}}", prefix: unknown}}
modules:
  work: {{command: [sh, work.sh], source: modules, subscribes: [work.asked]}}
"""


async def test_what_others_hold_is_unknown_and_what_we_hold_is_counted(
    rabbit: RabbitServer, broker: RabbitBroker
) -> None:
    for _ in range(3):
        await broker.publish("work.asked", EVENT, headers={})
    async with (
        open_rabbit_broker(broker.settings) as other,
        broker.subscribe("work", prefetch=1) as deliveries,
    ):
        await take(deliveries)
        mine = await broker.stats("work")
        assert (mine.ready, mine.unsettled) == (2, 1)
        assert (await other.stats("work")).unsettled is None
        async with other.subscribe("work", prefetch=1) as theirs:
            await take(theirs)
            assert (await broker.stats("work")).unsettled is None
    async with open_rabbit_broker(broker.settings) as other:
        idle = await other.stats("work")
        assert (idle.ready, idle.unsettled) == (3, 0), "nobody consumes, so nobody holds any"


async def test_what_has_arrived_and_was_handed_to_nobody_is_ready(broker: RabbitBroker) -> None:
    for _ in range(3):
        await broker.publish("work.asked", EVENT, headers={})
    async with broker.subscribe("work", prefetch=2) as deliveries:
        await take(deliveries)
        while (stats := await broker.stats("work")).ready + (stats.unsettled or 0) != 3:
            pass  # on its way to us it is counted nowhere
        assert (stats.ready, stats.unsettled) == (2, 1)


async def test_what_had_arrived_on_a_channel_that_was_lost_is_pending_until_it_is_back(broker: RabbitBroker) -> None:
    await broker.publish("work.asked", EVENT, headers={})
    async with broker.subscribe("work", prefetch=1) as deliveries:
        [subscription] = broker._subscriptions
        while not subscription.arrived:
            await broker.stats("work")
        subscription._forget()  # as of a node that died with the channel: what it held is not back yet
        assert (await broker.stats("work")).ready == 1
        broker.arrived("work", (await _key(broker)))
        assert (await broker.stats("work")).ready == 0
        del deliveries


async def _key(broker: RabbitBroker) -> str:
    [key] = broker._unseen["work"]
    return key


def test_module_list_says_what_it_cannot_know(rabbit: RabbitServer, tmp_path: Path) -> None:
    waits = 'while [ ! -e "$HANDLER_BASE_DIR/../go" ]; do sleep 0.1; done'
    pipeline = Pipeline.make(tmp_path / "pipeline", config=CONFIG, modules={"work": waits})
    pipeline.ion("event", "publish", "work.asked", AMQP_URL=rabbit.url)
    waiting = pipeline.ion("module", "list", AMQP_URL=rabbit.url).stdout
    assert waiting.splitlines()[1].split()[:5] == ["work", "1", "0", "0", "0"]
    with pipeline.serving(AMQP_URL=rabbit.url) as served:
        served.until("job started")
        running = pipeline.ion("module", "list", AMQP_URL=rabbit.url).stdout
        [listed] = json.loads(pipeline.ion("module", "list", "--json", AMQP_URL=rabbit.url).stdout)
    assert running.splitlines()[1].split()[:5] == ["work", "0", "0", "?", "0"]
    assert listed["queue"] == {"ready": 0, "delayed": 0, "unsettled": None, "dead": 0}


def test_check_says_nothing_of_a_broker_that_it_did_not_ask(rabbit: RabbitServer, tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline", config=CONFIG, modules={"work": "true"})
    pipeline.ion("event", "publish", "work.asked", AMQP_URL=rabbit.url)
    nobody = "amqp://me:canary@127.0.0.1:1/"

    offline = pipeline.ion("check", AMQP_URL=nobody)
    asked = pipeline.ion("check", "--connect", AMQP_URL=rabbit.url)
    unanswered = pipeline.ion("check", "--connect", AMQP_URL=nobody)

    for said in (offline, unanswered):
        assert "queue" not in said.stdout + said.stderr
        assert "canary" not in said.stdout + said.stderr
    assert "messaging" not in offline.stdout
    assert "messaging: not checked: amqp://127.0.0.1:1" in unanswered.stdout
    assert "not checked" not in asked.stdout
