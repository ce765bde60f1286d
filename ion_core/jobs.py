"""Jobs, attempts and how they end: frozen data, no I/O."""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from functools import cached_property

from ion_core.events import Event, parse_event

ION = uuid.UUID("0d9c27b4-6a0b-5f7e-9a55-2b1f6c1f3e10")
"""Namespace of the ids Ion derives."""


def job_id(event_id: str, module: str) -> str:
    """The id of the job that ``module`` has for that event."""
    return str(uuid.uuid5(ION, f"{event_id}/{module}"))


def log_id(module: str, event_id: str, attempt: str) -> str:
    """The id of the document that an attempt's log is kept in: ``attempt`` tells it from all others of its job.

    With '' that is how all of them begin.
    """
    return f"module:{module}-event:{event_id}-attempt:{attempt}"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One module's work for one event. Its id is the same whoever works it out, whenever."""

    event: Event
    module: str

    @classmethod
    def of_message(cls, body: bytes, module: str) -> Job:
        """The job that a message in the queue of ``module`` stands for. Raises InvalidEvent for what is no event."""
        return cls(event=parse_event(body), module=module)

    @cached_property
    def id(self) -> str:
        return job_id(self.event.context.event_id, self.module)

    def child_id(self, event_file: str) -> str:
        """The id of the event in ``out/events/<event_file>``: the same in every attempt."""
        return str(uuid.uuid5(uuid.UUID(self.id), event_file))


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The n-th try of a job. ``token`` is unlike that of any other try, also of one with the same number elsewhere.

    ``message`` is the id of the message that brought it: the same in every delivery of it, '' for a message of others.
    """

    job: Job
    number: int
    message: str = ""
    token: str = field(default_factory=lambda: secrets.token_hex(6))


class Verdict(Enum):
    """What an attempt led to."""

    COMMITTED = "committed"
    ALREADY_COMMITTED = "already committed"
    RETRIED = "retried"
    RELEASED = "released"
    DEAD_LETTERED = "dead-lettered"
    DUPLICATE = "duplicate"
    """Of several messages of one event, one that another stands for."""
    LOST = "lost"


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """When a step ran: ``prepare``, ``module`` or ``commit``, from ``begun``, in seconds after the attempt began, for
    ``seconds``. Of a module that calls the handler, its own step has the others within it.
    """

    name: str
    begun: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt ended: ``reason`` is empty for a commit; ``seconds`` from its delivery to here.

    ``rule`` is the name of the rule that decided (``ion_core.rules``), empty for a commit. ``delay``: of one that is
    tried again or put behind the others, for how long; None of a released one that is given back as it was, and of a
    duplicate that is done. ``steps`` are those that ran, in the order of their beginning; at an engine only those
    whose times it tells.
    """

    verdict: Verdict
    reason: str = ""
    rule: str = ""
    seconds: float = 0.0
    children: int = 0
    delay: timedelta | None = None
    steps: tuple[StepTime, ...] = ()
