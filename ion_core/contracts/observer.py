"""Who is told what happens, without a say in it."""

from __future__ import annotations

from typing import Protocol

from ion_core.events import Event
from ion_core.jobs import Attempt, Outcome


class Observer(Protocol):
    """Calls return at once and raise nothing, whatever the observer behind them does."""

    def job_started(self, attempt: Attempt) -> None: ...

    def job_finished(self, attempt: Attempt, outcome: Outcome) -> None: ...

    def event_published(self, event: Event) -> None: ...
