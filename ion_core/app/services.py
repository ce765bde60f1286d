"""The services beside the dispatcher: opened, started, watched, and started again."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from datetime import timedelta

from ion_core.app.dispatching import Dispatching
from ion_core.app.host import Host
from ion_core.app.opening import App
from ion_core.app.process import Process
from ion_core.contracts.messaging import RetryPolicy
from ion_core.contracts.service import Service
from ion_core.errors import IonError, PluginFailed, TransientError
from ion_core.opening import Chosen, blamed, naming, opened

log = logging.getLogger(__name__)

READY_WITHIN = 30.0
"""Seconds a service gets to be ready."""

END_WITHIN = 15.0
"""Seconds a service gets to end once it is told to, and again once it is cancelled."""

RESTARTS = RetryPolicy(initial=timedelta(seconds=1), maximum=timedelta(minutes=1))
"""How long a service that failed stays down, by how often it did; one that served for ``maximum`` starts afresh."""


class Services:
    """Those of a configuration. The first that fails for good sets ``draining``: nothing new is taken then."""

    def __init__(self, app: App, dispatcher: Dispatching, draining: asyncio.Event) -> None:
        self._app = app
        self._dispatcher = dispatcher
        self._draining = draining
        self._stop = asyncio.Event()
        self._failure: IonError | None = None
        self._kept: dict[str, _Kept] = {}

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Start each as one of ``tasks``, and wait until it is ready. Raises the error of one that never is."""
        chosen = self._app.config.services
        if not chosen:
            return
        intake, dataplane = await self._app.intake(), await self._app.dataplane()
        process = Process(
            attempts=self._dispatcher.attempts,
            health=self._dispatcher.health,
            changes=self._app.changes,
            slots=self._dispatcher.slots,
            outbox=self._dispatcher.outbox,
            draining=self._draining,
        )
        tasks.create_task(self._beat(process), name="pulse")
        for name, it in chosen.items():
            host = Host(name, self._app, intake, dataplane, process)
            kept = self._kept[name] = _Kept(name, it, host, self._stop, self._dispatcher)
            tasks.create_task(self._watch(kept), name=f"service {name}")
            await kept.started

    def stop(self) -> None:
        """Tell all of them to end."""
        self._stop.set()

    def reload(self, chosen: Mapping[str, Chosen]) -> list[str]:
        """Tell each that runs of its new settings; the keys of those that take a restart.

        One that does not take them over goes on as before, which is logged.
        """
        left = [f"services.{name}" for name in sorted({*chosen} ^ {*self._kept})]
        for name in sorted({*chosen} & {*self._kept}):
            try:
                left += self._kept[name].reload(chosen[name])
            except IonError as error:
                log.error(
                    "a service does not take its new settings over, and goes on as before: %s",
                    naming(chosen[name], error),
                    exc_info=error if isinstance(error, PluginFailed) else None,
                )
        return left

    def raise_failure(self) -> None:
        """Raise what the first of them failed with, if one did."""
        if self._failure is not None:
            raise self._failure

    async def _beat(self, process: Process) -> None:
        """Keep its pulse, until all services are told to end."""
        keeping = asyncio.create_task(process.pulse.keep())
        try:
            await self._stop.wait()
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})

    async def _watch(self, kept: _Kept) -> None:
        failure = await kept.run()
        if failure is not None:
            self._failure = self._failure or failure
            self._draining.set()


class _Kept:
    """One service: served until it is to end, and what is done when it ends before."""

    def __init__(self, name: str, chosen: Chosen, host: Host, stop: asyncio.Event, dispatcher: Dispatching) -> None:
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once it has been ready for the first time, or has failed to be."""
        self._part = f"service {name}"
        self._chosen = chosen
        self._service: Service | None = None
        self._in_use = chosen.settings
        self._host = host
        self._stop = stop
        self._health = dispatcher.health

    async def run(self) -> IonError | None:
        """Serve, again and again where it is to be started again; the failure that it ends with."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            begun = loop.time()
            try:
                await self._host.empty_work()
                chosen = self._chosen
                async with opened(chosen) as service:
                    if chosen is not self._chosen:
                        continue  # there are others by now
                    self._service, self._in_use = service, chosen.settings
                    try:
                        await self._serve(service)
                    finally:
                        self._service = None
                return None
            except IonError as error:
                failure = naming(self._chosen, error)
            about = {"service": self._chosen.section.name, "plugin": self._chosen.plugin}
            if not self.started.done():
                self.started.set_exception(failure)
                return None
            if self._chosen.on_failure == "stop" or self._stop.is_set():
                log.error("a service failed, serving ends", extra=about, exc_info=failure)
                return failure
            failures = 1 if loop.time() - begun > RESTARTS.maximum.total_seconds() else failures + 1
            pause = RESTARTS.delay(failures, random.uniform(-1, 1)).total_seconds()
            log.warning("a service failed and is started again", extra={**about, "seconds": pause}, exc_info=failure)
            self._health.red(self._part, str(failure))
            if await _set_within(self._stop, pause):
                return None

    def reload(self, chosen: Chosen) -> list[str]:
        """Have it take over what it can, now and when it is opened anew; the keys that take a restart.

        Raises IonError; then nothing has changed.
        """
        if chosen.provider != self._chosen.provider:
            return [chosen.section.key]
        left: list[str] = []
        if self._service is not None:
            reload = getattr(self._service, "reload", None)
            if reload is not None:
                with blamed(chosen, "reloaded"):
                    left = [chosen.section.dotted(key) for key in reload(chosen.settings)]
            elif chosen.settings != self._in_use:
                left = [chosen.section.key]
        self._chosen = chosen
        return left

    async def _serve(self, service: Service) -> None:
        """Run it until it is to end. Raises IonError, also when it ends by itself."""
        ready = asyncio.Event()
        running = asyncio.create_task(self._run(service, ready), name=self._part)
        readying = asyncio.create_task(ready.wait())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({running, readying, stopping}, timeout=READY_WITHIN, return_when=asyncio.FIRST_COMPLETED)
            if ready.is_set():
                self._health.green(self._part)
                if not self.started.done():
                    self.started.set_result(None)
            elif not running.done() and not self._stop.is_set():
                raise TransientError(f"{self._chosen.where}: was not ready within {READY_WITHIN:.0f} s")
            await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({running}, timeout=END_WITHIN)
            if not running.done():
                raise self._chosen.fault(f"did not end within {END_WITHIN:.0f} s of being told to")
            if running.cancelled():  # nobody here asked for it yet; passed on, it would end this task without a word
                raise self._chosen.fault("cancelled itself when run")
            await running
        finally:
            for task in (running, readying, stopping):
                task.cancel()
            await asyncio.wait({running}, timeout=END_WITHIN)

    async def _run(self, service: Service, ready: asyncio.Event) -> None:
        with blamed(self._chosen, "run"):
            await service.run(self._host, self._stop, ready)
        if not self._stop.is_set():
            raise self._chosen.fault("returned from run before it was to stop")


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
