"""A publish whose confirm was lost is made again: of two messages in RabbitMQ one goes on, and is the dead letter."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from on_rabbit import SOON, settings
from proxy import Proxy, proxy_to

from ion_core.contracts.messaging import RetryPolicy
from ion_core.contracts.settings import Section
from ion_core.errors import TransientError
from ion_core.events import Event
from ion_rabbitmq.broker import RabbitBroker, open_rabbit_broker
from ion_rabbitmq.settings import RabbitSettings
from ion_rabbitmq.testing import RabbitServer
from tests.support.worlds import World

EVENTS = 10
RETRY = RetryPolicy(retries=1, initial=timedelta(milliseconds=100), jitter=0)


class Failing:
    runs = 0

    async def __call__(self, workspace: Path, env: Mapping[str, str]) -> int:
        self.runs += 1
        return 3


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Failing:
    monkeypatch.setattr("ion_core.dispatcher.doubles.WAIT_LEAST", timedelta(milliseconds=100))
    return Failing()


async def at_rest(broker: RabbitBroker) -> None:
    async with asyncio.timeout(2 * SOON):
        while (await broker.stats("worker")).pending:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_confirms_that_are_lost_cost_no_attempt_and_no_dead_letter(
    queue_type: str, failing: Failing, rabbit: RabbitServer, tmp_path: Path
) -> None:
    prefix = f"twice-{queue_type}"
    world: Any = World(tmp_path)
    world.add(failing, concurrency=4, retry=RETRY)
    async with proxy_to(rabbit.port) as proxy:
        url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/"
        async with open_rabbit_broker(settings(url, prefix=prefix, queue_type=queue_type)) as world.broker:
            events = [await world.publish() for _ in range(EVENTS)]
            proxy.confirming = False
            world.broker._timeout = 0.5
            for event in events:
                with pytest.raises(TransientError):
                    await world.dataplane.publish(event)
            proxy.confirming = True
            world.broker._timeout = SOON
            world.broker._outgoing.abandon()  # as where its connection is given up; of some it has been already
            for event in events:
                await published(world, event)
            assert (await world.broker.stats("worker")).ready >= 2 * EVENTS
    found = settings(rabbit.url, prefix=prefix, queue_type=queue_type)
    async with open_rabbit_broker(found) as world.broker, world.serving():
        await at_rest(world.broker)
        dead = await world.dead()
    assert len(dead) == EVENTS
    assert failing.runs == 2 * EVENTS


async def published(world: World, event: Event) -> None:
    """Once more, as often as it takes."""
    async with asyncio.timeout(2 * SOON):
        while True:
            try:
                await world.dataplane.publish(event)
            except TransientError:
                continue
            return


async def test_a_retry_whose_confirm_is_lost_ends_as_one_dead_letter(
    failing: Failing, rabbit: RabbitServer, tmp_path: Path
) -> None:
    """It is in the queue, and its delivery comes again by the next connection: copies of one message."""
    world: Any = World(tmp_path)
    async with proxy_to(rabbit.port) as proxy:
        urls = [f"amqp://guest:guest@127.0.0.1:{proxy.port}/", rabbit.url]
        values = {"urls": urls, "timeout": f"{SOON:g}s", "prefix": "twice-retried"}
        found = RabbitSettings.model_validate(values, context={"section": Section(key="messaging")})
        async with open_rabbit_broker(found) as world.broker:
            world.add(Deaf(failing, proxy, world.broker), retry=RETRY)
            await world.publish()
            async with world.serving():
                async with asyncio.timeout(2 * SOON):
                    while not world.broker._unproven and failing.runs < 2:  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                world.broker._timeout = SOON
                await at_rest(world.broker)
                dead = await world.dead()
    assert len(dead) == 1
    assert failing.runs > 2, "else there was no copy"


class Deaf:
    """Runs the program; from its first run on nothing is confirmed by the first address."""

    def __init__(self, program: Failing, proxy: Proxy, broker: RabbitBroker) -> None:
        self._program, self._proxy, self._broker = program, proxy, broker

    async def __call__(self, workspace: Path, env: Mapping[str, str]) -> int:
        if self._proxy.confirming:
            self._proxy.confirming = False
            self._broker._timeout = 1.0
        return await self._program(workspace, env)
