"""The executor in memory under its kit, with the handler's own steps: the hooks, for tests and for broken executors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

from ion_core.contracts.executor import Cause, JobRef, Step
from ion_core.dataplane import DataPlane
from ion_core.embedded.memory.blobs import MemoryBlobStore
from ion_core.embedded.memory.broker import MemoryBroker
from ion_core.embedded.memory.documents import MemoryDocumentStore
from ion_core.embedded.memory.executor import MemoryEngine, MemoryExecutor, open_memory_engine
from ion_core.errors import TransientError
from ion_core.stores import Patience
from ion_core.testing import ExecutorConformance
from ion_core.testing.jobs import Stores
from tests.conformance.memory_commands import MemoryJobCommands
from tests.support.steps import DataPlaneSteps
from tests.support.worlds import Observed


class MemoryExecutors(MemoryJobCommands, ExecutorConformance):
    """``opened`` is what the fixture of a test is made of."""

    patience = 5.0
    quiet = 0.05
    short = timedelta(seconds=0.05)
    missing_image = "no/such:image"
    engine: MemoryEngine
    dataplane: DataPlane

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[MemoryExecutor]:
        async with open_memory_engine(self.steps(), self.programs) as self.engine:
            yield MemoryExecutor(self.engine)

    def steps(self) -> DataPlaneSteps:
        """On stores of their own, which are empty."""
        at_once = Patience(pause=lambda seconds: asyncio.sleep(0))
        self.dataplane = DataPlane(
            MemoryBlobStore(), MemoryDocumentStore(), MemoryBroker(), Observed(), patience=at_once
        )
        return DataPlaneSteps(self.dataplane)

    def stores(self, tmp_path: Path) -> AbstractAsyncContextManager[Stores]:
        def settings(module: str) -> bytes:
            return self.settings(module, {}, state=tmp_path)

        blobs, documents = self.dataplane.blobs, self.dataplane.documents
        return nullcontext(Stores(blobs=blobs, documents=documents, settings=settings))

    @asynccontextmanager
    async def reopen(self) -> AsyncIterator[MemoryExecutor]:
        yield MemoryExecutor(self.engine)

    @asynccontextmanager
    async def outage(self, executor: MemoryExecutor) -> AsyncIterator[None]:
        self.engine.failing = TransientError("memory: out of order, as the test wants it")
        yield
        self.engine.failing = None

    @asynccontextmanager
    async def stores_away(self, tmp_path: Path) -> AsyncIterator[None]:
        documents = self.dataplane.documents
        assert isinstance(documents, MemoryDocumentStore)
        documents.failing = TransientError("memory: out of order, as the test wants it")
        yield
        documents.failing = None

    def shared(self, tmp_path: Path) -> Path:
        return tmp_path

    async def listed(self, executor: MemoryExecutor) -> str:
        return "\n".join(repr((job.spec, job.ref, job.ticket, job.state)) for job in self.engine.jobs.values())

    async def lose_node(self, executor: MemoryExecutor, ref: JobRef) -> None:
        await self.engine.end(ref, Cause.INFRASTRUCTURE, "the node is lost")

    async def evict(self, executor: MemoryExecutor, ref: JobRef) -> None:
        await self.engine.end(ref, Cause.INFRASTRUCTURE, "evicted: the node was low on resource: ephemeral-storage")

    async def delete(self, executor: MemoryExecutor, ref: JobRef) -> None:
        await self.engine.end(ref, Cause.CANCELLED, "deleted by somebody")

    @asynccontextmanager
    async def fill(self, executor: MemoryExecutor) -> AsyncIterator[None]:
        self.engine.full = "exceeded quota: ion, requested: pods=1, used: pods=1, limited: pods=1"
        yield
        self.engine.full = ""

    @asynccontextmanager
    async def forbid(self, executor: MemoryExecutor) -> AsyncIterator[None]:
        self.engine.forbids = "violates PodSecurity"
        yield
        self.engine.forbids = ""

    @asynccontextmanager
    async def hold_queued(self, executor: MemoryExecutor) -> AsyncIterator[None]:
        with closed(self.engine.room):
            yield

    @asynccontextmanager
    async def hold_prepare(self, executor: MemoryExecutor) -> AsyncIterator[None]:
        with closed(self.engine.held[Step.PREPARE]):
            yield

    @asynccontextmanager
    async def hold_commit(self, executor: MemoryExecutor) -> AsyncIterator[None]:
        with closed(self.engine.held[Step.COMMIT]):
            yield


@contextmanager
def closed(gate: Any) -> Iterator[None]:
    gate.clear()
    yield
    gate.set()
