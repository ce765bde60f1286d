"""A document store in memory."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from ion_core import strict_json
from ion_core.contracts.storage import Document
from ion_core.errors import DocumentExists, DocumentNotFound, DocumentsDamaged, InvalidCursor, ProviderError


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a document stands in the order of first storing, and when that was."""

    number: int
    stored_at: datetime


class MemoryDocumentStore:
    """The document contract over a dict. While ``failing`` is set to an error, every call raises it.

    A document whose body is no object is damaged: somebody has put it there. ``looked_at`` counts those
    that match and that ``find`` took into its hands, as a store with indexes has to read them.
    """

    def __init__(self) -> None:
        self.documents: dict[tuple[str, str], Document] = {}
        self.looked_at = 0
        self._places: dict[tuple[str, str], _Place] = {}
        self._last = _Place(number=0, stored_at=datetime.min.replace(tzinfo=UTC))
        """The last one given. None is given again, as a cursor may stand for it."""
        self.failing: ProviderError | None = None

    async def create(self, document: Document) -> None:
        self._check()
        key = (document.kind, document.id)
        self._place(key)
        stored = self.documents.setdefault(key, _copy(document))
        if strict_json.dumps(stored.body) != strict_json.dumps(document.body):  # == takes True for 1
            raise DocumentExists(
                f"{document.kind} {document.id[:80]!r}: exists with another body. It was left as it is."
            )

    async def put(self, document: Document) -> None:
        self._check()
        key = (document.kind, document.id)
        self._place(key)
        self.documents[key] = _copy(document)

    async def get(self, kind: str, id: str) -> Document:
        self._check()
        document = self._stored(kind, id)
        if not isinstance(document.body, dict):
            raise DocumentsDamaged(_damaged(document))
        return _told(document, self._place((kind, id)))

    async def find(
        self,
        kind: str | None = None,
        *,
        correlation_id: str | None = None,
        pending: bool | None = None,
        id_begins: str | None = None,
        correlation_id_begins: str | None = None,
        newest_first: bool = False,
        after: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Document]:
        self._check()
        start = _number(after)
        left, damaged = limit, list[str]()
        places = [(key, self._place(key)) for key in self.documents]
        places = [it for it in places if _is_behind(it[1], start, since, until, newest_first)]
        for key, place in reversed(places) if newest_first else places:
            if self._places.get(key) is not place:  # removed meanwhile
                continue
            document = self.documents[key]
            if (
                kind in (None, document.kind)
                and correlation_id in (None, document.correlation_id)
                and pending in (None, document.pending)
                and document.id.startswith(id_begins or "")
                and document.correlation_id.startswith(correlation_id_begins or "")
            ):
                self.looked_at += 1
                if not isinstance(document.body, dict):
                    damaged.append(_damaged(document))
                    continue
                yield _told(document, place)
                if left is not None and (left := left - 1) == 0:
                    break
        if damaged:
            raise DocumentsDamaged(damaged)

    async def clear_pending(self, kind: str, id: str) -> None:
        self._check()
        self.documents[kind, id] = replace(self._stored(kind, id), pending=False)

    async def delete(self, kind: str, id: str) -> None:
        self._check()
        self.documents.pop((kind, id), None)
        self._places.pop((kind, id), None)

    def _place(self, key: tuple[str, str]) -> _Place:
        """Its place, given when it is first asked for."""
        if (place := self._places.get(key)) is None:
            self._last = _Place(number=self._last.number + 1, stored_at=max(datetime.now(UTC), self._last.stored_at))
            place = self._places[key] = self._last
        return place

    def _stored(self, kind: str, id: str) -> Document:
        try:
            return self.documents[kind, id]
        except KeyError:
            raise DocumentNotFound(f"{kind} {id[:80]!r}: is not stored. Find the ones that are.") from None

    def _check(self) -> None:
        if self.failing is not None:
            raise self.failing


def _number(cursor: str | None) -> int | None:
    if cursor is not None and not re.fullmatch("[0-9]{1,18}", cursor):
        raise InvalidCursor(f"cursor {cursor[:80]!r}: is none of this store. Give one that it has told.")
    return None if cursor is None else int(cursor)


def _is_behind(
    place: _Place, start: int | None, since: datetime | None, until: datetime | None, newest_first: bool
) -> bool:
    """Whether it stands behind ``start`` in that order, and was stored in that time."""
    if start is not None and (place.number >= start if newest_first else place.number <= start):
        return False
    return (since is None or place.stored_at >= since) and (until is None or place.stored_at < until)


def _damaged(document: Document) -> str:
    return f"{document.kind} {document.id[:80]!r}: is damaged, it is no document. Restore it, or remove it."


def _copy(document: Document) -> Document:
    """Bodies are changeable: nobody shares one with the store."""
    return replace(document, body=deepcopy(dict(document.body)), cursor="", stored_at=None)


def _told(document: Document, place: _Place) -> Document:
    return replace(_copy(document), cursor=str(place.number), stored_at=place.stored_at)


@asynccontextmanager
async def open_memory_documents(settings: Any = None) -> AsyncIterator[MemoryDocumentStore]:
    """Everything in it is gone when the context is left."""
    yield MemoryDocumentStore()
