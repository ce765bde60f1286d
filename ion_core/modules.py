"""What a configuration says of a module: frozen data, no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal

from ion_core.contracts.messaging import RetryPolicy
from ion_core.contracts.runtime import PythonEnvironment, Resources

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
class Gather:
    """What a gatherer has one job for: a scope, which is an event ``within``, once all beneath it is done.

    ``events`` are the types it is given. ``within`` is the type of the scope; None for the first event of a flow. With
    ``by`` there is a job for each value of that pair. ``missing`` says whether a dead letter holds it back, ``if_none``
    whether it runs where nothing is gathered.
    """

    events: tuple[str, ...]
    within: str | None = None
    by: str | None = None
    missing: Literal["wait", "go"] = "wait"
    if_none: Literal["run", "skip"] = "run"


@dataclass(frozen=True, kw_only=True)
class Module:
    """A container image (or command) with the event types it takes and may emit. ``warm`` slots wait for events.

    ``reuse``: its process may be given one event after the other, when it asks for them. ``keep_failed`` is how many
    workspaces of failed attempts are kept, the newest ones. ``oom`` says what becomes of an attempt that ends with exit
    code 0 though one of its processes was killed for memory: it fails, or is committed with a warning. ``formerly`` are
    names that it had before: what was done under them is shown as its own. A job is known by the present name alone.
    ``gather`` is of a gatherer, which subscribes to a type of its own. ``leads_to`` are the gatherers that wait for
    its jobs, as the whole configuration has it.
    """

    name: str
    image: str | None = None
    build: Path | None = None
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    source: Path | None = None
    python: PythonEnvironment | None = None
    subscribes: tuple[str, ...] = ()
    publishes: tuple[str, ...] = ()
    runtime: str = "default"
    timeout: timedelta = timedelta(minutes=10)
    retry: RetryPolicy = RetryPolicy()
    concurrency: int = 1
    warm: int = 0
    reuse: bool = False
    keep_failed: int = 3
    oom: Literal["fail", "warn"] = "fail"
    resources: Resources = Resources()
    network: str = "none"
    env: Mapping[str, str] = field(default_factory=dict)
    limits: OutputLimits = OutputLimits()
    formerly: tuple[str, ...] = ()
    gather: Gather | None = None
    leads_to: tuple[str, ...] = ()


def present_names(modules: Iterable[Module]) -> dict[str, str]:
    """What modules are called now, by the names that they had formerly."""
    return {before: module.name for module in modules for before in module.formerly}
