"""Ion with its embedded providers, inside this process: what most rows run as *ours*."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from ion_core.contracts.executor import Executor
from ion_core.contracts.messaging import MessageBroker
from ion_core.contracts.provider import Provider
from ion_core.contracts.runtime import ContainerRuntime
from ion_core.contracts.storage import DocumentStore
from ion_core.dataplane import DataPlane
from ion_core.dispatcher import Dispatcher
from ion_core.dispatcher.engine import Engine
from ion_core.embedded import plugin
from ion_core.events import Event
from ion_core.intake import Intake
from ion_core.jobs import Attempt, Outcome, Verdict
from ion_core.modules import Module

P = TypeVar("P")

EVENT_TYPE = "bench.event"


class Finished:
    """An observer that lets one wait for jobs. A job that was not committed is an error: nothing else is measured."""

    def __init__(self) -> None:
        self._awaited: dict[str, asyncio.Future[None]] = {}

    def job_started(self, attempt: Attempt) -> None:
        pass

    def event_published(self, event: Event) -> None:
        pass

    def job_finished(self, attempt: Attempt, outcome: Outcome) -> None:
        future = self._of(attempt.job.event.context.event_id)
        if outcome.verdict is Verdict.COMMITTED:
            future.set_result(None)
        elif outcome.verdict is Verdict.RELEASED:
            future.cancel()  # the end of the benchmark, for which nobody waits
        else:
            future.set_exception(RuntimeError(f"job {outcome.verdict.value}: {outcome.reason}"))

    async def job_of(self, event_id: str) -> None:
        """Until the job of this event is committed and its delivery acked."""
        await self._of(event_id)
        del self._awaited[event_id]

    def _of(self, event_id: str) -> asyncio.Future[None]:
        return self._awaited.setdefault(event_id, asyncio.get_running_loop().create_future())


@dataclass(frozen=True)
class Ion:
    """Broker and stores, open, in one state directory."""

    directory: Path
    broker: MessageBroker
    documents: DocumentStore
    dataplane: DataPlane
    finished: Finished

    @asynccontextmanager
    async def serving(
        self,
        modules: Sequence[Module],
        runtime: ContainerRuntime | None = None,
        *,
        engine: Engine | None = None,
        settings: bytes = b"",
        drain_timeout: timedelta = timedelta(seconds=30),
    ) -> AsyncIterator[Dispatcher]:
        """A dispatcher that serves these modules while the body runs, and is drained after it.

        They run in ``runtime``, or with ``engine``: then ``settings`` are the configuration of their steps. Those that
        still run are given ``drain_timeout``.
        """
        work = self.directory / "work"
        work.mkdir(exist_ok=True)
        dispatcher = Dispatcher(
            modules,
            broker=self.broker,
            runtimes={} if runtime is None else {"default": runtime},
            engines={} if engine is None else {"default": engine},
            settings_of=lambda module: settings,
            dataplane=self.dataplane,
            observer=self.finished,
            work=work,
            state_id="bench",
            drain_timeout=drain_timeout,
        )
        await dispatcher.recover()
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(dispatcher.run(stop, asyncio.Event()))
            try:
                yield dispatcher
            finally:
                stop.set()

    async def intake(self, modules: Sequence[Module]) -> Intake:
        """Where to publish events for these modules."""
        intake = Intake(self.dataplane, modules)
        await intake.declare()
        return intake


@asynccontextmanager
async def embedded(directory: Path, *, broker: MessageBroker | None = None) -> AsyncIterator[Ion]:
    """Open broker and stores with their default settings, below ``directory``; or the stores beside another broker."""
    async with AsyncExitStack() as stack:
        if broker is None:
            broker = await stack.enter_async_context(
                _opening(plugin.ion_message_brokers(), "sqlite", directory / "broker.sqlite")
            )
        documents = await stack.enter_async_context(
            _opening(plugin.ion_document_stores(), "sqlite", directory / "documents.sqlite")
        )
        blobs = await stack.enter_async_context(_opening(plugin.ion_blob_stores(), "local", directory / "blobs"))
        finished = Finished()
        yield Ion(directory, broker, documents, DataPlane(blobs, documents, broker, finished), finished)


def process_runtime(directory: Path) -> AbstractAsyncContextManager[ContainerRuntime]:
    """The runtime of plain processes, with its default settings."""
    return _opening(plugin.ion_container_runtimes(), "process", directory / "run")


def subprocess_executor(directory: Path) -> AbstractAsyncContextManager[Executor]:
    """The executor of local processes, with its default settings."""
    return _opening(plugin.ion_executors(), "subprocess", directory / "jobs")


def _opening(providers: Iterable[Provider[P]], name: str, path: Path) -> AbstractAsyncContextManager[P]:
    (provider,) = [provider for provider in providers if provider.name == name]
    return provider.open(provider.settings.model_validate({"path": path}))


def module(directory: Path, *, concurrency: int = 1) -> Module:
    """A module that runs ``true`` for each event; ``directory`` is where it starts."""
    return Module(name="noop", command=("true",), source=directory, subscribes=(EVENT_TYPE,), concurrency=concurrency)


async def at_rest(dispatcher: Dispatcher) -> None:
    """Until the dispatcher has cleaned up after its last job, so that this does not burden the other side."""
    while dispatcher.running:  # noqa: ASYNC110 - it tells nobody when it is done, and this is not timed
        await asyncio.sleep(0.001)
