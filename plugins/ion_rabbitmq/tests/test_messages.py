"""Messages as they travel and rest: for other consumers, of any size, and counted at every moment."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import aio_pika
import pytest
from on_rabbit import EVENT, settings, take

from ion_core.errors import Unroutable
from ion_rabbitmq.broker import RabbitBroker, open_rabbit_broker
from ion_rabbitmq.testing import RabbitServer
from ion_rabbitmq.topology import Topology


async def test_other_consumers_understand_our_events(rabbit: RabbitServer, broker: RabbitBroker) -> None:
    await broker.publish("work.asked", EVENT, headers={"ion-hops": "0"})
    async with await aio_pika.connect(rabbit.url) as connection, connection.channel() as channel:
        queue = await channel.get_queue(broker.topology.queue("work"))
        message = await queue.get(no_ack=True)
        assert message is not None
    assert message.body == EVENT
    assert (message.message_id, message.correlation_id, message.type) == ("e1", "c1", "work.asked")
    assert message.headers["cloudEvents:specversion"] == "1.0"
    assert message.headers["cloudEvents:id"] == "e1"
    assert message.headers["cloudEvents:source"] == "/ion/cli"
    assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT


async def test_what_others_published_is_delivered_as_a_first_attempt(
    rabbit: RabbitServer, broker: RabbitBroker
) -> None:
    async with await aio_pika.connect(rabbit.url) as connection, connection.channel() as channel:
        await channel.default_exchange.publish(
            aio_pika.Message(b"from elsewhere", headers={"ion": "no table", "x": 1}),
            routing_key=broker.topology.queue("work"),
        )
    async with broker.subscribe("work", prefetch=1) as deliveries:
        delivery = await take(deliveries)
        assert (delivery.body, delivery.attempt, dict(delivery.headers)) == (b"from elsewhere", 1, {})
        await delivery.dead_letter("not ours")
    [letter] = await broker.dead_letters("work")
    assert letter.reason == "not ours"


async def test_ids_of_any_length_and_alphabet_are_published(rabbit: RabbitServer, broker: RabbitBroker) -> None:
    for long in ("é" * 200, "x" * 1024, "🙂" * 64):
        context = {"name": "naïve module", "eventId": long, "correlationId": long}
        body = json.dumps({"context": context, "type": "work.asked"}).encode()
        await broker.publish("work.asked", body, headers={"traceparent": "00-1-2-01"})
        await broker.publish("work.asked", body, headers={"traceparent": "00-1-2-01"})
        async with await aio_pika.connect(rabbit.url) as connection, connection.channel() as channel:
            queue = await channel.get_queue(broker.topology.queue("work"))
            first, second = await queue.get(no_ack=True), await queue.get(no_ack=True)
        assert first is not None
        assert second is not None
        assert first.message_id == second.message_id != "", "the same id every time"
        assert first.correlation_id is None, "never cut to look like another"
        assert first.headers["cloudEvents:id"] == long
        assert first.headers["cloudEvents:source"] == "/ion/na%C3%AFve%20module"
        assert first.headers["traceparent"] == "00-1-2-01"


async def test_a_long_reason_and_log_fit_into_a_dead_letter(broker: RabbitBroker) -> None:
    async with broker.subscribe("work", prefetch=1) as deliveries:
        await broker.publish("work.asked", EVENT, headers={})
        delivery = await take(deliveries)
        await delivery.dead_letter(
            "🙂" * 20_000, log_tail=[*(f"{n} " + "\x00" * 1000 for n in range(40)), "the last line"]
        )
    [letter] = await broker.dead_letters("work")
    assert letter.body == EVENT
    assert letter.reason.startswith("🙂🙂")
    assert letter.reason.endswith("[…]")
    assert letter.log_tail[-1] == "the last line"
    assert len(letter.log_tail) > 5


async def test_each_of_several_unroutable_publishes_of_one_event_is_told(broker: RabbitBroker) -> None:
    publishing = (broker.publish("nobody.cares", EVENT, headers={}) for _ in range(5))
    found = await asyncio.gather(*publishing, return_exceptions=True)
    assert [type(error) for error in found] == 5 * [Unroutable]


async def test_a_topic_nobody_takes_is_unroutable_also_right_after_the_start(rabbit: RabbitServer) -> None:
    async with open_rabbit_broker(settings(rabbit.url, prefix="fresh-start")) as broker:
        with pytest.raises(Unroutable):
            await broker.publish("nobody.cares", b"x", headers={})


async def test_a_retry_is_pending_at_every_moment_until_it_is_back(broker: RabbitBroker) -> None:
    async with broker.subscribe("work", prefetch=1) as deliveries:
        await broker.publish("work.asked", b"x", headers={})
        delivery = await take(deliveries)
        for attempt in range(2, 12):
            coming = asyncio.ensure_future(take(deliveries))
            await delivery.retry(delay=timedelta(milliseconds=80))
            while not coming.done():
                assert (await broker.stats("work")).pending, "serve --until-idle would end here"
            delivery = coming.result()
            assert delivery.attempt == attempt
        await delivery.ack()
        assert not (await broker.stats("work")).delayed


def test_no_queue_that_we_get_from_has_a_delivery_limit_by_default() -> None:
    topology = Topology.of(settings("amqp://localhost/"))
    for arguments in (topology.queue_arguments("work"), topology.dead_arguments()):
        assert arguments["x-delivery-limit"] > 10_000, "RabbitMQ 4 drops what is given back more than 20 times"
