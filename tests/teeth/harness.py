"""Broken providers: each is a reference provider in memory with something changed, and one rule that must notice."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ion_core.errors import TransientError
from ion_core.testing.kit import Conformance

M = TypeVar("M")
Open = Callable[[Any], AbstractAsyncContextManager[Any]]
"""Opens what the rule is run against, given the instance of the kit."""


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
    """The broken providers of one contract. ``fixture`` is what its rules call the provider."""

    def __init__(self, kit: type[Conformance], fixture: str, reference: Open) -> None:
        self.kit, self.fixture, self.reference = kit, fixture, reference
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
        return sorted(name.removeprefix("test_") for name in dir(contract) if name.startswith("test_"))

    async def run(self, kit_type: type[Conformance], rule: str, opens: Open, tmp_path: Path) -> None:
        """The kit's test of that rule, as pytest would run it."""
        kit = kit_type()
        test = getattr(kit, f"test_{rule}")
        with pytest.MonkeyPatch.context() as monkeypatch:
            async with opens(kit) as provider:
                given = {self.fixture: provider, "tmp_path": tmp_path, "monkeypatch": monkeypatch}
                await asyncio.wait_for(
                    test(**{name: given[name] for name in inspect.signature(test).parameters}), timeout=20
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
