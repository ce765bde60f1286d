"""What of a flow waits in a queue that no module of the configuration takes: it is pending for nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ion_core.cli.output import plain, say
from ion_core.errors import InvalidEvent, QueueNotDeclared, TransientError
from ion_core.events import parse_event
from ion_core.flows import COMMITTED, DEAD_LETTERED, PENDING, EventSeen, Flow, JobSeen

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.contracts.messaging import MessageBroker

LOOKED_AT = 10_000
"""Messages of one queue that are looked at, the oldest."""


async def look_for_strays(app: App, flow: Flow) -> None:
    """Add to each event of ``flow`` the queues it waits in for nobody. Asks no broker for a flow that is over."""
    from ion_core.app import stray_queues

    events = {event.id: event for event in flow.events() if not _is_over(event)}
    if not events:
        return
    try:
        broker = await app.broker()
        stranded: set[str] = set()
        for stray in await stray_queues(broker, app.config.modules):
            for id in await _ready(broker, stray.name) & events.keys() if stray.stats.ready else ():
                events[id].jobs.setdefault(stray.name, JobSeen(module=stray.name, taken=False))
                stranded.add(id)
        for name in {name for id in stranded for name, job in events[id].jobs.items() if _has_not_begun(job)}:
            if (found := await _certainly_there(broker, name)) is not None:
                for id in stranded - found:
                    if (job := events[id].jobs.get(name)) is not None and _has_not_begun(job):
                        job.unseen = True
    except TransientError as error:
        say(f"Queues that no module takes were not looked at: {plain(str(error))}")


def _is_over(event: EventSeen) -> bool:
    """Whether every job that it started is; where it started none that we know of, nobody can tell."""
    return bool(event.jobs) and all(job.state in (COMMITTED, DEAD_LETTERED) for job in event.jobs.values())


def _has_not_begun(job: JobSeen) -> bool:
    return job.state == PENDING and not job.attempts


async def _ready(broker: MessageBroker, queue: str) -> set[str]:
    """Ids of the events that are ready in it."""
    found = set()
    for message in await broker.peek(queue, limit=LOOKED_AT):
        try:
            found.add(parse_event(message.body).context.event_id)
        except InvalidEvent:
            continue  # no event of any flow
    return found


async def _certainly_there(broker: MessageBroker, queue: str) -> set[str] | None:
    """Ids of all events in it; None where some of them cannot be seen."""
    try:
        stats = await broker.stats(queue)
        if stats.delayed or stats.unsettled != 0 or stats.ready > LOOKED_AT:
            return None
        return await _ready(broker, queue)
    except QueueNotDeclared:
        return set()
