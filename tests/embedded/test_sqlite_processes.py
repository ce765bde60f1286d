"""Several real processes on one broker file: killed, stopped, side by side."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from ion_core.contracts.messaging import QueueStats, RetryPolicy
from ion_core.embedded.settings import SqliteBrokerSettings
from ion_core.embedded.sqlite.broker import SqliteBroker, open_sqlite_broker

CHILD = Path(__file__).with_name("sqlite_child.py")
ENOUGH = 30.0
LONG = timedelta(hours=1)


def settings(path: Path, lease: timedelta = LONG) -> SqliteBrokerSettings:
    return SqliteBrokerSettings(path=path / "broker.sqlite", lease=lease, poll=timedelta(milliseconds=20))


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[SqliteBroker]:
    async with open_sqlite_broker(settings(tmp_path)) as broker:
        await broker.declare("queue", topics=["topic"], retry=RetryPolicy())
        await broker.declare("other", topics=["topic"], retry=RetryPolicy())
        yield broker


class Child:
    """A running ``sqlite_child.py``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(ENOUGH):
            return (await self._process.stdout.readline()).decode().strip()

    async def rest(self) -> list[str]:
        """The whole lines it still printed before it ended."""
        assert self._process.stdout is not None
        async with asyncio.timeout(ENOUGH):
            return [
                line.strip() for line in (await self._process.stdout.read()).decode().splitlines(True) if "\n" in line
            ]

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        async with asyncio.timeout(ENOUGH):
            await self._process.wait()


@asynccontextmanager
async def child(what: str, path: Path, lease: timedelta = LONG) -> AsyncIterator[Child]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(CHILD),
        what,
        str(settings(path).path),
        str(lease.total_seconds()),
        stdout=asyncio.subprocess.PIPE,
    )
    running = Child(process)
    try:
        yield running
    finally:
        await running.kill()
        await running.rest()


async def test_what_a_killed_process_held_is_delivered_at_once(broker: SqliteBroker, tmp_path: Path) -> None:
    await broker.publish("topic", b"one", headers={"a": "b"})
    async with child("hold", tmp_path) as holder:
        assert await holder.line() == "holding one"
        async with broker.subscribe("queue", prefetch=1) as deliveries:  # waits already when the other one dies
            waiting = asyncio.ensure_future(anext(deliveries))
            assert (await broker.stats("queue")).unsettled == 1
            await holder.kill()
            async with asyncio.timeout(ENOUGH):  # its lease has an hour to go
                delivery = await waiting
            assert (delivery.body, delivery.headers, delivery.attempt) == (b"one", {"a": "b"}, 1)
            await delivery.ack()
    assert [file.name for file in (tmp_path / "broker.sqlite.owners").iterdir()] == [broker._owner and broker._owner.id]


async def test_a_process_started_after_the_death_of_another_takes_over(tmp_path: Path) -> None:
    async with open_sqlite_broker(settings(tmp_path)) as broker:
        await broker.declare("queue", topics=["topic"], retry=RetryPolicy())
        await broker.publish("topic", b"one", headers={})
    for _ in range(2):
        async with child("hold", tmp_path) as holder:
            assert await holder.line() == "holding one"
    async with (
        asyncio.timeout(ENOUGH),
        open_sqlite_broker(settings(tmp_path)) as broker,
        broker.subscribe("queue", prefetch=1) as deliveries,
    ):
        await (await anext(deliveries)).ack()
    assert list((tmp_path / "broker.sqlite.owners").iterdir()) == []


async def test_a_child_that_outlives_its_parent_does_not_keep_it_alive(broker: SqliteBroker, tmp_path: Path) -> None:
    """A fork has its parent's open files, locks of the flock kind included."""
    await broker.publish("topic", b"one", headers={})
    orphan = (
        "import os, sys, signal, runpy\n"
        "import asyncio, ion_core.embedded.sqlite.owners as owners\n"
        "take = owners.Owner.__init__\n"
        "def fork(self, directory):\n"
        "    take(self, directory)\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        os.close(1)\n"
        "        signal.pause()\n"
        "    print(child, flush=True)\n"
        "owners.Owner.__init__ = fork\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        orphan,
        str(CHILD),
        "hold",
        str(settings(tmp_path).path),
        "3600",
        stdout=asyncio.subprocess.PIPE,
    )
    parent = Child(process)
    fork = int(await parent.line())
    try:
        assert await parent.line() == "holding one"
        await parent.kill()
        os.kill(fork, 0)  # it lives
        async with broker.subscribe("queue", prefetch=1) as deliveries, asyncio.timeout(ENOUGH):
            assert (await anext(deliveries)).body == b"one"
    finally:
        os.kill(fork, signal.SIGKILL)
        await parent.rest()


async def test_a_stopped_process_loses_what_it_holds_when_its_lease_ends(broker: SqliteBroker, tmp_path: Path) -> None:
    await broker.publish("topic", b"one", headers={})
    async with child("hold", tmp_path, lease=timedelta(seconds=1)) as holder:
        assert await holder.line() == "holding one"
        holder.send(signal.SIGSTOP)
        async with broker.subscribe("queue", prefetch=1) as deliveries:
            async with asyncio.timeout(ENOUGH):
                delivery = await anext(deliveries)
            holder.send(signal.SIGCONT)
            assert [await holder.line() for _ in range(3)] == ["lost one", "refused", "refused"]
            assert not delivery.lost.is_set()
            await delivery.ack()
        assert await broker.stats("queue") == QueueStats(ready=0, delayed=0, unsettled=0, dead=0)


async def test_what_was_confirmed_survives_the_death_of_its_publisher(broker: SqliteBroker, tmp_path: Path) -> None:
    confirmed: list[str] = []
    for _ in range(3):
        async with child("publish", tmp_path) as publisher:
            confirmed += [await publisher.line() for _ in range(50)]
            publisher.send(signal.SIGKILL)
            confirmed += await publisher.rest()
    for queue in ("queue", "other"):
        stored = [message.body.decode() for message in await broker.peek(queue, limit=1_000_000)]
        assert not Counter(confirmed) - Counter(stored)
        assert len(stored) - len(confirmed) <= 3  # each may have stored one more than it could say
    assert await broker.peek("queue", limit=1_000_000) == await broker.peek("other", limit=1_000_000)


async def test_two_processes_share_a_queue_and_each_message_is_handled_once(
    broker: SqliteBroker, tmp_path: Path
) -> None:
    async with child("drain", tmp_path) as one, child("drain", tmp_path) as two:
        assert [await one.line(), await two.line()] == ["ready", "ready"]
        await asyncio.gather(*(broker.publish("topic", b"%d" % n, headers={}) for n in range(1000)))
        handled: list[tuple[str, str]] = []

        async def collect(name: str, process: Child) -> None:
            while len(handled) < 1000:
                handled.append((name, await process.line()))

        collecting = [asyncio.create_task(collect("one", one)), asyncio.create_task(collect("two", two))]
        async with asyncio.timeout(ENOUGH):
            await asyncio.wait(collecting, return_when=asyncio.FIRST_COMPLETED)
        for task in collecting:
            task.cancel()
        await asyncio.wait(collecting)
    assert Counter(body for _, body in handled) == Counter(str(n) for n in range(1000))
    assert {name for name, _ in handled} == {"one", "two"}
    assert (await broker.stats("queue")).pending == 0
