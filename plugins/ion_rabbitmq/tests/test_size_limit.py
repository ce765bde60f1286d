"""Messages over RabbitMQ's ``max_message_size``: named with the limit, and nobody else's trouble."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from on_rabbit import RETRY, SOON, settings, take

from ion_core.errors import MessageRefused, TransientError
from ion_rabbitmq.broker import RabbitBroker, open_rabbit_broker
from ion_rabbitmq.testing import RabbitServer

pytestmark = pytest.mark.timeout(300)  # each has a server of its own
LIMIT = 50_000
LARGE = b"x" * (LIMIT + 1)


async def lowered(server: RabbitServer) -> None:
    """Start it anew, with a limit."""
    await asyncio.to_thread(server.stop)
    server.configure(max_message_size=LIMIT)
    await asyncio.to_thread(server.start)


@pytest.fixture
async def limited(own_server: RabbitServer) -> AsyncIterator[RabbitBroker]:
    own_server.configure(max_message_size=LIMIT)
    await asyncio.to_thread(own_server.start)
    async with open_rabbit_broker(settings(own_server.url)) as broker:
        await broker.declare("work", topics=["work.asked"], retry=RETRY)
        yield broker


async def test_a_message_over_the_limit_is_refused_and_others_are_published(limited: RabbitBroker) -> None:
    async def patiently(body: bytes) -> None:
        """As the dispatcher: what was under way on the channel that RabbitMQ closed is published again."""
        while True:
            try:
                return await limited.publish("work.asked", body, headers={})
            except TransientError:
                continue

    large = limited.publish("work.asked", LARGE, headers={})
    refused, *others = await asyncio.gather(large, *(patiently(b"%d" % n) for n in range(20)), return_exceptions=True)
    assert isinstance(refused, MessageRefused)
    assert "has 50,001 bytes, and RabbitMQ takes 50,000 at most" in str(refused)
    assert "raise max_message_size in rabbitmq.conf" in str(refused)
    assert others == [None] * 20
    assert {message.body for message in await limited.peek("work", limit=99)} == {b"%d" % n for n in range(20)}


async def test_once_the_limit_is_known_it_costs_nobody_a_channel(limited: RabbitBroker) -> None:
    with pytest.raises(MessageRefused):
        await limited.publish("work.asked", LARGE, headers={})
    await limited.publish("work.asked", b"x" * LIMIT, headers={})
    channel = limited._channel
    with pytest.raises(MessageRefused):
        await limited.publish("work.asked", LARGE, headers={})
    await limited.publish("work.asked", b"small", headers={})
    assert limited._channel is channel


async def test_what_is_over_a_lowered_limit_is_settled_all_the_same_and_not_lost(
    own_server: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    """On quorum and on classic queues; one server for all, since each start takes its time."""
    noise = random.Random(1).randbytes(LIMIT + 1)  # which no compression makes smaller
    await asyncio.to_thread(own_server.start)
    for queue_type in ("quorum", "classic"):
        async with open_rabbit_broker(settings(own_server.url, queue_type=queue_type, prefix=queue_type)) as broker:
            await broker.declare("work", topics=["work.asked"], retry=RETRY)
            for body in (LARGE, LARGE + b"again", noise):
                await broker.publish("work.asked", body, headers={"a": "b"})
    await lowered(own_server)
    for queue_type in ("quorum", "classic"):
        caplog.clear()
        async with (
            open_rabbit_broker(settings(own_server.url, queue_type=queue_type, prefix=queue_type)) as broker,
            broker.subscribe("work", prefetch=1) as deliveries,
        ):
            await (await take(deliveries)).dead_letter("does not work")
            await (await take(deliveries)).retry(delay=timedelta(0))
            first, second = await broker.dead_letters("work")
            assert (first.body, first.reason, dict(first.headers)) == (LARGE, "does not work", {"a": "b"})
            assert second.body == LARGE + b"again"
            assert "cannot be put aside for another attempt" in second.reason
            assert "RabbitMQ takes 50,000 at most" in second.reason
            assert not [record for record in caplog.records if record.levelname == "ERROR"]
            await (await take(deliveries)).dead_letter("does not work either")
            [line] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
            assert "does not work either" in line
            if queue_type == "quorum":
                async with asyncio.timeout(SOON):
                    while len(letters := await broker.dead_letters("work")) < 3:  # once RabbitMQ gets to moving it
                        continue
                assert (letters[2].body, dict(letters[2].headers)) == (noise, {"a": "b"})
                assert "Ion could not write it again" in letters[2].reason
            else:
                again = await take(deliveries)
                assert (again.body, again.attempt) == (noise, 1)
                await again.postpone(delay=timedelta(minutes=1))
                assert (await take(deliveries)).body == noise
