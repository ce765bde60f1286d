"""The composition root: the one file that knows everything. Opens what a configuration names and puts it together."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ion_core import crash
from ion_core.config import Config, check_holding, check_runtimes, fit_runtimes
from ion_core.contracts.messaging import MessageBroker
from ion_core.contracts.runtime import ContainerRuntime
from ion_core.contracts.service import Service
from ion_core.contracts.storage import BlobStore, DocumentStore
from ion_core.dataplane import DataPlane
from ion_core.dispatcher import Dispatcher
from ion_core.errors import ConfigError, IonError, TransientError
from ion_core.events import Event
from ion_core.intake import Intake
from ion_core.jobs import Verdict
from ion_core.live import telling
from ion_core.plugins import Kind, Observers
from ion_core.state import State

log = logging.getLogger(__name__)

OPEN_WITHIN = 45.0
"""Seconds a provider gets to open."""
READY_WITHIN = 30.0
"""Seconds a service gets to be ready."""
IDLE_CHECK_EVERY = 0.05

Watch = Callable[[Dispatcher], Coroutine[Any, Any, None]]


class App:
    """The providers of one configuration, each opened when first asked for and closed with the App."""

    def __init__(self, config: Config, stack: AsyncExitStack) -> None:
        self.config = config
        self.state = State.open(config.state)
        self.observers = Observers(config.registry.observing)
        stack.push_async_callback(asyncio.to_thread, self.observers.close)
        self._stack = stack
        self._opened: dict[str, Any] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, config: Config) -> AsyncIterator[App]:
        """Makes the state directory and connects to nothing yet."""
        async with AsyncExitStack() as stack:
            yield cls(config, stack)

    async def broker(self) -> MessageBroker:
        broker: MessageBroker = await self._open("messaging", self.config.messaging)
        return broker

    async def blobs(self) -> BlobStore:
        blobs: BlobStore = await self._open("blobs", self.config.blobs)
        return blobs

    async def documents(self) -> DocumentStore:
        documents: DocumentStore = await self._open("documents", self.config.documents)
        return documents

    async def blobs_at(self, path: Path) -> BlobStore:
        """A store of its own for files of this process only, under ``path``."""
        provider = self.config.registry.choose(Kind.BLOB_STORE, "local", where=str(path))
        settings = provider.settings.model_validate({"path": str(path)}, context={"state": path, "base": path})
        blobs: BlobStore = await self._stack.enter_async_context(provider.open(settings))
        return blobs

    async def runtimes(self) -> Mapping[str, ContainerRuntime]:
        """Those that some module uses, by their name in the configuration."""
        used = {module.runtime for module in self.config.modules.values()}
        return {name: await self.runtime(name) for name in sorted(used)}

    async def runtime(self, name: str) -> ContainerRuntime:
        """That of this name in the configuration."""
        runtime: ContainerRuntime = await self._open(f"runtime {name}", self.config.runtimes[name])
        return runtime

    async def services(self) -> Mapping[str, Service]:
        return {name: await self._open(f"service {name}", chosen) for name, chosen in self.config.services.items()}

    async def dataplane(self) -> DataPlane:
        return DataPlane(await self.blobs(), await self.documents(), await self.broker(), self.observers)

    async def intake(self) -> Intake:
        """Ready to publish: every module's queue is declared."""
        intake = Intake(await self.dataplane(), self.config.modules.values())
        await intake.declare()
        return intake

    async def _open(self, part: str, chosen: Any) -> Any:
        if part not in self._opened:
            try:
                async with asyncio.timeout(OPEN_WITHIN):
                    opened = await self._stack.enter_async_context(chosen.provider.open(chosen.settings))
            except TimeoutError:
                raise TransientError(
                    f"{chosen.where}: {chosen.provider.name} did not open within {OPEN_WITHIN:.0f} s. Is it reachable?"
                ) from None
            self._opened[part] = opened
        return self._opened[part]


class _Host:
    """What services may ask of us."""

    def __init__(self, intake: Intake, dispatcher: Dispatcher) -> None:
        self._intake = intake
        self._dispatcher = dispatcher

    async def publish(
        self,
        event_type: str,
        *,
        data: Sequence[tuple[str, str]] = (),
        files: Mapping[str, Path] | None = None,
        event_id: str | None = None,
        correlation_id: str | None = None,
    ) -> Event:
        return await self._intake.publish(
            event_type, name="service", data=data, files=files, event_id=event_id, correlation_id=correlation_id
        )

    def problems(self) -> Sequence[str]:
        return self._dispatcher.health.problems()


async def serve(
    config: Config,
    *,
    environ: Mapping[str, str],
    until_idle: bool = False,
    watch: Watch | None = None,
    first: Callable[[App], Awaitable[None]] | None = None,
    fit: str = "",
) -> int:
    """Run the dispatcher, and the services beside it, until a signal (or until nothing is pending); the exit code.

    0 fine · 1 a job was dead-lettered (``until_idle``) · 130/143 ended by SIGINT/SIGTERM, after a drain. ``watch`` runs
    beside it all and is cancelled at the end. ``first`` is called before anything runs, once nobody else can use the
    state directory. ``fit``, what would do for a module that has an image only, says that runtimes stand in for others:
    limits they do not have are left out then. Raises StateBusy if another ``serve`` uses the state directory.
    """
    crash.arm(environ)
    async with App.open(config) as app:
        with app.state.locked():
            dispatcher = await _dispatcher(app, fit)
            if first is not None:
                await first(app)
            stop, hurry = asyncio.Event(), asyncio.Event()
            with _signals(stop, hurry) as received:
                async with telling(app.state.path, partial(_follow, dispatcher)):
                    await _run(app, dispatcher, stop, hurry, until_idle=until_idle, watch=watch)
    if received:
        return 128 + received[0]
    return 1 if until_idle and dispatcher.counts()[Verdict.DEAD_LETTERED] else 0


async def _follow(dispatcher: Dispatcher, event_id: str, wait: bool) -> AsyncIterator[Mapping[str, Any]]:
    async for line in dispatcher.attempts.follow(event_id, wait=wait):
        yield asdict(line)


async def _dispatcher(app: App, fit: str) -> Dispatcher:
    runtimes = await app.runtimes()
    capabilities = {name: runtime.capabilities for name, runtime in runtimes.items()}
    config = app.config
    if fit:
        config, left_out = fit_runtimes(config, capabilities)
        for finding in left_out:
            log.warning("%s", finding)
    if findings := check_runtimes(config, capabilities, **({"instead": fit} if fit else {})):
        raise ConfigError([str(finding) for finding in findings])
    for name, offered in capabilities.items():
        if offered.notice:
            log.warning("runtime %s: %s", name, offered.notice)
    broker = await app.broker()
    for finding in check_holding(app.config, broker.max_hold):
        log.warning("%s", finding)
    return Dispatcher(
        list(config.modules.values()),
        broker=broker,
        runtimes=runtimes,
        dataplane=await app.dataplane(),
        observer=app.observers,
        work=app.state.work,
        state_id=app.state.id(),
        drain_timeout=app.config.drain_timeout,
    )


async def _run(
    app: App,
    dispatcher: Dispatcher,
    stop: asyncio.Event,
    hurry: asyncio.Event,
    *,
    until_idle: bool,
    watch: Watch | None,
) -> None:
    """Services, dispatcher and whoever watches, each an owned task; an IonError comes out as itself."""
    await dispatcher.recover()
    log.info("serving", extra={"modules": sorted(app.config.modules), "state": str(app.state.path)})
    services_stop = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as tasks:
            await _start_services(app, dispatcher, tasks, services_stop)
            beside = [tasks.create_task(_stop_when_idle(dispatcher, stop))] if until_idle else []
            if watch is not None:
                beside.append(tasks.create_task(watch(dispatcher)))
            await dispatcher.run(stop, hurry)
            services_stop.set()
            for task in beside:
                task.cancel()
    except* IonError as group:
        raise _first(group) from group


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _start_services(
    app: App, dispatcher: Dispatcher, tasks: asyncio.TaskGroup, services_stop: asyncio.Event
) -> None:
    services = await app.services()
    if not services:
        return
    host = _Host(await app.intake(), dispatcher)
    for name, service in services.items():
        ready = asyncio.Event()
        running = tasks.create_task(_run_service(name, service, host, services_stop, ready), name=f"service {name}")
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({running, waiting}, timeout=READY_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not ready.is_set() and not running.done():
            raise TransientError(f"services.{name}: was not ready within {READY_WITHIN:.0f} s")


async def _run_service(
    name: str, service: Service, host: _Host, services_stop: asyncio.Event, ready: asyncio.Event
) -> None:
    await service.run(host, services_stop, ready)
    if not services_stop.is_set():
        raise IonError(f"services.{name}: ended by itself")


async def _stop_when_idle(dispatcher: Dispatcher, stop: asyncio.Event) -> None:
    """Set ``stop`` once nothing is pending. A retry that waits for its delay is pending."""
    while not stop.is_set():
        try:
            if await dispatcher.idle():
                stop.set()
                return
        except TransientError as error:
            log.warning("cannot tell yet whether anything is pending: %s", error)
        await asyncio.sleep(IDLE_CHECK_EVERY)


@contextmanager
def _signals(stop: asyncio.Event, hurry: asyncio.Event) -> Iterator[list[int]]:
    """The first SIGTERM or SIGINT sets ``stop``, the second ``hurry``; yields the numbers received."""
    received: list[int] = []
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        received.append(number)
        log.warning("%s received, %s", signal.Signals(number).name, "hurrying" if stop.is_set() else "draining")
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield received
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
