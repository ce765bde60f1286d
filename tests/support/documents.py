"""Counts of what document stores read, for the kit's rules that a page, or the beginning of an id, reads no other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from ion_core.embedded.memory.documents import MemoryDocumentStore
from ion_core.embedded.sqlite.database import Access
from ion_core.embedded.sqlite.documents import SqliteDocuments


@asynccontextmanager
async def counted_reads(documents: MemoryDocumentStore) -> AsyncIterator[Callable[[], int]]:
    """Documents that it took into its hands."""
    before = documents.looked_at
    yield lambda: documents.looked_at - before


@asynccontextmanager
async def counted_steps(documents: SqliteDocuments) -> AsyncIterator[Callable[[], int]]:
    """Steps of SQLite's virtual machine."""
    taken = 0

    def step() -> int:
        nonlocal taken
        taken += 1
        return 0

    call = documents.database.call
    for short in (False, True):  # each has a connection of its own
        await call(lambda connection: connection.set_progress_handler(step, 1), Access.READ, short=short)
    try:
        yield lambda: taken
    finally:
        for short in (False, True):
            await call(lambda connection: connection.set_progress_handler(None, 0), Access.READ, short=short)
