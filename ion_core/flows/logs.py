"""The logs of attempts, as they are stored."""

from __future__ import annotations

from collections.abc import AsyncIterator

from ion_core.contracts.storage import Document, DocumentStore
from ion_core.events import MODULE_LOGS, parse_context


async def logs_of(
    documents: DocumentStore, event_id: str, correlation_id: str | None
) -> AsyncIterator[tuple[str, Document]]:
    """Module and log of every attempt for that event; without a correlation id all logs are looked through."""
    async for document in documents.find(MODULE_LOGS, correlation_id=correlation_id):
        context = parse_context(document.body, what="log", problems=[])
        if context.event_id == event_id:
            yield context.name, document
