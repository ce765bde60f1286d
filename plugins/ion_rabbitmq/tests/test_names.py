"""What queues and exchanges are called, and that pipelines with different names do not meet."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import aio_pika
import pytest
from on_rabbit import RETRY, settings, take

from ion_core.errors import ConfigError
from ion_rabbitmq.broker import RabbitBroker, open_rabbit_broker
from ion_rabbitmq.testing import RabbitServer
from ion_rabbitmq.topology import MAX_NAME_BYTES, Topology


async def retried_and_dead(broker: RabbitBroker, body: bytes) -> None:
    """Publish ``body``, have it retried once and make it a dead letter."""
    await broker.declare("work", topics=["work.asked"], retry=RETRY)
    await broker.publish("work.asked", body, headers={})
    async with broker.subscribe("work", prefetch=1) as deliveries:
        await (await take(deliveries)).retry(delay=timedelta(milliseconds=100))
        again = await take(deliveries)
        assert (again.body, again.attempt) == (body, 2)
        await again.dead_letter("no good")


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_all_names_can_be_chosen(rabbit: RabbitServer, queue_type: str) -> None:
    prefix = f"names-{queue_type}"
    chosen = {"exchange": f"{prefix}:all", "retry_suffix": ".again", "dead_suffix": ".failed"}
    async with open_rabbit_broker(settings(rabbit.url, prefix=prefix, queue_type=queue_type, **chosen)) as broker:
        await retried_and_dead(broker, b"x")
        assert [letter.body for letter in await broker.dead_letters("work")] == [b"x"]
    queues = await asyncio.to_thread(rabbit.ctl, "-q", "--no-table-headers", "list_queues", "name")
    rungs = {f"{prefix}.q.work.again.{ms}" for ms in (80, 100, 120, 160, 200, 240, 2_000, 8_000, 32_000)}
    assert {name for name in queues.split() if name.startswith(prefix)} == {
        f"{prefix}.q.work",
        f"{prefix}.q.work.failed",
        f"{prefix}.queues",
        *rungs,
    }
    exchanges = (await asyncio.to_thread(rabbit.ctl, "-q", "list_exchanges", "name")).split()
    assert f"{prefix}:all" in exchanges
    assert f"{prefix}.events" not in exchanges


async def test_two_prefixes_share_a_virtual_host_and_nothing_else(rabbit: RabbitServer) -> None:
    async with (
        open_rabbit_broker(settings(rabbit.url, prefix="one", exchange="one:bus", dead_suffix=".failed")) as one,
        open_rabbit_broker(settings(rabbit.url, prefix="two")) as two,
    ):
        await two.declare("work", topics=["work.asked"], retry=RETRY)
        await retried_and_dead(one, b"of one")
        assert (await two.stats("work")).pending == 0
        assert await two.dead_letters("work") == []
        await retried_and_dead(two, b"of two")
        assert [letter.body for letter in await one.dead_letters("work")] == [b"of one"]
        assert [letter.body for letter in await two.dead_letters("work")] == [b"of two"]


async def test_pipelines_of_one_exchange_take_each_others_events(rabbit: RabbitServer) -> None:
    async with (
        open_rabbit_broker(settings(rabbit.url, prefix="left", exchange="shared:bus")) as left,
        open_rabbit_broker(settings(rabbit.url, prefix="right", exchange="shared:bus")) as right,
    ):
        for broker in (left, right):
            await broker.declare("work", topics=["work.asked"], retry=RETRY)
        await left.publish("work.asked", b"x", headers={})
        for broker in (left, right):
            assert [message.body for message in await broker.peek("work", limit=9)] == [b"x"]


async def test_an_exchange_of_another_kind_is_named(rabbit: RabbitServer) -> None:
    async with await aio_pika.connect(rabbit.url) as connection, connection.channel() as channel:
        await channel.declare_exchange("foreign:bus", aio_pika.ExchangeType.FANOUT)
    async with open_rabbit_broker(settings(rabbit.url, prefix="foreign", exchange="foreign:bus")) as broker:
        with pytest.raises(ConfigError, match=r"exchange 'foreign:bus'.*messaging\.exchange"):
            await broker.declare("work", topics=["work.asked"], retry=RETRY)


def test_the_longest_names_fit() -> None:
    topology = Topology.of(
        settings("amqp://localhost/", prefix="p" * 32, retry_suffix="." + "r" * 16, dead_suffix="." + "d" * 16)
    )
    longest = [topology.queue("q" * 255), topology.dead("q" * 255), topology.waiting("q" * 255, 10**12 - 1)]
    assert max(len(name) for name in longest) == MAX_NAME_BYTES


@pytest.mark.parametrize("name", ["x.*", "naïve\nname", "a#b", "work.dead", "work.retry.100"])
async def test_a_queue_may_have_any_name(rabbit: RabbitServer, name: str) -> None:
    async with open_rabbit_broker(settings(rabbit.url, prefix=f"any{abs(hash(name)) % 10**8}")) as broker:
        await broker.declare("work", topics=["others"], retry=RETRY)
        await broker.declare(name, topics=["x.asked"], retry=RETRY)
        await broker.publish("x.asked", b"x", headers={})
        async with broker.subscribe(name, prefetch=1) as deliveries:
            await (await take(deliveries)).dead_letter("no good")
        assert [letter.body for letter in await broker.dead_letters(name)] == [b"x"]
        assert sorted(queue.name for queue in await broker.queues()) == sorted(["work", name])
        stats = await broker.stats("work")
        assert (stats.ready, stats.dead) == (0, 0)
