"""A process of its own on the broker's file: ``sqlite_child.py hold|publish|drain PATH LEASE``. Prints what it does."""

from __future__ import annotations

import asyncio
import itertools
import sys
from datetime import timedelta
from pathlib import Path

from ion_core.embedded.settings import SqliteBrokerSettings
from ion_core.embedded.sqlite.broker import SqliteBroker, open_sqlite_broker
from ion_core.errors import DeliveryLost


def say(*words: object) -> None:
    print(*words, flush=True)


async def hold(broker: SqliteBroker) -> None:
    """Take one message and keep it, without renewing, until it is lost."""
    async with broker.subscribe("queue", prefetch=1) as deliveries:
        delivery = await anext(deliveries)
        say("holding", delivery.body.decode())
        await delivery.lost.wait()
        say("lost", delivery.body.decode())
        for verb in (delivery.ack(), delivery.renew()):
            try:
                await verb
            except DeliveryLost:
                say("refused")


async def publish(broker: SqliteBroker) -> None:
    """Publish numbers, in both queues of ``topic``, and print each once it is confirmed."""
    for number in itertools.count():
        await broker.publish("topic", b"%d" % number, headers={})
        say(number)


async def drain(broker: SqliteBroker) -> None:
    """Acknowledge whatever comes and print it."""
    say("ready")
    async with broker.subscribe("queue", prefetch=8) as deliveries:
        async for delivery in deliveries:
            body = delivery.body.decode()
            await delivery.ack()
            say(body)


async def main(what: str, path: str, lease: str) -> None:
    settings = SqliteBrokerSettings(
        path=Path(path), lease=timedelta(seconds=float(lease)), poll=timedelta(milliseconds=20)
    )
    async with open_sqlite_broker(settings) as broker:
        await {"hold": hold, "publish": publish, "drain": drain}[what](broker)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
