"""What the memory providers offer to tests beyond the contracts."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from ion_core.contracts.messaging import RetryPolicy
from ion_core.contracts.runtime import ContainerSpec, ExitStatus
from ion_core.embedded.memory.broker import MemoryBroker
from ion_core.embedded.memory.runtime import MemoryRuntime, this_container


@dataclass
class Clock:
    """Turned by hand."""

    now: float = 0.0
    calls: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Call:
        number = next(self.numbers)
        heapq.heappush(self.calls, (self.now + seconds, number, call))
        return Call(self, number)

    def turn(self, seconds: float) -> None:
        self.now += seconds
        while self.calls and self.calls[0][0] <= self.now:
            heapq.heappop(self.calls)[2]()


@dataclass
class Call:
    clock: Clock
    number: int

    def cancel(self) -> None:
        self.clock.calls = [call for call in self.clock.calls if call[1] != self.number]


async def test_delays_and_leases_run_on_the_clock_that_is_given() -> None:
    clock = Clock()
    broker = MemoryBroker(lease=timedelta(minutes=1), call_later=clock.call_later)
    await broker.declare("blur", topics=["photo.received"], retry=RetryPolicy())
    await broker.publish("photo.received", b"body", headers={})
    async with broker.subscribe("blur", prefetch=1) as deliveries:
        await (await anext(deliveries)).retry(delay=timedelta(hours=1))
        clock.turn(3599)
        assert broker.counts("blur").delayed == 1
        clock.turn(1)
        delivery = await anext(deliveries)
        clock.turn(59)
        await delivery.renew()
        clock.turn(59)
        assert not delivery.lost.is_set()
        clock.turn(1)
        assert delivery.lost.is_set()
        await (await anext(deliveries)).ack()
    assert clock.calls == []


async def test_a_condition_of_the_broker_is_waited_for_without_polling() -> None:
    broker = MemoryBroker()
    await broker.declare("blur", topics=["photo.received"], retry=RetryPolicy())
    await broker.idle()
    waiting = asyncio.create_task(broker.until(lambda: broker.counts("blur").dead == 1))
    await broker.publish("photo.received", b"body", headers={})
    async with broker.subscribe("blur", prefetch=1) as deliveries:
        idle = asyncio.create_task(broker.idle())
        delivery = await anext(deliveries)
        assert not waiting.done()
        assert not idle.done()
        await delivery.dead_letter("of old age")
        async with asyncio.timeout(30):
            await asyncio.gather(waiting, idle)


async def test_a_coroutine_is_an_image(tmp_path: Path) -> None:
    async def blur(workspace: Path, env: Mapping[str, str]) -> int:
        this_container().log.write("stderr", b"blurring\n")
        (workspace / "out").write_text(env["MODEL"])
        return 3

    runtime = MemoryRuntime(programs={"acme/blur": blur})
    for spec in (
        ContainerSpec(name="as-image", image="acme/blur", workspace=tmp_path, env={"MODEL": "small"}),
        ContainerSpec(name="as-command", command=["acme/blur", "-v"], workspace=tmp_path, env={"MODEL": "big"}),
    ):
        ref = await runtime.create(spec)
        await runtime.start(ref)
        assert await runtime.wait(ref) == ExitStatus(code=3)
        assert [line.text async for line in runtime.logs(ref)] == ["blurring"]
        assert (tmp_path / "out").read_text() == spec.env["MODEL"]


async def test_a_program_that_raises_exits_with_1_and_its_traceback(tmp_path: Path) -> None:
    async def fails(workspace: Path, env: Mapping[str, str]) -> int:
        raise ValueError("no face in the photograph")

    runtime = MemoryRuntime(programs={"fails": fails})
    ref = await runtime.create(ContainerSpec(name="fails", command=["fails"], workspace=tmp_path))
    await runtime.start(ref)
    assert await runtime.wait(ref) == ExitStatus(code=1)
    last = [line async for line in runtime.logs(ref)][-1]
    assert (last.stream, last.text) == ("stderr", "ValueError: no face in the photograph")
