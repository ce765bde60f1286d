"""What is told of an event: frozen data. Times are ISO 8601 in UTC, '' where they are not known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ion_core.events import Pairs, pairs_to_json
from ion_core.gathering.waiting import Waits
from ion_core.rules import Rule


class JobState(Enum):
    """How a module stands to an event."""

    COMMITTED = "committed"
    OWING = "committed, not published"
    """It has committed, and what it emitted is still to be published."""
    DEAD = "dead letter"
    RUNNING = "running"
    WAITING = "waiting"
    """Its message is ready in the module's queue."""
    RETRIED = "to be retried"
    POSTPONED = "postponed"
    """What it needs was not to be had: it is tried again, and that counts as no attempt."""
    HELD = "held"
    """Its message is seen nowhere, and somebody holds messages of the queue: it is being decided on, or runs."""
    DELAYED = "delayed"
    """Its message is seen nowhere, and messages of the queue wait for a delay: this may be one."""
    REMOVED = "dead letter removed"
    """It was given up, and its dead letter is not there any more."""
    ABSENT = "not in the queue"
    UNKNOWN = "not known"
    """The broker was not asked, or shows too little of the queue."""


@dataclass(frozen=True, kw_only=True)
class AttemptTold:
    """One attempt, by its log. ``rule`` is what decided about it: None for a commit, and where the log does not say.

    ``seconds`` is how long it took in all; ``next_at`` when it was to be tried again, at the earliest.
    """

    number: int
    outcome: str
    reason: str
    rule: Rule | None
    started_at: str
    finished_at: str
    next_at: str
    seconds: float | None

    def to_json(self) -> dict[str, Any]:
        return {
            "attempt": self.number,
            "outcome": self.outcome,
            "reason": self.reason,
            "rule": _name(self.rule),
            "startedAt": self.started_at or None,
            "finishedAt": self.finished_at or None,
            "nextAttemptAt": self.next_at or None,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, kw_only=True)
class LetterTold:
    """The event's dead letter in the queue of the module."""

    id: str
    reason: str
    attempts: int
    died_at: str

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "reason": self.reason, "attempts": self.attempts, "diedAt": self.died_at}


@dataclass(frozen=True, kw_only=True)
class ChildTold:
    """An event that the module emitted."""

    id: str
    type: str


@dataclass(frozen=True, kw_only=True)
class JobTold:
    """What is known of one module's work for the event.

    ``taken``: the configuration has the module. ``rule`` decided what was last decided, None for a commit and where
    nothing was, or nothing says which. ``reason`` are its words. ``since`` is when it came into its state. ``until`` is
    when that ends at the earliest, where that is known. ``ahead`` is how many wait before it, of a message that is
    ready. ``attempt`` is the number of the attempt that runs or comes next.
    """

    module: str
    taken: bool
    state: JobState
    rule: Rule | None = None
    reason: str = ""
    since: str = ""
    until: str = ""
    attempt: int | None = None
    ahead: int | None = None
    attempts: Sequence[AttemptTold] = ()
    letter: LetterTold | None = None
    emitted: Sequence[ChildTold] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "module": self.module,
            "taken": self.taken,
            "state": self.state.value,
            "rule": _name(self.rule),
            "reason": self.reason,
            "since": self.since or None,
            "until": self.until or None,
            "attempt": self.attempt,
            "ahead": self.ahead,
            "attempts": [it.to_json() for it in self.attempts],
            "deadLetter": None if self.letter is None else self.letter.to_json(),
            "emitted": [{"eventId": it.id, "type": it.type} for it in self.emitted],
        }


@dataclass(frozen=True, kw_only=True)
class EventTold:
    """The event, who it came from, and what became of it at each module.

    ``stored``: it left a document. ``name`` is who it came from: a module, or whoever published it; ``parent`` is the
    event that that was made of, '' of one from outside. ``serving``: a ``serve`` answers on this machine; None where
    nobody asked. ``unseen`` says why the queues were not looked at, '' where they were. ``waits`` are gatherers of
    which it is the scope, and those that wait for a job of it.
    """

    id: str
    type: str
    correlation_id: str
    stored: bool
    name: str
    parent: str
    files: Sequence[str] = ()
    data: Pairs = ()
    jobs: Sequence[JobTold] = ()
    serving: bool | None = None
    unseen: str = ""
    waits: Sequence[Waits] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "eventId": self.id,
            "type": self.type,
            "correlationId": self.correlation_id,
            "stored": self.stored,
            "name": self.name,
            "parentEventId": self.parent,
            "files": list(self.files),
            "data": pairs_to_json(self.data),
            "modules": [it.to_json() for it in self.jobs],
            "serving": self.serving,
            "unseen": self.unseen or None,
            "gatherers": [it.to_json() for it in self.waits],
        }


def _name(rule: Rule | None) -> str | None:
    return None if rule is None else rule.name
