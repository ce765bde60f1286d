"""Thousands of messages: listed, put back and deleted, each whole, and counted as RabbitMQ counts them."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage
from on_rabbit import RETRY, SOON, settings, take

from ion_core.errors import TransientError
from ion_rabbitmq import looking
from ion_rabbitmq.broker import RabbitBroker, open_rabbit_broker
from ion_rabbitmq.testing import EPHEMERAL, RabbitServer, free_port

MANY = 3_000
"""20,000 take the same way, and half a minute."""


@pytest.fixture
async def many(rabbit: RabbitServer, request: pytest.FixtureRequest) -> AsyncIterator[RabbitBroker]:
    prefix = f"m{abs(hash(request.node.name)) % 10**8}"
    async with open_rabbit_broker(settings(rabbit.url, prefix=prefix, timeout="10s")) as broker:
        await broker.declare("work", topics=["work.asked"], retry=RETRY)
        yield broker
        await broker.drop("work")


async def put(broker: RabbitBroker, name: str, count: int) -> list[bytes]:
    """So many messages into a queue, as somebody else would."""
    bodies = [b"%d" % n for n in range(count)]
    async with (
        await aio_pika.connect(broker.settings.url.get_secret_value()) as connection,
        connection.channel() as channel,
    ):
        exchange = channel.default_exchange
        messages = [aio_pika.Message(body, message_id=f"letter-{body.decode()}") for body in bodies]
        for start in range(0, count, 1_000):
            await asyncio.gather(*(exchange.publish(it, routing_key=name) for it in messages[start : start + 1_000]))
    return bodies


async def ready(broker: RabbitBroker, name: str, count: int) -> None:
    """What RabbitMQ says, once what we looked at is back."""
    found, give_up = -1, asyncio.get_running_loop().time() + SOON
    async with broker.consuming.borrowed() as channel:
        while found != count and asyncio.get_running_loop().time() < give_up:
            found = await looking.count(channel, name, within=SOON)
    assert found == count


@pytest.mark.timeout(600)  # on a slow machine; 20 s on an idle one
async def test_thousands_of_dead_letters_are_listed_put_back_and_seen(many: RabbitBroker) -> None:
    bodies = await put(many, many.topology.dead("work"), MANY)
    letters = await many.dead_letters("work")
    assert [letter.body for letter in letters] == bodies, "oldest first"
    assert await many.redrive("work", [letter.id for letter in letters]) == MANY
    found = await many.stats("work")
    assert (found.ready, found.dead) == (MANY, 0)
    assert [it.body for it in await many.peek("work", limit=MANY + 1_000)] == bodies, "as many as gc looks at"
    await ready(many, many.topology.queue("work"), MANY)


async def test_what_was_purged_is_gone_and_the_rest_is_where_it_was(many: RabbitBroker) -> None:
    dead = many.topology.dead("work")
    for _ in range(3):  # the loss of acks was one in some
        bodies = await put(many, dead, 300)
        letters = await many.dead_letters("work")
        kept = [letter for letter in letters if int(letter.body) % 100 == 7]
        named = [letter.id for letter in letters if letter not in kept]
        assert await many.purge("work", named) == len(named) == 297
        await ready(many, dead, len(kept))
        assert [letter.body for letter in await many.dead_letters("work")] == [it.body for it in kept]
        assert await many.purge("work", [letter.id for letter in kept]) == len(kept)
        await ready(many, dead, 0)
    assert len(bodies) == 300


async def test_acks_that_came_to_nothing_are_sent_again(many: RabbitBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a quorum queue changes its leader meanwhile: what RabbitMQ says then counts, not what was sent."""
    await put(many, many.topology.dead("work"), 60)
    letters = await many.dead_letters("work")
    lost = iter(range(25))
    settle = looking.each_settled

    async def some_are_lost(messages, before, what, **how):  # type: ignore[no-untyped-def]
        await settle(messages[sum(1 for _ in lost) :], before, what, **how)

    monkeypatch.setattr("ion_rabbitmq.broker.each_settled", some_are_lost)
    assert await many.purge("work", [letter.id for letter in letters]) == 60
    await ready(many, many.topology.dead("work"), 0)


async def test_cut_short_each_is_in_one_place_and_the_same_again_does_the_rest(
    many: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = await put(many, many.topology.dead("work"), 250)
    letters = [letter.id for letter in await many.dead_letters("work")]
    to_queue = many._to_queue

    async def fails_at_some(message: aio_pika.Message, name: str) -> None:
        if int(message.body) in (130, 170) and name == many.topology.queue("work"):
            raise TransientError("RabbitMQ refused a message")
        await to_queue(message, name)

    with monkeypatch.context() as failing:
        failing.setattr(many, "_to_queue", fails_at_some)
        with pytest.raises(TransientError, match=r"198 of 250 were put back, the rest is where it was"):
            await many.redrive("work", letters)
    await ready(many, many.topology.dead("work"), 52)
    left = await many.dead_letters("work")
    assert await many.redrive("work", [letter.id for letter in left]) == 52
    assert sorted(it.body for it in await many.peek("work", limit=999)) == sorted(bodies)


def cutting_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done next to messages comes to 40, of which 15 are acked."""
    settle = looking.each_settled

    async def cut_short(messages, before, what, **how):  # type: ignore[no-untyped-def]
        if not messages:
            return
        for message in messages[:40]:
            await before(message)
        for message in messages[:15]:
            await message.ack()
        monkeypatch.setattr("ion_rabbitmq.broker.each_settled", settle)
        raise TransientError("RabbitMQ refused a message")

    monkeypatch.setattr("ion_rabbitmq.broker.each_settled", cut_short)


async def test_cut_short_what_was_put_back_is_no_dead_letter_any_more_though_its_ack_was_lost(
    many: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(many, many.topology.dead("work"), 60)
    letters = [letter.id for letter in await many.dead_letters("work")]
    cutting_short(monkeypatch)
    with pytest.raises(TransientError, match="refused a message"):
        await many.redrive("work", letters)
    await ready(many, many.topology.dead("work"), 20)
    await ready(many, many.topology.queue("work"), 40)
    assert [letter.id for letter in await many.dead_letters("work")] == letters[40:]


async def test_an_event_that_was_acked_right_before_leaving_is_gone(many: RabbitBroker) -> None:
    name = many.topology.queue("work")
    await put(many, name, 100)
    async with many.subscribe("work", prefetch=100) as deliveries:
        held = [await take(deliveries) for _ in range(100)]
        for delivery in held:
            await delivery.ack()
    await ready(many, name, 0)
    async with many.subscribe("work", prefetch=1) as deliveries:
        await many.publish("work.asked", b"next", headers={})
        assert (await take(deliveries)).body == b"next"


async def test_moving_leaves_nothing_behind(many: RabbitBroker) -> None:
    await many.declare("new", topics=[], retry=RETRY)
    bodies = await put(many, many.topology.queue("work"), 300)
    assert await many.move("work", "new") == 300
    await ready(many, many.topology.queue("work"), 0)
    assert [it.body for it in await many.peek("new", limit=999)] == bodies
    await many.drop("new")


async def test_moving_that_is_cut_short_leaves_each_dead_letter_in_one_place_though_its_ack_was_lost(
    many: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await many.declare("new", topics=[], retry=RETRY)
    await put(many, many.topology.dead("work"), 60)
    letters = [letter.id for letter in await many.dead_letters("work")]
    cutting_short(monkeypatch)
    with pytest.raises(TransientError, match="refused a message"):
        await many.move("work", "new")
    assert [letter.id for letter in await many.dead_letters("work")] == letters[40:]
    assert [letter.id for letter in await many.dead_letters("new")] == letters[:40]
    assert await many.move("work", "new") == 20
    assert [letter.id for letter in await many.dead_letters("new")] == letters
    await many.drop("new")


async def test_moving_takes_dead_letters_that_rabbitmq_made_as_they_are_and_two_that_look_like_one(
    many: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await many.declare("new", topics=[], retry=RETRY)
    for _ in range(2):
        await put(many, many.topology.dead("work"), 30)
    cutting_short(monkeypatch)
    with pytest.raises(TransientError, match="refused a message"):
        await many.move("work", "new")
    await many.move("work", "new")
    await ready(many, many.topology.dead("work"), 0)
    found = Counter(letter.body for letter in await many.dead_letters("new"))
    assert len(found) == 30
    assert min(found.values()) >= 2, "none is lost"
    await many.drop("new")


def held() -> int:
    """Messages of RabbitMQ that are in our memory."""
    return sum(isinstance(it, AbstractIncomingMessage) for it in gc.get_objects())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("does", ["redrive", "purge", "move"])
async def test_of_thousands_that_are_moved_or_deleted_some_are_held(
    does: str, many: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await many.declare("new", topics=[], retry=RETRY)
    await put(many, many.topology.dead("work"), 3 * looking.PART)
    await put(many, many.topology.queue("work"), 3 * looking.PART if does == "move" else 0)
    async with many.each_dead_letter("work") as letters:
        ids = [letter.id async for letter in letters]
    most = 0
    settle = looking.each_settled

    async def counted(*arguments: Any, **how: Any) -> None:
        nonlocal most
        most = max(most, held())
        await settle(*arguments, **how)

    monkeypatch.setattr("ion_rabbitmq.broker.each_settled", counted)
    if does == "move":
        assert await many.move("work", "new") == 6 * looking.PART
    else:
        assert await getattr(many, does)("work", ids) == len(ids) == 3 * looking.PART
    assert looking.FEW < most <= 2 * looking.PART
    await many.drop("new")


def test_ports_of_servers_are_not_those_of_outgoing_connections() -> None:
    lowest, highest = map(int, EPHEMERAL.read_text().split())
    ports = [free_port() for _ in range(20)]
    assert len(set(ports)) == 20
    assert not [port for port in ports if lowest <= port <= highest]
