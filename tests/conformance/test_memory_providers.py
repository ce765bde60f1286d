"""The reference providers pass the kits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.messaging import HoldLimit
from ion_core.embedded import plugin
from ion_core.embedded.memory.blobs import MemoryBlobStore, open_memory_blobs
from ion_core.embedded.memory.broker import MemoryBroker, MemoryDelivery, open_memory_broker
from ion_core.embedded.memory.documents import MemoryDocumentStore, open_memory_documents
from ion_core.embedded.memory.executor import MemoryExecutor
from ion_core.embedded.memory.runtime import MemoryRuntime, open_memory_runtime
from ion_core.errors import TransientError
from ion_core.testing import (
    BlobStoreConformance,
    ContainerRuntimeConformance,
    DocumentStoreConformance,
    MessageBrokerConformance,
    ProviderConformance,
    ServiceConformance,
)
from tests.conformance.memory_commands import MemoryCommands
from tests.conformance.memory_jobs import MemoryExecutors
from tests.conformance.memory_service import MemoryService, MemoryServiceSettings
from tests.support.documents import counted_reads


@asynccontextmanager
async def out_of_order(provider: Any) -> AsyncIterator[None]:
    provider.failing = TransientError("memory: out of order, as the test wants it")
    yield
    provider.failing = None


class TestMemoryBroker(MessageBrokerConformance):
    reopen = opening = None

    @pytest.fixture
    async def broker(self) -> AsyncIterator[MemoryBroker]:
        async with open_memory_broker() as broker:
            yield broker

    async def take_back(self, broker: MemoryBroker, delivery: MemoryDelivery) -> None:
        delivery.take_back()

    outage = staticmethod(out_of_order)


class TestMemoryBrokerWithLeases(TestMemoryBroker):
    @pytest.fixture
    async def broker(self) -> AsyncIterator[MemoryBroker]:
        async with open_memory_broker() as broker:
            broker.lease = timedelta(seconds=2)
            broker.max_hold = HoldLimit(longest=timedelta(hours=1), remedy="set it to {}".format)
            yield broker


class TestMemoryBlobs(BlobStoreConformance):
    reopen = None
    litter = None
    outage = staticmethod(out_of_order)

    @pytest.fixture
    async def blobs(self) -> AsyncIterator[MemoryBlobStore]:
        async with open_memory_blobs() as blobs:
            yield blobs

    async def corrupt(self, blobs: MemoryBlobStore, key: str) -> None:
        blobs.blobs[key] = b"?" + blobs.blobs[key][1:]

    @asynccontextmanager
    async def withhold(self, blobs: MemoryBlobStore, key: str) -> AsyncIterator[None]:
        blobs.withheld.add(key)
        yield
        blobs.withheld.discard(key)


class TestMemoryDocuments(DocumentStoreConformance):
    reopen = None
    reads = staticmethod(counted_reads)
    outage = staticmethod(out_of_order)

    @pytest.fixture
    async def documents(self) -> AsyncIterator[MemoryDocumentStore]:
        async with open_memory_documents() as documents:
            yield documents

    async def damage(self, documents: MemoryDocumentStore, kind: str, id: str) -> None:
        documents.documents[kind, id] = replace(documents.documents[kind, id], body=None)  # type: ignore[arg-type]


class TestMemoryRuntime(MemoryCommands, ContainerRuntimeConformance):
    missing_image = "no/such:image"
    reopen = None
    outage = staticmethod(out_of_order)

    @pytest.fixture
    async def runtime(self) -> AsyncIterator[MemoryRuntime]:
        async with open_memory_runtime(programs=self.programs) as runtime:
            yield runtime


class TestMemoryExecutor(MemoryExecutors):
    @pytest.fixture
    async def executor(self) -> AsyncIterator[MemoryExecutor]:
        async with self.opened() as executor:
            yield executor


class TestMemoryService(ServiceConformance):
    @pytest.fixture
    async def service(self) -> MemoryService:
        return MemoryService()

    async def cause_event(self, service: MemoryService) -> str:
        service.poke("photo.received", files={"photo.jpg": b"a photo"})
        return "photo.received"

    async def send(self, service: MemoryService, data: Mapping[str, str], files: Mapping[str, bytes]) -> bool:
        return await service.poke("photo.received", data=data, files=files)

    async def cause_look(self, service: MemoryService) -> None:
        service.ask()

    def reloads(self) -> list[tuple[MemoryServiceSettings, list[str]]]:
        return [(MemoryServiceSettings(greeting="hello"), []), (MemoryServiceSettings(place="there"), ["place"])]

    def unservable(self) -> MemoryService:
        return MemoryService(broken=TransientError("memory service: out of order, as the test wants it"))


@pytest.mark.parametrize(
    "provider",
    [
        next(provider for provider in hook() if provider.name == "memory")
        for hook in (
            plugin.ion_message_brokers,
            plugin.ion_container_runtimes,
            plugin.ion_blob_stores,
            plugin.ion_document_stores,
        )
    ],
    ids=["broker", "runtime", "blobs", "documents"],
)
class TestMemoryProviders(ProviderConformance):
    unusable = not_set_up = None

    def section(self, tmp_path: Path) -> dict[str, Any]:
        return {}
