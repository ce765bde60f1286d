"""What RabbitMQ and the network do to a broker client, and what must come of it."""

from __future__ import annotations

import asyncio
import gc
import logging
from datetime import timedelta
from typing import Any

import aio_pika
import aiormq
import pytest
from on_rabbit import EVENT, FAIL_FAST, RETRY, SOON, settings, take, take_patiently
from proxy import proxy_to

from ion_core.contracts.messaging import MESSAGE_HEADER
from ion_core.errors import ConfigError, TransientError
from ion_rabbitmq.broker import RabbitBroker, open_rabbit_broker
from ion_rabbitmq.testing import RabbitServer


async def test_a_restart_loses_deliveries_and_no_message(own_server: RabbitServer) -> None:
    await asyncio.to_thread(own_server.start)
    async with open_rabbit_broker(settings(own_server.url)) as broker:
        await broker.declare("work", topics=["work.asked"], retry=RETRY)
        async with broker.subscribe("work", prefetch=2) as deliveries:
            for body in (b"held", b"delayed", b"waiting"):
                await broker.publish("work.asked", body, headers={})
            held, delayed = await take(deliveries), await take(deliveries)
            await delayed.retry(delay=timedelta(milliseconds=100))

            await asyncio.to_thread(own_server.kill)
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
            while (delivery := await take(deliveries)).body != b"after":
                assert delivery.body == b"delayed"  # that second copy came last
                await delivery.ack()


async def test_the_first_publish_after_a_lost_connection_needs_no_second(
    rabbit: RabbitServer, broker: RabbitBroker
) -> None:
    await broker.publish("work.asked", b"before", headers={})
    assert broker._channel is not None
    await asyncio.to_thread(rabbit.ctl, "close_all_connections", "tried")
    async with asyncio.timeout(SOON):
        await broker._channel.channel.closed()
    await broker.publish("work.asked", b"after", headers={})
    assert [message.body for message in await broker.peek("work", limit=9)] == [b"before", b"after"]


async def test_silence_is_noticed_by_missing_heartbeats(rabbit: RabbitServer) -> None:
    async with proxy_to(rabbit.port) as proxy:
        url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/"
        quick = settings(url, heartbeat="1s", timeout=FAIL_FAST, prefix="silence")
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


async def test_a_memory_alarm_stops_publishers_and_not_acks(rabbit: RabbitServer) -> None:
    async with open_rabbit_broker(settings(rabbit.url, prefix="alarm", timeout=FAIL_FAST)) as broker:
        await broker.declare("work", topics=["work.asked"], retry=RETRY)
        async with broker.subscribe("work", prefetch=1) as deliveries:
            await broker.publish("work.asked", b"1", headers={})
            await broker.publish("work.asked", b"2", headers={})
            first = await take(deliveries)
            await asyncio.to_thread(rabbit.ctl, "set_vm_memory_high_watermark", "0.0000001")
            try:
                with pytest.raises(TransientError, match=r"taken no messages for \d+ s: it is low on memory"):
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


async def test_a_queue_deleted_under_a_subscriber_is_noticed(rabbit: RabbitServer, broker: RabbitBroker) -> None:
    async with broker.subscribe("work", prefetch=1) as deliveries:
        waiting = asyncio.ensure_future(take(deliveries))
        await asyncio.sleep(0)
        async with await aio_pika.connect(rabbit.url) as connection, connection.channel() as channel:
            await channel.queue_delete(broker.topology.queue("work"))
            with pytest.raises(TransientError, match="was deleted"):
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
        await subscription.check(broker.looking)
        await broker.publish("work.asked", b"x", headers={})
        assert (await take(deliveries)).body == b"x"


async def test_a_cancelled_consumer_gives_back_what_it_held(broker: RabbitBroker) -> None:
    async with broker.subscribe("work", prefetch=1) as deliveries:
        await broker.publish("work.asked", b"x", headers={})
        held = await take(deliveries)
        [subscription] = broker._subscriptions
        subscription._on_cancel()  # as aiormq calls it where the leader of a queue moves
        again = await take(deliveries)
        assert (again.body, again.attempt, held.lost.is_set()) == (b"x", 1, True)
        await again.ack()


async def test_what_waits_for_a_late_confirm_is_not_sent_again(rabbit: RabbitServer) -> None:
    async with proxy_to(rabbit.port) as proxy, open_rabbit_broker(settings(rabbit.url, prefix="lost-confirm")) as there:
        await there.declare("work", topics=["work.asked"], retry=RETRY)
        url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/"
        behind = settings(url, timeout=FAIL_FAST, prefix="lost-confirm")
        async with open_rabbit_broker(behind) as broker:
            await broker.publish("work.asked", EVENT, headers={})
            proxy.answerless()
            with pytest.raises(TransientError, match="does not answer"):
                await broker.publish("work.asked", EVENT, headers={MESSAGE_HEADER: "sent"})
            proxy.speaking()
            await broker.publish("work.asked", EVENT, headers={MESSAGE_HEADER: "waits for that one"})
        found = [(message.body, message.headers) for message in await there.peek("work", limit=9)]
        assert found == [(EVENT, {}), (EVENT, {MESSAGE_HEADER: "sent"})]
        async with there.consuming.borrowed() as channel:
            queue = await channel.get_queue(there.topology.queue("work"))
            assert {(await queue.get()).message_id for _ in range(2)} == {"e1"}


async def test_connections_that_failed_leave_no_task_behind_when_they_are_collected(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, logger="aiormq.connection")  # its records would keep them

    async def failing() -> None:
        with pytest.raises(TransientError):
            async with open_rabbit_broker(settings("amqp://127.0.0.1:1/")):
                pass

    gc.collect()  # what other tests of this process have left, some of which begins tasks too
    gc.disable()  # until we look
    try:
        await failing()
        before = asyncio.all_tasks()
        gc.collect()
        assert {str(task.get_coro()) for task in asyncio.all_tasks() - before} == set()
    finally:
        gc.enable()


async def test_cancelled_publishes_disturb_no_other(broker: RabbitBroker, caplog: pytest.LogCaptureFixture) -> None:
    for n in range(40):
        publishing = asyncio.create_task(broker.publish("work.asked", b"cut short", headers={}))
        for _ in range(n):
            await asyncio.sleep(0)  # a little further each time, through the opening of the channel too
        publishing.cancel()
        await asyncio.wait([publishing])
    await broker.publish("work.asked", b"whole", headers={})
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_looking_and_subscribing_that_are_cancelled_hold_up_nobody_else(
    broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, consume = asyncio.Event(), aiormq.Channel.basic_consume

    async def basic_consume(*args: Any, **known: Any) -> Any:
        begun.set()
        return await consume(*args, **known)

    async def subscribe() -> None:
        async with broker.subscribe("work", prefetch=100):
            pass

    monkeypatch.setattr(aiormq.Channel, "basic_consume", basic_consume)
    for n in range(50):
        await broker.publish("work.asked", b"%d" % n, headers={})
    for cancelled in (lambda: broker.peek("work", limit=50), subscribe):
        for turns in (2, 3, 4, 5, 6, 8):
            begun.clear()
            calling = asyncio.ensure_future(cancelled())
            await begun.wait()
            for _ in range(turns):
                await asyncio.sleep(0)  # its answer, and what is sent with it, are on their way
            calling.cancel()
            await asyncio.wait({calling})
            await broker.stats("work")
