"""`gc` with a configuration that lacks a module removes nothing that waits for it, as far as anybody can know of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ion_core.contracts.messaging import RetryPolicy
from ion_core.modules import Module
from ion_core.retention import Removed, collect
from tests.support.worlds import Scene, World, does, exits, messages


async def gc(world: World, modules: Sequence[Module], *, dry_run: bool = False) -> Removed:
    later = datetime.now(UTC) + timedelta(days=1)  # by then everything that these tests store is old
    return await collect(world.dataplane, modules, before=later, dry_run=dry_run)


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.add(does(lambda workspace: None), "named")
    world.add(does(lambda workspace: None), "missing")
    return world


async def test_what_waits_for_a_module_that_is_missing_keeps_its_flow(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.publish(files={"input": b"first"})
    await world.run()
    waiting = await world.publish(files={"input": b"second"})
    named, missing = world.modules
    world.modules = [named]
    async with world.serving():
        await world.observed.finishes(3)
    stored = dict(world.documents.documents)

    assert await gc(world, [named]) == Removed(flows=1, documents=5, files=1, kept=1)
    [said] = [text for text in messages(caplog) if "missing" in text]
    assert "not in this configuration" in said

    kept = {id for id, it in stored.items() if it.correlation_id == waiting.context.correlation_id}
    assert set(world.documents.documents) == kept
    world.modules = [missing]
    await world.run()
    assert await world.dead("missing") == []
    assert len(world.commits) == 2


async def test_a_dead_letter_of_a_module_that_is_missing_keeps_its_flow(world: World) -> None:
    world.programs["missing"] = exits(1)
    await world.publish(files={"input": b"input"})
    await world.run()
    assert await gc(world, world.modules[:1]) == Removed(kept=1)


async def test_a_job_under_way_of_a_module_that_is_missing_keeps_its_flow(world: World) -> None:
    """Of what types it takes nothing is known: whatever it has not committed may be what it works at."""
    await world.publish()
    await world.run()
    world.programs["missing"] = slow = Scene()
    async with world.serving():
        await world.publish()
        await slow.until(1)
        await world.observed.finishes(3)
        assert await gc(world, world.modules[:1]) == Removed(flows=1, documents=5, kept=1)
        slow.go.set()
        await world.broker.idle()


async def test_a_module_that_is_gone_from_the_broker_too_keeps_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.publish()
    await world.run()
    world.broker = type(world.broker)()
    await world.broker.declare("named", topics=["in"], retry=RetryPolicy())
    assert (await gc(world, world.modules[:1])).flows == 1
    assert messages(caplog) == []
