"""A delivery that cannot be settled is given back: held for nobody, it would take a place of its module for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.messaging import RetryPolicy
from ion_core.dispatcher import hold
from ion_core.embedded.memory.broker import MemoryBroker, MemoryDelivery
from ion_core.errors import PermanentError, TransientError
from ion_core.jobs import Verdict
from tests.support.worlds import World, exits, no_back_off


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class Refusing(MemoryBroker):
    """Keeps no dead letters, and has no lease: ``error`` is what comes of one, as often as ``times`` says."""

    def __init__(self, error: Exception, times: int) -> None:
        super().__init__()
        self.error, self.times, self.given = error, times, 0

    @asynccontextmanager
    async def subscribe(self, queue: str, *, prefetch: int) -> AsyncIterator[AsyncIterator[MemoryDelivery]]:
        async with super().subscribe(queue, prefetch=prefetch) as deliveries:
            yield self._refusing(deliveries)

    async def _refusing(self, deliveries: AsyncIterator[MemoryDelivery]) -> AsyncIterator[MemoryDelivery]:
        async for delivery in deliveries:
            self.given += 1
            bury = delivery.dead_letter

            async def dead_letter(reason: str, *, log_tail: Sequence[str] = (), bury: Any = bury) -> None:
                if self.times:
                    self.times -= 1
                    raise self.error
                await bury(reason, log_tail=log_tail)

            delivery.dead_letter = dead_letter  # type: ignore[method-assign]
            yield delivery


@pytest.mark.parametrize(
    "error", [PermanentError("too large"), KeyError("a bug of the provider")], ids=["no further try helps", "a bug"]
)
async def test_a_delivery_that_cannot_be_settled_is_given_back(
    error: Exception, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.broker = broker = Refusing(error, times=2)
    world.add(exits(1), retry=RetryPolicy(retries=0))
    await world.publish()
    await world.run()

    assert broker.given == 3, "it came back each time"
    assert [letter.attempts for letter in await world.dead()] == [1]
    assert world.observed.verdicts == [Verdict.LOST, Verdict.LOST, Verdict.DEAD_LETTERED]
    assert "delivery cannot be settled" in caplog.text


async def test_a_delivery_that_is_not_settled_in_time_is_given_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "SETTLE_WITHIN", 0.05)
    world.broker = broker = Refusing(TransientError("the queue of dead letters is full"), times=3)
    world.add(exits(1), retry=RetryPolicy(retries=0))
    await world.publish()
    with no_back_off(monkeypatch):
        await world.run()

    assert broker.times == 0
    [_] = await world.dead()
    assert world.observed.verdicts[-1] is Verdict.DEAD_LETTERED
    assert broker.counts("worker").pending == 0


async def test_poison_that_cannot_be_settled_is_given_back(world: World) -> None:
    world.broker = broker = Refusing(PermanentError("too large"), times=1)
    world.add(exits(0))
    async with world.serving():
        await broker.publish("in", b"no event", headers={})
        await broker.idle()
    assert broker.given == 2
    [_] = await world.dead()


async def test_a_bug_around_a_job_gives_its_delivery_back(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.add(exits(0))
    told = world.observed.job_started
    failures = [KeyError("a bug of an observer")]

    def fails_once(attempt: Any) -> None:
        if failures:
            raise failures.pop()
        told(attempt)

    world.observed.job_started = fails_once  # type: ignore[method-assign]
    await world.publish()
    await world.run()
    assert world.observed.verdicts[-1] is Verdict.COMMITTED
    assert world.broker.counts("worker").pending == 0


async def test_a_verb_that_was_given_up_and_came_through_is_what_became_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its answer was late: whoever gives the delivery back then is told that it is settled."""
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(hold, "SETTLE_WITHIN", 0.05)

    class Late(Refusing):
        async def _refusing(self, deliveries: AsyncIterator[MemoryDelivery]) -> AsyncIterator[MemoryDelivery]:
            async for delivery in deliveries:
                ack = delivery.ack

                async def acked(ack: Any = ack) -> None:
                    await ack()
                    await asyncio.Event().wait()

                delivery.ack = acked  # type: ignore[method-assign]
                yield delivery

    world.broker = Late(KeyError(), times=0)
    world.add(exits(0))
    await world.publish()
    await world.run()
    assert world.observed.verdicts == [Verdict.COMMITTED]
    assert "it is given back" in caplog.text
