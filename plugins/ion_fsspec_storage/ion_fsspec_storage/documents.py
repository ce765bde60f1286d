"""Documents as objects. What is stored where, and what a crash at any point leaves, is in ``FsspecDocuments``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from ion_core.contracts.storage import Document, DocumentStore
from ion_core.errors import DocumentExists, DocumentNotFound, DocumentsDamaged, InvalidCursor, TransientError
from ion_fsspec_storage.names import may_begin
from ion_fsspec_storage.objects import Objects
from ion_fsspec_storage.opening import open_objects
from ion_fsspec_storage.records import Clock, Marker, Record, flow_prefix, is_stamp, same_body

if TYPE_CHECKING:
    from ion_fsspec_storage.settings import FsspecDocumentsSettings

T = TypeVar("T")

_TRIES = 8
"""How often a document may be deleted between finding it there and reading it."""


class FsspecDocuments:
    """A DocumentStore. Of each document there are

    - ``documents/<kind>/<id>``, the *record*: the document, and its *stamp*, the moment it was first stored. Creating
      this object exclusively is the fence, and the document is there if and only if this is;
    - ``flows/<correlation id>/<stamp>.<kind>.<id>``, a *marker*, empty: one listing finds all of a flow, in order;
    - ``pending/<stamp>.<kind>.<id>``, a marker while something is owed.

    Markers are written before the record and removed after it. One counts only if the record there has its stamp (and
    correlation id): so what a crash leaves between two writes is a marker that points to nothing, or to a document that
    was replaced. Readers pass over those, and remove them once they are a day old. ``clear_pending`` deletes a marker
    and rewrites no record, so it cannot undo what somebody else stores at that moment.
    """

    def __init__(self, objects: Objects, pool: ThreadPoolExecutor, *, at_once: int) -> None:
        self._objects = objects
        self._pool = pool
        self._at_once = at_once
        self._clock = Clock()

    async def create(self, document: Document) -> None:
        await self._run(lambda: self._create(document))

    async def put(self, document: Document) -> None:
        await self._run(lambda: self._put(document))

    async def get(self, kind: str, id: str) -> Document:
        return await self._run(lambda: self._get(kind, id))

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
        """One listing, of the flow, of what is pending or else of all flows; then the records, some at a time.

        Of a beginning no record is read whose name says that it has another.

        A cursor is a stamp: nothing is read of what stands before it but names.
        """
        if after is not None and not is_stamp(after):
            raise InvalidCursor(f"cursor {after[:80]!r}: is none of this store. Give one that it has told.")
        markers = await self._run(lambda: self._markers(kind, correlation_id, pending is True))
        if id_begins:
            markers = [it for it in markers if may_begin(it.id, id_begins)]
        if correlation_id_begins and pending is not True:
            markers = [it for it in markers if may_begin(it.flow, correlation_id_begins)]
        if newest_first:
            markers.reverse()
        markers = [it for it in markers if _is_behind(it, after, since, until, newest_first)]
        owed: set[str] | None = None
        damaged: list[str] = []
        left, start = limit, 0
        while start < len(markers) and left != 0:
            part = markers[start : start + min(self._at_once, left or self._at_once)]
            start += len(part)
            for marker, record in zip(part, await self._records(part), strict=True):
                if isinstance(record, DocumentsDamaged):
                    damaged += record.problems
                    continue
                if record is None or correlation_id not in (None, record.document.correlation_id):
                    continue
                if not record.begins(id_begins, correlation_id_begins):
                    continue
                document = record.told(pending=record.document.pending)
                if document.pending and pending is not True:
                    if owed is None:
                        owed = await self._run(lambda: {it.name for it in self._pending_markers()})
                    document = record.told(pending=marker.name in owed)
                if pending in (None, document.pending):
                    yield document
                    left = None if left is None else left - 1
        if damaged:
            raise DocumentsDamaged(damaged)

    async def clear_pending(self, kind: str, id: str) -> None:
        await self._run(lambda: self._clear_pending(kind, id))

    async def delete(self, kind: str, id: str) -> None:
        await self._run(lambda: self._delete(kind, id))

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def _records(self, markers: list[Marker]) -> list[Record | DocumentsDamaged | None]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(self._pool, self._record_of, it) for it in markers))

    def _create(self, document: Document) -> None:
        found = self._created(Record(document, self._clock.stamp()))
        if found is not None and not same_body(found.document, document):
            raise DocumentExists(
                f"{document.kind} {document.id[:80]!r}: is stored already, with other content. "
                "Read that, or use another id."
            )

    def _put(self, document: Document) -> None:
        record = Record(document, self._clock.stamp())
        found = self._created(record)
        if found is None:
            return
        record = Record(document, found.stamp)
        self._write_markers(record)
        self._objects.write(record.name, record.encoded())
        old = set(found.markers())
        for marker in sorted(old - set(record.markers())):
            self._objects.delete(marker)

    def _created(self, record: Record) -> Record | None:
        """Store it unless there is one; the one that is there instead."""
        self._write_markers(record)
        for _ in range(_TRIES):
            if self._objects.create(record.name, record.encoded()):
                return None
            found = self._read(record.name)
            if found is None:
                continue
            if found.stamp == record.stamp:
                return None  # it was us: the answer to our first try was lost
            for marker in record.markers():
                self._objects.delete(marker)
            return found
        raise TransientError(f"{record.document.kind} {record.document.id[:80]!r}: comes and goes. Store it again.")

    def _get(self, kind: str, id: str) -> Document:
        record = self._stored(kind, id)
        return record.told(pending=record.document.pending and self._exists(record.pending_marker()))

    def _clear_pending(self, kind: str, id: str) -> None:
        record = self._stored(kind, id)
        if record.document.pending:
            self._objects.delete(record.pending_marker())

    def _delete(self, kind: str, id: str) -> None:
        try:
            record = self._read(Record.name_of(kind, id))
        except DocumentsDamaged:  # its markers, which it would name, go once they are old
            self._objects.delete(Record.name_of(kind, id))
            return
        if record is not None:
            self._objects.delete(record.name)
            for marker in record.markers():
                self._objects.delete(marker)

    def _write_markers(self, record: Record) -> None:
        for marker in record.markers():
            self._objects.write(marker, b"")

    def _markers(self, kind: str | None, correlation_id: str | None, pending: bool) -> list[Marker]:
        """Candidates, in the order of first storing."""
        found = self._pending_markers() if pending else self._markers_below(flow_prefix(correlation_id))
        return sorted((marker for marker in found if kind in (None, marker.kind)), key=lambda marker: marker.name)

    def _pending_markers(self) -> list[Marker]:
        return self._markers_below("pending")

    def _markers_below(self, prefix: str) -> list[Marker]:
        return [marker for name in self._objects.names(prefix) if (marker := Marker.parse(name)) is not None]

    def _record_of(self, marker: Marker) -> Record | DocumentsDamaged | None:
        """What it stands for, if it counts, or why that cannot be told."""
        try:
            record = self._read(marker.record)
        except DocumentsDamaged as error:
            return error
        if record is not None and record.stamp == marker.stamp and marker.path in record.markers():
            return record
        if self._clock.is_old(marker.stamp):
            self._objects.delete(marker.path)
        return None

    def _stored(self, kind: str, id: str) -> Record:
        record = self._read(Record.name_of(kind, id))
        if record is None:
            raise DocumentNotFound(f"{kind} {id[:80]!r}: is not stored. List what there is.")
        return record

    def _read(self, name: str) -> Record | None:
        try:
            return Record.decoded(self._objects.read(name), f"{self._objects.place}/{name}")
        except FileNotFoundError:
            return None

    def _exists(self, name: str) -> bool:
        try:
            self._objects.read(name)
        except FileNotFoundError:
            return False
        return True


def _is_behind(
    marker: Marker, after: str | None, since: datetime | None, until: datetime | None, newest_first: bool
) -> bool:
    """Whether it stands behind ``after`` in that order, and was made in that time."""
    if after is not None and (marker.stamp >= after if newest_first else marker.stamp <= after):
        return False
    if since is None and until is None:
        return True
    at = Clock.read(marker.stamp)
    return (since is None or at >= since) and (until is None or at < until)


@asynccontextmanager
async def open_fsspec_documents(
    settings: FsspecDocumentsSettings, *, tried: bool = False
) -> AsyncIterator[DocumentStore]:
    """The store at ``settings.url``. Raises ConfigError where nothing can be created exclusively, TransientError.

    With ``tried`` it was open elsewhere with these settings, and nothing is asked of it now.
    """
    objects = await asyncio.to_thread(open_objects, settings, exclusive=True, tried=tried)
    pool = ThreadPoolExecutor(settings.at_once, "ion-fsspec-documents")
    try:
        yield FsspecDocuments(objects, pool, at_once=settings.at_once)
    finally:
        await asyncio.to_thread(pool.shutdown)
        await asyncio.to_thread(objects.close)
