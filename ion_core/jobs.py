"""Modules, jobs, attempts and how they end: frozen data, no I/O."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from functools import cached_property
from pathlib import Path

from ion_core.contracts.messaging import RetryPolicy
from ion_core.contracts.runtime import Resources
from ion_core.events import Event

ION = uuid.UUID("0d9c27b4-6a0b-5f7e-9a55-2b1f6c1f3e10")
"""Namespace of the ids Ion derives."""

MODULE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class OutputLimits:
    """What a module may leave in ``out/``; sizes in bytes. One more of anything fails the job and names the limit."""

    max_files: int = 10_000
    max_depth: int = 16
    max_output: int = 10 * 1024**3
    max_events: int = 1_000
    max_insights: int = 1024**2


@dataclass(frozen=True, kw_only=True)
class Module:
    """A container image (or command) with the event types it takes and may emit. ``warm`` slots wait for events.

    ``reuse``: its process may be given one event after the other, when it asks for them. ``keep_failed`` is how many
    workspaces of failed attempts are kept, the newest ones.
    """

    name: str
    image: str | None = None
    build: Path | None = None
    command: tuple[str, ...] = ()
    source: Path | None = None
    subscribes: tuple[str, ...] = ()
    publishes: tuple[str, ...] = ()
    runtime: str = "default"
    timeout: timedelta = timedelta(minutes=10)
    retry: RetryPolicy = RetryPolicy()
    concurrency: int = 1
    warm: int = 0
    reuse: bool = False
    keep_failed: int = 3
    resources: Resources = Resources()
    network: str = "none"
    env: Mapping[str, str] = field(default_factory=dict)
    limits: OutputLimits = OutputLimits()


@dataclass(frozen=True, kw_only=True)
class Job:
    """One module's work for one event. Its id is the same whoever works it out, whenever."""

    event: Event
    module: str

    @cached_property
    def id(self) -> str:
        return str(uuid.uuid5(ION, f"{self.event.context.event_id}/{self.module}"))

    def child_id(self, event_file: str) -> str:
        """The id of the event in ``out/events/<event_file>``: the same in every attempt."""
        return str(uuid.uuid5(uuid.UUID(self.id), event_file))


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The n-th try of a job. ``token`` is unlike that of any other try, also of one with the same number elsewhere."""

    job: Job
    number: int
    token: str = field(default_factory=lambda: uuid.uuid4().hex[:12])


class Verdict(Enum):
    """What an attempt led to."""

    COMMITTED = "committed"
    ALREADY_COMMITTED = "already committed"
    RETRIED = "retried"
    RELEASED = "released"
    DEAD_LETTERED = "dead-lettered"
    LOST = "lost"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt ended: ``reason`` is empty for a commit; ``seconds`` from its delivery to here."""

    verdict: Verdict
    reason: str = ""
    seconds: float = 0.0
    children: int = 0
