"""Dead letters: found by what they are about, by page, put back or deleted, alone or together."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime

from ion_core.contracts.looking import DeadLetterView, LetterFilter, LetterId, Page
from ion_core.contracts.messaging import DeadLetter, MessageBroker
from ion_core.contracts.storage import DocumentStore
from ion_core.dataplane import forget_rounds
from ion_core.errors import DeadLetterNotFound, InvalidCursor, InvalidEvent, QueueNotDeclared
from ion_core.events import parse_event
from ion_core.letters.redriving import by_queue

_TRIES = 3
"""How often those that are meant are looked for anew where some of them went meanwhile."""

_Place = tuple[str, str, str]
"""When it died, its queue and its id: unlike that of any other, and in the order of the first."""

_Verb = Callable[[str, Sequence[str]], Awaitable[int]]


class Letters:
    """The dead letters of a broker. ``modules`` are those of the configuration."""

    def __init__(self, broker: MessageBroker, documents: DocumentStore, modules: Collection[str]) -> None:
        self._broker = broker
        self._documents = documents
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
            try:
                letters = await self._broker.dead_letters(name)
            except QueueNotDeclared:  # nothing was ever put there
                continue
            found += [view for letter in letters if _is_meant(view := self._view(letter), which)]
        return sorted(found, key=_place)

    async def page(
        self, which: LetterFilter, *, newest_first: bool, after: str | None, limit: int
    ) -> Page[DeadLetterView]:
        """Some of them, strays included. Raises InvalidCursor for what is none."""
        start = None if after is None else _read_cursor(after)
        found = await self.found(which, strays=True)
        if newest_first:
            found.reverse()
        if start is not None:
            found = [it for it in found if (_place(it) < start if newest_first else _place(it) > start)]
        shown = found[:limit]
        return Page(items=shown, cursor=_cursor(shown[-1]) if len(found) > limit else None)

    async def redrive(self, ids: Sequence[LetterId]) -> int:
        """Put exactly those back. Raises DeadLetterNotFound; those of other queues may have moved by then."""
        return await self._each(await self._by_id(ids), self._broker.redrive)

    async def purge(self, ids: Sequence[LetterId]) -> int:
        """Delete exactly those. Raises as ``redrive``."""
        return await self._each(await self._by_id(ids), self._broker.purge)

    async def redrive_all(self, which: LetterFilter) -> int:
        """Put all back that are meant; those of queues that no module takes only where ``which.module`` names one."""
        return await self._all(which, self._broker.redrive)

    async def purge_all(self, which: LetterFilter) -> int:
        """Delete all that are meant; of which queues, as ``redrive_all``."""
        return await self._all(which, self._broker.purge)

    async def _all(self, which: LetterFilter, verb: _Verb) -> int:
        moved = 0
        tries = 0
        while letters := [it.letter for it in await self.found(which, strays=False)]:
            tries += 1
            for some in by_queue(letters).values():
                try:
                    moved += await self._each(some, verb)
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
            try:
                there = {letter.id: letter for letter in await self._broker.dead_letters(queue)}
            except QueueNotDeclared:
                there = {}
            found += [there[id] for id in some if id in there]
            missing += [f"{id[:80]!r} of {queue[:80]}" for id in some if id not in there]
        if missing:
            raise DeadLetterNotFound(f"no dead letter {', '.join(missing)}. List those there are.")
        return found

    async def _each(self, letters: Sequence[DeadLetter], verb: _Verb) -> int:
        """``verb``, once nothing says any more that these are dead: their events may run, and be published, anew."""
        await forget_rounds(self._documents, letters)
        return sum([await verb(queue, [it.id for it in some]) for queue, some in by_queue(letters).items()])

    def _view(self, letter: DeadLetter) -> DeadLetterView:
        taken = letter.queue in self._modules
        try:
            return DeadLetterView(letter=letter, event=parse_event(letter.body), taken=taken)
        except InvalidEvent as error:
            return DeadLetterView(letter=letter, event=None, unreadable=str(error), taken=taken)


def _is_meant(view: DeadLetterView, which: LetterFilter) -> bool:
    reason = view.letter.reason
    return (
        which.reason in (None, reason)
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
