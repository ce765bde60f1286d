"""Jobs that are given up, and for which it is not waited any more: told by a document, whoever dies meanwhile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

from ion_core import crash
from ion_core.contracts.messaging import MESSAGE_HEADER, DeadLetter, MessageBroker
from ion_core.contracts.storage import Document, DocumentStore
from ion_core.errors import DocumentNotFound, InvalidEvent, QueueNotDeclared
from ion_core.events import COMMIT, GIVEN_UP, parse_context
from ion_core.gathering.records import DEAD, PURGED, given_up_document
from ion_core.jobs import Job
from ion_core.stores import for_each


async def forget_given_up(documents: DocumentStore, job_ids: Sequence[str]) -> None:
    """These jobs are waited for again: their messages are tried anew, or are dead letters once more. Idempotent."""

    async def forget(job_id: str) -> None:
        try:
            await documents.get(GIVEN_UP, job_id)
        except DocumentNotFound:
            return
        await documents.delete(GIVEN_UP, job_id)

    await for_each(forget, job_ids)


class GivingUp:
    """What is said of dead letters, of modules that some gatherer waits for (``awaited``). ``clock`` counts seconds."""

    def __init__(
        self,
        documents: DocumentStore,
        broker: MessageBroker,
        awaited: Callable[[str], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._documents = documents
        self._broker = broker
        self._awaited = awaited
        self._clock = clock
        self._unseen: dict[str, float] = {}
        """Since when a letter is not seen that is being purged, by its job."""

    @property
    def unsure(self) -> bool:
        """Whether there are letters that are being purged, and may only be hidden."""
        return bool(self._unseen)

    async def dying(self, job: Job, *, message: str, reason: str) -> None:
        """Before a job's delivery is settled as a dead letter; ``end`` it is once that is so."""
        event = job.event
        await self._documents.put(
            given_up_document(event.context, event.type, job.module, state=DEAD, message=message, reason=reason)
        )

    async def purging(self, letters: Sequence[DeadLetter]) -> list[Document]:
        """Before these are purged; returns what ``end`` is to be given."""
        documents = [it for letter in letters if (it := self._of(letter)) is not None]
        await for_each(self._documents.put, documents)
        if documents:
            crash.reached(crash.GIVEN_UP)
        return documents

    def _of(self, letter: DeadLetter) -> Document | None:
        if not self._awaited(letter.queue):
            return None
        try:
            event = Job.of_message(letter.body, letter.queue).event
        except InvalidEvent:  # nobody knows what to wait for
            return None
        message = letter.headers.get(MESSAGE_HEADER, "")
        return given_up_document(
            event.context, event.type, letter.queue, state=PURGED, message=message, reason=letter.reason
        )

    async def end(self, job_id: str, state: str) -> None:
        """It is in this state, unless its document has another or is gone: it was redriven, or purged, meanwhile."""
        self._unseen.pop(job_id, None)
        with contextlib.suppress(DocumentNotFound):
            if (await self._documents.get(GIVEN_UP, job_id)).body["state"] == state:
                await self._documents.clear_pending(GIVEN_UP, job_id)

    async def left(self) -> list[Document]:
        """What has come to be as its document says, though whoever was at it has not said so.

        A letter that was to be there is seen. Of one that was to be purged none is seen, where a broker may hide
        letters for a while for as long as that. What has committed after all was not given up.
        """
        letters: dict[str, set[tuple[str, str]]] = {}
        unseen: dict[str, float] = {}
        found = []
        async for document in self._documents.find(GIVEN_UP, pending=True):
            queue = parse_context(document.body, what="given up", problems=[]).name
            if not self._awaited(queue):
                continue
            if await self._has_committed(document.id):
                await self._documents.delete(GIVEN_UP, document.id)
                continue
            if queue not in letters:
                letters[queue] = await self._letters(queue)
            seen = (document.id, document.body["message"]) in letters[queue]
            if document.body["state"] == DEAD:
                found += [document] if seen else []
            elif not seen:
                since = unseen[document.id] = self._unseen.get(document.id, self._clock())
                if self._clock() - since >= self._broker.letters_unseen_for.total_seconds():
                    found.append(document)
        self._unseen = unseen
        return found

    async def _has_committed(self, job_id: str) -> bool:
        try:
            await self._documents.get(COMMIT, job_id)
        except DocumentNotFound:
            return False
        return True

    async def _letters(self, queue: str) -> set[tuple[str, str]]:
        """Job and message of each that is seen."""
        found = set()
        try:
            async with self._broker.each_dead_letter(queue) as letters:
                async for letter in letters:
                    with contextlib.suppress(InvalidEvent):
                        job = Job.of_message(letter.body, queue)
                        found.add((job.id, letter.headers.get(MESSAGE_HEADER, "")))
        except QueueNotDeclared:
            pass
        return found
