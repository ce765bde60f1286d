"""The files of a flow: which there are, and whose."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

from ion_core.contracts.storage import Document, DocumentStore
from ion_core.errors import PermanentError, passing_over_damage
from ion_core.events import COMMIT, EVENT_META, StoredFile, parse_context


@dataclass(frozen=True, kw_only=True)
class FileOfFlow:
    """A file, and whose it is: the module that made it, and the event that it made it of.

    Of what ``came_in`` from outside ``module`` is who it came from, and the event is the one that brought it.
    """

    file: StoredFile
    module: str
    event_id: str
    came_in: bool = False


async def files_of(
    documents: DocumentStore, correlation_id: str, event_id: str | None = None, *, damaged: set[str] | None = None
) -> list[FileOfFlow]:
    """Files of a flow, each once: those that events bring in the order of storing, then what no event brings.

    With ``event_id`` those that this event brings, and those that modules made of it. Raises PermanentError for
    documents that do not say where a file lies. What is said of those that are damaged is added to ``damaged``; without
    it they raise DocumentsDamaged.
    """
    made: dict[str, FileOfFlow] = {}
    brought: list[tuple[str, str, StoredFile]] = []
    with nullcontext() if damaged is None else passing_over_damage(damaged.update):
        async for document in documents.find(correlation_id=correlation_id):
            context = parse_context(document.body, what=document.kind, problems=[])
            if document.kind == COMMIT:
                for file in stored_files(document):
                    made[file.key] = FileOfFlow(file=file, module=context.name, event_id=context.event_id)
            elif document.kind == EVENT_META:
                brought += [(document.id, context.name, file) for file in stored_files(document)]
    found: dict[str, FileOfFlow] = {}
    for id, name, file in brought:
        if event_id in (None, id):
            whose = FileOfFlow(file=file, module=name, event_id=id, came_in=True)
            found.setdefault(file.key, made.get(file.key, whose))
    for it in made.values():
        if event_id in (None, it.event_id):
            found.setdefault(it.file.key, it)
    return list(found.values())


def stored_files(document: Document) -> list[StoredFile]:
    """What an event's document says that it brings, or a commit that was made. Raises PermanentError."""
    listed = document.body.get("blobs" if document.kind == EVENT_META else "outputs") or ()
    try:
        return [StoredFile.from_json(item) for item in listed]
    except (KeyError, TypeError, AttributeError) as error:
        where = f"{document.kind} {document.id[:80]!r}"
        raise PermanentError(f"{where}: does not say where its files lie. Restore it, or remove it.") from error
