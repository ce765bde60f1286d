"""What a service may look at: flows, documents, files, logs, the pipeline, by page. Value types, all of them frozen."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Generic, Literal, NamedTuple, TypeVar

from ion_core.contracts.messaging import DeadLetter, QueueStats
from ion_core.events import Event, Pairs, StoredFile

T = TypeVar("T", covariant=True)

FlowState = Literal["dead", "failed", "running", "done"]
"""The worst of a flow's jobs, in the words of `ion-core trace list`."""
JobState = Literal["committed", "pending", "retried", "dead-lettered", "gone"]
"""``gone``: it would be pending or retried if the configuration still had the module."""

WhyState = Literal[
    "committed",
    "committed, not published",
    "dead letter",
    "running",
    "waiting",
    "to be retried",
    "postponed",
    "held",
    "delayed",
    "dead letter removed",
    "not in the queue",
    "not known",
]
"""How a module stands to an event, in the words of `ion-core why`.

``postponed`` counts as no attempt; ``held`` and ``delayed`` are seen nowhere, and may be among the messages of the
queue that somebody holds, or that wait for a delay; ``not known`` is what the broker does not tell.
"""

ChangeKind = Literal["published", "started", "finished", "missed"]


@dataclass(frozen=True, kw_only=True)
class Page(Generic[T]):
    """Some of many.

    ``cursor``   where the next page goes on, opaque; None where there is none. A page may be short, or empty, and have
                 one: it has looked at as much as one page may.
    ``damaged``  what is said of documents that cannot be read, met on the way to this page; they hide no others.
    """

    items: Sequence[T]
    cursor: str | None = None
    damaged: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class FlowOutcome:
    """How a flow stands: an event from outside and all that followed from it.

    ``outcome``  the worst of its jobs, in the words of `ion-core trace list`: ``dead`` was given up, ``failed`` failed
                 and is to be tried again, ``running`` waits or runs; ``done`` is a flow that has none of these.
    ``over``     whether each of its jobs has committed or was given up. A dead letter that is redriven begins anew.
    ``events``   how many there are so far.
    ``jobs``     how many there are so far, by state: ``committed``, ``pending``, ``retried``, ``dead-lettered``, and
                 ``gone`` where the configuration has the module no more.
    ``failing``  the modules whose jobs were given up, or failed last time, each once.
    """

    correlation_id: str
    outcome: FlowState
    over: bool
    events: int
    jobs: Mapping[str, int]
    failing: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class FlowSummary(FlowOutcome):
    """A flow in a list: how it stands, and what it began with.

    ``event_id``, ``type``, ``data`` and ``files`` are those of its first event; ``started_at`` is when its first
    attempt began, ``finished_at`` when its last one so far ended, None where none has.
    """

    event_id: str
    type: str
    data: Pairs = ()
    files: Sequence[str] = ()
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class AttemptView:
    """What the log of one attempt says. ``seconds`` it took by step (``prepare``, ``module``, ``commit``), and ``all``.

    Numbers begin again after a redrive; ``token`` is unlike that of any other attempt.
    """

    number: int
    token: str
    outcome: str
    reason: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class JobView:
    """One module's work for one event. ``events`` are the ids of those that it led to, ``insights`` its facts.

    ``committed_by`` is number and token of the attempt that committed. ``formerly`` are names that the module had when
    it did some of this.
    """

    event_id: str
    module: str
    state: JobState
    attempts: Sequence[AttemptView] = ()
    committed_by: tuple[int, str] | None = None
    insights: Pairs = ()
    events: Sequence[str] = ()
    formerly: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class EventView:
    """An event of a flow: who it came from, what it brings. ``parent_event_id`` is '' for what starts a flow.

    ``gathered`` are the ids of the events that a gatherer is given with it, of one that starts a gatherer.
    """

    event_id: str
    type: str
    name: str
    parent_event_id: str
    data: Pairs = ()
    files: Sequence[str] = ()
    gathered: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class FlowView:
    """All of a flow. An event stands behind the one that it followed from, jobs in the order of their events."""

    summary: FlowSummary
    events: Sequence[EventView]
    jobs: Sequence[JobView]
    damaged: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class FileView:
    """A file of a flow, and whose it is: the module that made it, and the event that it made it of.

    Of what ``came_in`` from outside ``module`` is who it came from, and the event is the one that brought it.
    """

    file: StoredFile
    module: str
    event_id: str
    came_in: bool


@dataclass(frozen=True, kw_only=True)
class FileContent:
    """A file whose content is at hand, of the size and sha256 that ``file`` says: ``chunks`` has all of it, once.

    Where it was asked for from some byte on, that is all from there.
    """

    file: StoredFile
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, kw_only=True)
class LogView:
    """The log of one attempt, with the sections ``Preparer logs``, ``Worker logs`` and ``Committer logs``."""

    event_id: str
    module: str
    attempt: AttemptView
    text: str


@dataclass(frozen=True, kw_only=True)
class RuleView:
    """A rule that decides about a delivery: a row of `ion-core docs delivery`, in its words.

    ``what`` went wrong, by which verb the delivery is ``settled``, and whether that is ``counted`` as an attempt.
    """

    name: str
    what: str
    settled: str
    counted: str


@dataclass(frozen=True, kw_only=True)
class WhyView:
    """How a module stands to an event, and why.

    ``taken``    whether the configuration has the module; where not, ``module`` is the queue that has the event.
    ``since``    when it came into its state, ``until`` when that ends at the earliest; None where that is not known.
    ``rule``     what decided last; None for a commit, and where nothing was decided or nothing says by which.
    ``reason``   what was said of it, '' where nothing was.
    ``attempt``  the number of the attempt that committed, runs or comes next; None where none is to come.
    ``ahead``    how many wait before it, of one that is ``waiting``.
    ``letter``   its dead letter.
    ``next``     commands to type, the most useful first.
    """

    module: str
    taken: bool
    state: WhyState
    since: datetime | None = None
    until: datetime | None = None
    rule: RuleView | None = None
    reason: str = ""
    attempt: int | None = None
    ahead: int | None = None
    letter: LetterId | None = None
    next: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class ModuleView:
    """A module of the configuration. ``image`` is None where it is a program of this machine."""

    name: str
    subscribes: Sequence[str]
    publishes: Sequence[str]
    runtime: str
    image: str | None
    concurrency: int
    retries: int
    timeout: timedelta


@dataclass(frozen=True, kw_only=True)
class Link:
    """Events of a type go from one module to another. ``source`` is '' for what comes from outside, ``target`` '' for
    what no module takes."""

    source: str
    type: str
    target: str


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """The modules of the configuration, in its order, and how events go between them.

    Each type that a module takes has a link from each module that may publish it, or from outside where none may; each
    that a module may publish and none takes has a link to nowhere.
    """

    modules: Sequence[ModuleView]
    links: Sequence[Link]


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """A line that a module which runs now has printed."""

    module: str
    attempt: int
    text: str


@dataclass(frozen=True, kw_only=True)
class RunningView:
    """An attempt whose module runs in this process or a worker, or with an engine that it asks, ``since`` then."""

    event_id: str
    correlation_id: str
    type: str
    module: str
    attempt: int
    token: str
    since: datetime


@dataclass(frozen=True, kw_only=True)
class SlotsView:
    """Where the attempts of a module run in this process and its workers, and how many got what since it began.

    ``warm``    so many are kept ready for events to come, as the configuration says; ``ready`` are, now.
    ``found``   attempts for which one was ready, or was being made. ``reused`` found a module that waited for them,
                where the configuration has it ``reuse``.
    ``made``    attempts that waited until one was made.
    """

    module: str
    warm: int
    ready: int
    found: int
    reused: int
    made: int


@dataclass(frozen=True, kw_only=True)
class OutboxView:
    """What commits owe: events that are to be published, where the process that committed did not get so far.

    ``owed``       commits that the last look found to owe events for longer than a minute, and that still do; a look
                   that ended early, as the broker was away, has not found all of them.
    ``published``  commits that this process has published so since it began.
    ``looked_at``  when that look ended; None before the first one.
    """

    owed: int
    published: int
    looked_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class PlannedView:
    """An event that a service publishes by the clock: what it is called there, its type, and its coming ``times``."""

    service: str
    name: str
    type: str
    times: Sequence[datetime]


@dataclass(frozen=True, kw_only=True)
class QueueView:
    """A queue of the broker. ``taken`` says that a module of the configuration takes it, which has its name.

    ``oldest`` is when the event that is next in it was first stored; None where nothing is ready, or that is not known.
    """

    name: str
    topics: Sequence[str]
    taken: bool
    stats: QueueStats
    oldest: datetime | None = None


class LetterId(NamedTuple):
    """Which dead letter: ids are unlike each other within a queue."""

    queue: str
    id: str


@dataclass(frozen=True, kw_only=True)
class LetterFilter:
    """Which dead letters: all that meet every condition given.

    ``reason`` is all of it, or its cause as groups have it; ``containing`` is part of the reason, in any case.
    """

    module: str | None = None
    type: str | None = None
    reason: str | None = None
    containing: str | None = None


EVERY_LETTER = LetterFilter()


@dataclass(frozen=True, kw_only=True)
class DeadLetterView:
    """A dead letter, and the event that it is: None where it is ``unreadable``, which says why.

    ``taken`` says that a module of the configuration takes its queue.
    """

    letter: DeadLetter
    event: Event | None
    unreadable: str = ""
    taken: bool


@dataclass(frozen=True, kw_only=True)
class LetterGroup:
    """Dead letters that have ``key`` in common, what they are grouped by; '' for the type of what is no event.

    By reason it is their cause: the reason without what is another thing in each, such as ids, with "…" in its place.
    """

    key: str
    count: int
    oldest: datetime
    newest: datetime


@dataclass(frozen=True, kw_only=True)
class Change:
    """Something that happened in this process, or in a worker of it.

    ``published``: the broker has the event. ``started`` and ``finished``: an attempt of ``module`` for the event,
    ``attempt`` is its number; once it has finished there is an ``outcome``, ``seconds`` as an ``AttemptView`` has them,
    and a ``reason`` unless it has committed. ``missed``: more happened than could be held, which was dropped; look anew
    at what there is.
    """

    kind: ChangeKind
    at: datetime
    correlation_id: str = ""
    event_id: str = ""
    type: str = ""
    module: str = ""
    attempt: int = 0
    outcome: str = ""
    reason: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why this process is not ready: where and what it is, since when, and what would do ('' if that is not known)."""

    where: str
    what: str
    would_do: str
    since: datetime


@dataclass(frozen=True, kw_only=True)
class HealthView:
    """How the process is.

    ``live``      its event loop turns. Where it is not, nothing but a restart helps.
    ``ready``     it takes events: it is live, has no problems and does not drain.
    ``draining``  it has been told to end: it takes nothing new, and finishes what runs.
    """

    live: bool
    ready: bool
    draining: bool
    problems: Sequence[Problem] = ()
