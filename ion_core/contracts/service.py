"""The service contract: something that runs beside the dispatcher, such as a gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

from ion_core.contracts.looking import (
    EVERY_LETTER,
    Change,
    DeadLetterView,
    FileContent,
    FileView,
    FlowState,
    FlowSummary,
    FlowView,
    HealthView,
    LetterFilter,
    LetterGroup,
    LetterId,
    LogLine,
    LogView,
    OutboxView,
    Page,
    Pipeline,
    PlannedView,
    QueueView,
    RunningView,
    SlotsView,
    WhyView,
)
from ion_core.contracts.looking import FlowOutcome as FlowOutcome
from ion_core.contracts.storage import BlobInfo, Document
from ion_core.events import Event


class ServiceHost(Protocol):
    """What a service may ask of the process it runs in.

    What it looks at raises TransientError where a provider is away, PermanentError where it has what cannot be read
    (documents that are damaged are told in the answer), and InvalidCursor, which is one, for what is no cursor.
    """

    @property
    def name(self) -> str:
        """What the configuration calls this service."""

    @property
    def directory(self) -> Path:
        """A directory of this service alone, for what it keeps over restarts; it is there. ``work`` is in it.

        ``StatePath``s of its settings start there too. Names that begin with a dot are the host's.
        """

    @property
    def work(self) -> Path:
        """A directory of this service alone, for files on their way in; it is there, and only its owner can enter it.

        It is emptied before each ``run``, so what a process that was killed left there is gone; what is done with goes
        by the service's own hand, at once. Its files are on the disk of the state directory, which may be full.
        """

    async def publish(
        self,
        event_type: str,
        *,
        data: Sequence[tuple[str, str]] = (),
        files: Mapping[str, Path] | None = None,
        event_id: str | None = None,
        correlation_id: str | None = None,
        name: str | None = None,
        parent_event_id: str = "",
        traceparent: str = "",
        consume: bool = False,
        told: Mapping[str, BlobInfo] | None = None,
    ) -> Event:
        """Accept an event from outside: files and document stored, then the message, durably.

        Its context has the name that the service has in the configuration, and no parent: an event from outside starts
        a flow. ``name`` and ``parent_event_id``, of up to 1,024 characters, are for a context that others rely on; the
        parent need not be an event that there is. ``traceparent`` is what W3C Trace Context calls so, of whoever sent
        it: the flow belongs to that trace. What is none is ignored, and of an event taken before, the first counts.

        ``files`` maps the name the next module sees in ``in/data`` to a local file. They are read until this has
        returned or raised, and may go then; they must not change before. With ``consume`` they are given away, which
        may spare a copy: they may be gone afterwards, also where it raises. ``told`` has size and sha256 of those that
        the service wrote itself, where nobody else can, and hashed as it wrote them: that may spare reading them again.
        One that is seen to be otherwise is a PermanentError. The same ``event_id`` again, with the same
        type, data, files and parent, is the same event: nothing is stored twice and the jobs it starts commit once.

        It ends within a minute, and a second more for each MiB of files; it may be cancelled. Raises nothing but

        - InvalidEvent, with all that is wrong in ``problems``; IdTaken where the id is that of another event, with
          what ``differs``;
        - Unroutable where no module takes the type;
        - MessageRefused where the broker takes no such message, and another PermanentError where a file cannot be
          read or a store never takes it: the same again does not help;
        - TransientError where a store or the broker is away or takes too long (StorageFull: the disk is full). Whether
          the event was published is unknown then: with an ``event_id`` it may be published again;
        - ConfigError and StateError where a provider cannot be used as it is set up, PluginFailed where it is at fault.
        """

    async def pending(self, event_type: str) -> int | None:
        """How many messages wait in the queues of the modules that take this type, retries that wait included.

        What is being worked on does not count, and an event that two modules take counts twice. None where the broker
        does not tell; 0 of a type that nobody takes. Ends within half a minute, and raises nothing of a broker's.
        """

    async def outcome(self, correlation_id: str, *, within: timedelta = timedelta(0)) -> FlowOutcome | None:
        """What became of a flow: at once if it is over, else once it is, or as it stands when ``within`` has passed.

        None where there is no event of that correlation id. It is read from the document store, so it is the same
        whichever process does the work. Raises TransientError where the store does not answer, PermanentError where it
        has what cannot be read.
        """

    def pipeline(self) -> Pipeline:
        """The modules of the configuration and how events go between them; the same for as long as the service runs."""

    async def flows(
        self,
        *,
        outcomes: Collection[FlowState] | None = None,
        module: str | None = None,
        type: str | None = None,
        since: datetime | None = None,
        containing: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[FlowSummary]:
        """The flows that meet every condition given, the newest first: by when they began, which never changes.

        ``outcomes`` are those one of which it has; ``module`` has a job in it, or is to have one; ``type`` is that of
        any of its events; ``since`` a job of it ended, or, where none has begun, it came; ``containing`` is part of its
        correlation id, or of the id, the type, a key, a value or the name of a file of its first event, in any case.
        ``after`` is the cursor of the page before, which had the same conditions. So each flow is on one page, whatever
        comes and goes.

        What a page skips it reads as little of as can be. Those that are ``dead`` or ``failed`` alone have documents
        that say so, as have those of a time: nothing of others is read. Of other types the documents of events are, and
        of those that do not contain the text.
        Whether another flow is ``running`` or ``done``, or has a job of ``module``, takes reading it: a page that has
        looked at a thousand documents in vain ends there, and has a cursor to go on.
        """

    async def flow(self, correlation_id: str) -> FlowView | None:
        """All of a flow, and how it stands; None where there is no event of that correlation id."""

    async def documents(
        self,
        kind: str | None = None,
        *,
        correlation_id: str | None = None,
        newest_first: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[Document]:
        """Documents as they are stored, by page, under the conditions of ``DocumentStore.find``.

        The cursor of any document may be given for ``after``, and in either order.
        """

    async def files(self, correlation_id: str, event_id: str | None = None) -> Sequence[FileView]:
        """The files of a flow, each once; with ``event_id`` those that this event brings or that were made of it.

        Documents that are damaged are passed over, here and in ``logs``: ``flow`` tells of them.
        """

    def file(self, correlation_id: str, key: str, *, start: int = 0) -> AbstractAsyncContextManager[FileContent]:
        """The content of one file of a flow, which is at hand as a whole, and right, once the context is entered.

        Its chunks begin at the byte ``start``; where that is behind the last there are none.

        It lies on the disk of the state directory until the context is left, unless the store has it there already.
        Raises BlobNotFound where the flow has no file of that key, or the store has it no more, and BlobCorrupt where
        it is other than its document says.
        """

    async def logs(self, event_id: str, *, correlation_id: str | None = None) -> Sequence[LogView]:
        """The logs of all attempts for that event that have ended, in the order of their ends.

        ``correlation_id`` may be left out for an event that has a document; without one there are none.
        """

    def follow(self, event_id: str, *, wait: bool = False) -> AsyncIterator[LogLine]:
        """What the modules print that this process runs for that event, from their start, until none runs any more.

        With ``wait``, if none runs now, the first to come is waited for, however long. What came from outside of the
        configuration and must not be shown is masked. Logs of attempts that have ended, and of those that other
        processes run, are in ``logs`` once they have.
        """

    async def why(self, event_id: str, *, correlation_id: str | None = None) -> Sequence[WhyView]:
        """What happened to that event at each module, which rule decided it, what is pending, and what to type next.

        Of each module that takes it or took it, as `ion-core why` tells it, and of each queue that shows it; nothing of
        an event that nobody knows. ``correlation_id`` may be left out for an event that has a document. What runs by
        other processes is ``held``. Documents of the flow that are damaged are passed over: ``flow`` tells of them.
        """

    async def report(self, correlation_id: str) -> bytes | None:
        """A page about a flow, HTML in UTF-8, as `ion-core trace flow ID --html` writes it; None where there is none.

        It is whole in itself, runs no script and asks for nothing. What must not be shown is masked. It is a few MiB at
        most, whatever the flow has: logs and pictures are shown until they are too many.
        """

    def running(self) -> Sequence[RunningView]:
        """The attempts whose modules run at this moment by this process, the longest first."""

    def slots(self) -> Sequence[SlotsView]:
        """Where attempts run in this process, a view for each module, in the order of the configuration."""

    def outbox(self) -> OutboxView:
        """What commits owe, as this process saw it last: it looks every half minute, and once before it serves."""

    def planned(self, count: int = 3) -> Sequence[PlannedView]:
        """What services of the configuration will publish by the clock, as far as they tell, the next one first.

        ``count`` times of each.
        """

    async def queues(self) -> Sequence[QueueView]:
        """Every queue of the broker with its counts, by name; those of modules that have none yet are not among them.

        Ends within half a minute.
        """

    async def dead_letters(
        self,
        which: LetterFilter = EVERY_LETTER,
        *,
        newest_first: bool = True,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[DeadLetterView]:
        """Dead letters by page, also in queues that no module takes; by when they died.

        ``after`` is the cursor of a page, good in either order though its dead letter be gone. A broker gives all of a
        queue at once: what is read does not grow less by page.
        """

    async def dead_letter_groups(self, by: Literal["reason", "module", "type"]) -> Sequence[LetterGroup]:
        """How many there are of each cause (``reason``), module or type, the most first.

        The key can be given to a LetterFilter.
        """

    async def redrive(self, ids: Sequence[LetterId]) -> int:
        """Put these dead letters back into their queues, attempts starting again at 1; how many that were.

        Raises DeadLetterNotFound, naming them, if any is not there. Each queue's move together or not at all.
        """

    async def redrive_all(self, which: LetterFilter) -> int:
        """The same with all that are meant; how many that were. Of those that come or go meanwhile it takes some.

        Those in queues that no module of the configuration takes only where ``which.module`` names the queue: they may
        be another configuration's. After an error some may have moved: the same again moves the others.
        """

    async def purge(self, ids: Sequence[LetterId]) -> int:
        """Delete these dead letters for good. Returns and raises as ``redrive``."""

    async def purge_all(self, which: LetterFilter) -> int:
        """The same with all that are meant, as ``redrive_all``."""

    def changes(self) -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        """What happens in this process from the moment on that the context is entered, until it is left.

        So nothing is missed by who enters it, looks at what there is, and iterates then. The iteration has no end. Who
        is slower than a thousand changes is told that some were ``missed``. What other processes do is not in it.
        """

    def health(self) -> HealthView:
        """How this process is. May be called from any thread, at any time, also when the event loop does not turn."""

    def event_types(self) -> Sequence[str]:
        """The event types that some module takes, sorted."""

    def problems(self) -> Sequence[str]:
        """Why this process is not ready, a sentence each; empty when it is, or drains. ``health`` tells more."""


class Service(Protocol):
    """Runs beside the dispatcher, from before the first delivery until the last job has ended."""

    async def run(self, host: ServiceHost, stop: asyncio.Event, ready: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then finish what is under way and return within a few seconds.

        Sets ``ready`` once it serves. Leaves nothing in ``host.work``. Raising is a failure, returning before ``stop``
        too: it ends the process after a drain, or the service is opened anew and run again, as the configuration says.
        What is no IonError is reported as a fault of the plugin.
        """


class Reloads(Service, Protocol):
    """A service that takes over new settings while it runs, as secrets that are replaced. That is optional."""

    def reload(self, settings: Any) -> Collection[str]:
        """Take over from ``settings`` what can be, for what begins from now on; what is under way keeps what it has.

        ``settings`` are valid, of the provider's model, and of the same section as those the service was opened with;
        they may be the same. Called on the event loop at any time while the service is open, so it ends at once.

        Returns the keys that differ from what is in use and take a restart, as ``settings.section.where`` has them;
        none where all is in use. Raises ConfigError where they cannot be taken over together with what takes a restart;
        then nothing has changed.
        """
