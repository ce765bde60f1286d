"""Putting dead letters back into their queues, at a rate, so that it may be interrupted at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from ion_core.contracts.messaging import DeadLetter, MessageBroker
from ion_core.contracts.storage import DocumentStore
from ion_core.dataplane import forget_rounds
from ion_core.errors import DeadLetterNotFound

AT_ONCE = 500
"""Letters that are put back by one call to the broker: some need as long for one as for many."""
FINISH_WITHIN = 30.0
"""Seconds for those that are being put back when we are interrupted."""


def by_queue(letters: Iterable[DeadLetter]) -> dict[str, list[DeadLetter]]:
    """Each queue's, in their order."""
    found: dict[str, list[DeadLetter]] = {}
    for letter in letters:
        found.setdefault(letter.queue, []).append(letter)
    return found


class Redrive:
    """One redrive of some letters. At any time: ``moved`` are back, ``gone`` were there no more, the rest is to come.

    Each letter moves whole or not at all, so what is left can be redriven by doing the same again. ``unsure`` are those
    of which nobody knows, since we were interrupted and the broker did not answer in time.
    """

    def __init__(self, broker: MessageBroker, documents: DocumentStore, letters: Sequence[DeadLetter]) -> None:
        self._broker = broker
        self._documents = documents
        self._letters = list(letters)
        self.total = len(self._letters)
        self.moved = self.gone = self.unsure = 0

    @property
    def left(self) -> int:
        """How many are still to be put back."""
        return self.total - self.moved - self.gone - self.unsure

    async def run(self, *, rate: float | None = None, done: Callable[[int], object] = lambda count: None) -> None:
        """Put all of them back, in their order, at most ``rate`` a second; ``done`` is told how many more are through.

        Cancelled, it ends with those that are under way. Raises as broker and documents do; then ``left`` are left.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        at = 0
        while at < self.total:
            due = self.total if rate is None else int((loop.time() - begun) * rate) + 1
            if due <= at:
                await asyncio.sleep(max(begun + at / (rate or 1) - loop.time(), 0.001))
                continue
            batch = self._letters[at : min(due, at + AT_ONCE)]
            await self._finished(batch)
            at += len(batch)
            done(len(batch))

    async def _finished(self, batch: Sequence[DeadLetter]) -> None:
        moving = asyncio.create_task(self._move(batch))
        try:
            await asyncio.shield(moving)
        except asyncio.CancelledError:
            before = self.moved + self.gone
            await asyncio.wait({moving}, timeout=FINISH_WITHIN)
            if not moving.done():
                moving.cancel()
                self.unsure = len(batch) - (self.moved + self.gone - before)
            elif not moving.cancelled():
                moving.exception()  # what was interrupted is told, not what went wrong on top
            raise

    async def _move(self, batch: Sequence[DeadLetter]) -> None:
        for queue, letters in by_queue(batch).items():
            await self._move_in(queue, letters)

    async def _move_in(self, queue: str, letters: Sequence[DeadLetter]) -> None:
        """Those of one queue; somebody else may redrive or purge some of them meanwhile."""
        while letters:
            await forget_rounds(self._documents, letters)
            try:
                self.moved += await self._broker.redrive(queue, [letter.id for letter in letters])
                return
            except DeadLetterNotFound:
                async with self._broker.each_dead_letter(queue) as found:
                    there = {letter.id async for letter in found}
                kept = [letter for letter in letters if letter.id in there]
                if len(kept) == len(letters):
                    raise
                self.gone += len(letters) - len(kept)
                letters = kept
