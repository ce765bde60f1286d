"""Whose trouble an error is that may pass: the provider's, which others meet too, or that of one event alone.

No provider has to know. Two witnesses tell: other events of the module, which pass the same stage meanwhile or do not;
and the stores, asked to keep and return something of our own.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum

from ion_core.dispatcher.bounded import Backoff, wait_for_any
from ion_core.errors import ProviderError

log = logging.getLogger(__name__)

UNCOUNTED = 6
"""Tries that an event's own trouble costs before it costs attempts: about a minute, as the delays grow."""
UNCOUNTED_TOGETHER = 20
"""The same where every event seen since is in trouble too though the stores answer: several minutes. Whoever has taken
the permission of all of them away gets the time to notice."""
ANSWER_WITHIN = 10.0
"""Seconds for the stores to keep and return something of our own."""
MOST_KNOWN = 10_000
"""Events in trouble that are remembered; who is forgotten starts at its first try again."""


class Stage(Enum):
    """How far an attempt has come, by who has to answer there."""

    DECIDE = "decide"
    SLOT = "slot"
    PREPARE = "prepare"
    MODULE = "module"
    COMMIT = "commit"
    PUBLISH = "publish"


STORES = {Stage.DECIDE, Stage.PREPARE, Stage.COMMIT}
"""Where it is documents and blobs that answer, of which we may ask something of our own."""


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """What becomes of an event in trouble: put behind the others for ``delay``, or, if ``counted``, failed."""

    delay: timedelta
    own: bool
    counted: bool


@dataclass
class _Case:
    """One event in trouble, from its first try on. ``tries`` are those that were shown to be its own trouble."""

    first: int
    last: int
    tries: int = 0
    backoff: Backoff = field(default_factory=lambda: Backoff(first=1.0, most=25.0))


class _Latest:
    """The two latest marks at a stage, of two jobs: so there is one of another job than any given one, if ever."""

    def __init__(self) -> None:
        self._marks: list[tuple[str, int]] = []

    def add(self, job_id: str, mark: int) -> None:
        others = [(job, other) for job, other in self._marks if job != job_id]
        self._marks = [(job_id, mark), *others[:1]]

    def of_others_after(self, job_id: str, mark: int) -> bool:
        return any(job != job_id and other > mark for job, other in self._marks)


class Progress:
    """Of one attempt: the stage it is at, and those behind it, where it was answered."""

    def __init__(self) -> None:
        self.stage = Stage.DECIDE
        self.behind: set[Stage] = set()

    def reaches(self, stage: Stage) -> None:
        self.behind.add(self.stage)
        self.stage = stage


class StoreWitness:
    """Asks the stores; ``ask`` raises what they raise. Who asks while somebody does shares the next answer."""

    def __init__(self, ask: Callable[[], Awaitable[None]]) -> None:
        self._ask = ask
        self._turn = asyncio.Lock()
        self._asked = itertools.count(1)
        self._last = (0, False)

    async def answers(self) -> bool:
        """Whether both stores keep and return what they are given, asked after this was called."""
        now = next(self._asked)
        async with self._turn:
            asked, found = self._last
            if asked <= now:
                asked = next(self._asked)
                try:
                    async with asyncio.timeout(ANSWER_WITHIN):
                        await self._ask()
                    found = True
                except (ProviderError, TimeoutError) as error:
                    log.info("the stores do not answer: %s", str(error) or f"not within {ANSWER_WITHIN:g} s")
                    found = False
                except Exception:
                    log.exception("the stores could not be asked, by a bug")
                    found = False
                self._last = (asked, found)
            return found


class Troubles:
    """Those of one module's events. A crash forgets them, and nothing worse comes of it than a few tries more.

    While nobody is known to get through, the module pauses between tries, longer and longer.
    """

    def __init__(self, stores: StoreWitness) -> None:
        self._stores = stores
        self._marks = itertools.count(1)
        self._cases: dict[str, _Case] = {}
        self._through = _Latest()
        """Those that were answered at every stage, which is what nearly all are."""
        self._passed = {stage: _Latest() for stage in Stage}
        self._failed = {stage: _Latest() for stage in Stage}
        self._pause = Backoff()
        self._since_passed = 0
        self._paused_at = 0
        self._goes_on = asyncio.Event()
        self._goes_on.set()
        self._end_of_pause: asyncio.TimerHandle | None = None

    @property
    def is_paused(self) -> bool:
        return not self._goes_on.is_set()

    async def pause(self, stopping: asyncio.Event) -> bool:
        """Wait until events are tried again; False if ``stopping`` came first."""
        await wait_for_any(self._goes_on, stopping)
        return self._goes_on.is_set()

    def begins(self) -> int:
        """The mark of an attempt that begins now; a later one's is greater."""
        return next(self._marks)

    def passed(self, job_id: str, begun: int, progress: Progress, *, all_of_it: bool) -> None:
        """The attempt that began there has ended otherwise than in trouble; ``all_of_it`` with its commit published."""
        if all_of_it:
            self._through.add(job_id, begun)
        else:
            progress.behind.add(progress.stage)
            self._note(job_id, begun, progress)
        if self._since_passed:
            self._since_passed = 0
            self._pause.reset()
            self._go_on()
        self.forget(job_id)

    def forget(self, job_id: str) -> None:
        """It is tried no more, or has no trouble any more."""
        self._cases.pop(job_id, None)

    def _note(self, job_id: str, begun: int, progress: Progress) -> None:
        for stage in progress.behind:
            self._passed[stage].add(job_id, begun)

    async def failed(self, job_id: str, begun: int, progress: Progress) -> Ruling:
        """The attempt that began there was not answered at the stage it is at, or with an error that may pass."""
        stage, now = progress.stage, next(self._marks)
        self._note(job_id, begun, progress)
        known = job_id in self._cases
        case = self._cases.setdefault(job_id, _Case(now, now))
        before, case.last = case.last, now
        self._failed[stage].add(job_id, now)
        if len(self._cases) > MOST_KNOWN:
            del self._cases[next(iter(self._cases))]
        most = await self._most_uncounted(job_id, case, before if known else now, stage)
        if most is None:
            self._pause_after(begun)
            return Ruling(delay=timedelta(seconds=case.backoff.next()), own=False, counted=False)
        case.tries += 1
        delay = timedelta(seconds=case.backoff.next())
        return Ruling(delay=delay, own=True, counted=case.tries > most)

    async def _most_uncounted(self, job_id: str, case: _Case, before: int, stage: Stage) -> int | None:
        """How many tries are not counted, if this is the event's own trouble; None while that is not shown."""
        if stage is Stage.PUBLISH:
            return None  # its job is done: never a failure
        if stage not in STORES:
            # Nobody can be asked but the others, each time anew: one that came through once is no proof for ever.
            return UNCOUNTED if self._others_passed(stage, job_id, before) else None
        if not await self._stores.answers():
            return None
        if self._others_passed(stage, job_id, case.first):
            return UNCOUNTED
        return UNCOUNTED_TOGETHER if self._failed[stage].of_others_after(job_id, case.first) else UNCOUNTED

    def _others_passed(self, stage: Stage, job_id: str, mark: int) -> bool:
        """Whether another job's attempt that began after ``mark`` was answered at ``stage``."""
        return any(them.of_others_after(job_id, mark) for them in (self._through, self._passed[stage]))

    def _pause_after(self, begun: int) -> None:
        """The first may be alone with its trouble: the next is tried at once. What began before a pause adds none."""
        self._since_passed += 1
        if self._since_passed < 2 or begun < self._paused_at:
            return
        self._paused_at = next(self._marks)
        seconds = self._pause.next()
        if seconds > 0:
            self._goes_on.clear()
            if self._end_of_pause is not None:
                self._end_of_pause.cancel()
            self._end_of_pause = asyncio.get_running_loop().call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        if self._end_of_pause is not None:
            self._end_of_pause.cancel()
            self._end_of_pause = None
        self._goes_on.set()
