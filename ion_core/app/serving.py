"""Serving a configuration: dispatcher and services until a signal, or until nothing is pending."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from ion_core import crash, ending
from ion_core.app.dispatching import Dispatching, dispatcher_of, signals_heeded
from ion_core.app.following import follow, running
from ion_core.app.opening import App
from ion_core.app.reloading import Reloading
from ion_core.app.services import Services
from ion_core.app.strays import stray_queues
from ion_core.app.workforce import Workforce
from ion_core.config import Config
from ion_core.dispatcher import Part
from ion_core.errors import ConfigError, IonError, TransientError
from ion_core.forking import ForkServer
from ion_core.jobs import Verdict
from ion_core.live import forget_workers, telling
from ion_core.notifying import Supervisor

log = logging.getLogger(__name__)

IDLE_CHECK_EVERY = 0.05

Watch = Callable[[Dispatching], Coroutine[Any, Any, None]]


@dataclass(frozen=True, kw_only=True)
class Workers:
    """So many processes, forked by ``server``; ``say`` prints what they have logged."""

    server: ForkServer
    count: int
    say: Callable[[str], None]


async def serve(
    config: Config,
    *,
    environ: Mapping[str, str],
    until_idle: bool = False,
    watch: Watch | None = None,
    first: Callable[[App], Awaitable[None]] | None = None,
    fit: str = "",
    again: Callable[[], Config] | None = None,
    workers: Workers | None = None,
) -> int:
    """Run the dispatcher, and the services beside it, until a signal (or until nothing is pending); the exit code.

    0 fine · 1 a job was dead-lettered (``until_idle``) · 128 + the number of the signal that ended it, after a drain:
    SIGINT, SIGTERM, SIGHUP or SIGQUIT. ``watch`` runs beside it all and is cancelled at the end. ``first`` is called
    before anything runs, once nobody else can use the state directory. ``fit``, what would do for a module that has an
    image only, says that runtimes stand in for others: limits they do not have are left out then. With ``again``, which
    reads the configuration anew, SIGHUP ends nothing: services are told of their new settings. With ``workers`` jobs
    run in those, and whoever calls holds the lock. Raises StateBusy if another ``serve`` uses the state directory.
    """
    crash.arm(environ)
    reloading = None if again is None else Reloading(config, again)
    async with AsyncExitStack() as stack:
        if reloading is not None:
            stack.enter_context(ending.on_hangup(reloading.ask))
        app = await stack.enter_async_context(App.open(config))
        with app.state.locked() if workers is None else nullcontext():
            dispatcher = await _dispatching(app, fit, workers, stack)
            if first is not None:
                await first(app)
            forget_workers(app.state.path)
            # A signal until after this ends it at once: nothing of ours runs yet.
            await dispatcher.recover(app.state.works_of_workers())
            stop, hurry = asyncio.Event(), asyncio.Event()
            with signals_heeded(stop, hurry, app.config.drain_timeout.total_seconds()) as received:
                async with telling(app.state.path, partial(follow, dispatcher), partial(running, dispatcher)):
                    await _run(
                        app,
                        dispatcher,
                        stop,
                        hurry,
                        reloading,
                        until_idle=until_idle,
                        alone=workers is None,
                        watch=watch,
                        supervisor=Supervisor.of(environ),
                    )
        ending.within(ending.CLOSE_WITHIN)
    if received:
        return 128 + received[0]
    return 1 if until_idle and dispatcher.counts()[Verdict.DEAD_LETTERED] else 0


async def _dispatching(app: App, fit: str, workers: Workers | None, stack: AsyncExitStack) -> Dispatching:
    if workers is None:
        return await dispatcher_of(app, fit=fit)
    ours = await dispatcher_of(app, fit=fit, part=Part.UPKEEP)
    force = Workforce(
        ours,
        workers.server,
        workers.count,
        state=app.state.path,
        drain_timeout=app.config.drain_timeout,
        changes=app.changes,
        say=workers.say,
    )
    return await stack.enter_async_context(force)


async def _run(
    app: App,
    dispatcher: Dispatching,
    stop: asyncio.Event,
    hurry: asyncio.Event,
    reloading: Reloading | None,
    *,
    until_idle: bool,
    alone: bool,
    watch: Watch | None,
    supervisor: Supervisor | None,
) -> None:
    """Services, dispatcher and whoever watches, each an owned task; an IonError comes out as itself.

    A service that fails sets ``stop``; its error comes out once what ran is drained. ``alone``: there are no workers,
    whose observers nothing here could tell of other settings.
    """
    await _warn_of_strays(app)
    log.info("serving", extra={"modules": sorted(app.config.modules), "state": str(app.state.path)})
    services = Services(app, dispatcher, stop)
    try:
        async with asyncio.TaskGroup() as tasks:
            await services.start(tasks)
            beside = [tasks.create_task(_stop_when_idle(dispatcher, stop))] if until_idle else []
            if reloading is not None:
                beside.append(tasks.create_task(reloading.run(services, app.observation if alone else None)))
            if supervisor is not None:
                beside.append(tasks.create_task(supervisor.keep_told(stop, partial(_status, app, dispatcher))))
            if watch is not None:
                beside.append(tasks.create_task(_watched(watch, dispatcher)))
            app.observers.serve_started(app.state.path, sorted(app.config.modules))
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
    finally:
        app.observers.serve_stopped()
    services.raise_failure()


def _status(app: App, dispatcher: Dispatching) -> str:
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


async def _watched(watch: Watch, dispatcher: Dispatching) -> None:
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


async def _stop_when_idle(dispatcher: Dispatching, stop: asyncio.Event) -> None:
    """Set ``stop`` once nothing is pending. A retry that waits for its delay is pending."""
    while not stop.is_set():
        try:
            if await dispatcher.idle():
                stop.set()
                return
        except TransientError as error:
            log.warning("cannot tell yet whether anything is pending: %s", error)
        await asyncio.sleep(IDLE_CHECK_EVERY)
