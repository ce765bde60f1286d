"""A worker of a module that is killed for memory while its parent exits 0: half a result is no result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.messaging import RetryPolicy
from ion_core.embedded.memory.runtime import this_container
from ion_core.jobs import Verdict
from tests.support.calls import call
from tests.support.worlds import World, messages

LIMIT = "memory 32 MiB"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def loses_a_worker(workspace: Path, env: Mapping[str, str]) -> int:
    (workspace / "out/data/half").write_text("half")
    this_container().limit = LIMIT
    return 0


async def run(world: World, **more: Any) -> None:
    world.add(loses_a_worker, retry=RetryPolicy(retries=0), **more)
    await world.publish()
    await world.run()


async def test_a_worker_that_was_killed_fails_the_attempt_though_its_parent_exits_0(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await run(world)
    assert world.observed.verdicts == [Verdict.DEAD_LETTERED]
    assert world.commits == []
    [dead] = await world.dead()
    assert f"limit: {LIMIT}" in dead.reason
    assert "modules.worker.oom: warn" in dead.reason
    [log] = world.logs.values()
    assert f"limit: {LIMIT}" in log["logs"]
    assert LIMIT in "\n".join(messages(caplog))


async def test_where_that_is_wanted_what_is_left_is_committed_with_a_warning(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await run(world, oom="warn")
    assert world.observed.verdicts == [Verdict.COMMITTED]
    [log] = world.logs.values()
    assert f"limit: {LIMIT}" in log["logs"]
    assert LIMIT in "\n".join(messages(caplog))


@pytest.mark.parametrize("oom", ["fail", "warn"])
async def test_a_commit_that_was_asked_for_stands_and_its_log_says_so(
    world: World, oom: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def module(workspace: Path, env: Mapping[str, str]) -> int:
        await call(env, "/ready")
        await call(env, "/done")
        return await loses_a_worker(workspace, env)

    world.add(module, oom=oom)
    await world.publish()
    await world.run()
    assert world.observed.verdicts == [Verdict.COMMITTED]
    [log] = world.logs.values()
    assert f"limit: {LIMIT}" in log["logs"]
    assert LIMIT in "\n".join(messages(caplog))
