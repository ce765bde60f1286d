"""The reference providers pass the kits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from ion_core.builtin.memory.messaging import MemoryBroker, MemoryDelivery, open_memory_broker
from ion_core.errors import TransientError
from ion_core.testing.messaging import MessageBrokerConformance


class TestMemoryBroker(MessageBrokerConformance):
    reopen = None

    @pytest.fixture
    async def broker(self) -> AsyncIterator[MemoryBroker]:
        async with open_memory_broker() as broker:
            yield broker

    async def take_back(self, broker: MemoryBroker, delivery: MemoryDelivery) -> None:
        delivery.take_back()

    @asynccontextmanager
    async def outage(self, broker: MemoryBroker) -> AsyncIterator[None]:
        broker.failing = TransientError("memory: out of order, as the test wants it")
        yield
        broker.failing = None


class TestMemoryBrokerWithLeases(TestMemoryBroker):
    @pytest.fixture
    async def broker(self) -> AsyncIterator[MemoryBroker]:
        async with open_memory_broker() as broker:
            broker.lease = timedelta(seconds=2)
            yield broker
