"""Messages moved from broker to broker: what the other one refuses stays, and keeps nothing else from moving."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from ion_core.contracts.messaging import DeadLetter, RetryPolicy
from ion_core.embedded.memory.broker import MemoryBroker
from ion_core.errors import MessageRefused
from ion_core.migration import messages, move_letters, move_waiting

QUEUE = "worker"
STATE = "0" * 16
LARGE = 2 * messages._AT_ONCE + 50
"""So many are refused, one after the other: more than are looked at together."""
HANGS = 60


class Refusing(MemoryBroker):
    """A broker that takes nothing that is large."""

    async def publish(self, topic: str, body: bytes, *, headers: Mapping[str, str]) -> None:
        _check(body)
        await super().publish(topic, body, headers=headers)

    async def add_dead_letters(self, queue: str, letters: Sequence[DeadLetter]) -> Sequence[str]:
        ids: list[str] = []
        for letter in letters:
            _check(letter.body)
            ids += await super().add_dead_letters(queue, [letter])
        return ids


def _check(body: bytes) -> None:
    if body.startswith(b"large"):
        raise MessageRefused("is larger than may be. Raise the limit.")


@pytest.fixture
async def two(monkeypatch: pytest.MonkeyPatch) -> tuple[MemoryBroker, Refusing]:
    """One with a small message, many that are large, and two small ones; another one with the same queue."""
    monkeypatch.setattr(messages, "_LOOK", 0.01)
    source, target = MemoryBroker(), Refusing()
    for broker in (source, target):
        await broker.declare(QUEUE, topics=["t"], retry=RetryPolicy(retries=0))
    for body in (b"1", *(b"large %d" % n for n in range(LARGE)), b"2", b"3"):
        await source.publish("t", body, headers={})
    return source, target


async def test_what_is_refused_stays_and_all_behind_it_moves(two: tuple[MemoryBroker, Refusing]) -> None:
    source, target = two
    unmoved: list[str] = []
    async with asyncio.timeout(HANGS):
        assert await move_waiting(source, target, QUEUE, state_id=STATE, unmoved=unmoved) == 3
    assert [it.body for it in await target.peek(QUEUE, limit=9)] == [b"1", b"2", b"3"]
    assert unmoved == LARGE * [f"{QUEUE}: a message stays where it is: is larger than may be. Raise the limit."]
    left = await source.peek(QUEUE, limit=LARGE + 1)
    assert [it.body for it in left] == [b"large %d" % n for n in range(LARGE)]


async def test_there_is_an_end_to_how_many_are_held_meanwhile(
    two: tuple[MemoryBroker, Refusing], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = two
    monkeypatch.setattr(messages, "_MOST_HELD", messages._AT_ONCE)
    unmoved: list[str] = []
    async with asyncio.timeout(HANGS):
        assert await move_waiting(source, target, QUEUE, state_id=STATE, unmoved=unmoved) == 1
    assert unmoved[-1] == f"{QUEUE}: {LARGE + 2 - messages._AT_ONCE:,} more stand behind these, and stay, too."


async def test_dead_letters_that_are_refused_stay_and_all_others_move(two: tuple[MemoryBroker, Refusing]) -> None:
    source, target = two
    async with source.subscribe(QUEUE, prefetch=1) as deliveries:
        for _ in range(LARGE + 3):
            await (await anext(deliveries)).dead_letter("exit code 1")
    unmoved: list[str] = []
    async with asyncio.timeout(HANGS):
        assert await move_letters(source, target, QUEUE, unmoved=unmoved) == 3
    assert [it.body for it in await target.dead_letters(QUEUE)] == [b"1", b"2", b"3"]
    assert len(unmoved) == LARGE
    assert len(await source.dead_letters(QUEUE)) == LARGE
    assert await move_letters(source, target, QUEUE, unmoved=[]) == 0
