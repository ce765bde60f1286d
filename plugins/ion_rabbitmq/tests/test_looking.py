"""Looking at messages and giving them back: no delivery limit counts it, not even a small one of a policy.

RabbitMQ counts by version: up to 4.2 each nack, from 4.3 on only what comes back as a channel ends, and there a message
that exceeded a limit keeps its count in the next queue.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import aio_pika
import pytest
from on_rabbit import EVENT, RETRY, SOON, settings, take

from ion_core.errors import DeadLetterNotFound, TransientError
from ion_rabbitmq.broker import OTHERS_END_WITHIN, RabbitBroker, open_rabbit_broker
from ion_rabbitmq.closed_frames import Kept
from ion_rabbitmq.testing import RabbitServer

LIMIT = 5
LOOKS = 8
BODIES = [b"one", b"two", b"three"]


@contextmanager
def policy(rabbit: RabbitServer, name: str, pattern: str, **keys: object) -> Iterator[None]:
    """In force for that long."""
    rabbit.ctl("set_policy", name, pattern, json.dumps({key.replace("_", "-"): value for key, value in keys.items()}))
    try:
        yield
    finally:
        rabbit.ctl("clear_policy", name)


@pytest.fixture
async def limited(rabbit: RabbitServer, request: pytest.FixtureRequest) -> AsyncIterator[RabbitBroker]:
    """A broker whose queues the operator has given a small limit."""
    prefix = f"limited{abs(hash(request.node.name)) % 10**8}"
    with policy(rabbit, prefix, rf"^{prefix}\.", delivery_limit=LIMIT):
        async with open_rabbit_broker(settings(rabbit.url, prefix=prefix)) as broker:
            await broker.declare("work", topics=["work.asked"], retry=RETRY)
            yield broker


async def bury(broker: RabbitBroker, *bodies: bytes) -> None:
    async with broker.subscribe("work", prefetch=1) as deliveries:
        for body in bodies:
            await broker.publish("work.asked", body, headers={"kept": "yes"})
            await (await take(deliveries)).dead_letter(f"of {body.decode()}", log_tail=["a line"])


async def make_rabbit_count(broker: RabbitBroker) -> None:
    """What is first in the queue comes back, unsettled."""
    async with await aio_pika.connect(broker.settings.url.get_secret_value()) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(broker.topology.queue("work"))
        await queue.get(no_ack=False, fail=False)
        await channel.close()


async def make_rabbit_bury(broker: RabbitBroker) -> None:
    """Until RabbitMQ has had enough."""
    async with asyncio.timeout(SOON):
        while not (await broker.stats("work")).dead:
            await make_rabbit_count(broker)


async def test_looking_at_dead_letters_deletes_none_whatever_limit_a_policy_sets(limited: RabbitBroker) -> None:
    await bury(limited, b"1", b"2", b"3")
    first = await limited.dead_letters("work")
    assert [(it.body, it.reason, it.log_tail) for it in first] == [
        (body, f"of {body.decode()}", ("a line",)) for body in (b"1", b"2", b"3")
    ]
    for _ in range(LOOKS):
        assert await limited.dead_letters("work") == first
        assert await limited.dead_letters("work", limit=2) == first[:2]
    assert await limited.redrive("work", [first[1].id]) == 1
    assert [it.body for it in await limited.peek("work", limit=9)] == [b"2"]


async def test_asking_for_a_dead_letter_that_is_not_there_deletes_none(limited: RabbitBroker) -> None:
    await bury(limited, b"1", b"2")
    first = await limited.dead_letters("work")
    for _ in range(LOOKS):
        with pytest.raises(DeadLetterNotFound):
            await limited.purge("work", ["nobody's"])
    assert await limited.dead_letters("work") == first
    assert await limited.purge("work", [first[0].id]) == 1
    for _ in range(LOOKS):
        assert await limited.dead_letters("work") == first[1:]


async def test_a_redrive_that_fails_midway_deletes_none_however_often(
    limited: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bury(limited, b"1", b"2", b"3", b"4")
    letters = await limited.dead_letters("work")
    send = limited._to_queue

    async def refuses(message: Kept, name: str, *way: Any) -> None:
        if message.body == b"2" and name == limited.topology.queue("work"):
            raise TransientError("not this one")
        await send(message, name, *way)

    monkeypatch.setattr(limited, "_to_queue", refuses)
    ids = [letter.id for letter in letters[:3]]
    for _ in range(LOOKS):
        with pytest.raises(TransientError, match="not this one"):
            await limited.redrive("work", ids)
        ids = [letters[1].id]
    assert [it.id for it in await limited.dead_letters("work")] == [letters[1].id, letters[3].id]
    assert {it.body for it in await limited.peek("work", limit=9)} == {b"1", b"3"}


async def test_a_letter_that_rabbitmq_made_stays_however_often_it_is_looked_at(limited: RabbitBroker) -> None:
    await limited.publish("work.asked", EVENT, headers={"kept": "yes"})
    await make_rabbit_bury(limited)
    [letter] = await limited.dead_letters("work")
    assert "dead-lettered by RabbitMQ: it was delivered too often" in letter.reason
    assert (letter.body, letter.headers) == (EVENT, {"kept": "yes"})
    assert abs(letter.died_at - datetime.now(UTC)) < timedelta(hours=1)
    for _ in range(LOOKS):
        assert await limited.dead_letters("work") == [letter]
    assert await limited.redrive("work", [letter.id]) == 1
    async with limited.subscribe("work", prefetch=1) as deliveries:
        delivery = await take(deliveries)
        assert (delivery.body, delivery.headers, delivery.attempt) == (EVENT, {"kept": "yes"}, 1)
        await delivery.ack()


async def test_peeking_leaves_events_where_they_are_whatever_limit_a_policy_sets(limited: RabbitBroker) -> None:
    for body in (b"1", b"2"):
        await limited.publish("work.asked", body, headers={})
    for _ in range(LOOKS):
        assert [it.body for it in await limited.peek("work", limit=9)] == [b"1", b"2"]
    stats = await limited.stats("work")
    assert (stats.ready, stats.dead) == (2, 0)


async def test_sixty_releases_lose_no_event_and_bury_none(limited: RabbitBroker) -> None:
    await limited.publish("work.asked", EVENT, headers={"kept": "yes"})
    async with limited.subscribe("work", prefetch=1) as deliveries:
        for _ in range(60):
            await (await take(deliveries)).release()
        delivery = await take(deliveries)
        assert (delivery.body, delivery.headers, delivery.attempt) == (EVENT, {"kept": "yes"}, 1)
        await delivery.ack()
    assert (await limited.stats("work")).dead == 0


async def test_twenty_five_drains_lose_no_event_and_bury_none(limited: RabbitBroker) -> None:
    bodies = [b"%d" % number for number in range(6)]
    for body in bodies:
        await limited.publish("work.asked", body, headers={})
    for _ in range(25):
        async with limited.subscribe("work", prefetch=4) as deliveries:
            await (await take(deliveries)).release()
            await take(deliveries)  # and leaves what it holds, and what it was not given yet
    assert (await limited.stats("work")).dead == 0
    found = set()
    async with limited.subscribe("work", prefetch=4) as deliveries:
        while found != set(bodies):
            delivery = await take(deliveries)
            found.add(delivery.body)
            await delivery.ack()


async def test_the_register_of_queues_is_read_as_often_as_one_likes(limited: RabbitBroker) -> None:
    for _ in range(LOOKS):
        assert [it.name for it in await limited.queues()] == ["work"]


async def test_where_nothing_can_be_written_looking_and_releasing_still_work_and_are_counted(
    rabbit: RabbitServer, broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """RabbitMQ stops publishers when memory or disk runs out."""

    async def blocked(*_: object, **__: object) -> None:
        raise TransientError("RabbitMQ does not answer")

    await broker.publish("work.asked", EVENT, headers={})
    await make_rabbit_count(broker)
    with policy(rabbit, "buries", rf"^{broker.topology.prefix}\.q\.work$", delivery_limit=1):
        await make_rabbit_bury(broker)
    await broker.publish("work.asked", b"next", headers={})
    await make_rabbit_count(broker)
    with monkeypatch.context() as patched:
        patched.setattr(broker, "_send", blocked)
        for _ in range(2):
            assert [it.body for it in await broker.dead_letters("work")] == [EVENT]
            assert [it.body for it in await broker.peek("work", limit=9)] == [b"next"]
        async with broker.subscribe("work", prefetch=1) as deliveries:
            await (await take(deliveries)).release()
    assert "RabbitMQ counts" in caplog.text
    assert [it.body for it in await broker.dead_letters("work")] == [EVENT]
    assert [it.body for it in await broker.peek("work", limit=9)] == [b"next"]


async def test_who_looks_while_another_does_waits_and_sees_all(limited: RabbitBroker) -> None:
    await bury(limited, *BODIES)
    async with open_rabbit_broker(limited.settings) as other:
        async with limited.each_dead_letter("work") as letters:
            assert [it.body async for it in letters] == BODIES, "they are held"
            looking = asyncio.create_task(other.dead_letters("work"))
            while not other._letters.locked():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        async with asyncio.timeout(SOON):
            assert [it.body for it in await looking] == BODIES
        assert [it.body for it in await limited.dead_letters("work")] == BODIES


async def test_who_looks_while_another_does_not_end_is_told_that_some_may_be_missing(
    limited: RabbitBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ion_rabbitmq.broker.OTHERS_END_WITHIN", 0.1)
    await bury(limited, *BODIES)
    async with open_rabbit_broker(limited.settings) as other:
        async with limited.each_dead_letter("work") as letters:
            assert await anext(letters)
            assert len(await other.dead_letters("work")) < len(BODIES)
        assert "not all may be seen" in caplog.text
        assert len(await other.dead_letters("work")) == len(BODIES)


async def test_the_lock_of_one_who_was_cut_off_keeps_nobody_waiting(limited: RabbitBroker) -> None:
    await bury(limited, *BODIES)
    async with open_rabbit_broker(limited.settings) as dying:
        looking = dying.each_dead_letter("work")
        letters = await looking.__aenter__()
        await anext(letters)
        assert dying.consuming._connection is not None
        await dying.consuming._connection.close()
        async with asyncio.timeout(OTHERS_END_WITHIN):
            assert len(await limited.dead_letters("work")) == len(BODIES)
        with suppress(TransientError):
            await looking.__aexit__(None, None, None)


async def test_a_letter_that_was_written_anew_and_not_acked_is_there_once(limited: RabbitBroker) -> None:
    """As a crash between the two leaves it."""
    await bury(limited, b"1", b"2")
    first = await limited.dead_letters("work")
    name = limited.topology.dead("work")
    url = limited.settings.url.get_secret_value()
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        message = await (await channel.get_queue(name)).get(no_ack=False)
        again = aio_pika.Message(message.body, headers=message.headers, message_id=message.message_id)
        await channel.default_exchange.publish(again, routing_key=name)
        await message.nack(requeue=True)
    assert sorted(it.id for it in await limited.dead_letters("work")) == sorted(it.id for it in first)
    assert (await limited.stats("work")).dead == 2
