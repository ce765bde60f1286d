"""Broken providers: each is a reference provider in memory with something changed, and one rule that must notice."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ion_core.errors import TransientError
from ion_core.testing.kit import Conformance

M = TypeVar("M")
Open = Callable[[Any], AbstractAsyncContextManager[Any]]
"""Opens what the rule is run against, given the instance of the kit."""


_latency: ContextVar[float] = ContextVar("latency", default=0.0)


@contextmanager
def far_away(seconds: float = 0.002) -> Iterator[None]:
    """Within it every ``hop`` takes so long, as to a backend behind a network."""
    before = _latency.set(seconds)
    try:
        yield
    finally:
        _latency.reset(before)


async def hop() -> None:
    """What a call waits for that asks a backend: between the steps of what a broken provider does in several."""
    await asyncio.sleep(_latency.get())


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """``kit`` has the hooks, ``opens`` the broken provider, ``rule`` is who must notice."""

    name: str
    rule: str
    kit: type[Conformance]
    opens: Open

    def __str__(self) -> str:
        return f"{self.kit.__name__}-{self.rule}-{self.name}"


class Mutants:
    """The broken providers of one contract. ``fixture`` is what its rules call the provider.

    ``but`` has rules of it whose broken providers are kept elsewhere.
    """

    def __init__(
        self, kit: type[Conformance], fixture: str, reference: Open, *, but: type[Conformance] | None = None
    ) -> None:
        self.kit, self.fixture, self.reference, self.but = kit, fixture, reference, but
        self.mutants: list[Mutant] = []

    def add(self, rule: str, name: str, opens: Open | None = None, **hooks: Any) -> None:
        kit = type(self.kit.__name__, (self.kit,), {"patience": 0.3, **hooks})
        self.mutants.append(Mutant(name=name, rule=rule, kit=kit, opens=opens or self.reference))

    def breaks(self, rule: str, base: type, method: str, opening: Callable[[type], Open]) -> Callable[[M], M]:
        """The function replaces ``method`` in a subclass of ``base``; ``opening`` makes a provider of that."""

        def add(function: M) -> M:
            self.add(rule, getattr(function, "__name__", method), opening(type("Mutant", (base,), {method: function})))
            return function

        return add

    def rules(self) -> list[str]:
        """Every rule of the contract, those that a missing hook rules out included."""
        contract = next(base for base in self.kit.__mro__ if base.__module__.startswith("ion_core.testing."))
        elsewhere = vars(self.but or object)
        return sorted(
            name.removeprefix("test_") for name in dir(contract) if name.startswith("test_") and name not in elsewhere
        )

    async def run(
        self,
        kit_type: type[Conformance],
        rule: str,
        opens: Open,
        tmp_path: Path,
        seen: Callable[[Any], Any] = lambda provider: provider,
    ) -> None:
        """The kit's test of that rule, as pytest would run it; ``seen`` is how it sees the provider."""
        kit = kit_type()
        test = getattr(kit, f"test_{rule}")
        with pytest.MonkeyPatch.context() as monkeypatch:
            async with opens(kit) as provider:
                given = {self.fixture: seen(provider), "tmp_path": tmp_path, "monkeypatch": monkeypatch}
                await asyncio.wait_for(
                    test(**{name: given[name] for name in inspect.signature(test).parameters}), timeout=60
                )


@asynccontextmanager
async def out_of_order(provider: Any) -> AsyncIterator[None]:
    """An outage of a provider in memory."""
    provider.failing = TransientError("memory: out of order, as the test wants it")
    yield
    provider.failing = None


def store(store_type: Callable[[], Any]) -> Open:
    """Opens a store in memory, which its kit finds as ``opened``."""

    @asynccontextmanager
    async def opens(kit: Any) -> AsyncIterator[Any]:
        kit.opened = store_type()
        yield kit.opened

    return opens
