"""What serves the modules of a configuration, whether in one process or in several: how it is made, and told to end."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from ion_core import ending
from ion_core.app.opening import App
from ion_core.config import check_holding, check_reach, check_runtimes, check_told, check_workers, fit_runtimes
from ion_core.config.derive import derived
from ion_core.contracts.looking import OutboxView, SlotsView
from ion_core.contracts.runtime import RuntimeCapabilities
from ion_core.dispatcher import Dispatcher, Part
from ion_core.dispatcher.engine import Engine
from ion_core.dispatcher.health import Health
from ion_core.dispatcher.running import RunningAttempts
from ion_core.errors import ConfigError
from ion_core.jobs import Verdict
from ion_core.modules import Module

log = logging.getLogger(__name__)


class Dispatching(Protocol):
    """What takes deliveries and runs jobs, here or in workers: as ``Dispatcher`` has it."""

    health: Health
    attempts: RunningAttempts

    @property
    def running(self) -> int: ...

    def slots(self) -> Sequence[SlotsView]: ...

    def outbox(self) -> OutboxView: ...

    def counts(self) -> Mapping[Verdict, int]: ...

    async def waiting(self) -> int: ...

    async def idle(self) -> bool: ...

    async def recover(self, also: Sequence[Path] = ()) -> None: ...

    async def run(self, stop: asyncio.Event, hurry: asyncio.Event) -> None: ...


async def dispatcher_of(
    app: App, *, fit: str = "", part: Part = Part.ALL, worker: int = 0, share: Sequence[Module] | None = None
) -> Dispatcher:
    """Checked against what runtimes and executors say of themselves. Raises ConfigError, and as providers do.

    ``fit``, what would do for a module that has an image only, says that runtimes stand in for others. A ``worker``
    serves its ``share`` of the modules; what there is to say of all this is said by who is none.
    """
    if not fit and (refused := check_told(app.config)):  # no engine has to answer for that
        raise ConfigError([str(finding) for finding in refused])
    runtimes, executors = await app.runtimes(), await app.executors()
    installation, alone = app.installation() if executors else ("", True)
    alone = alone and not worker
    capabilities: dict[str, RuntimeCapabilities] = {name: it.capabilities for name, it in runtimes.items()}
    capabilities |= {name: it.capabilities for name, it in executors.items()}
    config = app.config
    if fit:
        config, left_out = fit_runtimes(config, capabilities)
        for finding in left_out:
            log.warning("%s", finding)
    if findings := check_runtimes(config, capabilities, **({"instead": fit} if fit else {})):
        raise ConfigError([str(finding) for finding in findings])
    if part is not Part.ALL and (apart := check_workers(app.config, capabilities)):
        raise ConfigError([str(finding) for finding in apart])
    broker = await app.broker()
    if not worker:
        for name, offered in capabilities.items():
            if offered.notice:
                log.warning("runtime %s: %s", name, offered.notice)
        for finding in [*check_holding(app.config, broker.max_hold), *check_reach(app.config)]:
            log.warning("%s", finding)
    return Dispatcher(
        list(config.modules.values()) if share is None else share,
        broker=broker,
        runtimes=runtimes,
        dataplane=await app.dataplane(),
        observer=app.changes,
        work=app.state.work_of(worker),
        state_id=app.state.id(),
        drain_timeout=app.config.drain_timeout,
        hide=app.config.hidden.masked,
        engines={
            name: Engine(executor, name=name, installation=installation, alone=alone)
            for name, executor in executors.items()
        },
        settings_of=lambda module: derived(app.config, module),
        traceparent=app.observation.tracing.traceparent,
        part=part,
        worker=worker,
    )


@contextmanager
def signals_heeded(
    stop: asyncio.Event, hurry: asyncio.Event, drain_timeout: float, *, alone: bool = True
) -> Iterator[list[int]]:
    """The first signal sets ``stop``, the second ``hurry``, the third waits for nothing; yields the numbers received.

    Each bounds how long what is left to do may take. Who is not ``alone`` may have been told to stop by another process
    that was sent the same signal.
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
        (hurry if (stop.is_set() if alone else len(received) > 1) else stop).set()

    with ending.on_signals(on_signal):
        yield received
