"""What a module is told of the trace that it is part of: a file in its workspace, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ion_core.contracts.executor import Ticket
from ion_core.contracts.runtime import ContainerRef, ContainerSpec
from ion_core.dispatcher.engine import Engine
from ion_core.embedded.memory.executor import MemoryExecutor, StepEnd, open_memory_engine
from ion_core.jobs import Attempt
from tests.support.calls import call
from tests.support.steps import DataPlaneSteps
from tests.support.worlds import World, does

OUTSIDE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FILE = "in/traceparent"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def of_token(attempt: Attempt) -> str:
    """What a plugin may say: another one for each attempt."""
    return f"00-{'1' * 32}-{attempt.token:0>16}-01"


def told(workspace: Path) -> str | None:
    path = workspace / FILE
    return path.read_text() if path.exists() else None


async def test_each_attempt_is_told_its_own(world: World) -> None:
    seen: list[str | None] = []

    async def fails(workspace: Path, env: Mapping[str, str]) -> int:
        seen.append(told(workspace))
        return 0 if len(seen) == 2 else 1

    world.add(fails)
    await world.publish()
    await world.run(traceparent=of_token)
    assert seen == [of_token(attempt) for attempt, _ in world.observed.finished]
    assert len({*seen}) == 2


async def test_without_a_trace_there_is_no_file(world: World) -> None:
    seen: list[list[str]] = []
    world.add(does(lambda workspace: seen.append(sorted(it.name for it in (workspace / "in").iterdir()))))
    await world.publish()
    await world.run()
    assert seen == [["data"]]


async def test_the_trace_that_a_flow_came_with_is_handed_on(world: World) -> None:
    seen: list[str | None] = []
    world.add(does(lambda workspace: seen.append(told(workspace))))
    await world.publish(traceparent=OUTSIDE)
    await world.run()
    assert seen == [OUTSIDE]


async def test_any_user_can_read_it_and_it_is_nothing_but_a_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers are made ahead of their event."""
    modes: list[int] = []
    envs: list[Mapping[str, str]] = []
    specs: list[ContainerSpec] = []
    create = world.runtime.create

    async def creating(spec: ContainerSpec) -> ContainerRef:
        specs.append(spec)
        return await create(spec)

    async def module(workspace: Path, env: Mapping[str, str]) -> int:
        modes.append((workspace / FILE).stat().st_mode & 0o777)
        envs.append(env)
        return 0

    monkeypatch.setattr(world.runtime, "create", creating)
    world.add(module)
    await world.publish(traceparent=OUTSIDE)
    await world.run()
    assert modes == [0o644]
    assert len(specs) == 1
    assert OUTSIDE not in f"{specs}{envs}"


async def test_one_that_stays_is_told_that_of_each_event(world: World) -> None:
    seen: list[str | None] = []

    async def module(workspace: Path, env: Mapping[str, str]) -> int:
        while (await call(env, "/ready"))[0] == 200:
            seen.append(told(workspace))
            await call(env, "/done")
        return 0

    world.add(module, reuse=True, concurrency=1)
    for traceparent in (OUTSIDE, ""):
        await world.publish(traceparent=traceparent)
    await world.run()
    assert seen == [OUTSIDE, None]


async def test_what_a_module_has_cleared_is_told_again_at_ready(world: World) -> None:
    seen: list[str | None] = []

    async def module(workspace: Path, env: Mapping[str, str]) -> int:
        shutil.rmtree(workspace / "in")
        assert (await call(env, "/ready"))[0] == 200
        seen.append(told(workspace))
        return 0

    world.add(module)
    await world.publish(traceparent=OUTSIDE)
    await world.run()
    assert seen == [OUTSIDE]


async def test_at_an_engine_the_ticket_tells_it(world: World) -> None:
    seen: list[str | None] = []
    tickets: list[Ticket] = []

    class Steps(DataPlaneSteps):
        async def prepare(
            self, settings: bytes, ticket: Ticket, workspace: Path, say: Callable[[str], None]
        ) -> StepEnd:
            tickets.append(ticket)
            return await super().prepare(settings, ticket, workspace, say)

    world.add(does(lambda workspace: seen.append(told(workspace))))
    async with open_memory_engine(Steps(world.dataplane), world.programs) as engine:
        executor = Engine(MemoryExecutor(engine), name="default", installation="ours", alone=True)
        await world.publish()
        await world.run(
            runtimes={},
            engines={"default": executor},
            settings_of=lambda module: b'{"modules": {"worker": {"publishes": ["out"]}}}',
            traceparent=of_token,
        )
    [attempt] = [attempt for attempt, _ in world.observed.finished]
    assert seen == [of_token(attempt)]
    assert [ticket.traceparent for ticket in tickets] == seen
