"""``ion-core why``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from ion_core.cli.flow.text import PAIRS_WIDTH, pairs_text, waits_text
from ion_core.cli.named import EventId
from ion_core.cli.options import json_option, with_config
from ion_core.cli.output import RED, YELLOW, ago, coloured, mark, out, out_json, plain, shortened
from ion_core.cli.whole import PROGRAM, Options
from ion_core.words import counted

if TYPE_CHECKING:
    from datetime import datetime

    from ion_core.app import App
    from ion_core.why import AttemptTold, EventTold, JobTold, Runs

SHOWN = 6
"""Attempts of one module that are shown, the last ones, and events that it emitted: so that all is seen at once."""
REASON_WIDTH = 200


@click.command("why")
@click.argument("event_id", type=EventId())
@json_option
@with_config
def command(options: Options, event_id: str, as_json: bool) -> None:
    """Say what happened to an event at each module, why, and what to type next.

    For every module that takes it, or took it: how it stands, the attempts with their times and causes, which rule of
    `ion-core docs delivery` decided, what is pending and until when. It reads what is stored and what the queues show,
    and changes nothing; where `serve` runs on this machine it is asked what runs. The beginning of an event's id will
    do.

    \b
    Example:
      ion-core why 3f2a9c1b
    """
    from ion_core.cli.session import load, run

    told = run(load(options), lambda app: _told(app, event_id), reading=True)
    if as_json:
        from ion_core.why import advice

        commands = [f"{PROGRAM} {shlex.join(words)}{options.flags()}" for words in advice(told)]
        out_json({**told.to_json(), "next": commands}, indent=2)
        return
    for line in _lines(told, options.flags()):
        out(line)


async def _told(app: App, given: str) -> EventTold:
    from ion_core.cli.ids import check_is_no_flow, too_short, whole_id
    from ion_core.errors import DocumentNotFound, ProviderError
    from ion_core.why import look

    documents = await app.documents()
    broker, unseen = None, ""
    try:
        broker = await app.broker()
    except ProviderError as error:
        unseen = str(error)
    modules = list(app.config.modules.values())
    correlation_id: str | None
    try:
        event_id, correlation_id = await whole_id(documents, given, modules)
    except DocumentNotFound:  # a message of others, which has not run
        if broker is None:
            raise
        event_id, correlation_id = given, None
    else:
        correlation_id = correlation_id or await _flow_of(app, event_id)
    runs = await _running(app, event_id)
    try:
        return await look(
            event_id, correlation_id, modules, documents=documents, broker=broker, running=runs, unseen=unseen
        )
    except DocumentNotFound as error:
        await check_is_no_flow(documents, given)
        raise DocumentNotFound(f"{error}{too_short(given)}") from error


async def _flow_of(app: App, event_id: str) -> str | None:
    """The correlation id of an event that left logs and no document."""
    from ion_core.flows import logs_of

    async for _, log in logs_of(await app.documents(), event_id, None):
        return log.correlation_id
    return None


async def _running(app: App, event_id: str) -> Sequence[Runs] | None:
    from ion_core.live import running_now
    from ion_core.why import Runs

    found = await running_now(app.state.path, event_id)
    if found is None:
        return None
    return [Runs(module=it["module"], attempt=it["attempt"], since=it["since"]) for it in found]


def _lines(event: EventTold, flags: str) -> Iterator[str]:
    """All that is told, for people; no id is cut, since they are there to be pasted."""
    from datetime import UTC, datetime

    from ion_core.why import advice

    now = datetime.now(UTC)
    yield plain(f"event {event.id}  {event.type}")
    yield from _origin(event)
    if not event.jobs:
        yield "No module of this configuration takes it, and none has."
    for job in event.jobs:
        yield ""
        yield from _job_lines(job, now)
    for waits in event.waits:
        yield ""
        yield coloured(waits_text(waits), YELLOW)
    if event.unseen:
        yield f"\nThe queues were not looked at, so what waits in them is not known: {shortened(event.unseen, 300)}"
    if commands := advice(event):
        yield "\nNext:"
        for words in commands:
            yield f"  {PROGRAM} {plain(shlex.join(words))}{flags}"


def _origin(event: EventTold) -> Iterator[str]:
    flow = f"flow {event.correlation_id}" if event.correlation_id else "no flow is known"
    whence = f"from {event.name}" if event.name else "from nobody knows whom"
    if not event.stored:
        whence += ", whose message is all there is of it: it left no document"
    if event.parent:
        whence += f", made of event {event.parent}"
    yield f"  {shortened(f'{whence}; {flow}', 300)}"
    brings = [*event.files[:3], *([counted(len(event.files) - 3, "more file")] if len(event.files) > 3 else [])]
    if event.data:
        brings.append(shortened(pairs_text(event.data), PAIRS_WIDTH))
    if brings:
        yield f"  brings {shortened(' '.join(brings), REASON_WIDTH)}"


def _job_lines(job: JobTold, now: datetime) -> Iterator[str]:
    from ion_core.why import JobState

    decided = (JobState.DEAD, JobState.REMOVED, JobState.RETRIED, JobState.POSTPONED, JobState.OWING)
    red = job.state in (JobState.DEAD, JobState.REMOVED, JobState.ABSENT)
    yellow = job.state in (JobState.RETRIED, JobState.POSTPONED, JobState.OWING)
    title = f"{job.module}: {_state(job, now)}"
    yield coloured(shortened(title, 300), RED if red else YELLOW if yellow else None)
    if not job.taken:
        yield "  no module of this configuration takes what is in this queue"
    if job.rule is not None:
        rule, arrow = job.rule, mark("→", "->")
        counts = {"yes": " (counted)", "no": " (not counted)"}.get(rule.counted, "")
        when = "by" if job.state in decided else "last time by"
        yield f"  {when} the rule {rule.name}: {rule.what} {arrow} {rule.settled}{counts}"
    elif job.state is JobState.DEAD:
        yield "  by which rule, nothing says: its log is gone, or of a version that kept none"
    is_told = any(it.reason == job.reason for it in job.attempts[-SHOWN:])
    if job.reason and job.state is not JobState.COMMITTED and not is_told:
        yield f"  because: {shortened(job.reason, REASON_WIDTH)}"
    if len(job.attempts) > SHOWN:
        yield f"  {counted(len(job.attempts) - SHOWN, 'earlier attempt')}"
    for attempt in job.attempts[-SHOWN:]:
        yield f"  {_attempt(attempt)}"
    if job.emitted:
        some = ", ".join(f"{it.type} {it.id}" for it in job.emitted[:SHOWN])
        more = f", and {counted(len(job.emitted) - SHOWN, 'more event')}" if len(job.emitted) > SHOWN else ""
        yield f"  emitted {shortened(some, 400)}{more}"


def _state(job: JobTold, now: datetime) -> str:
    from ion_core.why import JobState

    state, when = job.state, _when(job.since, now)
    nth = f", attempt {job.attempt}" if job.attempt is not None and job.attempt > 1 else ""
    if state is JobState.DEAD:
        return f"dead letter {job.letter.id}{when}" if job.letter is not None else f"a dead letter{when}"
    if state in (JobState.RETRIED, JobState.POSTPONED):
        why = "to be retried" if state is JobState.RETRIED else "put behind the others, and that is not counted"
        return f"{why}; attempt {job.attempt} {_due(job.until, now)}"
    said = {
        JobState.COMMITTED: f"committed{nth}{when}",
        JobState.OWING: f"committed{nth}{when}; what it emitted is still to be published",
        JobState.RUNNING: f"running{nth}{when}",
        JobState.WAITING: f"waits in its queue{nth}{_place(job)}",
        JobState.HELD: "not seen in its queue, of which a dispatcher holds some: it may be among these",
        JobState.DELAYED: "not seen in its queue, of which some wait for a delay: it may be among these",
        JobState.REMOVED: f"given up{when}; its dead letter was purged or moved",
        JobState.ABSENT: "in no queue: the module came later, the queue was dropped, or somebody took it out",
        JobState.UNKNOWN: "not known: nothing of it is stored",
    }
    return said[state]


def _place(job: JobTold) -> str:
    if not job.ahead:
        return ", the next one" if job.ahead == 0 else ""
    return f", behind {counted(job.ahead, 'other')}"


def _when(time: str, now: datetime) -> str:
    from ion_core.flows import parsed

    then = parsed(time)
    return "" if then is None else f", {then:%Y-%m-%d %H:%M:%S} UTC ({ago(then, now)} ago)"


def _due(time: str, now: datetime) -> str:
    from ion_core.flows import parsed

    due = parsed(time)
    if due is None:
        return "is to come, nothing says when"
    if due <= now:
        return f"was due {ago(due, now)} ago: once a dispatcher has room"
    return f"not before {due:%Y-%m-%d %H:%M:%S} UTC (in {ago(now, due)})"


def _attempt(attempt: AttemptTold) -> str:
    from ion_core.flows import parsed

    begun = parsed(attempt.started_at)
    when = f"{begun:%Y-%m-%d %H:%M:%S}" if begun is not None else "?"
    took = f"  {attempt.seconds:.3g} s" if attempt.seconds is not None else ""
    rule = f" [{attempt.rule.name}]" if attempt.rule is not None else ""
    reason = f": {attempt.reason}" if attempt.reason else ""
    return f"attempt {attempt.number}  {when}{took}  {shortened(f'{attempt.outcome}{reason}', REASON_WIDTH)}{rule}"
