"""Connections and channels that are lost: one line each, further and further apart, and nobody else's trouble."""

from __future__ import annotations

import asyncio
import logging

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from on_rabbit import EVENT, RETRY, SOON, settings, take, take_patiently

from ion_core.errors import TransientError
from ion_rabbitmq.broker import RabbitBroker, open_rabbit_broker
from ion_rabbitmq.delivery import LONGEST_PAUSE, Subscription
from ion_rabbitmq.testing import RabbitServer


async def test_a_lost_connection_is_one_line_whatever_was_open_on_it(
    own_server: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.to_thread(own_server.start)
    async with open_rabbit_broker(settings(own_server.url)) as broker:
        for name in ("work", "other"):
            await broker.declare(name, topics=["work.asked"], retry=RETRY)
        async with broker.subscribe("work", prefetch=1) as works, broker.subscribe("other", prefetch=1) as others:
            await broker.publish("work.asked", EVENT, headers={})
            held = [await take(works), await take(others)]
            caplog.clear()
            await asyncio.to_thread(own_server.ctl, "close_all_connections", "maintenance")
            async with asyncio.timeout(SOON):
                for delivery in held:
                    await delivery.lost.wait()
            for deliveries in (works, others):
                await (await take_patiently(deliveries)).ack()
            await broker.publish("work.asked", EVENT, headers={})
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [(record.name, record.exc_info) for record in lines] == 2 * [("ion_rabbitmq.link", None)]
    assert {vars(record)["purpose"] for record in lines} == {"consume", "publish"}
    assert all("maintenance" in record.getMessage() for record in lines)


async def test_a_server_that_is_away_is_not_taken_for_one_that_has_lost_its_cluster(
    own_server: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.to_thread(own_server.start)
    async with open_rabbit_broker(settings(own_server.url)) as broker:
        await broker.declare("work", topics=["work.asked"], retry=RETRY)
        async with broker.subscribe("work", prefetch=1) as deliveries:
            waiting = asyncio.ensure_future(take(deliveries))
            await asyncio.to_thread(own_server.kill)
            for _ in range(3):  # as the watch does
                with pytest.raises(TransientError):
                    await broker._reach_a_queue()
            waiting.cancel()
            await asyncio.wait([waiting])
    lost = [it for it in caplog.records if it.name == "ion_rabbitmq.link" and it.levelno >= logging.WARNING]
    assert sorted(vars(it)["purpose"] for it in lost) == ["consume", "publish"], "each is lost once"
    assert not [it for it in lost if "cluster" in it.getMessage()]


async def test_a_connection_that_has_brought_something_meanwhile_is_not_given_up(
    broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, held = asyncio.Event(), asyncio.Event()

    async def no_answer(*_: object) -> None:
        asked.set()
        await held.wait()
        raise TransientError("its leader does not answer")

    monkeypatch.setattr(broker, "_reach", no_answer)
    async with broker.subscribe("work", prefetch=1) as deliveries, asyncio.timeout(SOON):
        looking = asyncio.ensure_future(broker._reach_a_queue())
        await asked.wait()
        await broker.publish("work.asked", EVENT, headers={})
        delivery = await take(deliveries)
        held.set()
        await asyncio.wait([looking])
        assert isinstance(looking.exception(), TransientError)
        await delivery.ack()


async def test_a_message_that_a_node_is_asked_for_is_given_back(rabbit: RabbitServer) -> None:
    async with open_rabbit_broker(settings(rabbit.url, prefix="old-count")) as broker:
        await broker.declare("work", topics=["work.asked"], retry=RETRY)
        await broker.publish("work.asked", EVENT, headers={})
        async with broker.consuming.borrowed() as channel:
            for _ in range(3):
                await broker._reach(channel, broker.topology.queue("work"))
        assert (await broker.stats("work")).ready == 1, "what was asked for is back"


async def test_a_queue_that_does_not_answer_is_no_trouble_of_the_others(
    broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose leader is away, with no other to take its place: the node is none the worse for it."""
    await broker.declare("other", topics=["other.asked"], retry=RETRY)
    reach = broker._reach
    silent: set[str] = set()

    async def some_answer(channel: AbstractChannel, name: str) -> None:
        if name in silent:
            raise TransientError("its leader does not answer")
        await reach(channel, name)

    monkeypatch.setattr(broker, "_reach", some_answer)
    both = {broker.topology.queue("work"), broker.topology.queue("other")}
    async with broker.subscribe("work", prefetch=1), broker.subscribe("other", prefetch=1):
        before = broker.consuming.connections
        for name in both:
            silent = {name}
            await broker._reach_a_queue()
        assert all(it.consumes for it in broker._subscriptions), "on the connection that they had"
        silent = both
        with pytest.raises(TransientError):
            await broker._reach_a_queue()
        await broker.consuming.channel()
        assert broker.consuming.connections == before + 1


async def test_what_others_of_this_process_have_open_is_logged_as_ever(
    rabbit: RabbitServer, broker: RabbitBroker, caplog: pytest.LogCaptureFixture
) -> None:
    closed = asyncio.Event()
    async with await aio_pika.connect(rabbit.url) as theirs:
        theirs.close_callbacks.add(lambda *_: closed.set())
        await asyncio.to_thread(rabbit.ctl, "close_all_connections", "tried")
        async with asyncio.timeout(SOON):
            await closed.wait()
    assert any(record.name == "aiormq.connection" and record.levelname == "ERROR" for record in caplog.records)


async def test_a_channel_that_is_lost_again_and_again_is_opened_later_and_later(broker: RabbitBroker) -> None:
    async with broker.subscribe("work", prefetch=1) as deliveries:
        [subscription] = broker._subscriptions
        pauses = [subscription._pause() for _ in range(12)]
        assert pauses == sorted(pauses)
        assert (pauses[0] < 0.1, pauses[-1]) == (True, LONGEST_PAUSE)
        await broker.publish("work.asked", EVENT, headers={})
        await (await take(deliveries)).ack()
        assert subscription._pause() < 0.1, "what settles deliveries is well"


async def test_a_channel_that_is_lost_costs_no_other_subscription_anything(
    rabbit: RabbitServer, broker: RabbitBroker, caplog: pytest.LogCaptureFixture
) -> None:
    await broker.declare("other", topics=["other.asked"], retry=RETRY)
    async with broker.subscribe("work", prefetch=1) as works, broker.subscribe("other", prefetch=1) as others:
        await broker.publish("work.asked", EVENT, headers={})
        await broker.publish("other.asked", EVENT, headers={})
        held, theirs = await take(works), await take(others)
        await _break(broker, "work")
        async with asyncio.timeout(SOON):
            await held.lost.wait()
        await (await take_patiently(works)).ack()
        assert not theirs.lost.is_set()
        await theirs.ack()
    [line] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "channel lost" in line.getMessage()


async def _break(broker: RabbitBroker, queue: str) -> None:
    """Have RabbitMQ close a subscription's channel: a delivery that it never gave is acknowledged there."""
    [subscription] = [found for found in broker._subscriptions if found.queue == queue]
    assert isinstance(subscription, Subscription)
    assert subscription._consuming is not None
    await subscription._consuming.underlay.basic_ack(delivery_tag=999)
