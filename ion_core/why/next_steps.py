"""What to type next: commands of ``ion-core``, each as its words, the most useful first."""

from __future__ import annotations

from collections.abc import Sequence

from ion_core.rules import (
    CANNOT_RUN,
    DOCUMENT_MISSING,
    ENGINE_FULL,
    EVENT_REFUSED,
    MODULE_FAILED,
    NO_ANSWER,
    NO_SPACE,
    OUTPUT_REFUSED,
    REFUSED_FOR_GOOD,
)
from ion_core.why.told import EventTold, JobState, JobTold

Words = tuple[str, ...]


def advice(event: EventTold, only: JobTold | None = None) -> Sequence[Words]:
    """What tells more of the event, or goes on with it; each once, in the order of its modules.

    With ``only`` what is to do about this one of its modules.
    """
    jobs = event.jobs if only is None else [only]
    found = [words for job in jobs for words in _of_job(event, job)]
    if only is None:
        found += [("dlq", "list", "--module", module) for module in _held_back_by(event)]
    if event.unseen or not event.jobs:
        found.append(("check", "--connect"))
    if event.parent or any(job.emitted for job in jobs):
        found.append(("trace", "flow", event.correlation_id))
    return list(dict.fromkeys(found))


def _held_back_by(event: EventTold) -> Sequence[str]:
    """Modules with dead letters of other events, for which a gatherer waits."""
    awaited = [it for waits in event.waits for it in waits.awaited]
    return [it.module for it in awaited if it.dead and it.event_id != event.id]


def _of_job(event: EventTold, job: JobTold) -> Sequence[Words]:
    stranded = any(not it.taken for it in event.jobs)
    log: Words = ("logs", event.id, "--module", job.module)
    serve: list[Words] = [] if event.serving else [("serve",)]
    state = job.state
    if state is JobState.COMMITTED:
        return []
    if job.letter is not None:
        found = [*([log] if job.attempts else [("dlq", "show", job.letter.id)]), *_of_rule(event, job)]
        return [*found, ("dlq", "redrive", job.letter.id)] if job.taken else [*found, _move(event, job)]
    if not job.taken:
        return [_move(event, job)]
    if state is JobState.RUNNING:
        return [("logs", event.id, "--module", job.module, "--follow")]
    if state in (JobState.RETRIED, JobState.POSTPONED, JobState.OWING):
        return [*([log] if job.attempts else []), *_of_rule(event, job), *serve]
    if state in (JobState.WAITING, JobState.HELD, JobState.DELAYED, JobState.UNKNOWN):
        return [*serve, *([log] if job.attempts else []), ("module", "list")]
    if state is JobState.DEAD:  # which its log says: the broker was not asked
        return [log, ("dlq", "list", "--module", job.module)]
    if stranded:  # in the queue of another name, from where it can be moved
        return []
    again = ("event", "republish", "--type", event.type, "--module", job.module, "--since", "30d", "--dry-run")
    return [*([log] if job.attempts else []), *([again] if event.stored else [])]


def _of_rule(event: EventTold, job: JobTold) -> list[Words]:
    """What shows, or checks, what that rule is about."""
    if job.rule in (CANNOT_RUN, DOCUMENT_MISSING, EVENT_REFUSED, ENGINE_FULL, NO_ANSWER, NO_SPACE, REFUSED_FOR_GOOD):
        return [("check",)]
    if job.rule in (OUTPUT_REFUSED, MODULE_FAILED):
        return [("debug", event.id, "--module", job.module)]
    return []


def _move(event: EventTold, job: JobTold) -> Words:
    """To the module that should have it: NEW, for people to fill in, where that is not plain."""
    without = [it.module for it in event.jobs if it.state is JobState.ABSENT]
    return ("module", "move", job.module, without[0] if len(without) == 1 else "NEW")
