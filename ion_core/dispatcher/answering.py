"""Whether stores, runtimes and executors answer: one that is away is seen also while there is nothing to do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from ion_core.contracts.executor import Executor
from ion_core.contracts.runtime import ContainerRuntime
from ion_core.dataplane import DataPlane
from ion_core.dispatcher.bounded import wait_for_any
from ion_core.dispatcher.health import Health
from ion_core.errors import IonError, StorageFull

log = logging.getLogger(__name__)

ASK_EVERY = 15.0
"""Seconds from one question to the next while all answer."""
ASK_AGAIN = 5.0
"""The same while one does not."""
ANSWER_WITHIN = 10.0
"""Seconds for an answer."""

LABEL_OF_NOBODY = "ion.asked"
"""No container has it, so that looking for one costs little."""

Ask = Callable[[], Awaitable[object]]


def questions(
    dataplane: DataPlane, runtimes: Mapping[str, ContainerRuntime], executors: Mapping[str, Executor]
) -> dict[str, Ask]:
    """What each provider is asked, by its place in the configuration. It changes nothing, and costs a request."""
    nobody = {LABEL_OF_NOBODY: "nobody"}
    asks: dict[str, Ask] = {"storage.blobs": dataplane.blobs_answer, "storage.documents": dataplane.documents_answer}
    asks |= {f"runtimes.{name}": partial(it.find, nobody) for name, it in runtimes.items()}
    asks |= {f"runtimes.{name}": partial(it.find, nobody) for name, it in executors.items()}
    return asks


class Answering:
    """Asks, and says in ``health`` who does not answer. ``hide`` is what reasons go through."""

    def __init__(self, asks: Mapping[str, Ask], health: Health, *, hide: Callable[[str], str] = str) -> None:
        self._asks = asks
        self._health = health
        self._hide = hide
        self._soon = asyncio.Event()
        self._away: set[str] = set()
        self._open: dict[str, asyncio.Task[object]] = {}
        """Questions without an answer: nobody is asked twice at once, since what hangs may hold a thread each time."""

    def soon(self) -> None:
        """Somebody was not answered: ask now."""
        self._soon.set()

    async def run(self) -> None:
        """Ask until cancelled; the first time when something is wrong, or after a while."""
        try:
            while True:
                await wait_for_any(self._soon, timeout=ASK_AGAIN if self._away else ASK_EVERY)
                self._soon.clear()
                await self.ask()
        finally:
            for task in self._open.values():
                task.cancel()

    async def ask(self) -> None:
        """Ask all of them at once, and note who answers."""
        for part, ask in self._asks.items():
            if part not in self._open:
                self._open[part] = asyncio.ensure_future(ask())
        await asyncio.wait(self._open.values(), timeout=ANSWER_WITHIN)
        for part, task in [*self._open.items()]:
            if task.done():
                del self._open[part]
                self._note(part, task.exception())
            else:
                self._red(part, f"has not answered for {ANSWER_WITHIN:g} s. See whether what it stands for still runs.")

    def _note(self, part: str, error: BaseException | None) -> None:
        if error is None:
            self._away.discard(part)
            self._health.green(part)
            return
        if isinstance(error, StorageFull):
            self._health.storage_full(self._hide(str(error)))  # which is watched from there on
            return
        if not isinstance(error, IonError) and part not in self._away:
            log.error("%s could not be asked, by a bug", part, exc_info=error)
        self._red(part, str(error) or type(error).__name__)

    def _red(self, part: str, problem: str) -> None:
        self._away.add(part)
        self._health.red(part, self._hide(problem))
