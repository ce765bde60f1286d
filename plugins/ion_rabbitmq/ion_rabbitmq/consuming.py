"""A consumer, begun whole: who is cancelled while its answer is on its way hears of that once it is there.

aiormq closes a channel on which a call is cancelled, and reads it no further. Where RabbitMQ has begun to send what the
consumer is to be given, that fills up what the channel takes, and its connection waits for it: nothing is answered
there any more, until the heartbeats give it up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aio_pika.abc import AbstractIncomingMessage, AbstractQueue


async def consumed(
    queue: AbstractQueue, receive: Callable[[AbstractIncomingMessage], Awaitable[Any]], *, within: float
) -> str:
    """Have ``receive`` called with what ``queue`` gives out, to be settled; returns the tag. Raises TimeoutError."""
    give_up = asyncio.get_running_loop().time() + within
    beginning = asyncio.ensure_future(queue.consume(receive, no_ack=False))
    beginning.add_done_callback(_heard)
    try:
        await asyncio.wait({beginning}, timeout=within)
    except asyncio.CancelledError:
        await asyncio.wait({beginning}, timeout=give_up - asyncio.get_running_loop().time())
        raise
    finally:
        if unanswered := not beginning.done():
            beginning.cancel()
    if unanswered:
        raise TimeoutError
    return beginning.result()


def _heard(beginning: asyncio.Future[str]) -> None:
    if not beginning.cancelled():
        beginning.exception()  # looked at, if by nobody
