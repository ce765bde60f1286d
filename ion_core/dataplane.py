"""DataPlane: blobs, documents and publishing, as the handler and the dispatcher see them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from ion_core import crash
from ion_core.commits import Commit
from ion_core.contracts.messaging import MessageBroker
from ion_core.contracts.observer import Observer
from ion_core.contracts.storage import BlobStore, Document, DocumentStore, check_key
from ion_core.errors import DocumentExists, DocumentNotFound, ProviderError, Unroutable
from ion_core.events import COMMIT, EVENT_META, Event, StoredFile, encode_event, event_meta, parse_context

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")

HOPS_HEADER = "ion-hops"
AT_ONCE = 256
"""How many calls to a provider one commit makes at a time."""

MAX_NAME_BYTES = 768
"""Of a file's name, with its directories: its key has the job's prefix before it."""

_PLAIN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def key_segment(id: str) -> str:
    """A foreign id as one segment of a key: itself where it is plain, else ``~`` and its sha256."""
    return id if _PLAIN_ID.fullmatch(id) else "~" + hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()


def job_prefix(event: Event, module: str, attempt: str) -> str:
    """Where an attempt's files lie: ``<correlationId>/<eventId>/<module>/<attempt>``."""
    context = event.context
    return f"{key_segment(context.correlation_id)}/{key_segment(context.event_id)}/{module}/{attempt}"


async def for_each(call: Callable[[T], Awaitable[R]], items: Sequence[T]) -> list[R]:
    """``call`` for every item, a bounded number at a time; results in order, the first error once its batch is over."""
    if len(items) == 1:  # worth no task
        return [await call(items[0])]
    results: list[R] = []
    for start in range(0, len(items), AT_ONCE):
        batch = await asyncio.gather(*(call(item) for item in items[start : start + AT_ONCE]), return_exceptions=True)
        for result in batch:
            if isinstance(result, BaseException):
                raise result
            results.append(result)
    return results


@dataclass(frozen=True)
class DataPlane:
    """Everything a job reads and leaves behind goes through here."""

    blobs: BlobStore
    documents: DocumentStore
    broker: MessageBroker
    observer: Observer

    async def accept(self, event: Event, files: Mapping[str, Path]) -> None:
        """Take in an event from outside: files, then document, then message, each durable before the next.

        Raises as ``store``, and Unroutable (the document is then stored, the message is not).
        """
        await self.publish(await self.store(event, files))

    async def store(self, event: Event, files: Mapping[str, Path]) -> Event:
        """Store an event and its files without publishing it; returns the event as it is stored.

        Raises DocumentExists if there is another event of that id, InvalidEvent, InvalidKey and whatever the stores
        raise.
        """
        encode_event(event)
        prefix = f"{key_segment(event.context.correlation_id)}/{key_segment(event.context.event_id)}/_"
        stored: list[StoredFile] = []
        for name, path in files.items():
            key = check_key(f"{prefix}/{name}")
            info = await self.blobs.put(key, path)
            stored.append(StoredFile(name=name, key=key, size=info.size, sha256=info.sha256))
        event = replace(event, files=tuple(files))
        await self.documents.create(
            Document(
                kind=EVENT_META,
                id=event.context.event_id,
                correlation_id=event.context.correlation_id,
                body=event_meta(event, stored),
            )
        )
        return event

    async def accepted(self, event_id: str) -> Event | None:
        """The event that was taken in under this id, if any."""
        try:
            document = await self.documents.get(EVENT_META, event_id)
        except DocumentNotFound:
            return None
        context = parse_context(document.body, what=f"event {event_id[:80]!r}", problems=[])
        event, _ = await self.stored_files(Event(context=context, type=document.body.get("type", "")))
        return event

    async def publish(self, event: Event) -> None:
        """Hand the event to the broker; returns once it has it durably. Raises Unroutable, TransientError."""
        await self.broker.publish(event.type, encode_event(event), headers={HOPS_HEADER: str(event.hops)})
        self.observer.event_published(event)

    async def stored_files(self, event: Event) -> tuple[Event, tuple[StoredFile, ...]]:
        """The event with the data of its document, and its files. An event without a document has none."""
        try:
            document = await self.documents.get(EVENT_META, event.context.event_id)
        except DocumentNotFound:
            return event, ()
        files = tuple(StoredFile.from_json(item) for item in document.body.get("blobs", ()))
        data = tuple((pair["key"], pair["value"]) for pair in document.body.get("data", ()))
        return replace(event, data=data, files=tuple(file.name for file in files)), files

    async def committed(self, job_id: str) -> tuple[Commit, bool] | None:
        """The job's commit and whether it is still to be published; None if it has not committed."""
        try:
            document = await self.documents.get(COMMIT, job_id)
        except DocumentNotFound:
            return None
        return Commit.from_document(document), document.pending

    async def commit(self, commit: Commit) -> bool:
        """The fence: True if this attempt's record is the job's commit, False if another attempt's is."""
        try:
            await self.documents.create(commit.to_document())
        except DocumentExists:
            return False
        return True

    async def publish_commit(self, commit: Commit) -> None:
        """Publish what the record lists and mark it published. Repeatable: ids and bodies are always the same.

        Documents first, so that whoever takes an event finds its document. An event nobody takes ends here.
        """
        if not commit.owes:
            return
        await for_each(self.documents.put, commit.documents())
        await for_each(self._publish_child, commit.events)
        crash.reached("S10")
        await self.documents.clear_pending(COMMIT, commit.job_id)

    async def _publish_child(self, event: Event) -> None:
        try:
            await self.publish(event)
        except Unroutable:
            log.debug("event is taken by no module", extra={"type": event.type, "eventId": event.context.event_id})

    async def discard(self, keys: Sequence[str]) -> None:
        """Delete files of an attempt that did not win; what cannot be deleted now is left to garbage collection."""
        try:
            await for_each(self.blobs.delete, keys)
        except ProviderError as error:
            log.warning("files of a lost attempt are left behind: %s", error)
