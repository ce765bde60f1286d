"""Stores: blobs and documents as a job reads and leaves them, without publishing. All that steps elsewhere need."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from ion_core.contracts.storage import BlobStore, Document, DocumentStore
from ion_core.errors import DocumentExists, DocumentNotFound, PermanentError, ProviderError, shortened
from ion_core.events import COMMIT, EVENT_META, GATHERED_TYPE, Event, StoredFile, differences, parse_context

if TYPE_CHECKING:
    from ion_core.commits import Commit
    from ion_core.gathered import Inputs

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")

DOCUMENT_WAITS = (0.1, 0.4, 1.5, 3.0, 5.0)
"""Seconds between looks for a promised document that is not there: a store may show late what was written elsewhere."""

REMEMBERED = 60.0
"""Seconds for which it matters that a promised document did not come."""

AT_ONCE = 256
"""How many calls to a provider one commit makes at a time."""

MAX_NAME_BYTES = 768
"""Of a file's name, with its directories: its key has the job's prefix before it."""

_PLAIN_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


def key_segment(id: str) -> str:
    """A foreign id as one segment of a key: itself where it is plain, else ``~`` and its sha256."""
    if re.fullmatch(_PLAIN_ID, id):
        return id
    import hashlib  # of use to foreign ids alone

    return "~" + hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()


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


async def try_each(call: Callable[[T], Awaitable[object]], items: Sequence[T]) -> list[tuple[T, ProviderError]]:
    """As ``for_each``, but passes over what a provider does not do: these, each with its error."""
    failed: list[tuple[T, ProviderError]] = []

    async def attempt(item: T) -> None:
        try:
            await call(item)
        except ProviderError as error:
            failed.append((item, error))

    await for_each(attempt, items)
    return failed


class Patience:
    """How long a promised document is waited for: ``DOCUMENT_WAITS``, or the first of these where another did not come.

    A store that lacks one may lack thousands; together they must not hold up events that have theirs. ``pause`` waits
    for some seconds, ``clock`` counts them.
    """

    def __init__(
        self,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pause = pause
        self._clock = clock
        self._little_until = float("-inf")

    def waits(self) -> Sequence[float]:
        return DOCUMENT_WAITS[:1] if self._clock() < self._little_until else DOCUMENT_WAITS

    def came(self) -> None:
        self._little_until = float("-inf")

    def in_vain(self) -> None:
        self._little_until = self._clock() + REMEMBERED


@dataclass(frozen=True)
class Stores:
    """What a job reads and leaves behind, without publishing: all that steps elsewhere need.

    ``documents_at`` is where ``documents`` are, in words without secrets, for errors.
    """

    blobs: BlobStore
    documents: DocumentStore
    documents_at: str = field(default="the document store", kw_only=True)
    patience: Patience = field(default_factory=Patience, kw_only=True)

    async def accepted(self, event_id: str) -> Event | None:
        """The event that was taken in under this id, if any."""
        found = await self.accepted_files(event_id)
        return None if found is None else found[0]

    async def accepted_files(self, event_id: str) -> tuple[Event, tuple[StoredFile, ...]] | None:
        """The same with its files."""
        try:
            return _told(await self.documents.get(EVENT_META, event_id))
        except DocumentNotFound:
            return None

    async def stored_files(self, event: Event) -> tuple[Event, tuple[StoredFile, ...]]:
        """The event with the data of its document, and its files.

        A document that was promised and is not there is waited for, some seconds in all; then DocumentNotFound says
        where. An event from others, without a document, brings what it says itself.
        """
        document = await self._document_of(event)
        if document is None:
            return event, ()
        stored, files = _told(document)
        if differs := contradictions(stored, event):
            log.warning(
                "a message says otherwise than the stored event, which counts: %s", differs, extra=_fields(event)
            )
        return replace(event, data=stored.data, files=stored.files), files

    async def promised(self, event_id: str) -> tuple[Event, tuple[StoredFile, ...]]:
        """The event that is known to have been stored under this id, and its files: waited for as by ``stored_files``.

        Raises DocumentNotFound, which says where it is not.
        """
        return _told(await self._promised(event_id))

    async def gathered(self, event: Event) -> Inputs | None:
        """What a gatherer is given with an event that starts it; None for any other event.

        Raises PermanentError for one that Ion did not make, and DocumentNotFound where a commit of what was gathered is
        gone.
        """
        if not event.type.startswith(GATHERED_TYPE):
            return None
        from ion_core.commits import Commit  # of use to gatherers alone, as this
        from ion_core.gathered import Given, Inputs

        id = event.context.event_id
        document = await self._document_of(event)
        said = None if document is None else document.body.get("gathered")
        if said is None:
            raise PermanentError(f"event {id[:80]!r}: starts a gatherer, and Ion has not made it.")
        given = Given.from_json(said)

        async def events_of(made: tuple[str, tuple[str, ...]]) -> list[tuple[Event, list[StoredFile]]]:
            job, ids = made
            commit = Commit.from_document(await self.documents.get(COMMIT, job))
            events = {it.context.event_id: it for it in commit.events}
            stored = {file.name: file for file in commit.files}
            return [(events[id], [stored[name] for name in events[id].files]) for id in ids]

        found = await for_each(events_of, given.share.made)
        return Inputs.of(given, [it for events in found for it in events])

    async def _document_of(self, event: Event) -> Document | None:
        """None for an event without one, of which nobody promised any."""
        if event.documented:
            return await self._promised(event.context.event_id)
        try:
            return await self.documents.get(EVENT_META, event.context.event_id)
        except DocumentNotFound:
            return None

    async def _promised(self, event_id: str) -> Document:
        with contextlib.suppress(DocumentNotFound):
            return await self.documents.get(EVENT_META, event_id)
        waits = self.patience.waits()
        for seconds in waits:
            await self.patience.pause(seconds)
            with contextlib.suppress(DocumentNotFound):
                document = await self.documents.get(EVENT_META, event_id)
                self.patience.came()
                return document
        self.patience.in_vain()
        raise DocumentNotFound(
            f"event {event_id[:80]!r}: was published with a document, which is not in {self.documents_at}, nor came "
            f"there within {sum(waits):g} s. Have all that publish and serve use the same document store; "
            "if it was lost or removed (`ion-core gc`), bring it back. Then `ion-core dlq redrive`."
        )

    async def committed(self, job_id: str) -> tuple[Commit, bool] | None:
        """The job's commit and whether it is still to be published; None if it has not committed."""
        try:
            document = await self.documents.get(COMMIT, job_id)
        except DocumentNotFound:
            return None
        from ion_core.commits import Commit  # which step 1 of a job elsewhere does without

        return Commit.from_document(document), document.pending

    async def commit(self, commit: Commit) -> bool:
        """The fence: True if this attempt's record is the job's commit, False if another attempt's is."""
        try:
            await self.documents.create(commit.to_document())
        except DocumentExists:
            return False
        return True

    async def discard(self, keys: Sequence[str]) -> None:
        """Delete files of an attempt that did not win; what cannot be deleted now is left to garbage collection."""
        if failed := await try_each(self.blobs.delete, keys):
            log.warning("files of a lost attempt are left behind: %s", failed[0][1], extra={"files": len(failed)})


def event_of(document: Document) -> Event:
    """The event that its document tells of. Raises PermanentError, InvalidEvent for one that tells of none."""
    return _told(document)[0]


def _told(document: Document) -> tuple[Event, tuple[StoredFile, ...]]:
    """The event that its document tells of, and its files."""
    body = document.body
    context = parse_context(body, what=f"event {document.id[:80]!r}", problems=[])
    files = tuple(StoredFile.from_json(item) for item in body.get("blobs", ()))
    data = tuple((pair["key"], pair["value"]) for pair in body.get("data", ()))
    names = tuple(file.name for file in files)
    if nowhere := sorted(set(body.get("files") or ()) - set(names)):
        named = ", ".join(repr(name[:80]) for name in nowhere[:5])
        raise PermanentError(f"document {document.id[:80]!r}: says nowhere where its files lie: {named}.")
    event = Event(
        context=context,
        type=body.get("type", ""),
        data=data,
        files=names,
        documented=True,
        traceparent=body.get("traceparent", ""),
    )
    return event, files


def contradictions(stored: Event, event: Event) -> str:
    """Others may leave the data to the document, and the oldest documents name no type."""
    data = event.data if event.documented or event.data else stored.data
    type = event.type if stored.type else ""
    if type == stored.type and data == stored.data:
        return ""
    return shortened(differences(stored, replace(event, type=type, data=data)))


def _fields(event: Event) -> dict[str, str]:
    return {"eventId": event.context.event_id, "correlationId": event.context.correlation_id}
