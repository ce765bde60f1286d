"""What is said of a job or an event in a few words, and what it is marked with."""

from __future__ import annotations

import unicodedata

from ion_core.flows import COMMITTED, DEAD_LETTERED, GONE, PENDING, RETRIED, AttemptSeen, JobSeen
from ion_core.words import in_seconds

MARKS = {COMMITTED: "ok", DEAD_LETTERED: "bad", RETRIED: "wait", PENDING: "wait", GONE: "bad"}
"""A state's class in the page's style: a shape and a colour."""
STATES = {
    COMMITTED: "done",
    DEAD_LETTERED: "dead-lettered",
    RETRIED: "to be tried again",
    PENDING: "pending",
    GONE: "taken by no module any more",
}
STEPS = ("prepare", "module", "commit")


def fact(job: JobSeen) -> str:
    """The one thing to know of a job, for the space below its name."""
    last = job.last
    if job.state == COMMITTED:
        words = [took(last)] if last is not None else []
        if last is not None and last.number > 1:
            words.append(f"attempt {last.number}")
        return " · ".join(words) or "done"
    if job.state == DEAD_LETTERED:
        return " · ".join(["dead", *([_cause(last)] if last is not None else []), f"{len(job.attempts)} ×"])
    if job.state == RETRIED and last is not None:
        return f"waits for attempt {last.number + 1}"
    return "no module takes it" if job.state == GONE else "pending"


def _cause(attempt: AttemptSeen) -> str:
    """A reason without what is said of attempts, which is said beside it."""
    return attempt.reason.partition(" (attempt ")[0]


def took(attempt: AttemptSeen) -> str:
    """How long all of it took; empty where that is not known."""
    return f"{in_seconds(attempt.seconds['all'])} s" if "all" in attempt.seconds else ""


def size(count: int) -> str:
    """Of a file, in units of 1,024 bytes."""
    if count < 1024:
        return f"{count} B"
    value, unit = float(count), "B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):  # noqa: B007 - it is the last one that is used
        value /= 1024
        if value < 1000:
            break
    return f"{value:.1f} {unit}" if value < 100 else f"{value:,.0f} {unit}"


def fitted(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns: letters of some scripts take two, and marks above others none."""
    taken = 0
    for n, character in enumerate(text):
        taken += _columns(character)
        if taken > width:
            return _cut(text[:n], width)
    return text


def _cut(text: str, width: int) -> str:
    while text and sum(map(_columns, text)) > width - 1:
        text = text[:-1]
    return text.rstrip() + "…"


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
