"""Providers are asked whether they answer; who does not makes the process unready, and nobody is asked for more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ion_core.dispatcher import answering
from ion_core.dispatcher.answering import Answering, Ask, questions
from ion_core.dispatcher.health import Health, write_probe
from ion_core.embedded.memory.runtime import MemoryRuntime
from ion_core.errors import PermanentError, StorageFull, TransientError
from tests.support.worlds import World, eventually, exits


async def nothing() -> None:
    pass


class Asked:
    """One that is asked: it raises ``error``, if there is one, and hangs while ``goes_on`` is not set."""

    def __init__(self) -> None:
        self.count = 0
        self.error: BaseException | None = None
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def __call__(self) -> None:
        self.count += 1
        await self.goes_on.wait()
        if self.error is not None:
            raise self.error


def health() -> Health:
    return Health(lambda: None)


@pytest.mark.parametrize("error", [TransientError("is away. Start it."), PermanentError("has no such user")])
async def test_who_does_not_answer_is_red_until_it_does(error: Exception) -> None:
    it, found = Asked(), health()
    asks = Answering(
        {"runtimes.far": it, "storage.blobs": nothing}, found, hide=lambda text: text.replace("user", "***")
    )
    await asks.ask()
    assert list(found.problems()) == []
    it.error = error
    await asks.ask()
    assert list(found.problems()) == [f"runtimes.far: {error}".replace("user", "***")]
    it.error = None
    await asks.ask()
    assert list(found.problems()) == []


async def test_who_hangs_is_red_and_not_asked_again_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "ANSWER_WITHIN", 0.01)
    it, found = Asked(), health()
    it.goes_on.clear()
    asks = Answering({"storage.blobs": it}, found)
    for _ in range(3):
        await asks.ask()
    assert it.count == 1
    [problem] = found.problems()
    assert problem.startswith("storage.blobs: has not answered")
    it.goes_on.set()
    await asks.ask()
    assert list(found.problems()) == []


async def test_a_bug_is_told_once_with_where_it_is(caplog: pytest.LogCaptureFixture) -> None:
    it, found = Asked(), health()
    it.error = KeyError("x")
    asks = Answering({"runtimes.far": it}, found)
    for _ in range(3):
        await asks.ask()
    assert list(found.problems()) == ["runtimes.far: 'x'"]
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_no_space_closes_the_gate_which_opens_by_itself(tmp_path: Path) -> None:
    it, found = Asked(), Health(lambda: write_probe(tmp_path))
    it.error = StorageFull("state directory: no space left")
    asks = Answering({"state directory": it}, found)
    await asks.ask()
    assert not found.room.is_set()
    it.error = None
    await asks.ask()
    assert list(found.problems()) == ["storage: state directory: no space left"], "who watches it, says when there is"
    watching = asyncio.create_task(found.watch_space(every=0))
    await found.room.wait()
    watching.cancel()
    assert list(found.problems()) == []


async def test_a_directory_with_room_is_not_written_to(tmp_path: Path) -> None:
    found = Health(lambda: pytest.fail("written to"))
    await found.look_for_space(tmp_path)


async def test_all_that_modules_need_is_asked_and_nothing_is_left(tmp_path: Path) -> None:
    world = World(tmp_path)
    asks = questions(world.dataplane, {"default": world.runtime, "far": MemoryRuntime({})}, {})
    assert sorted(asks) == ["runtimes.default", "runtimes.far", "storage.blobs", "storage.documents"]
    for ask in asks.values():
        await ask()
    assert (world.blobs.blobs, world.documents.documents) == ({}, {})


async def test_whoever_is_not_answered_has_all_asked_at_once(tmp_path: Path) -> None:
    """And not in a quarter of a minute."""
    world = World(tmp_path)
    world.add(exits(0))
    event = TransientError("memory: is away")
    async with world.serving() as serving:
        world.runtime.failing = event
        await world.publish()
        await eventually(lambda: list(serving.dispatcher.health.problems()) == ["runtimes.default: memory: is away"])
        world.runtime.failing = None


async def test_what_is_asked_in_turn_is_asked_again_sooner_while_one_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "ASK_EVERY", 3600.0)
    monkeypatch.setattr(answering, "ASK_AGAIN", 0.0)
    it, found = Asked(), health()
    it.error = TransientError("is away")
    asks: dict[str, Ask] = {"storage.blobs": it}
    asking = Answering(asks, found)
    running = asyncio.create_task(asking.run())
    asking.soon()
    await eventually(lambda: it.count > 2)
    it.error = None
    await eventually(lambda: not found.problems())
    running.cancel()
    await asyncio.wait({running})
