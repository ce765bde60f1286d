"""DataPlane: blobs, documents and publishing, as the handler and the dispatcher see them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
import secrets
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from ion_core import crash
from ion_core.commits import Commit
from ion_core.contracts.messaging import MESSAGE_HEADER, DeadLetter, MessageBroker
from ion_core.contracts.observer import Observer
from ion_core.contracts.storage import BlobStore, Document, DocumentStore, check_key
from ion_core.errors import (
    DocumentExists,
    DocumentNotFound,
    InvalidEvent,
    PermanentError,
    ProviderError,
    Unroutable,
    shortened,
)
from ion_core.events import (
    COMMIT,
    EVENT_META,
    ROUND,
    Event,
    StoredFile,
    differences,
    encode_event,
    event_meta,
    parse_context,
)
from ion_core.jobs import Job
from ion_core.rounds import Round

log = logging.getLogger(__name__)
T = TypeVar("T")

_SPARE = 1_000
"""How many messages more than were counted are looked at: others arrive meanwhile."""
R = TypeVar("R")

HOPS_HEADER = "ion-hops"

DOCUMENT_HEADER, DOCUMENT_STORED = "ion-document", "stored"
"""A promise on the wire: whoever sent this stored its document before. What others send goes without."""

DOCUMENT_WAITS = (0.1, 0.4, 1.5, 3.0, 5.0)
"""Seconds between looks for a promised document that is not there: a store may show late what was written elsewhere."""

REMEMBERED = 60.0
"""Seconds for which it matters that a promised document did not come."""

AT_ONCE = 256
"""How many calls to a provider one commit makes at a time."""

MAX_NAME_BYTES = 768
"""Of a file's name, with its directories: its key has the job's prefix before it."""

PROBE = "probe"
"""Kind of a document by which the store is asked whether it answers."""
PROBE_FLOW = "ion-probe"

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


async def bodies_in(broker: MessageBroker, queue: str) -> list[bytes]:
    """What waits in a queue and is ready, and its dead letters, as far as can be seen. Raises as the broker does."""
    stats = await broker.stats(queue)
    waiting = [message.body for message in await broker.peek(queue, limit=stats.ready + _SPARE)]
    return waiting + [letter.body for letter in await broker.dead_letters(queue)]


async def forget_rounds(documents: DocumentStore, letters: Sequence[DeadLetter]) -> None:
    """Remove the round records of these dead letters, before they are purged or redriven: others may fail by then.

    Idempotent. A record that another message of the event has taken over stays. Raises as the store does.
    """

    async def forget(letter: DeadLetter) -> None:
        message = letter.headers.get(MESSAGE_HEADER)
        if not message:
            return
        try:
            job_id = Job.of_message(letter.body, letter.queue).id
            document = await documents.get(ROUND, job_id)
        except (InvalidEvent, DocumentNotFound):
            return
        if document.body.get("message") == message:
            await documents.delete(ROUND, job_id)

    await for_each(forget, letters)


async def forget_rounds_of(documents: DocumentStore, module: str) -> None:
    """Remove all round records of this module's jobs. Idempotent. Raises as the store does."""
    rounds = [Round.from_document(document) async for document in documents.find(ROUND)]
    ids = [it.job_id for it in rounds if it.context.name == module]
    await for_each(lambda job_id: documents.delete(ROUND, job_id), ids)


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


def _is_executable(path: Path) -> bool:
    try:
        return bool(path.lstat().st_mode & stat.S_IXUSR)
    except FileNotFoundError:  # the store says so
        return False


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
        if differs := _contradictions(stored, event):
            log.warning(
                "a message says otherwise than the stored event, which counts: %s", differs, extra=_fields(event)
            )
        return replace(event, data=stored.data, files=stored.files), files

    async def promised(self, event_id: str) -> tuple[Event, tuple[StoredFile, ...]]:
        """The event that is known to have been stored under this id, and its files: waited for as by ``stored_files``.

        Raises DocumentNotFound, which says where it is not.
        """
        return _told(await self._promised(event_id))

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


@dataclass(frozen=True)
class DataPlane(Stores):
    """Everything a job reads and leaves behind goes through here."""

    broker: MessageBroker
    observer: Observer

    async def accept(self, event: Event, files: Mapping[str, Path]) -> None:
        """Take in an event from outside: files, then document, then message, each durable before the next.

        Raises as ``store``, and Unroutable (the document is then stored, the message is not).
        """
        await self.publish(await self.store(event, files))

    async def store(self, event: Event, files: Mapping[str, Path]) -> Event:
        """Store an event and its files without publishing it; returns the event as it is stored.

        Raises as ``put_files`` and ``document``.
        """
        return await self.document(event, await self.put_files(event, files))

    async def put_files(
        self, event: Event, files: Mapping[str, Path], *, token: str = "", consume: bool = False
    ) -> Sequence[StoredFile]:
        """Store the files of an event from outside, whose document is to come.

        ``token``, unlike any other, keeps the files apart from those that somebody else stores at this moment for an
        event of the same id. With ``consume`` they are given away: they may be gone then, also after an error. Raises
        InvalidEvent, InvalidKey and whatever the store raises.
        """
        encode_event(event)
        prefix = f"{key_segment(event.context.correlation_id)}/{key_segment(event.context.event_id)}/_"
        prefix += f"/{token}" if token else ""
        keys = {name: check_key(f"{prefix}/{name}") for name in files}

        async def put(name: str) -> StoredFile:
            executable = _is_executable(files[name])
            info = await self.blobs.put(keys[name], files[name], consume=consume)
            return StoredFile(name=name, key=keys[name], size=info.size, sha256=info.sha256, executable=executable)

        return await for_each(put, [*keys])

    async def document(self, event: Event, stored: Sequence[StoredFile]) -> Event:
        """Store the document of an event whose files are stored; returns the event as it is stored.

        Raises DocumentExists if there is another event of that id, and whatever the store raises.
        """
        event = replace(event, files=tuple(file.name for file in stored), documented=True)
        document = Document(
            kind=EVENT_META,
            id=event.context.event_id,
            correlation_id=event.context.correlation_id,
            body=event_meta(event, stored),
        )
        await self.documents.create(document)
        return event

    async def publish(self, event: Event, *, topic: str | None = None, encoded: bytes | None = None) -> None:
        """Hand an event whose document is stored to the broker; returns once it has it durably.

        ``topic`` is another than its type, for a queue that is to have it and others not. ``encoded`` is what
        ``encode_event`` makes of it, from whoever has that already.
        Each call makes a message with an id of its own: after an error there may be two of one event. Raises
        Unroutable, TransientError.
        """
        headers = {
            HOPS_HEADER: str(event.hops),
            DOCUMENT_HEADER: DOCUMENT_STORED,
            MESSAGE_HEADER: uuid.uuid4().hex,
        }
        await self.broker.publish(topic or event.type, encoded or encode_event(event), headers=headers)
        self.observer.event_published(event)

    async def contradictions(self, event: Event) -> str:
        """What an event, as a message says it, says otherwise than what is stored under its id; '' if nothing."""
        found = await self.accepted_files(event.context.event_id)
        return "" if found is None else _contradictions(found[0], event)

    async def round(self, job_id: str) -> Round | None:
        """The job's round record, if there is one."""
        try:
            return Round.from_document(await self.documents.get(ROUND, job_id))
        except DocumentNotFound:
            return None

    async def first_round(self, record: Round) -> bool:
        """Create the job's round record; False if there is one already."""
        try:
            await self.documents.create(record.to_document())
        except DocumentExists:
            return False
        return True

    async def further_round(self, record: Round) -> None:
        """Replace the job's round record: a later attempt of the same message, or a message that takes its place."""
        await self.documents.put(record.to_document())

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

    async def answers(self, *, scratch: Path, name: str) -> None:
        """Have both stores keep and return something of our own, of this name. Raises what they raise if they do not.

        ``scratch`` is a directory of ours for a file or two. What is kept is removed again, as far as that can be done.
        """
        said = {"context": {"documentType": PROBE}, "finishedAt": datetime.now(UTC).isoformat(timespec="milliseconds")}
        document = Document(kind=PROBE, id=name, correlation_id=PROBE_FLOW, body=said)
        key = check_key(f"{PROBE_FLOW}/{key_segment(name)}")
        directory = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=".probe-", dir=scratch))
        source, target = directory / "out", directory / "back"
        try:
            await asyncio.to_thread(source.write_bytes, secrets.token_bytes(64))
            expect = await self.blobs.put(key, source)
            await self.blobs.get(key, target, expect=expect)
            await self.documents.delete(PROBE, name)
            await self.documents.create(document)
            await self.documents.get(PROBE, name)
        finally:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
            await self.discard([key])
            with contextlib.suppress(ProviderError):
                await self.documents.delete(PROBE, name)


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
    return Event(context=context, type=body.get("type", ""), data=data, files=names, documented=True), files


def _contradictions(stored: Event, event: Event) -> str:
    """Others may leave the data to the document, and the oldest documents name no type."""
    data = event.data if event.documented or event.data else stored.data
    return shortened(differences(stored, replace(event, type=event.type if stored.type else "", data=data)))


def _fields(event: Event) -> dict[str, str]:
    return {"eventId": event.context.event_id, "correlationId": event.context.correlation_id}
