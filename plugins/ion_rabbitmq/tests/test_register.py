"""Which queues there are, without RabbitMQ's management plugin: through crashes, many processes, and by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import aio_pika
import pytest
from on_rabbit import RETRY, SOON, settings, take

from ion_core.contracts.messaging import DeclaredQueue, RetryPolicy
from ion_core.errors import TransientError
from ion_rabbitmq import locks, register
from ion_rabbitmq.broker import RabbitBroker, open_rabbit_broker
from ion_rabbitmq.register import Entry
from ion_rabbitmq.testing import RabbitServer


async def there_are(rabbit: RabbitServer, prefix: str) -> list[str]:
    """Every queue that RabbitMQ itself has under that prefix."""
    said = await asyncio.to_thread(rabbit.ctl, "-q", "--no-table-headers", "list_queues", "name")
    return sorted(name for name in said.split() if name.startswith(f"{prefix}."))


async def names(broker: RabbitBroker) -> list[str]:
    return [queue.name for queue in await broker.queues()]


async def records(broker: RabbitBroker) -> int:
    async with broker.consuming.borrowed() as channel:
        return (
            await channel.declare_queue(broker.topology.register, passive=True)
        ).declaration_result.message_count or 0


async def once(look: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SOON):
        while not await look():  # noqa: ASYNC110 - RabbitMQ tells nobody
            await asyncio.sleep(0.02)


async def declared_anew(broker: RabbitBroker, queue: str) -> None:
    """Declare again and again, as a dispatcher does: RabbitMQ refuses a name that it still clears away."""

    async def declared() -> bool:
        try:
            await broker.declare(queue, topics=["a"], retry=RETRY)
        except TransientError:
            return False
        return True

    await once(declared)


async def test_processes_that_read_at_once_see_every_queue(rabbit: RabbitServer) -> None:
    ours = settings(rabbit.url, prefix="at-once")
    async with open_rabbit_broker(ours) as first, open_rabbit_broker(ours) as second, open_rabbit_broker(ours) as third:
        wanted = [f"q{n}" for n in range(8)]
        await asyncio.gather(
            *(first.declare(name, topics=["t"], retry=RETRY) for name in wanted[:4]),
            *(second.declare(name, topics=["t"], retry=RETRY) for name in wanted[4:]),
        )
        for found in await asyncio.gather(*(names(it) for it in (first, second, third) for _ in range(5))):
            assert found == wanted


async def test_one_record_a_queue_is_kept_however_often_it_is_declared(rabbit: RabbitServer) -> None:
    ours = settings(rabbit.url, prefix="small")
    for n in range(4):
        async with open_rabbit_broker(ours) as broker:
            await broker.declare("work", topics=["a", "b"] if n % 2 else ["a"], retry=RETRY)
            await broker._register.add("work", Entry(rungs=frozenset({n + 1})))
            assert await broker.queues() == [DeclaredQueue(name="work", topics=frozenset("ab" if n % 2 else "a"))]
            assert await records(broker) == 1


async def test_a_reader_that_does_not_end_keeps_nobody_from_declaring(
    rabbit: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(register, "WITHOUT_LOCK_AFTER", 0.0)
    ours = settings(rabbit.url, prefix="stuck")
    async with open_rabbit_broker(ours) as stuck, open_rabbit_broker(ours) as broker:
        await stuck.declare("old", topics=["a"], retry=RETRY)
        async with stuck._register._taking(1.0):
            await broker.declare("new", topics=["a"], retry=RETRY)
            broker._register._timeout = 0.2
            with pytest.raises(TransientError, match=r"another process reads stuck\.queues"):
                await broker.queues()
            await broker.publish("a", b"x", headers={})
        broker._register._timeout = SOON
        assert await names(broker) == ["new", "old"]


async def test_the_lock_of_a_reader_that_died_is_gone(rabbit: RabbitServer) -> None:
    ours = settings(rabbit.url, prefix="died")
    async with open_rabbit_broker(ours) as broker:
        async with open_rabbit_broker(ours) as dying:
            await dying.declare("work", topics=["a"], retry=RETRY)
            assert await locks._taken(dying.consuming, dying.topology.lock, SOON)
        assert await names(broker) == ["work"]


async def test_who_is_cancelled_while_it_takes_a_lock_leaves_none(
    rabbit: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, asked = settings(rabbit.url, prefix="cancelled"), asyncio.Event()
    declare = aio_pika.Channel.declare_queue

    async def unanswered(*arguments: Any, **more: Any) -> None:
        await declare(*arguments, **more)
        asked.set()
        await asyncio.Event().wait()

    async with open_rabbit_broker(ours) as broker, open_rabbit_broker(ours) as other:
        with monkeypatch.context() as patched:
            patched.setattr(aio_pika.Channel, "declare_queue", unanswered)
            taking = asyncio.create_task(locks._taken(broker.consuming, "cancelled.lock", SOON))
            async with asyncio.timeout(SOON):
                await asked.wait()
            taking.cancel()
            await asyncio.wait({taking})
        assert taking.cancelled()
        assert await locks._taken(other.consuming, "cancelled.lock", SOON)


async def test_who_waits_for_a_lock_does_not_fill_the_log_of_rabbitmq(
    rabbit: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which has an error for each look that is refused."""
    ours, looks, taken = settings(rabbit.url, prefix="seldom"), 0, locks._taken

    async def look(*asked: Any) -> bool:
        nonlocal looks
        looks += 1
        return await taken(*asked)

    async with open_rabbit_broker(ours) as broker, open_rabbit_broker(ours) as other:
        assert await taken(other.consuming, "seldom.lock", SOON)
        monkeypatch.setattr(locks, "_taken", look)
        async with locks.locked(broker.consuming, "seldom.lock", within=0.5, timeout=SOON) as is_ours:
            assert not is_ours
    assert 1 < looks <= 12


async def test_what_was_registered_and_never_made_or_deleted_by_hand_is_not_listed(rabbit: RabbitServer) -> None:
    ours = settings(rabbit.url, prefix="by-hand")
    async with open_rabbit_broker(ours) as broker, open_rabbit_broker(ours) as second:
        await broker.declare("work", topics=["a"], retry=RETRY)
        await broker._register.add("never", Entry(topics=frozenset({"a"})))
        assert await names(second) == ["work"]
        async with await aio_pika.connect(rabbit.url) as connection, connection.channel() as channel:
            await channel.queue_delete("by-hand.q.work")
        assert await names(second) == []
        await broker.declare("work", topics=["a"], retry=RETRY)
        assert await names(second) == ["work"]


async def test_a_dropped_queue_leaves_nothing_of_what_any_process_declared_for_it(rabbit: RabbitServer) -> None:
    ours = settings(rabbit.url, prefix="nothing-left")
    async with open_rabbit_broker(ours) as other, open_rabbit_broker(ours) as broker:
        await other.declare("work", topics=["a"], retry=RETRY)
        await other.publish("a", b"x", headers={})
        async with other.subscribe("work", prefetch=1) as deliveries:
            await (await take(deliveries)).retry(delay=timedelta(hours=7))  # in no policy: a power of two of them
        assert f"nothing-left.q.work.retry.{2**25}" in await there_are(rabbit, "nothing-left")
        [seen] = await broker.queues()
        assert (await broker.stats(seen.name)).delayed == 1, "the register tells of delays that others have declared"
        await broker.drop("work")
        assert await there_are(rabbit, "nothing-left") == ["nothing-left.queues"]
        assert await records(broker) == 0


async def test_delays_go_along_when_a_queue_is_moved(rabbit: RabbitServer) -> None:
    ours = settings(rabbit.url, prefix="along")
    async with open_rabbit_broker(ours) as other, open_rabbit_broker(ours) as broker:
        await other.declare("old", topics=["a"], retry=RETRY)
        await other.publish("a", b"x", headers={})
        async with other.subscribe("old", prefetch=1) as deliveries:
            await (await take(deliveries)).retry(delay=timedelta(hours=7))
        await broker.declare("new", topics=["a"], retry=RetryPolicy(retries=0))
        assert await broker.move("old", "new") == 1
        await broker.queues()
        assert (await broker.stats("new")).delayed == 1
        assert (await broker.stats("old")).pending == 0


async def test_a_queue_that_is_served_while_it_is_dropped_is_listed_once_it_is_declared_anew(
    rabbit: RabbitServer,
) -> None:
    ours = settings(rabbit.url, prefix="served")
    async with open_rabbit_broker(ours) as serving, open_rabbit_broker(ours) as broker:
        await serving.declare("work", topics=["a"], retry=RETRY)
        for _ in range(3):
            async with serving.subscribe("work", prefetch=1) as deliveries:
                dropping = asyncio.create_task(broker.drop("work"))
                with pytest.raises(TransientError, match="was deleted"):
                    await take(deliveries)
            await declared_anew(serving, "work")
            await dropping
            assert await names(broker) == ["work"]


async def test_a_queue_that_is_declared_anew_while_it_is_dropped_is_listed(rabbit: RabbitServer) -> None:
    ours = settings(rabbit.url, prefix="meanwhile")
    async with open_rabbit_broker(ours) as serving, open_rabbit_broker(ours) as broker:
        for _ in range(3):
            await serving.declare("work", topics=["a"], retry=RETRY)
            dropping = asyncio.create_task(broker.drop("work"))

            async def is_gone() -> bool:
                return not await serving._is_there("work")

            await once(is_gone)
            await declared_anew(serving, "work")  # by what it has read before
            await dropping
            assert await names(broker) == ["work"]
            serving.gone()


async def test_the_register_may_be_of_another_type_than_queues_are_now(rabbit: RabbitServer) -> None:
    async with open_rabbit_broker(settings(rabbit.url, prefix="types", queue_type="classic")) as broker:
        await broker.declare("one", topics=["a"], retry=RETRY)
    async with open_rabbit_broker(settings(rabbit.url, prefix="types", queue_type="quorum")) as broker:
        await broker.declare("two", topics=["a"], retry=RETRY)
        assert await names(broker) == ["one", "two"]
