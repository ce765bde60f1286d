"""Slots made ahead of their events."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from ion_core.contracts.looking import SlotsView
from ion_core.contracts.runtime import ContainerRef, ContainerSpec, ContainerState
from ion_core.dispatcher.warm import WarmSlots
from ion_core.embedded.memory.runtime import MemoryRuntime
from ion_core.errors import TransientError
from ion_core.jobs import Verdict
from tests.support.worlds import PATIENCE, Scene, World, eventually, exits, no_back_off


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def made(world: World) -> Sequence[str]:
    return [name for name, it in world.runtime.containers.items() if it.state is ContainerState.CREATED]


async def test_slots_are_made_before_there_is_an_event(world: World) -> None:
    world.add(exits(0), concurrency=3, warm=2)
    async with world.serving() as serving:
        await eventually(lambda: serving.dispatcher.warm == 2)
        assert len(made(world)) == 2
    assert world.left_behind() == [], "those nobody used are gone too"


async def test_an_event_gets_one_that_was_made_before_and_another_is_made(world: World) -> None:
    scene = Scene()
    world.add(scene, warm=1)
    async with world.serving() as serving:
        await eventually(lambda: serving.dispatcher.warm == 1)
        before = made(world)
        await world.publish()
        await scene.until(1)
        running = [name for name, it in world.runtime.containers.items() if it.state is ContainerState.RUNNING]
        assert running == before
        scene.go.set()
        await world.observed.finishes(1)
        await eventually(lambda: serving.dispatcher.warm == 1)
        assert made(world) != before, "a slot is for one attempt"
        assert serving.dispatcher.slots() == [SlotsView(module="worker", warm=1, ready=1, found=1, reused=0, made=0)]
    assert world.left_behind() == []


async def test_a_job_that_takes_long_does_not_keep_the_next_slot_from_being_made(world: World) -> None:
    scene = Scene()
    world.add(scene, warm=1)
    async with world.serving() as serving:
        await eventually(lambda: serving.dispatcher.warm == 1)
        await world.publish()
        await scene.until(1)
        async with asyncio.timeout(PATIENCE):
            while not serving.dispatcher.warm:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        scene.go.set()


async def test_more_events_than_slots_are_served_all_the_same(world: World) -> None:
    world.add(exits(0), concurrency=4, warm=2)
    async with world.serving():
        for _ in range(20):
            await world.publish()
        await world.broker.idle()
    assert world.observed.verdicts == [Verdict.COMMITTED] * 20
    assert world.left_behind() == []


async def test_a_slot_that_was_removed_behind_our_back_costs_no_attempt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add(exits(0), warm=1)
    with no_back_off(monkeypatch):
        async with world.serving() as serving:
            await eventually(lambda: serving.dispatcher.warm == 1)
            for name in made(world):
                await world.runtime.remove(world.runtime.containers[name].ref)
            await world.publish()
            await world.broker.idle()
    assert world.observed.verdicts[-1] is Verdict.COMMITTED
    assert set(world.observed.verdicts[:-1]) == {Verdict.RELEASED}
    assert [commit.attempt for commit in world.commits] == [1]


async def test_a_slot_that_cannot_be_made_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Down(MemoryRuntime):
        tries = 0

        async def create(self, spec: ContainerSpec) -> ContainerRef:
            self.tries += 1
            if self.tries < 4:
                raise TransientError("the service is away")
            return await super().create(spec)

    world.runtime = Down(world.programs)
    world.add(exits(0), warm=1)
    with no_back_off(monkeypatch):
        async with world.serving() as serving:
            await eventually(lambda: serving.dispatcher.warm == 1)
    assert world.left_behind() == []


class Made:
    """Slots that are numbers, made when told to."""

    def __init__(self) -> None:
        self.count = 0
        self.alive: set[int] = set()
        self.go = asyncio.Event()

    async def make(self) -> int:
        await self.go.wait()
        self.count += 1
        self.alive.add(self.count)
        return self.count

    async def drop(self, slot: int) -> None:
        self.alive.discard(slot)


async def test_whoever_comes_while_one_is_made_gets_that_one() -> None:
    made, stop = Made(), asyncio.Event()
    slots = WarmSlots(1, made.make, made.drop, module="m")
    running = asyncio.create_task(slots.run(stop))
    await asyncio.sleep(0)
    taking = asyncio.create_task(slots.take())
    await asyncio.sleep(0)
    made.go.set()
    assert await taking == 1
    stop.set()
    await running
    assert made.alive == {1}, "it is not dropped with the rest: it is in use"


async def test_whoever_is_cancelled_while_one_is_made_leaves_nothing_behind() -> None:
    made, stop = Made(), asyncio.Event()
    slots = WarmSlots(1, made.make, made.drop, module="m")
    running = asyncio.create_task(slots.run(stop))
    await asyncio.sleep(0)
    taking = asyncio.create_task(slots.take())
    await asyncio.sleep(0)
    taking.cancel()
    await asyncio.wait({taking})
    stop.set()
    made.go.set()
    await running
    assert made.alive == set()


async def test_stopping_while_one_is_made_leaves_nothing_behind() -> None:
    made, stop = Made(), asyncio.Event()
    slots = WarmSlots(1, made.make, made.drop, module="m")
    running = asyncio.create_task(slots.run(stop))
    await asyncio.sleep(0)
    stop.set()
    await running
    assert (made.count, made.alive) == (0, set())


async def test_a_slot_that_waited_too_long_is_made_anew() -> None:
    made, stop = Made(), asyncio.Event()
    made.go.set()
    slots = WarmSlots(1, made.make, made.drop, module="m", oldest=0.05)
    running = asyncio.create_task(slots.run(stop))
    async with asyncio.timeout(PATIENCE):
        while made.count < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert len(made.alive) <= 1
    stop.set()
    await running
    assert made.alive == set()
