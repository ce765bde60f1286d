"""Dead letters: found by what they are about, by page, put back or deleted, alone or together."""

from __future__ import annotations

import asyncio
import base64
import binascii
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence, Set
from contextlib import suppress
from datetime import datetime

from ion_core.contracts.looking import DeadLetterView, LetterFilter, LetterId, Page
from ion_core.contracts.messaging import DeadLetter, MessageBroker
from ion_core.contracts.storage import DocumentStore
from ion_core.dataplane import DataPlane, forget_rounds
from ion_core.errors import DeadLetterNotFound, InvalidCursor, InvalidEvent, QueueNotDeclared
from ion_core.events import parse_event
from ion_core.gathering.evaluating import Evaluations
from ion_core.letters.groups import cause_of
from ion_core.letters.redriving import by_queue

_TRIES = 3
"""How often those that are meant are looked for anew where some of them went meanwhile."""

KEPT_FOR = 10.0
"""Seconds after which the pages of a listing are read anew."""
SHORT = 300
"""Dead letters that are parsed within a few milliseconds."""

_Place = tuple[str, str, str]
"""When it died, its queue and its id: unlike that of any other, and in the order of the first."""

_Verb = Callable[[Sequence[DeadLetter]], Awaitable[int]]


class Kept:
    """What a listing of many began with, for as long as its further pages may be asked for: none reads all anew."""

    def __init__(self) -> None:
        self._which: LetterFilter | None = None
        self._views: list[DeadLetterView] = []
        self._ends: asyncio.TimerHandle | None = None

    def of(self, which: LetterFilter) -> list[DeadLetterView] | None:
        return self._views if self._which == which else None

    def keep(self, which: LetterFilter, views: list[DeadLetterView]) -> None:
        self.forget()
        self._which, self._views = which, views
        self._ends = asyncio.get_running_loop().call_later(KEPT_FOR, self.forget)

    def forget(self) -> None:
        self._which, self._views = None, []
        if self._ends is not None:
            self._ends.cancel()


class Letters:
    """The dead letters of a data plane's broker. ``modules`` are those of the configuration."""

    def __init__(self, dataplane: DataPlane, modules: Collection[str]) -> None:
        self._dataplane = dataplane
        self._broker = dataplane.broker
        self._documents = dataplane.documents
        self._modules = modules

    async def found(self, which: LetterFilter, *, strays: bool) -> list[DeadLetterView]:
        """Those that are meant, oldest first; with ``strays`` also in queues that no module of the configuration takes.

        The queue of ``which.module`` is looked into whoever takes it. Raises as the broker does.
        """
        if which.module is not None:
            names = [which.module]
        else:
            names = list(self._modules)
            if strays:
                names += [queue.name for queue in await self._broker.queues() if queue.name not in self._modules]
        found: list[DeadLetterView] = []
        for name in names:
            with suppress(QueueNotDeclared):  # nothing was ever put there
                async with self._broker.each_dead_letter(name) as letters:
                    while some := await _some(letters):
                        found += await self._meant(some, which)
        return sorted(found, key=_place)

    async def page(
        self, which: LetterFilter, *, newest_first: bool, after: str | None, limit: int, kept: Kept
    ) -> Page[DeadLetterView]:
        """Some of them, strays included; those behind the first page, newest first, as ``kept`` has them.

        Raises InvalidCursor for what is none.
        """
        start = None if after is None else _read_cursor(after)
        known = kept.of(which) if newest_first and start is not None else None
        found = await self.found(which, strays=True) if known is None else known
        if newest_first and known is None:
            found.reverse()
            if len(found) > limit:
                kept.keep(which, found)
        if start is not None:
            first = bisect_left(found, True, key=lambda it: _place(it) < start if newest_first else _place(it) > start)
            found = found[first:]
        shown = found[:limit]
        return Page(items=shown, cursor=_cursor(shown[-1]) if len(found) > limit else None)

    async def redrive(self, ids: Sequence[LetterId]) -> int:
        """Put exactly those back. Raises DeadLetterNotFound; those of other queues may have moved by then."""
        return await self._redrive(await self._by_id(ids))

    async def purge(self, ids: Sequence[LetterId]) -> int:
        """Delete exactly those. Raises as ``redrive``."""
        return await self._purge(await self._by_id(ids))

    async def redrive_all(self, which: LetterFilter) -> int:
        """Put all back that are meant; those of queues that no module takes only where ``which.module`` names one."""
        return await self._all(which, self._redrive)

    async def purge_all(self, which: LetterFilter) -> int:
        """Delete all that are meant; of which queues, as ``redrive_all``."""
        return await self._all(which, self._purge)

    async def _all(self, which: LetterFilter, verb: _Verb) -> int:
        moved = 0
        tries = 0
        while letters := [it.letter for it in await self.found(which, strays=False)]:
            tries += 1
            for some in by_queue(letters).values():
                try:
                    moved += await verb(some)
                except DeadLetterNotFound:  # somebody else was quicker with some: the others are still meant
                    if tries == _TRIES:
                        raise
                    break
            else:
                break
        return moved

    async def _by_id(self, ids: Sequence[LetterId]) -> list[DeadLetter]:
        found: list[DeadLetter] = []
        missing: list[str] = []
        wanted: dict[str, list[str]] = {}
        for queue, id in dict.fromkeys(ids):
            wanted.setdefault(queue, []).append(id)
        for queue, some in wanted.items():
            there = await self._these(queue, set(some))
            found += [there[id] for id in some if id in there]
            missing += [f"{id[:80]!r} of {queue[:80]}" for id in some if id not in there]
        if missing:
            raise DeadLetterNotFound(f"no dead letter {', '.join(missing)}. List those there are.")
        return found

    async def _these(self, queue: str, ids: Set[str]) -> dict[str, DeadLetter]:
        """Those of ``ids`` that are there."""
        found: dict[str, DeadLetter] = {}
        with suppress(QueueNotDeclared):
            if len(ids) == 1:
                with suppress(DeadLetterNotFound):
                    found = {id: await self._broker.dead_letter(queue, id) for id in ids}
                return found
            async with self._broker.each_dead_letter(queue) as letters:
                async for letter in letters:
                    if letter.id in ids:
                        found[letter.id] = letter
                    if len(found) == len(ids):
                        break
        return found

    async def _redrive(self, letters: Sequence[DeadLetter]) -> int:
        """Once nothing says any more that these are dead: their events may run."""
        await forget_rounds(self._documents, letters)
        moved = [await self._broker.redrive(queue, [it.id for it in some]) for queue, some in by_queue(letters).items()]
        return sum(moved)

    async def _purge(self, letters: Sequence[DeadLetter]) -> int:
        dataplane = self._dataplane
        return await purge(letters, dataplane.broker, dataplane.documents, dataplane.gathering)

    async def _meant(self, letters: Sequence[DeadLetter], which: LetterFilter) -> list[DeadLetterView]:
        """Of many in a thread: their messages are parsed, and the event loop has others to serve."""

        def meant() -> list[DeadLetterView]:
            return [view for letter in letters if _is_meant(view := self._view(letter), which)]

        return meant() if len(letters) < SHORT else await asyncio.to_thread(meant)

    def _view(self, letter: DeadLetter) -> DeadLetterView:
        taken = letter.queue in self._modules
        try:
            return DeadLetterView(letter=letter, event=parse_event(letter.body), taken=taken)
        except InvalidEvent as error:
            return DeadLetterView(letter=letter, event=None, unreadable=str(error), taken=taken)


async def purge(
    letters: Sequence[DeadLetter], broker: MessageBroker, documents: DocumentStore, gathering: Evaluations | None
) -> int:
    """Delete these letters for good: their events may be published anew.

    ``gathering`` is told that nobody is to wait for them any more; None where no gatherer does.
    """
    await forget_rounds(documents, letters)

    async def each() -> int:
        return sum([await broker.purge(queue, [it.id for it in some]) for queue, some in by_queue(letters).items()])

    return await each() if gathering is None else await gathering.purge(letters, each)


async def _some(letters: AsyncIterator[DeadLetter]) -> list[DeadLetter]:
    """The next ``SHORT``, or as many as there are."""
    found: list[DeadLetter] = []
    async for letter in letters:
        found.append(letter)
        if len(found) == SHORT:
            break
    return found


def _is_meant(view: DeadLetterView, which: LetterFilter) -> bool:
    reason = view.letter.reason
    return (
        (which.reason in (None, reason) or which.reason == cause_of(view.letter))
        and (which.containing or "").casefold() in reason.casefold()
        and (which.type is None or (view.event is not None and view.event.type == which.type))
    )


def _place(view: DeadLetterView) -> _Place:
    letter = view.letter
    return f"{letter.died_at:%Y-%m-%dT%H:%M:%S.%f}", letter.queue, letter.id


def _cursor(view: DeadLetterView) -> str:
    return base64.urlsafe_b64encode("\n".join(_place(view)).encode()).decode()


def _read_cursor(cursor: str) -> _Place:
    try:
        died_at, queue, id = base64.b64decode(cursor.encode("ascii"), b"-_", validate=True).decode().split("\n", 2)
        datetime.fromisoformat(died_at)
    except (ValueError, binascii.Error) as error:
        where = f"cursor {cursor[:80]!r}"
        raise InvalidCursor(f"{where}: is none of dead letters. Give one that a page of them had.") from error
    return died_at, queue, id
