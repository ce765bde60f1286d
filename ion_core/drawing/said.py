"""What is said of a job or an event in a few words, and what it is marked with."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime

from ion_core.contracts.looking import AttemptView, JobState, JobView
from ion_core.jobs import Verdict
from ion_core.words import in_seconds

MARKS: Mapping[JobState, str] = {
    "committed": "ok",
    "dead-lettered": "bad",
    "retried": "wait",
    "pending": "wait",
    "gone": "bad",
}
"""A state's class in the page's style: a shape and a colour."""
STATES: Mapping[JobState, str] = {
    "committed": "done",
    "dead-lettered": "dead-lettered",
    "retried": "to be tried again",
    "pending": "pending",
    "gone": "taken by no module any more",
}
STEPS = ("prepare", "module", "commit")


def last(job: JobView) -> AttemptView | None:
    """The attempt that committed, None if its log was lost; without a commit the one that ended last."""
    if job.committed_by is not None:
        return next((it for it in job.attempts if (it.number, it.token) == job.committed_by), None)
    told = [it for it in job.attempts if it.outcome != Verdict.DUPLICATE.value]  # the other message tells how it went
    return told[-1] if told else None


def fact(job: JobView) -> str:
    """The one thing to know of a job, for the space below its name."""
    counts = last(job)
    if job.state == "committed":
        words = [took(counts)] if counts is not None else []
        if counts is not None and counts.number > 1:
            words.append(f"attempt {counts.number}")
        return " · ".join(words) or "done"
    if job.state == "dead-lettered":
        return " · ".join(["dead", *([_cause(counts)] if counts is not None else []), f"{len(job.attempts)} ×"])
    if job.state == "retried" and counts is not None:
        return f"waits for attempt {counts.number + 1}"
    return "no module takes it" if job.state == "gone" else "pending"


def _cause(attempt: AttemptView) -> str:
    """A reason without what is said of attempts, which is said beside it."""
    return attempt.reason.partition(" (attempt ")[0]


def since_then(time: datetime) -> str:
    """Of what runs: the day is left out."""
    return f"running since {time.astimezone(UTC):%H:%M:%S} UTC"


def took(attempt: AttemptView) -> str:
    """How long all of it took; empty where that is not known."""
    return f"{in_seconds(attempt.seconds['all'])} s" if "all" in attempt.seconds else ""


def moment(time: datetime | None) -> str:
    """In UTC, as all times here, to the second; empty where it is not known."""
    return "" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def fitted(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns: letters of some scripts take two, and marks above others none."""
    taken = 0
    for n, character in enumerate(text):
        taken += _columns(character)
        if taken > width:
            return _cut(text[:n], width)
    return text


def _cut(text: str, width: int) -> str:
    while text and columns(text) > width - 1:
        text = text[:-1]
    return text.rstrip() + "…"


def columns(text: str) -> int:
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
