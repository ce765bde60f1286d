"""Publishes that do not wait for one another: each has its own answer, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from unittest.mock import Mock

import pytest
from on_rabbit import RETRY, SOON, settings
from proxy import proxy_to

from ion_core.errors import TransientError, Unroutable
from ion_rabbitmq import gathered
from ion_rabbitmq.broker import RabbitBroker, open_rabbit_broker
from ion_rabbitmq.gathered import Writer
from ion_rabbitmq.publishing import LARGE
from ion_rabbitmq.testing import RabbitServer

MANY = 300


async def publish_all(broker: RabbitBroker, *messages: tuple[str, bytes]) -> list[BaseException | None]:
    """At once; the answer of each."""
    publishing = (broker.publish(topic, body, headers={}) for topic, body in messages)
    async with asyncio.timeout(2 * SOON):
        return await asyncio.gather(*publishing, return_exceptions=True)


def event(event_id: str, number: int) -> bytes:
    context = {"name": "cli", "eventId": event_id, "correlationId": event_id}
    return json.dumps({"context": context, "type": "work.asked", "number": number}).encode()


def assert_nothing_is_under_way(broker: RabbitBroker) -> None:
    assert not broker._under_way
    assert not broker._used
    assert not broker._outgoing._answers


async def test_what_nobody_takes_is_told_to_its_own_publisher(broker: RabbitBroker) -> None:
    messages = [("no.such" if n % 7 == 0 else "work.asked", b"%d" % n) for n in range(MANY)]
    answers = await publish_all(broker, *messages)
    assert [isinstance(it, Unroutable) for it in answers] == [topic == "no.such" for topic, _ in messages]
    assert [it for it in answers if not isinstance(it, Unroutable)] == [None] * (MANY - len(range(0, MANY, 7)))
    published = {body for topic, body in messages if topic == "work.asked"}
    assert {it.body for it in await broker.peek("work", limit=2 * MANY)} == published
    assert_nothing_is_under_way(broker)


async def test_messages_of_one_id_are_published_one_after_the_other(broker: RabbitBroker) -> None:
    """RabbitMQ returns a message without saying which of two of that id it was."""
    bodies = [event("the same", n) for n in range(20)]
    topics = ["no.such" if n % 2 else "work.asked" for n in range(20)]
    answers = await publish_all(broker, *zip(topics, bodies, strict=True))
    assert [isinstance(it, Unroutable) for it in answers] == [topic == "no.such" for topic in topics]
    assert [it.body for it in await broker.peek("work", limit=99)] == bodies[::2]
    assert_nothing_is_under_way(broker)


async def test_large_and_small_ones_arrive_whole_and_once(broker: RabbitBroker) -> None:
    sizes = [0, 1, LARGE, LARGE + 1, 5 * LARGE, 131_072 - 8, 131_072]
    bodies = [b"%d" % n + b"x" * (size - 1) if size else b"" for n, size in enumerate(sizes)]
    many = [body for n in range(10) for body in bodies]
    assert await publish_all(broker, *(("work.asked", body) for body in many)) == [None] * len(many)
    found = [it.body for it in await broker.peek("work", limit=2 * len(many))]
    assert sorted(found) == sorted(many)
    assert_nothing_is_under_way(broker)


async def test_a_connection_that_dies_midway_is_told_to_each(rabbit: RabbitServer) -> None:
    async with proxy_to(rabbit.port) as proxy:
        url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/"
        async with open_rabbit_broker(settings(url, prefix="dies-midway")) as broker:
            await broker.declare("work", topics=["work.asked"], retry=RETRY)
            await broker.publish("work.asked", b"before", headers={})
            proxy.confirming = False
            messages = [("work.asked", b"%d" % n) for n in range(MANY)]
            publishing = asyncio.ensure_future(publish_all(broker, *messages))
            async with asyncio.timeout(SOON):
                while not proxy.withheld:
                    await asyncio.wait([publishing], timeout=0.05)
            proxy.hang_up()
            answers = await publishing
            assert [type(it) for it in answers] == [TransientError] * MANY
            assert_nothing_is_under_way(broker)
            proxy.confirming = True
            assert await publish_all(broker, *messages) == [None] * MANY
            bodies = {it.body for it in await broker.peek("work", limit=3 * MANY)}
            assert bodies == {b"before", *(body for _, body in messages)}


@pytest.fixture
async def writer() -> Writer:
    return Writer(Mock(spec=asyncio.Transport), Mock(), None, asyncio.get_running_loop())


def written(writer: Writer) -> list[Any]:
    transport = writer.transport
    assert isinstance(transport, Mock)
    return [call.args[0] for call in transport.write.call_args_list]


async def test_what_is_written_in_one_turn_is_one_call_of_the_kernel(writer: Writer) -> None:
    for frame in (b"a", bytearray(b"b"), memoryview(b"c")):
        writer.write(frame)
    writer.writelines([b"d", b"e"])
    assert written(writer) == []
    await asyncio.sleep(0)
    assert written(writer) == [b"abcde"]
    writer.write(b"f")
    await asyncio.sleep(0)
    assert written(writer) == [b"abcde", b"f"]


async def test_what_is_much_waits_for_no_turn(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered, "MOST_BYTES", 3)
    writer.write(b"ab")
    writer.write(b"cd")
    assert written(writer) == [b"abcd"]
    await asyncio.sleep(0)
    assert written(writer) == [b"abcd"], "nothing is written twice"


@pytest.mark.parametrize("end", ["write_eof", "close"])
async def test_what_is_gathered_is_written_before_the_end(writer: Writer, end: str) -> None:
    writer.write(b"last words")
    getattr(writer, end)()
    assert written(writer) == [b"last words"]
    transport = writer.transport
    assert isinstance(transport, Mock)
    assert [name for name, *_ in transport.method_calls] == ["write", end]
