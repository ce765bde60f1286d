"""What RabbitMQ and the network do to a broker client, and what must come of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import aio_pika
import pytest
from proxy import proxy_to
from pydantic import SecretStr, ValidationError

from ion_core.contracts.messaging import Delivery, RetryPolicy
from ion_core.errors import ConfigError, TransientError, Unroutable
from ion_rabbitmq.broker import RabbitBroker, open_rabbit_broker
from ion_rabbitmq.settings import RabbitSettings
from ion_rabbitmq.testing import RabbitServer

SOON = 30.0
RETRY = RetryPolicy(retries=2, initial=timedelta(milliseconds=100), factor=2)


def settings(url: str, **more: object) -> RabbitSettings:
    return RabbitSettings.model_validate({"url": url, "timeout": "3s", **more})


@pytest.fixture
async def broker(rabbit: RabbitServer, request: pytest.FixtureRequest) -> AsyncIterator[RabbitBroker]:
    prefix = f"t{abs(hash(request.node.name)) % 10**8}"
    async with open_rabbit_broker(settings(rabbit.url, prefix=prefix)) as broker:
        await broker.declare("work", topics=["work.asked"], retry=RETRY)
        yield broker


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RabbitServer]:
    """One that may be broken."""
    server = RabbitServer(tmp_path / "node")
    try:
        yield server
    finally:
        server.remove()


async def take(deliveries: AsyncIterator[Delivery]) -> Delivery:
    async with asyncio.timeout(SOON):
        return await anext(deliveries)


async def take_patiently(deliveries: AsyncIterator[Delivery]) -> Delivery:
    """As the dispatcher does: while the broker is away the iteration fails, and is continued."""
    async with asyncio.timeout(2 * SOON):
        while True:
            try:
                return await anext(deliveries)
            except TransientError as error:
                logging.getLogger(__name__).info("not yet: %s", error)


@pytest.mark.parametrize("end", [RabbitServer.stop, RabbitServer.kill], ids=["kindly", "kill -9"])
async def test_a_restart_loses_deliveries_and_no_message(
    own_server: RabbitServer, end: Callable[[RabbitServer], None]
) -> None:
    await asyncio.to_thread(own_server.start)
    async with open_rabbit_broker(settings(own_server.url)) as broker:
        await broker.declare("work", topics=["work.asked"], retry=RETRY)
        async with broker.subscribe("work", prefetch=2) as deliveries:
            for body in (b"held", b"delayed", b"waiting"):
                await broker.publish("work.asked", body, headers={})
            held, delayed = await take(deliveries), await take(deliveries)
            await delayed.retry(delay=timedelta(milliseconds=100))

            await asyncio.to_thread(end, own_server)
            async with asyncio.timeout(SOON):
                await held.lost.wait()
            with pytest.raises(TransientError, match=r"amqp://127\.0\.0\.1"):
                await broker.publish("work.asked", b"while away", headers={})
            await asyncio.to_thread(own_server.start)

            found: dict[bytes, int] = {}
            while found != {b"held": 1, b"delayed": 2, b"waiting": 1}:
                delivery = await take_patiently(deliveries)
                # An ack may be lost with the broker: then the message comes twice, as it was and retried.
                found[delivery.body] = max(delivery.attempt, found.get(delivery.body, 0))
                await delivery.ack()
            await broker.publish("work.asked", b"after", headers={})
            assert (await take(deliveries)).body == b"after"


async def test_silence_is_noticed_by_missing_heartbeats(rabbit: RabbitServer) -> None:
    async with proxy_to(rabbit.port) as proxy:
        quick = settings(f"amqp://guest:guest@127.0.0.1:{proxy.port}/", heartbeat="1s", prefix="silence")
        async with open_rabbit_broker(quick) as broker:
            await broker.declare("work", topics=["work.asked"], retry=RETRY)
            async with broker.subscribe("work", prefetch=1) as deliveries:
                await broker.publish("work.asked", b"x", headers={})
                held = await take(deliveries)
                proxy.silent()
                async with asyncio.timeout(SOON):
                    await held.lost.wait()
                with pytest.raises(TransientError):
                    await broker.publish("work.asked", b"y", headers={})
                proxy.speaking()
                again = await take_patiently(deliveries)
                assert (again.body, again.attempt) == (b"x", 1)
                await again.ack()


async def test_a_memory_alarm_stops_publishers_and_not_acks(rabbit: RabbitServer, broker: RabbitBroker) -> None:
    async with broker.subscribe("work", prefetch=1) as deliveries:
        await broker.publish("work.asked", b"1", headers={})
        await broker.publish("work.asked", b"2", headers={})
        first = await take(deliveries)
        await asyncio.to_thread(rabbit.ctl, "set_vm_memory_high_watermark", "0.0000001")
        try:
            with pytest.raises(TransientError, match="does not answer within 3 s"):
                await broker.publish("work.asked", b"3", headers={})
            await first.ack()
            second = await take(deliveries)
            assert second.body == b"2"
            await second.ack()
        finally:
            await asyncio.to_thread(rabbit.ctl, "set_vm_memory_high_watermark", "0.4")
        await broker.publish("work.asked", b"4", headers={})


@pytest.mark.parametrize(("theirs", "ours"), [("classic", "quorum"), ("quorum", "classic")])
async def test_a_queue_with_other_arguments_is_named(rabbit: RabbitServer, theirs: str, ours: str) -> None:
    prefix = f"foreign-{theirs}"
    async with await aio_pika.connect(rabbit.url) as connection, connection.channel() as channel:
        await channel.declare_queue(f"{prefix}.q.work", durable=True, arguments={"x-queue-type": theirs})
        async with open_rabbit_broker(settings(rabbit.url, prefix=prefix, queue_type=ours)) as broker:
            with pytest.raises(ConfigError, match=rf"inequivalent arg 'x-[a-z-]+' for queue '{prefix}\.q\.work'"):
                await broker.declare("work", topics=["work.asked"], retry=RETRY)


async def test_the_acknowledgement_timeout_of_the_broker_takes_a_delivery_back(own_server: RabbitServer) -> None:
    own_server.configure(consumer_timeout=2000, channel_tick_interval=1000)
    await asyncio.to_thread(own_server.start)
    async with open_rabbit_broker(settings(own_server.url)) as broker:
        await broker.declare("work", topics=["work.asked"], retry=RETRY)
        async with broker.subscribe("work", prefetch=1) as deliveries:
            await broker.publish("work.asked", b"long", headers={})
            held = await take(deliveries)
            async with asyncio.timeout(SOON):
                await held.lost.wait()
            again = await take(deliveries)
            assert (again.body, again.attempt) == (b"long", 1)
            await again.ack()


async def test_a_queue_deleted_under_a_subscriber_is_noticed(rabbit: RabbitServer, broker: RabbitBroker) -> None:
    async with broker.subscribe("work", prefetch=1) as deliveries:
        waiting = asyncio.ensure_future(take(deliveries))
        await asyncio.sleep(0)
        async with await aio_pika.connect(rabbit.url) as connection, connection.channel() as channel:
            await channel.queue_delete(broker.topology.queue("work"))
            with pytest.raises(Exception, match="is not declared"):
                await waiting
    await broker.declare("work", topics=["work.asked"], retry=RETRY)
    async with broker.subscribe("work", prefetch=1) as deliveries:
        await broker.publish("work.asked", b"x", headers={})
        assert (await take(deliveries)).body == b"x"


async def test_a_consumer_the_broker_forgot_is_found_by_the_watchdog(broker: RabbitBroker) -> None:
    async with broker.subscribe("work", prefetch=1) as deliveries:
        [subscription] = broker._subscriptions
        assert subscription._channel is not None
        underlay = await subscription._channel.get_underlay_channel()
        await underlay.basic_cancel(subscription._tag)
        await subscription.check()
        await broker.publish("work.asked", b"x", headers={})
        assert (await take(deliveries)).body == b"x"


async def test_other_consumers_understand_our_events(rabbit: RabbitServer, broker: RabbitBroker) -> None:
    body = b'{"context": {"name": "cli", "eventId": "e1", "correlationId": "c1"}, "type": "work.asked"}'
    await broker.publish("work.asked", body, headers={"ion-hops": "0"})
    async with await aio_pika.connect(rabbit.url) as connection, connection.channel() as channel:
        queue = await channel.get_queue(broker.topology.queue("work"))
        message = await queue.get(no_ack=True)
        assert message is not None
    assert message.body == body
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


async def test_a_topic_nobody_takes_is_unroutable_also_right_after_the_start(rabbit: RabbitServer) -> None:
    async with open_rabbit_broker(settings(rabbit.url, prefix="fresh-start")) as broker:
        with pytest.raises(Unroutable):
            await broker.publish("nobody.cares", b"x", headers={})


async def test_nobody_at_the_address_is_transient_and_credentials_stay_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="ion_rabbitmq")
    with pytest.raises(TransientError) as refused:
        async with open_rabbit_broker(settings("amqp://me:canary-7f3a@127.0.0.1:1/")):
            pass
    assert "amqp://127.0.0.1:1" in str(refused.value)
    assert "canary-7f3a" not in str(refused.value) + caplog.text
    assert "canary-7f3a" not in repr(settings("amqp://me:canary-7f3a@127.0.0.1:1/"))


async def test_wrong_credentials_are_a_matter_of_configuration(rabbit: RabbitServer) -> None:
    with pytest.raises(ConfigError, match=r"messaging\.url"):
        async with open_rabbit_broker(settings(f"amqp://guest:canary@127.0.0.1:{rabbit.port}/")):
            pass


@pytest.mark.parametrize("url", ["http://host/", "amqp://", "host:5672", "amqp://host:port/"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="must be an address such as"):
        RabbitSettings(url=SecretStr(url))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("amqp://guest:guest@localhost/", []),
        ("amqp://guest:guest@10.0.0.1/", ["not encrypted", "as guest"]),
        ("amqps://guest:guest@rabbit.example/", ["as guest"]),
        ("amqps://ion:secret@rabbit.example/", []),
    ],
)
def test_what_is_unwise_is_said(url: str, said: list[str]) -> None:
    worries = settings(url).worries()
    assert len(worries) == len(said)
    for worry, text in zip(worries, said, strict=True):
        assert text in worry
        assert "secret" not in worry
