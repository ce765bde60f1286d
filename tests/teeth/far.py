"""A broker that is far away: each of its calls, and each answer, takes a hop on its way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from tests.teeth.harness import hop

VERBS = {"ack", "retry", "release", "postpone", "dead_letter", "renew"}
CALLS = {"declare", "queues", "move", "drop", "publish", "stats", "peek"}
CALLS |= {"dead_letter", "dead_letters", "add_dead_letters", "redrive", "purge"}


def _there_and_back(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Cancelled on its way there it was never made; on its way back it was."""

    async def made(*args: Any, **known: Any) -> Any:
        await hop()
        try:
            return await call(*args, **known)
        finally:
            await hop()

    return made


class _Far:
    """All else is that of what is far away."""

    calls: ClassVar[set[str]] = set()

    def __init__(self, there: Any) -> None:
        object.__setattr__(self, "_there", there)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._there, name)
        return _there_and_back(found) if name in self.calls else found

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._there, name, value)


class FarDelivery(_Far):
    calls = VERBS


class FarBroker(_Far):
    calls = CALLS

    @asynccontextmanager
    async def subscribe(self, queue: str, *, prefetch: int) -> AsyncIterator[Any]:
        await hop()
        async with self._there.subscribe(queue, prefetch=prefetch) as deliveries:
            yield _Deliveries(deliveries)


class _Deliveries:
    """Nothing of it is on its way where waiting for it may be cancelled."""

    def __init__(self, there: AsyncIterator[Any]) -> None:
        self._there = there

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        await hop()
        return FarDelivery(await anext(self._there))
