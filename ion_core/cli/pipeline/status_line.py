"""The live line of ``serve`` on a terminal: rewritten in place, log lines scroll by above it."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, TextIO

from ion_core.cli.logging_setup import Lines
from ion_core.cli.output import shortened
from ion_core.errors import ProviderError
from ion_core.jobs import Verdict

if TYPE_CHECKING:
    from ion_core.app import Dispatching

CLEAR = "\r\x1b[K"


class StatusLine(Lines):
    """Owns the last line of a terminal, and prints log records so that it stays the last."""

    def __init__(self, terminal: TextIO) -> None:
        super().__init__(terminal)
        self._text = ""

    def show(self, text: str) -> None:
        """Replace the line; '' takes it away."""
        width = shutil.get_terminal_size().columns - 1
        text = shortened(text, width)
        self.acquire()
        try:
            if text != self._text:
                self._text = text
                self.stream.write(CLEAR + text)
                self.flush()
        finally:
            self.release()

    def write(self, text: str) -> None:
        self.stream.write(f"{CLEAR}{text}\n{self._text}")
        self.flush()


class Counts:
    """What the line says of a dispatcher."""

    def __init__(self, dispatcher: Dispatching) -> None:
        self._dispatcher = dispatcher
        self._waiting = "?"

    async def ask(self) -> None:
        """Count what waits; while the broker does not answer that is not known."""
        try:
            self._waiting = str(await self._dispatcher.waiting())
        except ProviderError:
            self._waiting = "?"

    def text(self) -> str:
        counts = self._dispatcher.counts()
        committed = counts[Verdict.COMMITTED] + counts[Verdict.ALREADY_COMMITTED]
        said = [
            f"{self._dispatcher.running} running",
            f"{self._waiting} waiting",
            f"{committed} committed",
            f"{counts[Verdict.RETRIED]} retried",
            f"{counts[Verdict.DEAD_LETTERED]} dead",
        ]
        return " | ".join([*said, *self._dispatcher.health.problems()])


async def keep_showing(line: StatusLine, counts: Counts, *, every: float = 0.2, ask_every: int = 5) -> None:
    """Show the counts until cancelled, then take the line away. Every ``ask_every`` rounds the broker is asked."""
    try:
        while True:
            await counts.ask()
            for _ in range(ask_every):
                line.show(counts.text())
                await asyncio.sleep(every)
    finally:
        line.show("")
