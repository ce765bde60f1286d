"""A flow drawn on a terminal while it goes on: rewritten in place, log lines scroll by above it."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TextIO

from ion_core.cli.flow.text import lines
from ion_core.cli.logging_setup import TerminalFormatter, WarningFormatter, log_to
from ion_core.cli.output import mark, results, shortened
from ion_core.errors import ProviderError

if TYPE_CHECKING:
    from ion_core.flows import Flow


class LiveTree(logging.StreamHandler[TextIO]):
    """Owns the last lines of a terminal, and prints log records so that they stay the last."""

    def __init__(self, terminal: TextIO) -> None:
        super().__init__(terminal)
        self._drawn: Sequence[str] = ()

    def draw(self, text: Sequence[str]) -> None:
        """Replace what is drawn; nothing takes it away."""
        self.acquire()
        try:
            if text != self._drawn:
                self.stream.write(self._back() + "".join(f"{line}\n" for line in text))
                self._drawn = text
                self.flush()
        finally:
            self.release()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.stream.write(self._back())
            self.flush()
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
            self.stream.write("".join(f"{line}\n" for line in self._drawn))
            self.flush()
        except Exception:
            self.handleError(record)

    def _back(self) -> str:
        """To the first line of what is drawn, and nothing from there on."""
        return f"\x1b[{len(self._drawn)}F\x1b[J" if self._drawn else ""


async def keep_drawing(read: Callable[[], Awaitable[Flow]], *, every: float = 0.2) -> None:
    """Draw what ``read`` returns until cancelled, then take it away: what does not fit the terminal is left out.

    Reading takes at most a tenth of the time, however large the flow.
    """
    tree = LiveTree(results())
    tree.setFormatter(TerminalFormatter() if sys.stderr.isatty() else WarningFormatter())
    log_to(tree, logging.WARNING)
    try:
        while True:
            begun = time.monotonic()
            try:
                tree.draw(_fitting(await read()))
            except ProviderError as error:
                tree.draw([f"(not known at the moment: {error})"[: shutil.get_terminal_size().columns - 1]])
            await asyncio.sleep(max(every, 9 * (time.monotonic() - begun)))
    finally:
        tree.draw(())


def _fitting(flow: Flow) -> Sequence[str]:
    columns, rows = shutil.get_terminal_size()
    shown = [shortened(line, columns - 1) for line in islice(lines(flow, colours=False), rows)]
    return shown if len(shown) < rows else [*shown[: rows - 2], mark("…", "...")[: columns - 1]]
