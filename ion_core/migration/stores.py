"""Documents, and the files that they name, copied from store to store: oldest first, each file against its sha256.

What was copied is left where it was. A note beside says after each part how far it has come, so that a copy that was
cut short goes on from there; without the note, what is there already is found to be the same.

What is replaced and removed while modules run comes last, once nothing else is left: so it is as it is then, also where
something ran on between a copy that was cut short, or had gaps, and the next one.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ion_core import strict_json
from ion_core.contracts.storage import BlobInfo, BlobStore, Document, DocumentStore
from ion_core.errors import (
    BlobCorrupt,
    BlobNotFound,
    DocumentExists,
    DocumentNotFound,
    InvalidEvent,
    PermanentError,
    StateError,
    passing_over_damage,
    storage_error,
)
from ion_core.events import COMMIT, EVENT_META, FAILURE, GIVEN_UP, MODULE_LOGS, ROUND, StoredFile
from ion_core.stores import for_each

_AT_ONCE = 64
"""Documents that are read together, and noted together."""
_FILES_AT_ONCE = 16
_RECORDS = {FAILURE: "finishedAt", ROUND: "failedAt", GIVEN_UP: ""}
"""What is replaced and removed, and where such a document says since when it is as it is."""
_TOLD_ANEW = {**_RECORDS, MODULE_LOGS: "finishedAt"}
"""What may be replaced: the later one counts."""
PASSING = "passing"
"""The directory of files on their way, which has to be there."""
_NOTE = "copied.json"
_MAX_NOTE = 1 << 16


@dataclass(kw_only=True)
class Copied:
    """How much was copied, ``size`` in bytes; ``problems`` are what could not be, each in words.

    ``origin`` says which stores it came from, ``cursor`` how far it has come; ``document`` (kind and id) and ``file``
    are the last that were copied by then.
    """

    origin: str
    cursor: str | None = None
    document: Sequence[str] | None = None
    file: str | None = None
    documents: int = 0
    files: int = 0
    size: int = 0
    problems: list[str] = field(default_factory=list)


def copied_before(directory: Path, origin: str) -> Copied:
    """What a copy from ``origin`` has done that was cut short, by its note; nothing without one.

    Raises StateError where the note cannot be read.
    """
    note = directory / _NOTE
    try:
        found = strict_json.loads(note.read_bytes(), what=str(note), limit=_MAX_NOTE)
        said = Copied(**found, problems=[])
    except FileNotFoundError:
        return Copied(origin=origin)
    except OSError as error:
        raise StateError(f"{note}: cannot be read: {error.strerror}. Is the directory yours?") from error
    except (InvalidEvent, TypeError) as error:
        raise StateError(f"{note}: is damaged. Remove it: the copy begins anew, and finds what is there.") from error
    return said if said.origin == origin else Copied(origin=origin)


async def copy_stores(
    so_far: Copied,
    *,
    documents: tuple[DocumentStore, DocumentStore | None],
    blobs: tuple[BlobStore, BlobStore] | None,
    directory: Path,
    with_gaps: bool = False,
    done: Callable[[Copied, Document], object] = lambda so_far, last: None,
) -> Copied:
    """Copy from the first of each pair to the second; returns ``so_far``, with what was added.

    ``directory`` is for the note, and ``PASSING`` in it for files on their way. Where ``so_far`` says that something
    was copied that is not there any more, the copy begins anew. With problems, records of failures are copied
    ``with_gaps`` only.

    A second of None, or no pair of blobs, is for stores that both sides share: nothing of them is copied. ``done`` is
    told after each part how far it is, and the last document of that. A file that is missing or damaged, and a document
    that is damaged or exists as another one, is a problem, and all else is copied. Raises what the stores raise
    otherwise; call it again then.
    """
    source, target = documents
    if not await _still_there(so_far, target, None if blobs is None else blobs[1]):
        so_far = Copied(origin=so_far.origin)
    while True:
        part: list[Document] = []
        with passing_over_damage(so_far.problems.extend):
            async for document in source.find(after=so_far.cursor, limit=_AT_ONCE):
                part.append(document)
        if not part:
            await asyncio.to_thread((directory / _NOTE).unlink, missing_ok=True)
            break
        if blobs is not None:
            await _copy_files(part, blobs, so_far, directory)
        if target is not None:
            for document in part:  # one after the other: their order is that in which they are stored
                if document.kind not in _RECORDS:
                    await _copy_document(document, target, so_far)
                    so_far.document = (document.kind, document.id)
        so_far.cursor = part[-1].cursor
        if not so_far.problems:  # else the next call is to find them again
            await asyncio.to_thread(_write, directory / _NOTE, so_far)
        done(so_far, part[-1])
    if target is not None and (with_gaps or not so_far.problems):
        await _copy_records(source, target, so_far)
    return so_far


async def _copy_records(source: DocumentStore, target: DocumentStore, so_far: Copied) -> None:
    for kind in _RECORDS:
        with passing_over_damage(so_far.problems.extend):
            async for document in source.find(kind):
                await _copy_document(document, target, so_far)
    settled: list[Document] = []
    with passing_over_damage(so_far.problems.extend):
        async for document in target.find(GIVEN_UP, pending=False):
            settled.append(document)
    for document in settled:
        # An earlier copy may have left some of what was redriven since: whoever serves there looks which letters are.
        await target.put(replace(document, pending=True))


async def _still_there(so_far: Copied, documents: DocumentStore | None, blobs: BlobStore | None) -> bool:
    """Whether what was copied last is: a store may have been emptied meanwhile."""
    if documents is not None and so_far.document is not None:
        kind, id = so_far.document
        try:
            await documents.get(kind, id)
        except DocumentNotFound:
            return False
    if blobs is not None and so_far.file is not None:
        return so_far.file in [key async for key in blobs.list(so_far.file)]
    return True


async def _copy_document(document: Document, target: DocumentStore, so_far: Copied) -> None:
    try:
        await target.create(document)
        so_far.documents += 1
    except DocumentExists:
        if document.kind in _TOLD_ANEW:
            there, since = await target.get(document.kind, document.id), _TOLD_ANEW[document.kind]
            if str(document.body.get(since, "")) >= str(there.body.get(since, "")):
                await target.put(document)
                so_far.documents += 1
            return
        so_far.problems.append(
            f"{document.kind} {document.id[:80]!r}: exists there with another body, which was left as it is. Has "
            "something run there?"
        )


async def _copy_files(
    part: Iterable[Document], blobs: tuple[BlobStore, BlobStore], so_far: Copied, directory: Path
) -> None:
    source, target = blobs
    files: dict[str, StoredFile] = {}
    for document in part:
        try:
            files |= {file.key: file for file in _files_of(document)}
        except (KeyError, TypeError, AttributeError):
            so_far.problems.append(f"{document.kind} {document.id[:80]!r}: is damaged. Restore it, or remove it.")

    async def copy(file: StoredFile) -> None:
        info = BlobInfo(size=file.size, sha256=file.sha256)
        copy = Path(passing, str(order[file.key]))
        try:
            await source.get(file.key, copy, expect=info, link=True)
        except (BlobNotFound, BlobCorrupt) as error:
            so_far.problems.append(str(error))
            return
        stored = await target.put(file.key, copy)
        await asyncio.to_thread(copy.unlink)
        if stored != info:
            raise PermanentError(f"blob {file.key}: was read as {info}, and stored as {stored}. Is the disk all right?")
        so_far.files += 1
        so_far.size += info.size
        so_far.file = file.key

    order = {key: n for n, key in enumerate(files)}
    wanted = list(files.values())
    try:
        made = tempfile.TemporaryDirectory(dir=directory / PASSING)
    except OSError as error:
        raise storage_error(str(directory), error) from error
    with made as passing:
        for start in range(0, len(wanted), _FILES_AT_ONCE):
            await for_each(copy, wanted[start : start + _FILES_AT_ONCE])


def _files_of(document: Document) -> list[StoredFile]:
    """Those of an event, and those of a commit, which may be of no event."""
    said: dict[str, str] = {EVENT_META: "blobs", COMMIT: "outputs"}
    if document.kind not in said:
        return []
    return [StoredFile.from_json(it) for it in document.body.get(said[document.kind]) or ()]


def _write(note: Path, so_far: Copied) -> None:
    said: dict[str, Any] = asdict(so_far)
    del said["problems"]
    temporary = note.with_suffix(".new")
    try:
        temporary.write_bytes(strict_json.dumps(said))
        temporary.replace(note)
    except OSError as error:
        raise storage_error(str(note), error) from error
