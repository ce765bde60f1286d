"""DataPlane: blobs, documents and publishing, as the handler and the dispatcher see them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from ion_core import crash
from ion_core.commits import Commit
from ion_core.contracts.messaging import MESSAGE_HEADER, DeadLetter, MessageBroker
from ion_core.contracts.observer import Observer
from ion_core.contracts.storage import BlobInfo, Document, DocumentStore, check_key
from ion_core.errors import (
    DocumentExists,
    DocumentNotFound,
    InvalidEvent,
    ProviderError,
    Unroutable,
)
from ion_core.events import (
    COMMIT,
    EVENT_META,
    ROUND,
    Event,
    StoredFile,
    encode_event,
    event_meta,
)
from ion_core.gathering.evaluating import Evaluations
from ion_core.gathering.giving_up import forget_given_up
from ion_core.jobs import Job
from ion_core.modules import Module
from ion_core.rounds import Round
from ion_core.stores import Stores, contradictions, for_each, key_segment

log = logging.getLogger(__name__)

TRACEPARENT_HEADER = "traceparent"
"""As W3C Trace Context calls it: the trace that the flow came with, if any."""
HOPS_HEADER = "ion-hops"

DOCUMENT_HEADER, DOCUMENT_STORED = "ion-document", "stored"
"""A promise on the wire: whoever sent this stored its document before. What others send goes without."""

PROBE = "probe"
"""Kind of a document by which the store is asked whether it answers."""
PROBE_FLOW = "ion-probe"


async def bodies_in(broker: MessageBroker, queue: str) -> AsyncIterator[bytes]:
    """What waits in a queue and is ready, and its dead letters, as far as can be seen; to be read to its end.

    Call nothing about the queue meanwhile. Raises as the broker does.
    """
    async with broker.each_message(queue) as messages:
        async for message in messages:
            yield message.body
    async with broker.each_dead_letter(queue) as letters:
        async for letter in letters:
            yield letter.body


async def forget_rounds(documents: DocumentStore, letters: Sequence[DeadLetter]) -> None:
    """Remove the round records of these dead letters, before they are purged or redriven: others may fail by then.

    Gatherers wait for their jobs then, also where such a letter was purged before. Idempotent. A record that another
    message of the event has taken over stays. Raises as the store does.
    """
    jobs: list[str] = []

    async def forget(letter: DeadLetter) -> None:
        message = letter.headers.get(MESSAGE_HEADER)
        try:
            job_id = Job.of_message(letter.body, letter.queue).id
            jobs.append(job_id)
            document = await documents.get(ROUND, job_id)
        except (InvalidEvent, DocumentNotFound):
            return
        if not message:
            return
        if document.body.get("message") == message:
            await documents.delete(ROUND, job_id)

    await for_each(forget, letters)
    await forget_given_up(documents, jobs)


async def forget_rounds_of(documents: DocumentStore, module: str) -> None:
    """Remove all round records of this module's jobs. Idempotent. Raises as the store does."""
    rounds = [Round.from_document(document) async for document in documents.find(ROUND)]
    ids = [it.job_id for it in rounds if it.context.name == module]
    await for_each(lambda job_id: documents.delete(ROUND, job_id), ids)


def _is_executable(path: Path) -> bool:
    try:
        return bool(path.lstat().st_mode & stat.S_IXUSR)
    except FileNotFoundError:  # the store says so
        return False


@dataclass(frozen=True)
class DataPlane(Stores):
    """Everything a job reads and leaves behind goes through here."""

    broker: MessageBroker
    observer: Observer
    gathering: Evaluations | None = field(default=None, kw_only=True)
    """What gatherers have to do; None where nothing is published in the end."""

    def with_gatherers(self, modules: Iterable[Module]) -> DataPlane:
        """The same for a configuration with these modules."""
        return replace(self, gathering=Evaluations(modules, self.documents, self.broker, self.publish))

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
        self,
        event: Event,
        files: Mapping[str, Path],
        *,
        token: str = "",
        consume: bool = False,
        told: Mapping[str, BlobInfo] = MappingProxyType({}),
    ) -> Sequence[StoredFile]:
        """Store the files of an event from outside, whose document is to come.

        ``token``, unlike any other, keeps the files apart from those that somebody else stores at this moment for an
        event of the same id. With ``consume`` they are given away: they may be gone then, also after an error.
        ``told`` is what files of these names hold, as ``BlobStore.put`` has it. Raises InvalidEvent,
        InvalidKey and whatever the store raises.
        """
        encode_event(event)
        prefix = f"{key_segment(event.context.correlation_id)}/{key_segment(event.context.event_id)}/_"
        prefix += f"/{token}" if token else ""
        keys = {name: check_key(f"{prefix}/{name}") for name in files}

        async def put(name: str) -> StoredFile:
            executable = _is_executable(files[name])
            info = await self.blobs.put(keys[name], files[name], consume=consume, told=told.get(name))
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
            MESSAGE_HEADER: secrets.token_hex(16),
        }
        if event.traceparent:
            headers[TRACEPARENT_HEADER] = event.traceparent
        await self.broker.publish(topic or event.type, encoded or encode_event(event), headers=headers)
        self.observer.event_published(event)

    async def contradictions(self, event: Event) -> str:
        """What an event, as a message says it, says otherwise than what is stored under its id; '' if nothing."""
        found = await self.accepted_files(event.context.event_id)
        return "" if found is None else contradictions(found[0], event)

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

        Documents first, so that whoever takes an event finds its document. An event nobody takes ends here. Gatherers
        for which it was the last are started.
        """
        gathering = self.gathering
        if gathering is not None and not gathering.waits_for(commit.context.name):
            gathering = None
        if not commit.owes and gathering is None:
            return
        await for_each(self.documents.put, commit.documents())
        await for_each(self._publish_child, commit.events)
        if gathering is not None:
            await gathering.committed(commit)
        crash.reached("S10")
        await self.documents.clear_pending(COMMIT, commit.job_id)

    async def _publish_child(self, event: Event) -> None:
        try:
            await self.publish(event)
        except Unroutable:
            log.debug("event is taken by no module", extra={"type": event.type, "eventId": event.context.event_id})

    async def blobs_answer(self) -> None:
        """Look for what is not there. Raises what the store raises if it does not answer; nothing is changed."""
        async for _ in self.blobs.list(PROBE_FLOW):  # of one that was left behind, too
            pass

    async def documents_answer(self) -> None:
        """The same of the other store."""
        with contextlib.suppress(DocumentNotFound):
            await self.documents.get(PROBE, PROBE_FLOW)

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
