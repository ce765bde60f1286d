"""Locks in RabbitMQ: an exclusive queue, which ends with the connection of whoever has it, however that ends."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aio_pika.exceptions import ChannelClosed

from ion_core.errors import TransientError
from ion_rabbitmq.link import Link

log = logging.getLogger(__name__)

LOOKED_AFTER, LOOKED_EVERY = 0.02, 0.2
"""Seconds until it is first looked again whether another has ended, and later: RabbitMQ logs each look as an error."""


@asynccontextmanager
async def locked(link: Link, name: str, *, within: float, timeout: float) -> AsyncIterator[bool]:
    """While nobody else has the lock of that name; False where another has not ended ``within`` so many seconds.

    ``timeout``: seconds for each answer. All that use one ``link`` are one to it. Raises NotPermitted for a user who
    may not configure a queue of that name, and TransientError.
    """
    loop = asyncio.get_running_loop()
    give_up, pause = loop.time() + within, LOOKED_AFTER
    while not await _taken(link, name, timeout):
        if loop.time() > give_up:
            yield False
            return
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(2 * pause, LOOKED_EVERY)
    try:
        yield True
    finally:
        await _let_go(link, name, timeout)


async def _taken(link: Link, name: str, timeout: float) -> bool:
    """Whether it is ours now. Cancelled, it is not."""
    try:
        async with link.borrowed() as channel, asyncio.timeout(timeout):
            try:
                await channel.declare_queue(name, exclusive=True)
            except ChannelClosed as error:
                if "RESOURCE_LOCKED" not in str(error):
                    raise
                return False
    except asyncio.CancelledError:  # RabbitMQ may have made it ours, for as long as the connection lasts
        await _let_go(link, name, timeout)
        raise
    return True


async def _let_go(link: Link, name: str, timeout: float) -> None:
    """Of another's nothing changes."""
    try:
        async with link.borrowed() as channel, asyncio.timeout(timeout):
            await channel.queue_delete(name)
    except TransientError as error:
        log.debug("lock %s is not ours, or ends with its connection: %s", name, error)
