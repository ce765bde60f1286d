"""What everything that runs jobs in one dispatcher shares."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from ion_core.contracts.observer import Observer
from ion_core.dataplane import DataPlane
from ion_core.dispatcher.health import Health
from ion_core.dispatcher.hold import Leases
from ion_core.dispatcher.running import RunningAttempts
from ion_core.dispatcher.trouble import StoreWitness
from ion_core.handler import Handler
from ion_core.jobs import Attempt


def trace_from_outside(attempt: Attempt) -> str:
    """The trace that its flow came with, if any."""
    return attempt.job.event.traceparent


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What every job runner of a dispatcher shares, and the places where their jobs run.

    ``hurrying`` is set where what still runs is to be stopped, not left to an engine.
    ``grace`` is between SIGTERM and SIGKILL; ``hide`` is what a text goes through before it is kept; ``traceparent``
    says of an attempt what its module is told of the trace that it is part of, '' for nothing. ``unanswered`` is told
    that a provider has not answered, ``counted`` that an attempt counts as ended.
    """

    handler: Handler
    dataplane: DataPlane
    observer: Observer
    health: Health
    leases: Leases
    running: RunningAttempts
    stores: StoreWitness
    hurrying: asyncio.Event = field(default_factory=asyncio.Event)
    grace: timedelta = timedelta(seconds=10)
    hide: Callable[[str], str] = str
    traceparent: Callable[[Attempt], str] = trace_from_outside
    unanswered: Callable[[], None] = lambda: None
    counted: Callable[[], None] = lambda: None
