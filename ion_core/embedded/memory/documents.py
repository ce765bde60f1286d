"""A document store in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

from ion_core import strict_json
from ion_core.contracts.storage import Document
from ion_core.errors import DocumentExists, DocumentNotFound, DocumentsDamaged, ProviderError


class MemoryDocumentStore:
    """The document contract over a dict. While ``failing`` is set to an error, every call raises it.

    A document whose body is no object is damaged: somebody has put it there.
    """

    def __init__(self) -> None:
        self.documents: dict[tuple[str, str], Document] = {}
        self.failing: ProviderError | None = None

    async def create(self, document: Document) -> None:
        self._check()
        stored = self.documents.setdefault((document.kind, document.id), _copy(document))
        if strict_json.dumps(stored.body) != strict_json.dumps(document.body):  # == takes True for 1
            raise DocumentExists(
                f"{document.kind} {document.id[:80]!r}: exists with another body. It was left as it is."
            )

    async def put(self, document: Document) -> None:
        self._check()
        self.documents[document.kind, document.id] = _copy(document)

    async def get(self, kind: str, id: str) -> Document:
        self._check()
        document = self._stored(kind, id)
        if not isinstance(document.body, dict):
            raise DocumentsDamaged(_damaged(document))
        return _copy(document)

    async def find(
        self,
        kind: str | None = None,
        *,
        correlation_id: str | None = None,
        pending: bool | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Document]:
        self._check()
        stored, damaged = list(self.documents.values()), list[str]()
        for document in reversed(stored) if newest_first else stored:
            if (
                kind in (None, document.kind)
                and correlation_id in (None, document.correlation_id)
                and pending in (None, document.pending)
            ):
                if isinstance(document.body, dict):
                    yield _copy(document)
                else:
                    damaged.append(_damaged(document))
        if damaged:
            raise DocumentsDamaged(damaged)

    async def clear_pending(self, kind: str, id: str) -> None:
        self._check()
        self.documents[kind, id] = replace(self._stored(kind, id), pending=False)

    async def delete(self, kind: str, id: str) -> None:
        self._check()
        self.documents.pop((kind, id), None)

    def _stored(self, kind: str, id: str) -> Document:
        try:
            return self.documents[kind, id]
        except KeyError:
            raise DocumentNotFound(f"{kind} {id[:80]!r}: is not stored. Find the ones that are.") from None

    def _check(self) -> None:
        if self.failing is not None:
            raise self.failing


def _damaged(document: Document) -> str:
    return f"{document.kind} {document.id[:80]!r}: is damaged, it is no document. Restore it, or remove it."


def _copy(document: Document) -> Document:
    """Bodies are changeable: nobody shares one with the store."""
    return replace(document, body=deepcopy(dict(document.body)))


@asynccontextmanager
async def open_memory_documents(settings: Any = None) -> AsyncIterator[MemoryDocumentStore]:
    """Everything in it is gone when the context is left."""
    yield MemoryDocumentStore()
