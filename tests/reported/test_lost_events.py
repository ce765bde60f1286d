"""``serve --until-idle`` does not end while an event that it lost is neither committed nor a dead letter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.messaging import Message
from ion_core.dispatcher import Dispatcher
from ion_core.embedded.memory.broker import MemoryDelivery, Stored
from ion_core.errors import StillPending
from ion_core.jobs import Verdict
from tests.support.worlds import PATIENCE, Scene, Serving, World, exits

NOW = timedelta(0)


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ion_core.dispatcher.lost.LOOKED_EVERY", 0.0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def lose(world: World, queue: str = "worker") -> Stored:
    """As a node that died with what its consumer held: in no queue, until it is put back."""
    [delivery] = world.broker.queue(queue).held
    assert isinstance(delivery, MemoryDelivery)
    delivery.lose()
    world.broker.queue(queue).held.discard(delivery)
    return delivery._stored


def come_back(world: World, stored: Stored, queue: str = "worker") -> None:
    world.broker._put_behind(queue, stored.message, NOW)


@asynccontextmanager
async def lost_while_it_runs(world: World, code: int) -> AsyncIterator[tuple[Serving, Stored]]:
    """A job that ends with this code once its delivery is gone."""
    scene = Scene(code)
    world.add(scene)
    await world.publish(event_id="e")
    async with world.serving() as serving:
        await scene.until(1)
        stored = lose(world)
        scene.go.set()
        await world.observed.finishes(1)
        yield serving, stored


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


async def test_a_failed_job_whose_delivery_was_lost_is_pending_until_it_has_come_back_and_is_decided(
    world: World,
) -> None:
    async with lost_while_it_runs(world, 1) as (serving, stored):
        assert world.observed.verdicts == [Verdict.LOST]
        assert world.broker.counts("worker").pending == 0, "no queue shows it"
        for _ in range(3):
            assert not await serving.dispatcher.idle()
        come_back(world, stored)
        await world.observed.finishes(4)  # its three attempts
        await until(serving.dispatcher.idle)
        assert len(await world.dead()) == 1


async def test_a_job_that_has_committed_is_not_awaited(world: World) -> None:
    async with lost_while_it_runs(world, 0) as (serving, _):
        await until(serving.dispatcher.idle)
        assert len(world.commits) == 1


async def test_a_lost_event_that_commits_elsewhere_is_over(world: World) -> None:
    async with lost_while_it_runs(world, 1) as (serving, stored):
        assert not await serving.dispatcher.idle()
        await _by_another(world, stored, 0)
        await until(serving.dispatcher.idle)
    assert world.observed.verdicts == [Verdict.LOST]


async def test_a_lost_event_that_is_a_dead_letter_of_another_dispatcher_is_over(world: World) -> None:
    async with lost_while_it_runs(world, 1) as (serving, stored):
        world.broker._bury("worker", Message(body=b"{}", headers={}, attempt=1), "of another event", ())
        assert not await serving.dispatcher.idle()
        world.broker._bury("worker", stored.message, "died elsewhere", ())
        await until(serving.dispatcher.idle)
        assert serving.dispatcher.counts()[Verdict.DEAD_LETTERED] == 1, "serve --until-idle ends with 1"


async def test_poison_that_was_lost_is_pending_until_it_is_a_dead_letter(world: World) -> None:
    class Goes(MemoryDelivery):
        async def dead_letter(self, reason: str, **more: object) -> None:
            if not gone:
                gone.append(lose(world))
            await super().dead_letter(reason, **more)  # type: ignore[arg-type]

    gone: list[Stored] = []
    world.broker.delivery_type = Goes
    world.add(exits(0))
    async with world.serving() as serving:
        await world.broker.publish("in", b"no event", headers={})
        await until(_made(gone))
        await until(_none_runs(serving.dispatcher))
        assert not await serving.dispatcher.idle()
        come_back(world, gone[0])
        await until(serving.dispatcher.idle)
        assert len(await world.dead()) == 1


async def test_what_does_not_come_back_ends_it_with_75_and_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lost_while_it_runs(world, 1) as (serving, _):
        assert not await serving.dispatcher.idle()
        await until(_none_runs(serving.dispatcher))
        monkeypatch.setattr("ion_core.dispatcher.lost.AWAITED_FOR", -1.0)
        with pytest.raises(StillPending, match=r"module worker: .*\(e\).*neither a commit nor a dead letter") as said:
            await serving.dispatcher.idle()
    assert said.value.exit_code == 75


async def test_of_events_that_others_take_only_so_many_are_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ion_core.dispatcher.lost.MOST", 2)
    scene = Scene(1)
    world.add(scene)
    async with world.serving() as serving:
        for n in range(4):
            await world.publish(event_id=f"e{n}")
            await scene.until(n + 1)
            lose(world)
            scene.go.set()
            await world.observed.finishes(n + 1)
            scene.go.clear()
        await until(_none_runs(serving.dispatcher))
        monkeypatch.setattr("ion_core.dispatcher.lost.AWAITED_FOR", -1.0)
        with pytest.raises(StillPending, match=r"\(e2, e3\)"):
            await serving.dispatcher.idle()


async def _by_another(world: World, stored: Stored, code: int) -> None:
    """A dispatcher of another process is given it, with the same stores."""
    other = World(world.work / "other", documents=world.documents, blobs=world.blobs)
    other.add(exits(code))
    await other.broker.declare("worker", topics=["in"], retry=other.modules[0].retry)
    other.broker._put_back("worker", stored, NOW)
    await other.run()


def _made(found: list[Stored]) -> Callable[[], Awaitable[bool]]:
    async def made() -> bool:
        return bool(found)

    return made


def _none_runs(dispatcher: Dispatcher) -> Callable[[], Awaitable[bool]]:
    async def none() -> bool:
        return not dispatcher.running

    return none


async def test_thousands_of_dead_letters_are_looked_at_once_however_many_events_are_lost() -> None:
    from types import SimpleNamespace

    from ion_core.contracts.messaging import DeadLetter
    from ion_core.dispatcher.lost import LostEvents
    from ion_core.events import Context, Event, encode_event
    from ion_core.jobs import Job

    def event(id: str) -> Event:
        return Event(context=Context(name="x", event_id=id, correlation_id="c"), type="t")

    letters = [
        DeadLetter(
            id=str(n), queue="m", body=encode_event(event(str(n))), headers={}, reason="no", attempts=1, log_tail=(),
            died_at=datetime.now(UTC),
        )
        for n in range(2_000)
    ]  # fmt: skip

    @asynccontextmanager
    async def each_dead_letter(name: str) -> AsyncIterator[AsyncIterator[DeadLetter]]:
        async def reading() -> AsyncIterator[DeadLetter]:
            for letter in letters:
                yield letter

        yield reading()

    async def committed(job_id: str) -> None:
        return None

    dataplane: Any = SimpleNamespace(broker=SimpleNamespace(each_dead_letter=each_dead_letter), committed=committed)
    lost = LostEvents("m", dataplane)
    for n in range(1_000, 3_000):
        lost.add(Job(event=event(str(n)), module="m"))
    async with asyncio.timeout(20):  # one by one that were minutes
        assert await lost.pending(len(letters))
    assert lost.died == 1_000
