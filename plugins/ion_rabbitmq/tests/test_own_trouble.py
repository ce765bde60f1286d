"""An event with trouble of its own makes room for the others on RabbitMQ too, and dies in the end."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from on_rabbit import RETRY, SOON, settings

from ion_rabbitmq.broker import RabbitBroker, open_rabbit_broker
from ion_rabbitmq.testing import RabbitServer
from ion_rabbitmq.topology import POSTPONED
from tests.support.worlds import OneBlobWithheld, World, exits, no_back_off

HEALTHY = 20


async def pending(broker: RabbitBroker) -> int:
    return (await broker.stats("worker")).pending


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_events_behind_a_poisoned_one_are_committed_and_it_becomes_a_dead_letter(
    queue_type: str, rabbit: RabbitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world: Any = World(tmp_path)
    world.blobs = OneBlobWithheld()
    world.add(exits(0), concurrency=1)
    found = settings(rabbit.url, queue_type=queue_type, prefix=f"trouble-{queue_type}")
    async with open_rabbit_broker(found) as world.broker:
        await world.publish(event_id="bad", files={"poisoned": b"x"})
        for n in range(HEALTHY):
            await world.publish(event_id=f"good-{n}", files={"fine": b"x"})
        with no_back_off(monkeypatch):
            async with world.serving():
                async with asyncio.timeout(SOON):
                    while await pending(world.broker):  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                dead = await world.dead()
    assert len(world.commits) == HEALTHY
    assert [(letter.attempts, "access is denied" in letter.reason) for letter in dead] == [(3, True)]


async def test_whatever_delay_is_asked_for_few_queues_are_made_to_wait_in(rabbit: RabbitServer) -> None:
    """What another process has postponed is counted by one that has only declared the queue."""
    found = settings(rabbit.url, prefix="postponed")
    async with open_rabbit_broker(found) as broker:
        await broker.declare("worker", topics=["in"], retry=RETRY)
    assert isinstance(broker, RabbitBroker)
    rungs = {broker.topology.rung("worker", asked) for asked in delays(1, 32)}
    assert rungs == set(POSTPONED)
    assert len({broker.topology.rung("worker", asked) for asked in delays(33, 4_000)}) == 7


def delays(first: int, last: int) -> list[timedelta]:
    return [timedelta(seconds=seconds) for seconds in range(first, last)]
