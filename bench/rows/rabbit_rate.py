"""``rabbit_rate``: events a second through RabbitMQ, where the modules cost nothing.

Ours: 300 events waiting in a quorum queue; for each the whole of a job, with a runtime in memory whose module writes
one event, sqlite documents and local blobs: prepare, run, commit record, the child published and confirmed, log stored,
ack. From before the dispatcher is made until the last delivery is acked; ten at a time.

Theirs: aio-pika alone on a queue of the same kind on the same server, as many messages: consume with a prefetch of ten,
publish one persistent message, confirmed, ack. It stores nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.embedded import EVENT_TYPE, at_rest, embedded
from bench.measure import Benchmark, Pair, Unavailable, at_least

if TYPE_CHECKING:
    import aio_pika
    from pamqp.common import FieldTable

AT_ONCE = 10
CHILD = '[{"key":"eventType","value":"bench.child"}]'


def benchmark(events: int = 300) -> Benchmark:
    return Benchmark(name="rabbit_rate", unit="events/s", goal=at_least(0.30), open=partial(_open, events))


async def _emit(workspace: Path, env: Mapping[str, str]) -> int:
    (workspace / "out" / "events" / "0.json").write_text(CHILD)
    return 0


@asynccontextmanager
async def _open(events: int, directory: Path) -> AsyncIterator[Pair]:
    try:
        import aio_pika

        from ion_rabbitmq.broker import open_rabbit_broker
        from ion_rabbitmq.settings import RabbitSettings
        from ion_rabbitmq.testing import RabbitServer
    except ImportError as error:
        raise Unavailable(f"ion-rabbitmq is not installed ({error})") from error
    from ion_core.embedded.memory.runtime import MemoryRuntime
    from ion_core.modules import Module

    server = RabbitServer(directory / "rabbitmq")
    try:
        try:
            await asyncio.to_thread(server.start)
        except AssertionError as error:
            raise Unavailable(str(error)) from error
        settings = RabbitSettings.model_validate({"url": server.url})
        worker = Module(
            name="worker",
            command=("emit",),
            subscribes=(EVENT_TYPE,),
            publishes=("bench.child",),
            concurrency=AT_ONCE,
        )
        sink = Module(name="sink", command=("true",), subscribes=("bench.child",))
        async with (
            open_rabbit_broker(settings) as broker,
            embedded(directory, broker=broker) as ion,
            await aio_pika.connect(server.url) as connection,
        ):
            intake = await ion.intake([worker, sink])

            async def ours() -> float:
                published = await asyncio.gather(*(intake.publish(EVENT_TYPE, name="bench") for _ in range(events)))
                begun = time.perf_counter()
                async with ion.serving([worker], MemoryRuntime(programs={"emit": _emit})) as dispatcher:
                    for event in published:
                        await ion.finished.job_of(event.context.event_id)
                    rate = events / (time.perf_counter() - begun)
                    await at_rest(dispatcher)
                return rate

            yield Pair(ours, partial(_bare_loop, connection, events))
    finally:
        await asyncio.to_thread(server.remove)


async def _bare_loop(connection: aio_pika.abc.AbstractConnection, events: int) -> float:
    """Events a second: consume, publish one confirmed, ack, and nothing else."""
    import aio_pika

    async with connection.channel() as channel, connection.channel() as publishing:
        await channel.set_qos(prefetch_count=AT_ONCE)
        arguments: FieldTable = {"x-queue-type": "quorum"}
        queue = await channel.declare_queue("bare", durable=True, arguments=arguments)
        await channel.declare_queue("bare.out", durable=True, arguments=arguments)
        exchange = publishing.default_exchange
        message = partial(aio_pika.Message, b"x" * 300, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await asyncio.gather(*(exchange.publish(message(), routing_key="bare") for _ in range(events)))
        left, done = events, asyncio.Event()

        async def handle(delivery: aio_pika.abc.AbstractIncomingMessage) -> None:
            nonlocal left
            await exchange.publish(message(), routing_key="bare.out")
            await delivery.ack()
            left -= 1
            if not left:
                done.set()

        begun = time.perf_counter()
        await queue.consume(handle)
        await done.wait()
        return events / (time.perf_counter() - begun)
