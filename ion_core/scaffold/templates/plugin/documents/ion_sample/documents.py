"""A DocumentStore in one JSON file: fit for small things, and for showing how little is needed.

The file is a list of all that was ever stored, with null in the place of what is gone: so each document has a place for
good, which is its cursor.
"""

import asyncio
import fcntl
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from ion_core import strict_json
from ion_core.contracts.storage import Document, DocumentStore
from ion_core.errors import (
    ConfigError,
    DocumentExists,
    DocumentNotFound,
    DocumentsDamaged,
    InvalidCursor,
    TransientError,
)
from ion_sample.settings import SampleSettings

T = TypeVar("T")


class Documents:
    """What the file holds: every document in its place."""

    def __init__(self, rows: list[Any]) -> None:
        self.places: list[Document | None] = [
            row and Document(**row | {"stored_at": datetime.fromisoformat(row["stored_at"])}) for row in rows
        ]
        self.by_key = {(it.kind, it.id): n for n, it in enumerate(self.places) if it}

    def rows(self) -> list[Any]:
        return [it and asdict(it) | {"stored_at": it.stored_at.isoformat()} for it in self.places]  # type: ignore[union-attr]

    def get(self, kind: str, id: str) -> Document:
        if (kind, id) not in self.by_key or (found := self.places[self.by_key[kind, id]]) is None:
            raise DocumentNotFound(f"{kind} {id}: is not stored.")
        return found

    def put(self, document: Document) -> None:
        place = self.by_key.setdefault((document.kind, document.id), len(self.places))
        if place == len(self.places):
            last = max((it.stored_at for it in self.places if it and it.stored_at), default=datetime.now(UTC))
            self.places.append(replace(document, cursor=str(place), stored_at=max(last, datetime.now(UTC))))
        else:
            stored = self.get(document.kind, document.id)
            self.places[place] = replace(document, cursor=stored.cursor, stored_at=stored.stored_at)

    def delete(self, kind: str, id: str) -> None:
        if (place := self.by_key.pop((kind, id), None)) is not None:
            self.places[place] = None


class Sample:
    def __init__(self, path: Path) -> None:
        self.path = path

    async def create(self, document: Document) -> None:
        def create(documents: Documents) -> None:
            if (document.kind, document.id) not in documents.by_key:
                documents.put(document)
            stored = documents.get(document.kind, document.id)
            if strict_json.dumps(stored.body) != strict_json.dumps(document.body):
                raise DocumentExists(f"{document.kind} {document.id}: exists with another body.")

        await self._call(create, save=True)

    async def put(self, document: Document) -> None:
        await self._call(lambda documents: documents.put(document), save=True)

    async def get(self, kind: str, id: str) -> Document:
        document = await self._call(lambda documents: documents.get(kind, id))
        if damage := damage_of(document):
            raise DocumentsDamaged(damage)
        return document

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
        places = await self._call(lambda documents: documents.places)
        if after is not None:
            at = place_of(after)
            places = places[:at] if newest_first else places[at + 1 :]
        damaged = []
        for document in filter(None, reversed(places) if newest_first else places):
            asked, found = (kind, correlation_id, pending), (document.kind, document.correlation_id, document.pending)
            if any(a not in (None, b) for a, b in zip(asked, found, strict=True)):
                continue
            begins = document.id.startswith(id_begins or "")
            if not begins or not document.correlation_id.startswith(correlation_id_begins or ""):
                continue
            assert document.stored_at is not None, "put sets it"
            if (since and document.stored_at < since) or (until and document.stored_at >= until):
                continue
            if damage := damage_of(document):
                damaged.append(damage)  # for the end: it hides no other
                continue
            yield document
            if limit is not None and (limit := limit - 1) == 0:
                break
        if damaged:
            raise DocumentsDamaged(damaged)

    async def clear_pending(self, kind: str, id: str) -> None:
        await self._call(lambda documents: documents.put(replace(documents.get(kind, id), pending=False)), save=True)

    async def delete(self, kind: str, id: str) -> None:
        await self._call(lambda documents: documents.delete(kind, id), save=True)

    async def _call(self, work: Callable[[Documents], T], *, save: bool = False) -> T:
        def run() -> T:
            with self.locked(save=save) as documents:
                return work(documents)

        return await asyncio.to_thread(run)

    @contextmanager
    def locked(self, *, save: bool) -> Iterator[Documents]:
        """All documents, for one process at a time; with ``save`` written back whole, or not at all where it raises."""
        try:
            with self.path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                documents = Documents(json.loads(self.path.read_text("utf-8") if self.path.exists() else "[]"))
                yield documents
                if save:
                    new = self.path.with_suffix(".new")
                    with new.open("wb") as file:
                        file.write(strict_json.dumps(documents.rows()))
                        file.flush()
                        os.fsync(file.fileno())
                    new.replace(self.path)
                    sync(self.path.parent)
        except OSError as error:
            raise TransientError(f"{self.path}: {error.strerror}. Is the disk all right?") from error


def sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def damage_of(document: Document) -> str:
    """What is wrong with what somebody else has changed in the file; '' for nothing."""
    whole = isinstance(document.body, dict)
    return "" if whole else f"{document.kind} {document.id}: is damaged. Restore it, or remove it."


def place_of(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 20):
        raise InvalidCursor(f"cursor {cursor[:80]!r}: is none of this store.")
    return int(cursor)


@asynccontextmanager
async def open_sample(settings: SampleSettings) -> AsyncIterator[DocumentStore]:
    documents = Sample(settings.path.absolute())
    try:
        settings.path.parent.mkdir(parents=True, exist_ok=True)
        with documents.locked(save=False):
            pass
    except (OSError, TransientError, ValueError, TypeError) as error:
        where = settings.section.where("path")
        raise ConfigError(f"{where}: {settings.path} cannot be used: {error}. Name another file.") from error
    yield documents
