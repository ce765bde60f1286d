"""Containers that another process started on the same path: one that died, or one that lives beside us."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from ion_core.contracts.runtime import ContainerState
from ion_core.embedded.process.container import DEATH
from ion_core.embedded.process.notes import ContainerNote, ContainerNotes
from ion_core.embedded.programs import ends
from ion_core.embedded.programs import table as process_table
from ion_core.errors import TransientError


def alive(notes: ContainerNotes, note: ContainerNote) -> process_table.ProcessId | None:
    """Its process, if that runs. Blocks."""
    if process := notes.process(note.name):
        return process if process_table.is_alive(process) else None
    if notes.is_claimed(note.name):  # who started it died before noting the number
        return next(filter(None, map(process_table.identify, process_table.marked(note.id))), None)
    return None


def state(notes: ContainerNotes, note: ContainerNote) -> ContainerState:
    """Blocks."""
    if alive(notes, note):
        return ContainerState.RUNNING
    return ContainerState.EXITED if notes.is_claimed(note.name) else ContainerState.CREATED


async def stop(
    notes: ContainerNotes, note: ContainerNote, blocking: Callable[..., Awaitable[Any]], *, grace: timedelta
) -> None:
    """As the contract's ``stop``; what left its group is killed too."""
    if process := await blocking(alive, notes, note):
        gone = ends.ended(process.pid)
        try:
            if grace:
                if note.isolation == "bubblewrap":
                    await blocking(process_table.signal_inside, process.pid, signal.SIGTERM)
                else:
                    process_table.signal_group(process.pid, signal.SIGTERM)
                await asyncio.wait({gone}, timeout=grace.total_seconds())
            process_table.signal_group(process.pid, signal.SIGKILL)
            await asyncio.wait({gone}, timeout=DEATH.total_seconds())
            if not gone.done():
                raise TransientError(f"container {note.name}: did not end within {DEATH.seconds} s of SIGKILL.")
        finally:
            gone.cancel()
    await blocking(process_table.kill_marked, note.id)
