"""The rules that decide about a delivery: the rows of the tables in ``docs/delivery.md``, each by its name.

Names are kept in the logs of attempts, so they stay what they are; the words of a row may change, here and there.
"""

from __future__ import annotations

from dataclasses import dataclass

from ion_core.errors import (
    CannotBeExecuted,
    ContainerRemoved,
    DocumentNotFound,
    EngineLostJob,
    EngineRefused,
    EventRefused,
    HandlerBug,
    HandlerUnreachable,
    ImageUnavailable,
    InvalidEvent,
    MessageRefused,
    ModuleFailed,
    NoRoom,
    OutputRefused,
    PermanentError,
    StorageFull,
    TooManyAttempts,
    TransientError,
)


@dataclass(frozen=True)
class Rule:
    """One row: what went wrong, by which verb the delivery is settled, and whether that counts as an attempt."""

    name: str
    what: str
    settled: str
    counted: str


MODULE_FAILED = Rule(
    "module-failed", "the module: exit code, signal, timeout", "retry, after the last one dead_letter", "yes"
)
HANDLER_UNREACHABLE = Rule(
    "handler-unreachable",
    "its handler cannot be reached from inside its container",
    "as the module: retry, after the last one dead_letter",
    "yes",
)
CONTAINER_REMOVED = Rule(
    "container-removed",
    "somebody has removed its container while it ran",
    "as the module: retry, after the last one dead_letter; before it ran: given out again",
    "yes; no",
)
CANNOT_RUN = Rule(
    "cannot-run",
    "the module cannot be executed (126, 127, no such program), its image or its container is not to be had",
    "dead_letter",
    "–",
)
OUTPUT_REFUSED = Rule("output-refused", "its output breaks the module contract", "dead_letter", "–")
DOCUMENT_MISSING = Rule(
    "document-missing",
    "the event's document was promised, and is not in the store within 10 s (0.1 s, once another did not come)",
    "dead_letter, naming the store that was asked",
    "–",
)
EVENT_REFUSED = Rule(
    "event-refused",
    "the event is unreadable, or its body is in a content encoding that is not read, or 64 modules from its start; or "
    "the module does not take its type (any more), it has not committed, and no job of this attempt is with an engine",
    "dead_letter, without running",
    "–",
)
TOO_MANY_ATTEMPTS = Rule(
    "too-many-attempts",
    "there were more attempts than a limit that was lowered since allows; it has not committed, and no job of this one "
    "is with an engine",
    "dead_letter, without running",
    "–",
)
MESSAGE_REFUSED = Rule(
    "message-refused",
    "the broker will never take what the commit emits, such as a message over its size limit",
    "dead_letter, naming the limit; redriven, S2 publishes",
    "–",
)
REFUSED_FOR_GOOD = Rule(
    "refused-for-good",
    "a provider says that trying again cannot help, such as a file of the event that is gone or damaged",
    "dead_letter, with what it says",
    "–",
)
PUBLISH_LATER = Rule(
    "publish-later", "publishing after the commit fails in any other way", "postpone: S2 publishes", "no"
)
NO_ANSWER = Rule(
    "no-answer",
    "a provider does not answer, or not for this event",
    "postpone, see below",
    "only its own trouble, in the end",
)
NO_SPACE = Rule(
    "no-space",
    "no space left, also where that made the module fail",
    "release; nothing more is taken until there is space",
    "no",
)
SHUTDOWN = Rule("shutdown", "shutdown", "release", "no")
DOUBLE = Rule(
    "double",
    "another message of the event has failed, and is tried again or is a dead letter",
    "postpone, then ack: see doubles",
    "no",
)
BUG = Rule("bug", "a bug", "traceback in the log, then as a failed module", "yes")
NOT_SETTLED = Rule(
    "not-settled",
    "the broker does not settle it within 20 s, or refuses to",
    "release: it comes again, and takes no place meanwhile, but for one among those that RabbitMQ has handed out, "
    "until that answers",
    "no",
)
ENGINE_REFUSED = Rule(
    "engine-refused",
    "the engine refuses the job; somebody cancelled it there; it says that it has committed, and there is no commit",
    "a dead letter, with the reasons",
    "–",
)
ENGINE_LOST = Rule(
    "engine-lost",
    "the engine lost it: node gone, evicted, preempted, restarted",
    "tried again at once; after ten in a row as a failed module",
    "no; after ten in a row",
)
ENGINE_FULL = Rule(
    "engine-full",
    "no room: a quota, nothing it fits on",
    "it waits, with the event held; the log says so once",
    "no",
)

RULES = {
    rule.name: rule
    for rule in (
        MODULE_FAILED,
        HANDLER_UNREACHABLE,
        CONTAINER_REMOVED,
        CANNOT_RUN,
        OUTPUT_REFUSED,
        DOCUMENT_MISSING,
        EVENT_REFUSED,
        TOO_MANY_ATTEMPTS,
        MESSAGE_REFUSED,
        REFUSED_FOR_GOOD,
        PUBLISH_LATER,
        NO_ANSWER,
        NO_SPACE,
        SHUTDOWN,
        DOUBLE,
        BUG,
        NOT_SETTLED,
        ENGINE_REFUSED,
        ENGINE_LOST,
        ENGINE_FULL,
    )
}
"""By name, in the order of the page."""

_OF_ERRORS: tuple[tuple[type[Exception], Rule], ...] = (
    (HandlerUnreachable, HANDLER_UNREACHABLE),
    (ContainerRemoved, CONTAINER_REMOVED),
    (EngineLostJob, ENGINE_LOST),
    (HandlerBug, BUG),
    (ModuleFailed, MODULE_FAILED),
    (CannotBeExecuted, CANNOT_RUN),
    (ImageUnavailable, CANNOT_RUN),
    (OutputRefused, OUTPUT_REFUSED),
    (DocumentNotFound, DOCUMENT_MISSING),
    (EventRefused, EVENT_REFUSED),
    (InvalidEvent, EVENT_REFUSED),
    (TooManyAttempts, TOO_MANY_ATTEMPTS),
    (MessageRefused, MESSAGE_REFUSED),
    (EngineRefused, ENGINE_REFUSED),
    (PermanentError, REFUSED_FOR_GOOD),
    (StorageFull, NO_SPACE),
    (NoRoom, ENGINE_FULL),
    (TransientError, NO_ANSWER),
)
"""The first that fits; what is none of these is a bug."""


UNREADABLE, REFUSED = "unreadable event", "refused event"
"""What the reason of a dead letter begins with that was refused before there was an attempt, and so has no log."""


def rule_of_refusal(reason: str) -> Rule | None:
    """The rule by which a dead letter without a log died, as far as its reason tells."""
    return EVENT_REFUSED if reason.startswith((f"{UNREADABLE}: ", f"{REFUSED}: ")) else None


def rule_of(error: BaseException) -> Rule:
    """The rule that decides about a delivery whose job ended with ``error``."""
    return next((rule for kind, rule in _OF_ERRORS if isinstance(error, kind)), BUG)
