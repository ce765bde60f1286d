"""What becomes of deliveries that RabbitMQ did not let us settle in time: one dead letter each, and no place lost."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from on_rabbit import RETRY, SOON, settings, take

from ion_core.contracts.messaging import Delivery
from ion_core.errors import AlreadySettled, TransientError
from ion_rabbitmq.broker import RabbitBroker, open_rabbit_broker
from ion_rabbitmq.testing import RabbitServer

GIVEN_UP_AFTER = 1.0
JOBS = 3


@contextmanager
def memory_alarm(rabbit: RabbitServer, broker: RabbitBroker) -> Iterator[None]:
    """Nothing that is published is answered; ``broker`` waits a moment only, and keeps its connection for that."""
    patience, broker._timeout = broker._timeout, 0.2
    rabbit.ctl("set_vm_memory_high_watermark", "0.000001")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ion_rabbitmq.broker.SILENT_FOR", 10_000)
            yield
    finally:
        rabbit.ctl("set_vm_memory_high_watermark", "0.4")
        broker._timeout = patience


async def publish_in_vain(broker: RabbitBroker, body: bytes, headers: dict[str, str]) -> None:
    """Until it is said why."""
    async with asyncio.timeout(SOON):
        while True:
            with pytest.raises(TransientError) as refused:
                await broker.publish("work.asked", body, headers=headers)
            if re.search(r"taken no messages for \d+ s: it is low on memory", str(refused.value)):
                return


async def stats_become(broker: RabbitBroker, *, dead: int, ready: int) -> None:
    """Whatever the broker says meanwhile."""
    async with asyncio.timeout(SOON):
        while True:
            found = await broker.stats("work")
            if (found.dead, found.ready) == (dead, ready):
                return


async def died(delivery: Delivery) -> bool:
    """Whether it became a dead letter: tried for a while, then given back, as the dispatcher does."""
    try:
        async with asyncio.timeout(GIVEN_UP_AFTER):
            while True:
                with suppress(TransientError):
                    await delivery.dead_letter("no good")
                    return True
    except TimeoutError:
        try:
            await delivery.release()
        except AlreadySettled:
            return True
        return False


async def test_an_alarm_makes_one_dead_letter_of_each_and_takes_no_place(rabbit: RabbitServer) -> None:
    async with open_rabbit_broker(settings(rabbit.url, prefix="given-up")) as broker:
        await broker.declare("work", topics=["work.asked"], retry=RETRY)
        for n in range(2 * JOBS):
            await broker.publish("work.asked", b"%d" % n, headers={})
        async with broker.subscribe("work", prefetch=JOBS) as deliveries:
            held = [await take(deliveries) for _ in range(JOBS)]
            with memory_alarm(rabbit, broker):
                await publish_in_vain(broker, b"more", {})
                assert await asyncio.gather(*map(died, held)) == [False] * JOBS
                for delivery in held:  # it is open what becomes of it: a second verb would double it
                    with pytest.raises(AlreadySettled):
                        await delivery.ack()
                async with open_rabbit_broker(broker.settings) as other, other.subscribe("work", prefetch=1):
                    stats = await broker.stats("work")
                    assert (stats.delayed, stats.unsettled) == (JOBS, None), "serve --until-idle waits for them"
            await stats_become(broker, dead=JOBS, ready=JOBS + 1)  # those that nobody has taken from us, and one more
            more = [await take(deliveries) for _ in range(JOBS)]
            assert sorted(it.body for it in more) == [b"%d" % n for n in range(JOBS, 2 * JOBS)]
            for delivery in more:
                await delivery.ack()
        assert sorted(it.body for it in await broker.dead_letters("work")) == [b"%d" % n for n in range(JOBS)]


async def test_what_was_published_in_vain_and_again_is_there_once(rabbit: RabbitServer) -> None:
    async with open_rabbit_broker(settings(rabbit.url, prefix="in-vain")) as broker:
        await broker.declare("work", topics=["work.asked"], retry=RETRY)
        await broker.publish("work.asked", b"before", headers={})
        with memory_alarm(rabbit, broker):
            for _ in range(2):
                await publish_in_vain(broker, b"1", {"a": "b"})
        await broker.publish("work.asked", b"1", headers={"a": "b"})
        await broker.publish("work.asked", b"1", headers={"a": "another"})
        assert [it.body for it in await broker.peek("work", limit=9)] == [b"before", b"1", b"1"]


async def test_a_full_queue_of_dead_letters_gives_the_delivery_back(rabbit: RabbitServer) -> None:
    async with open_rabbit_broker(settings(rabbit.url, prefix="full-dlq")) as broker:
        await broker.declare("work", topics=["work.asked"], retry=RETRY)
        for body in (b"1", b"2", b"3"):
            await broker.publish("work.asked", body, headers={})
        policy = '{"max-length": 1, "overflow": "reject-publish"}'
        rabbit.ctl("set_policy", "full-dlq", "^full-dlq[.]q[.]work[.]dead$", policy, "--apply-to", "queues")
        try:
            async with broker.subscribe("work", prefetch=1) as deliveries:
                bodies = []
                while True:
                    delivery = await take(deliveries)
                    bodies.append(delivery.body)
                    if not await died(delivery):
                        break
                again = await take(deliveries)
                assert (again.body, again.attempt) == (bodies[-1], 1), "with one place, it came back to us"
                await broker.purge("work", [letter.id for letter in await broker.dead_letters("work")])
                async with asyncio.timeout(SOON):
                    while not await died(again):
                        again = await take(deliveries)  # it takes a while until the queue knows of it
            dead = [it.body for it in await broker.dead_letters("work")]
            assert dead == [again.body]
        finally:
            rabbit.ctl("clear_policy", "full-dlq")
