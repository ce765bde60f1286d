"""Tells plugins what happened, without ever waiting for one of them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ion_core.jobs import Verdict
from ion_core.registry.observing import OBSERVING, Observing, has

if TYPE_CHECKING:
    from pathlib import Path

    from ion_core.events import Event
    from ion_core.jobs import Attempt, Outcome

logger = logging.getLogger(__name__)

TOGETHER = 0.02
"""Seconds in which what happens is told together: a thread that is woken for each call takes more from the event loop
than the call does."""

_Call = tuple[str, Mapping[str, Any]]


class Observers:
    """Delivers what happened to every plugin that observes: each has a bounded queue and a thread of its own.

    No method but ``close`` waits, so all may be called on the event loop. What a hook raises is logged and swallowed.
    While one takes longer than ``hang_after`` seconds, or ``queue_size`` calls wait, the plugin's further calls are
    dropped and counted. Without an observing plugin there are no threads and nothing is done.
    """

    def __init__(self, plugins: Mapping[str, Observing], *, hang_after: float = 5.0, queue_size: int = 1000) -> None:
        """``plugins``: each under its name, one that has several sections once for each."""
        self._threads = [
            _Observer(name, it, queue_size)
            for name, it in sorted(plugins.items())
            if any(has(it.hooks, hook) for hook in OBSERVING)
        ]
        self._closing = threading.Event()
        self._hang_after = hang_after
        self._serving = False
        for observer in self._threads:
            observer.start()
        if self._threads:
            threading.Thread(target=self._watch, name="observers", daemon=True).start()

    def job_started(self, attempt: Attempt) -> None:
        self._tell("ion_job_started", attempt=attempt)

    def job_finished(self, attempt: Attempt, outcome: Outcome) -> None:
        self._tell("ion_job_finished", attempt=attempt, outcome=outcome)

        if outcome.verdict is Verdict.DEAD_LETTERED:
            self._tell("ion_job_dead_lettered", attempt=attempt, outcome=outcome)

    def event_published(self, event: Event) -> None:
        self._tell("ion_event_published", event=event)

    def serve_started(self, state: Path, modules: Sequence[str]) -> None:
        self._serving = True
        self._tell("ion_serve_started", state=state, modules=modules)

    def serve_stopped(self) -> None:
        """Nothing where it never started."""
        if self._serving:
            self._serving = False
            self._tell("ion_serve_stopped")

    def reload(self, plugins: Mapping[str, Observing]) -> None:
        """Give those of the same names these settings, from the next call on; nothing else changes."""
        for observer in self._threads:
            if (found := plugins.get(observer.plugin)) is not None:
                observer.settings = found.settings

    @property
    def dropped(self) -> Mapping[str, int]:
        """Calls that each plugin was not given."""
        return {observer.plugin: observer.dropped for observer in self._threads}

    def close(self, timeout: float = 5.0) -> None:
        """Let what is queued be delivered, for at most ``timeout`` seconds in all. Later calls are ignored."""
        observers, self._threads = self._threads, []
        deadline = time.monotonic() + timeout
        for observer in observers:
            observer.end()
        for observer in observers:
            observer.join(max(0.0, deadline - time.monotonic()))
            if observer.is_alive():
                logger.warning("observer did not end in time", extra={"plugin": observer.plugin})
        self._closing.set()

    def _tell(self, hook: str, **arguments: Any) -> None:
        if not self._threads:
            return
        at = datetime.now(UTC)  # here: a plugin may be told late
        for observer in self._threads:
            observer.put(hook, {**arguments, "at": at})

    def _watch(self) -> None:
        """Notice hooks that hang, also when nothing further happens."""
        observers: Sequence[_Observer] = self._threads
        while not self._closing.wait(self._hang_after / 4):
            for observer in observers:
                observer.check(self._hang_after)


class _Observer(threading.Thread):
    """One plugin's queue and the thread that empties it."""

    def __init__(self, plugin: str, observing: Observing, queue_size: int) -> None:
        super().__init__(name=f"observer-{plugin}", daemon=True)
        self.plugin = plugin
        self.settings = observing.settings
        self.dropped = 0
        self._hooks = {hook: getattr(observing.hooks.hook, hook) for hook in OBSERVING if has(observing.hooks, hook)}
        self._calls: deque[_Call] = deque()
        self._most = queue_size
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._under_way: tuple[str, float] | None = None
        self._hung: tuple[str, float] | None = None

    def put(self, hook: str, arguments: Mapping[str, Any]) -> None:
        if hook not in self._hooks:
            return
        if self._hung is not None or len(self._calls) >= self._most:
            self.dropped += 1
            if self.dropped == 1:
                logger.warning("observer is too slow, calls are dropped", extra={"plugin": self.plugin, "hook": hook})
            return
        self._calls.append((hook, arguments))
        if not self._wake.is_set():
            self._wake.set()

    def check(self, hang_after: float) -> None:
        call = self._under_way
        if call is None or call is self._hung or time.monotonic() - call[1] < hang_after:
            return
        self._hung = call
        logger.warning(
            "observer hangs, its calls are dropped until it returns", extra={"plugin": self.plugin, "hook": call[0]}
        )

    def end(self) -> None:
        """End once nothing waits."""
        self._ending.set()
        self._wake.set()

    def run(self) -> None:
        while self._calls or not self._ending.is_set():
            self._wake.wait()
            self._wake.clear()  # what comes from here on is seen below, or wakes us again
            while self._calls:
                self._tell(*self._calls.popleft())
            self._ending.wait(TOGETHER)

    def _tell(self, hook: str, arguments: Mapping[str, Any]) -> None:
        self._under_way = (hook, time.monotonic())
        try:
            self._hooks[hook](**arguments, settings=self.settings)
        except BaseException:  # also SystemExit: nothing a plugin raises ends its observing
            logger.warning("observer failed", extra={"plugin": self.plugin, "hook": hook}, exc_info=True)
        self._under_way = None
        if self._hung is not None:
            self._hung = None
            logger.warning("observer returned", extra={"plugin": self.plugin, "hook": hook, "dropped": self.dropped})
