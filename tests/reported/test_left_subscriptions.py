"""What the dispatcher makes of a delivery whose subscription was left, and of a queue deleted under it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ion_core.embedded.memory.broker import MemoryBroker, MemoryDelivery
from ion_core.errors import AlreadySettled, ConfigError, IonError, QueueNotDeclared, StateError, TransientError
from ion_core.jobs import Verdict
from tests.support.worlds import PATIENCE, Scene, World, exits, messages, no_back_off


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class Leaving(MemoryBroker):
    """Its first subscription can be ended by the test, with ``error``, as a lost connection ends it."""

    def __init__(self, error: IonError) -> None:
        super().__init__()
        self.cut = asyncio.Event()
        self.error = error
        self.entered = 0

    @asynccontextmanager
    async def subscribe(self, queue: str, *, prefetch: int) -> AsyncIterator[AsyncIterator[MemoryDelivery]]:
        async with super().subscribe(queue, prefetch=prefetch) as deliveries:
            self.entered += 1
            self._changed_now()
            yield self._until_cut(deliveries) if self.entered == 1 else deliveries

    async def _until_cut(self, deliveries: AsyncIterator[MemoryDelivery]) -> AsyncIterator[MemoryDelivery]:
        yield await anext(deliveries)
        await self.cut.wait()
        raise self.error


async def test_a_queue_that_was_deleted_under_its_subscriber_is_declared_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.broker = broker = Leaving(QueueNotDeclared("queue worker: was deleted"))
    world.add(exits(0))
    await world.publish(event_id="before")
    with no_back_off(monkeypatch):
        async with world.serving() as serving:
            await world.observed.finishes(1)
            del broker._queues["worker"]
            broker.cut.set()
            async with asyncio.timeout(PATIENCE):
                await broker.until(lambda: broker.entered == 2)
            await world.publish(event_id="after")
            await world.observed.finishes(2)
            assert not serving.task.done()
    assert world.observed.verdicts == [Verdict.COMMITTED] * 2


@pytest.mark.parametrize(
    "said", [AlreadySettled("was given back"), QueueNotDeclared("queue worker: is gone"), StateError("damaged")]
)
async def test_a_job_whose_subscription_was_left_ends_as_lost_whatever_its_verb_says(
    said: IonError, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was ``job runner failed by a bug`` for all but DeliveryLost."""
    left = asyncio.Event()

    class Says(MemoryDelivery):
        async def ack(self) -> None:
            if self.lost.is_set() and not left.is_set():
                left.set()
                raise said
            await super().ack()

    world.broker = broker = Leaving(TransientError("connection lost"))
    broker.delivery_type = Says
    scene = Scene()
    world.add(scene, concurrency=2)
    await world.publish()
    with no_back_off(monkeypatch):
        async with world.serving():
            await scene.until(1)
            real, broker._take = broker._take, _refuse  # nobody is given it again before the job has ended
            broker.cut.set()
            await broker.until(lambda: broker.queue("worker").held == set())
            scene.go.set()
            async with asyncio.timeout(PATIENCE):
                await left.wait()
                await world.observed.finishes(1)
            broker._take = real
            async with asyncio.timeout(PATIENCE):
                await broker.idle()
    assert world.observed.verdicts == [Verdict.LOST, Verdict.ALREADY_COMMITTED]
    assert len(world.commits) == 1
    assert not any("by a bug" in line for line in messages(caplog))


def _refuse(queue: str) -> MemoryDelivery:
    raise TransientError("nothing is given out now")


async def test_an_iteration_that_no_waiting_mends_ends_the_service_and_says_why(world: World) -> None:
    world.broker = broker = Leaving(ConfigError("messaging.url: is refused"))
    world.add(exits(0))
    await world.publish()
    dispatcher = world.dispatcher()
    await dispatcher.recover()
    running = asyncio.create_task(dispatcher.run(asyncio.Event(), asyncio.Event()))
    await world.observed.finishes(1)
    broker.cut.set()
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(PATIENCE):
            await running
    assert caught.group_contains(ConfigError, match="is refused", depth=2)
