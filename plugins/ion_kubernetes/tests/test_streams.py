"""How many logs are followed at a time."""

from __future__ import annotations

import asyncio

from ion_kubernetes.steplogs import Streams


async def has_one(streams: Streams, over: asyncio.Event) -> bool:
    async with streams.one(over) as got:
        return got


async def test_the_next_who_waits_has_one_when_it_is_free() -> None:
    streams, never = Streams(1), asyncio.Event()
    async with streams.one(never) as got:
        assert got
        waiting = asyncio.create_task(has_one(streams, never))
        await asyncio.sleep(0)
        assert not waiting.done()
    assert await waiting
    assert await has_one(streams, never), "and gives it back"


async def test_who_waits_when_all_is_over_has_none() -> None:
    streams, over = Streams(1), asyncio.Event()
    async with streams.one(asyncio.Event()):
        waiting = asyncio.create_task(has_one(streams, over))
        await asyncio.sleep(0)
        over.set()
        assert not await waiting
    assert await has_one(streams, asyncio.Event())


async def test_who_is_cancelled_as_it_is_given_one_keeps_none() -> None:
    """At whichever turn of the event loop that is."""
    for turns in range(6):
        streams, never = Streams(1), asyncio.Event()
        async with streams.one(never):
            waiting = asyncio.create_task(has_one(streams, never))
            for _ in range(3):
                await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(10):
            assert await has_one(streams, never)
