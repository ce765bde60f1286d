"""A container that somebody else removes says nothing of the event: it is tried again, before a dead letter is made."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from ion_core.contracts.runtime import ContainerRef, ContainerSpec, ExitStatus
from ion_core.embedded.memory.runtime import MemoryRuntime
from ion_core.errors import ContainerNotFound
from ion_core.jobs import Verdict
from tests.support.calls import call
from tests.support.worlds import World, eventually, exits, no_back_off


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class Removed(MemoryRuntime):
    """Containers are gone in the midst of ``during``, as often as ``times`` says."""

    during = "wait"
    times = 1

    def _gone(self, call: str, name: str) -> None:
        if call == self.during and self.times:
            self.times -= 1
            self.containers.pop(name, None)
            raise ContainerNotFound(f"container {name}: there is none (any more).")

    async def create(self, spec: ContainerSpec) -> ContainerRef:
        ref = await super().create(spec)
        self._gone("create", ref.id)
        return ref

    async def start(self, ref: ContainerRef) -> None:
        self._gone("start", ref.id)
        await super().start(ref)

    async def wait(self, ref: ContainerRef) -> ExitStatus:
        self._gone("wait", ref.id)
        return await super().wait(ref)


def removing(world: World, during: str, times: int = 1) -> Removed:
    runtime = Removed(world.programs)
    runtime.during, runtime.times = during, times
    world.runtime = runtime
    return runtime


async def test_an_event_whose_running_container_was_removed_is_tried_again(world: World) -> None:
    world.add(exits(0))
    removing(world, "wait")
    event = await world.publish()
    await world.run()
    assert world.observed.verdicts == [Verdict.RETRIED, Verdict.COMMITTED]
    assert await world.dead() == []
    log = world.log_of(event, number=1)
    assert "was removed while it ran" in log["reason"]
    assert "output is lost" in str(log["logs"])


async def test_it_is_a_dead_letter_after_its_last_retry(world: World) -> None:
    world.add(exits(0))
    removing(world, "wait", times=99)
    await world.publish()
    await world.run()
    assert world.observed.verdicts == [Verdict.RETRIED, Verdict.RETRIED, Verdict.DEAD_LETTERED]
    [dead] = await world.dead()
    assert "was removed while it ran" in dead.reason


@pytest.mark.parametrize("during", ["create", "start"])
async def test_one_removed_before_it_ran_costs_no_attempt(
    world: World, during: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add(exits(0))
    removing(world, during)
    await world.publish()
    with no_back_off(monkeypatch):
        await world.run()
    assert Verdict.DEAD_LETTERED not in world.observed.verdicts
    assert Verdict.RETRIED not in world.observed.verdicts
    [commit] = world.commits
    assert commit.attempt == 1


class RemovedAtItsEnd(MemoryRuntime):
    """The first container is gone when it has ended, before anybody has seen how."""

    first = True

    async def wait(self, ref: ContainerRef) -> ExitStatus:
        status = await super().wait(ref)
        if self.first:
            self.first = False
            raise ContainerNotFound(f"container {ref.name}: there is none (any more).")
        return status


async def test_a_further_event_of_a_module_whose_container_is_gone_goes_to_a_new_one(world: World) -> None:
    started = 0

    async def module(workspace: Path, env: Mapping[str, str]) -> int:
        nonlocal started
        started += 1
        assert (await call(env, "/ready"))[0] == 200
        await call(env, "/done")
        if started == 1:
            asking = asyncio.create_task(call(env, "/ready"))
            await eventually(lambda: len(world.observed.started) == 2)
            asking.cancel()
        return 0

    world.add(module, reuse=True)
    world.runtime = RemovedAtItsEnd(world.programs)
    for _ in range(2):
        await world.publish()
    dispatcher = await world.run()
    assert dispatcher.counts()[Verdict.COMMITTED] == 2
    assert await world.dead() == []
    assert started == 2
