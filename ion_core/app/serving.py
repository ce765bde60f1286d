"""Serving a configuration: dispatcher and services until a signal, or until nothing is pending."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

from ion_core import crash, ending
from ion_core.app.opening import App
from ion_core.app.reloading import Reloading
from ion_core.app.services import Services
from ion_core.app.strays import stray_queues
from ion_core.config import Config, check_holding, check_reach, check_runtimes, check_told, fit_runtimes
from ion_core.config.derive import derived
from ion_core.contracts.runtime import RuntimeCapabilities
from ion_core.dispatcher import Dispatcher
from ion_core.dispatcher.engine import Engine
from ion_core.errors import ConfigError, IonError, TransientError
from ion_core.jobs import Verdict
from ion_core.live import telling
from ion_core.notifying import Supervisor

log = logging.getLogger(__name__)

IDLE_CHECK_EVERY = 0.05

Watch = Callable[[Dispatcher], Coroutine[Any, Any, None]]


async def serve(
    config: Config,
    *,
    environ: Mapping[str, str],
    until_idle: bool = False,
    watch: Watch | None = None,
    first: Callable[[App], Awaitable[None]] | None = None,
    fit: str = "",
    again: Callable[[], Config] | None = None,
) -> int:
    """Run the dispatcher, and the services beside it, until a signal (or until nothing is pending); the exit code.

    0 fine · 1 a job was dead-lettered (``until_idle``) · 128 + the number of the signal that ended it, after a drain:
    SIGINT, SIGTERM, SIGHUP or SIGQUIT. ``watch`` runs beside it all and is cancelled at the end. ``first`` is called
    before anything runs, once nobody else can use the state directory. ``fit``, what would do for a module that has an
    image only, says that runtimes stand in for others: limits they do not have are left out then. With ``again``, which
    reads the configuration anew, SIGHUP ends nothing: services are told of their new settings. Raises StateBusy if
    another ``serve`` uses the state directory.
    """
    crash.arm(environ)
    reloading = None if again is None else Reloading(config, again)
    async with AsyncExitStack() as stack:
        if reloading is not None:
            stack.enter_context(ending.on_hangup(reloading.ask))
        app = await stack.enter_async_context(App.open(config))
        with app.state.locked():
            dispatcher = await _dispatcher(app, fit)
            if first is not None:
                await first(app)
            await dispatcher.recover()  # a signal until here ends it at once: nothing of ours runs yet
            stop, hurry = asyncio.Event(), asyncio.Event()
            with _signals(stop, hurry, app.config.drain_timeout.total_seconds()) as received:
                async with telling(app.state.path, partial(_follow, dispatcher), partial(_running, dispatcher)):
                    await _run(
                        app,
                        dispatcher,
                        stop,
                        hurry,
                        reloading,
                        until_idle=until_idle,
                        watch=watch,
                        supervisor=Supervisor.of(environ),
                    )
        ending.within(ending.CLOSE_WITHIN)
    if received:
        return 128 + received[0]
    return 1 if until_idle and dispatcher.counts()[Verdict.DEAD_LETTERED] else 0


async def _follow(dispatcher: Dispatcher, event_id: str, wait: bool) -> AsyncIterator[Mapping[str, Any]]:
    async for line in dispatcher.attempts.follow(event_id, wait=wait):
        yield asdict(line)


def _running(dispatcher: Dispatcher, event_id: str) -> Sequence[Mapping[str, Any]]:
    found = dispatcher.attempts.of(event_id)
    return [{**asdict(it), "since": it.since.isoformat(timespec="milliseconds")} for it in found]


async def _dispatcher(app: App, fit: str) -> Dispatcher:
    if not fit and (refused := check_told(app.config)):  # no engine has to answer for that
        raise ConfigError([str(finding) for finding in refused])
    runtimes, executors = await app.runtimes(), await app.executors()
    installation, alone = app.installation() if executors else ("", True)
    capabilities: dict[str, RuntimeCapabilities] = {name: it.capabilities for name, it in runtimes.items()}
    capabilities |= {name: it.capabilities for name, it in executors.items()}
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
    for finding in [*check_holding(app.config, broker.max_hold), *check_reach(app.config)]:
        log.warning("%s", finding)
    return Dispatcher(
        list(config.modules.values()),
        broker=broker,
        runtimes=runtimes,
        dataplane=await app.dataplane(),
        observer=app.changes,
        work=app.state.work,
        state_id=app.state.id(),
        drain_timeout=app.config.drain_timeout,
        hide=app.config.hidden.masked,
        engines={
            name: Engine(executor, name=name, installation=installation, alone=alone)
            for name, executor in executors.items()
        },
        settings_of=lambda module: derived(app.config, module),
    )


async def _run(
    app: App,
    dispatcher: Dispatcher,
    stop: asyncio.Event,
    hurry: asyncio.Event,
    reloading: Reloading | None,
    *,
    until_idle: bool,
    watch: Watch | None,
    supervisor: Supervisor | None,
) -> None:
    """Services, dispatcher and whoever watches, each an owned task; an IonError comes out as itself.

    A service that fails sets ``stop``; its error comes out once what ran is drained.
    """
    await _warn_of_strays(app)
    log.info("serving", extra={"modules": sorted(app.config.modules), "state": str(app.state.path)})
    services = Services(app, dispatcher, stop)
    try:
        async with asyncio.TaskGroup() as tasks:
            await services.start(tasks)
            beside = [tasks.create_task(_stop_when_idle(dispatcher, stop))] if until_idle else []
            if reloading is not None:
                beside.append(tasks.create_task(reloading.run(services)))
            if supervisor is not None:
                beside.append(tasks.create_task(supervisor.keep_told(stop, partial(_status, app, dispatcher))))
            if watch is not None:
                beside.append(tasks.create_task(_watched(watch, dispatcher)))
            with _kept_aside():
                await dispatcher.run(stop, hurry)
            services.stop()
            for task in beside:
                task.cancel()
    except BaseExceptionGroup as group:
        # Not except*: up to Python 3.11.3, what is raised in there comes out as a group.
        ours, others = group.split(IonError)
        if ours is None or others is not None:
            raise
        raise _first(ours) from group
    services.raise_failure()


def _status(app: App, dispatcher: Dispatcher) -> str:
    """How it stands, in a line."""
    problems = " ".join("; ".join(dispatcher.health.problems()).split())
    return app.config.hidden.masked(f"not ready: {problems}")[:400] if problems else "ready"


@contextmanager
def _kept_aside() -> Iterator[None]:
    """Within it garbage collection passes over what is there by now, which stays: that is most of what there is.

    An event makes enough objects that all of it would be looked through every some hundred events.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _watched(watch: Watch, dispatcher: Dispatcher) -> None:
    """Who watches may go, as a terminal that is closed does: that ends no job."""
    try:
        await watch(dispatcher)
    except OSError as error:
        log.warning("what is done cannot be shown any more: %s", error.strerror or error)


async def _warn_of_strays(app: App) -> None:
    """Of queues that collect events, or keep them, for nobody that this configuration knows of."""
    try:
        strays = await stray_queues(await app.broker(), app.config.modules)
    except (TransientError, ConfigError) as error:  # of the latter kind: what this user may not ask
        log.warning("cannot tell whether there are queues that no module takes: %s", error)
        return
    for stray in strays:
        if stray.matters:
            log.warning("%s", stray)


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


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
def _signals(stop: asyncio.Event, hurry: asyncio.Event, drain_timeout: float) -> Iterator[list[int]]:
    """The first signal sets ``stop``, the second ``hurry``, the third waits for nothing; yields the numbers received.

    Each bounds how long what is left to do may take.
    """
    received: list[int] = []

    def on_signal(number: int) -> None:
        received.append(number)
        doing, bound = {
            1: ("draining", drain_timeout + ending.CANCEL_WITHIN),
            2: ("hurrying", ending.CANCEL_WITHIN),
        }.get(len(received), ("leaving what does not end", ending.LAST_WITHIN))
        log.warning("%s received, %s", signal.Signals(number).name, doing)
        ending.within(bound, 128 + received[0])
        (hurry if stop.is_set() else stop).set()

    with ending.on_signals(on_signal):
        yield received
