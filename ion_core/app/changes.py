"""What happens in this process, told to whoever listens, and handed on to the observers that plugins bring."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

from ion_core.contracts.looking import Change, ChangeKind
from ion_core.contracts.observer import Observer
from ion_core.events import Event
from ion_core.jobs import Attempt, Outcome

HELD = 1_000
"""Changes that are held for a listener that is slower than they come."""


class Changes:
    """An observer. Where nobody listens it costs nothing but handing on.

    ``hide`` is what reasons go through, as they do before they are stored.
    """

    def __init__(self, observer: Observer, *, hide: Callable[[str], str]) -> None:
        self._observer = observer
        self._hide = hide
        self._listeners: set[_Listener] = set()
        self.heard: Callable[[bool], None] | None = None
        """Told, where it is set, that somebody listens from now on (True), or nobody does (False)."""

    def job_started(self, attempt: Attempt) -> None:
        self._observer.job_started(attempt)
        if self._listeners:
            self.tell(_of_job("started", attempt))

    def job_finished(self, attempt: Attempt, outcome: Outcome) -> None:
        self._observer.job_finished(attempt, outcome)
        if self._listeners:
            change = replace(
                _of_job("finished", attempt),
                outcome=outcome.verdict.value,
                reason=self._hide(outcome.reason),
                seconds={it.name: it.seconds for it in outcome.steps} | {"all": outcome.seconds},
            )
            self.tell(change)

    def event_published(self, event: Event) -> None:
        self._observer.event_published(event)
        if self._listeners:
            self.tell(_of_event("published", event))

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[AsyncIterator[Change]]:
        """Within it all that happens is held for who iterates."""
        listener = _Listener()
        self._listeners.add(listener)
        if self.heard is not None and len(self._listeners) == 1:
            self.heard(True)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
            listener.end()
            if self.heard is not None and not self._listeners:
                self.heard(False)

    def tell(self, change: Change) -> None:
        """Tell whoever listens, no observer."""
        for listener in self._listeners:
            listener.put(change)


class _Listener(AsyncIterator[Change]):
    def __init__(self) -> None:
        self._held: deque[Change] = deque()
        self._some = asyncio.Event()
        self._over = False

    def put(self, change: Change) -> None:
        if len(self._held) == HELD:  # they are too many to be of use: what there is now is for the listener to see
            self._held.clear()
            change = Change(kind="missed", at=change.at)
        self._held.append(change)
        self._some.set()

    def end(self) -> None:
        self._over = True
        self._some.set()

    async def __anext__(self) -> Change:
        """Cancelling it loses no change."""
        while not self._held:
            if self._over:
                raise StopAsyncIteration
            self._some.clear()
            await self._some.wait()
        return self._held.popleft()


def _of_event(kind: ChangeKind, event: Event) -> Change:
    context = event.context
    return Change(
        kind=kind,
        at=datetime.now(UTC),
        correlation_id=context.correlation_id,
        event_id=context.event_id,
        type=event.type,
    )


def _of_job(kind: ChangeKind, attempt: Attempt) -> Change:
    about = _of_event(kind, attempt.job.event)
    return replace(about, module=attempt.job.module, attempt=attempt.number)
