"""Dead letters that RabbitMQ makes by itself: each can be told from the others, and says why it died."""

from __future__ import annotations

import asyncio

import aio_pika
from on_rabbit import EVENT, SOON

from ion_rabbitmq.broker import RabbitBroker
from ion_rabbitmq.testing import RabbitServer


async def publish(rabbit: RabbitServer, broker: RabbitBroker, *messages: aio_pika.Message) -> None:
    """As another team does."""
    async with await aio_pika.connect(rabbit.url) as connection, connection.channel() as channel:
        exchange = await channel.get_exchange(broker.topology.exchange)
        for message in messages:
            await exchange.publish(message, routing_key="work.asked")


async def dead(broker: RabbitBroker, count: int) -> None:
    async with asyncio.timeout(SOON):
        while (await broker.stats("work")).dead < count:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)


async def test_what_expired_says_so_and_each_has_an_id_of_its_own(rabbit: RabbitServer, broker: RabbitBroker) -> None:
    named = [aio_pika.Message(EVENT, message_id="same", expiration=0.001) for _ in range(2)]
    await publish(rabbit, broker, *named, aio_pika.Message(b"of nobody", expiration=0.001))
    await dead(broker, 3)
    letters = await broker.dead_letters("work")
    assert len({letter.id for letter in letters} - {"", "same"}) == 3
    assert [letter.body for letter in letters] == [EVENT, EVENT, b"of nobody"]
    for letter in letters:
        assert "dead-lettered by RabbitMQ: its time to live ran out" in letter.reason
    assert await broker.dead_letters("work") == letters, "an id that was seen stays"
    assert await broker.redrive("work", [letters[1].id]) == 1
    assert await broker.purge("work", [letters[0].id]) == 1
    assert await broker.dead_letters("work") == letters[2:]
    assert [message.body for message in await broker.peek("work", limit=9)] == [EVENT]


async def test_what_somebody_put_there_says_so(rabbit: RabbitServer, broker: RabbitBroker) -> None:
    async with await aio_pika.connect(rabbit.url) as connection, connection.channel() as channel:
        name = broker.topology.dead("work")
        await channel.default_exchange.publish(aio_pika.Message(b"by hand"), routing_key=name)
    [letter] = await broker.dead_letters("work")
    assert "by somebody else than Ion" in letter.reason
    assert [it.id for it in await broker.dead_letters("work")] == [letter.id]
