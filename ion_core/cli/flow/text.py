"""A flow as a tree for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ion_core.cli.output import RED, YELLOW, coloured, mark, short_ids, shortened
from ion_core.flows import (
    COMMITTED,
    DEAD_LETTERED,
    GONE,
    PENDING,
    RETRIED,
    AttemptSeen,
    EventSeen,
    Flow,
    JobSeen,
)
from ion_core.words import counted, in_seconds

if TYPE_CHECKING:
    from ion_core.gathering.waiting import Awaited, Waits

MAX_INDENT = 40
"""Branches that are indented; what is deeper is not drawn further to the right, so a line stays a line."""
NOTE_WIDTH = 300
"""Of an attempt: enough for a reason with what would do."""
MAX_AWAITED = 5
"""Jobs that are named of those for which a gatherer waits."""
PAIRS_WIDTH, PAIRS_SHOWN = 80, 20
LOG_LOST = "its log was lost with the process that ran it, or is about to be stored"
STEPS = ("prepare", "module", "commit")
STATES = {
    COMMITTED: "committed",
    DEAD_LETTERED: "dead-lettered",
    RETRIED: "to be retried",
    PENDING: "pending",
    GONE: "that no module takes",
}

Item = EventSeen | JobSeen


@dataclass(frozen=True)
class Glyphs:
    """What branches are drawn with."""

    fork: str
    last: str
    bar: str
    gap: str

    @classmethod
    def fitting(cls) -> Glyphs:
        """Lines where standard output has them, ASCII otherwise."""
        lines = cls("├─ ", "└─ ", "│  ", "   ")
        return lines if mark("├└│─", "") else cls("|- ", "`- ", "|  ", "   ")


COLOURS = {DEAD_LETTERED: RED, RETRIED: YELLOW}


def lines(flow: Flow, *, colours: bool = True) -> Iterator[str]:
    """The whole tree, however deep, however many events; on a terminal in ``colours``."""
    yield _summary(flow)
    glyphs = Glyphs.fitting()
    ids = short_ids(event.id for event in flow.events())
    waiting: list[tuple[Item, str, str, int]] = [(event, "", "", 0) for event in reversed(flow.roots)]
    while waiting:
        item, first, rest, depth = waiting.pop()
        below = _below(item)
        colour = COLOURS.get(item.state) if colours and isinstance(item, JobSeen) else None
        yield first + coloured(_title(item, ids), colour)
        for note in _notes(item):
            yield rest + (glyphs.bar if below else glyphs.gap) + note
        indent = rest if depth < MAX_INDENT else ""
        branches = []
        for n, child in enumerate(below):
            last = n == len(below) - 1
            start, further = (glyphs.last, glyphs.gap) if last else (glyphs.fork, glyphs.bar)
            branches.append((child, indent + start, indent + further, depth + 1 if depth < MAX_INDENT else 0))
        waiting += reversed(branches)


def _below(item: Item) -> Sequence[Item]:
    return [*item.jobs.values(), *item.others] if isinstance(item, EventSeen) else item.events


def _title(item: Item, ids: Mapping[str, str]) -> str:
    return _event_title(item, ids) if isinstance(item, EventSeen) else _job_title(item)


def _notes(item: Item) -> Iterator[str]:
    if isinstance(item, EventSeen):
        return
    last = item.last
    for attempt in sorted(item.attempts, key=lambda it: (it.finished_at, it.number)):
        if attempt is not last or item.state != COMMITTED:
            reason = f": {attempt.reason}" if attempt.reason else ""
            yield shortened(f"attempt {attempt.number} {attempt.outcome}{_took(attempt)}{reason}", NOTE_WIDTH)
    if item.pairs:
        yield shortened("insight " + pairs_text(item.pairs), PAIRS_WIDTH)


def _event_title(event: EventSeen, ids: Mapping[str, str]) -> str:
    said = [shortened(event.type, 130), ids[event.id]]
    if event.name and not event.parent:
        said.append(f"from {shortened(event.name, 40)}")
    brings = [shortened(name, 40) for name in event.files[:3]]
    if len(event.files) > 3:
        brings.append(f"{counted(len(event.files) - 3, 'more file')}")
    if event.pairs:
        brings.append(shortened(pairs_text(event.pairs), PAIRS_WIDTH))
    return "  ".join([*said, *([" ".join(brings)] if brings else [])])


def _job_title(job: JobSeen) -> str:
    last, name = (
        job.last,
        shortened(job.module, 70) + (f" (then {shortened(', '.join(job.then), 70)})" if job.then else ""),
    )
    if job.state == RETRIED and last is not None:
        return f"{name}: waits for attempt {last.number + 1}"
    if job.state == GONE:
        return f"{name}: no module of this configuration takes this any more"
    if job.state == PENDING and job.unseen:
        return f"{name}: pending, but not seen in its queue"
    if job.state != COMMITTED:
        return f"{name}: {job.state}"
    number = last.number if last is not None else job.committed_by[0] if job.committed_by is not None else 1
    nth = f", attempt {number}" if number > 1 else ""
    return f"{name}: committed{nth}{f'; {LOG_LOST}' if last is None else _took(last)}"


def _took(attempt: AttemptSeen) -> str:
    if "all" not in attempt.seconds:
        return ""
    steps = ", ".join(f"{step} {in_seconds(attempt.seconds[step])}" for step in STEPS if step in attempt.seconds)
    return f" in {in_seconds(attempt.seconds['all'])} s{f' ({steps})' if steps else ''}"


def pairs_text(pairs: Sequence[tuple[str, str]], *, whole: bool = False) -> str:
    """In short unless ``whole``: what is cut ends with an ellipsis."""
    if whole:
        return " ".join(f"{key}={value}" for key, value in pairs)
    more = [mark("…", "...")] if len(pairs) > PAIRS_SHOWN else []
    return " ".join([*(f"{key}={shortened(value, PAIRS_WIDTH)}" for key, value in pairs[:PAIRS_SHOWN]), *more])


def waits_text(waits: Waits) -> str:
    """That a gatherer waits, and for what; ids are whole, since they are there to be pasted."""
    scope = f"{shortened(waits.type, 130)} {shortened(waits.scope, 80)}"
    if not waits.known:
        return f"{waits.gatherer} was to gather what is beneath {scope}: no module of this configuration does"
    if not waits.awaited:
        return f"{waits.gatherer} is about to gather what is beneath {scope}"
    some = [_awaited(it) for it in waits.awaited[:MAX_AWAITED]]
    if (more := len(waits.awaited) - MAX_AWAITED) > 0:
        some.append(f"and {more:,} more")
    return f"{waits.gatherer} waits for {counted(len(waits.awaited), 'job')} beneath {scope}: {'; '.join(some)}"


def _awaited(awaited: Awaited) -> str:
    gathers = "what is gathered by " if awaited.gathers else ""
    dead = ", a dead letter" if awaited.dead else ""
    return f"{gathers}{awaited.module} of {shortened(awaited.type, 130)} {shortened(awaited.event_id, 80)}{dead}"


def _summary(flow: Flow) -> str:
    events = sum(1 for _ in flow.events())
    states = Counter(job.state for job in flow.jobs())
    how = ", ".join(f"{states[state]} {said}" for state, said in STATES.items() if states[state])
    said = [
        f"flow {shortened(flow.correlation_id, 80)}",
        counted(events, "event"),
        f"{counted(sum(states.values()), 'job')}{f': {how}' if how else ''}",
    ]
    return mark(" · ", ", ").join([*said, *_span(flow)])


def _span(flow: Flow) -> list[str]:
    """When the first attempt began, and how long it was until the last one ended."""
    span = flow.span()
    return [] if span is None else [f"began {span[0]:%Y-%m-%d %H:%M:%S}", f"{in_seconds(span[1])} s"]
