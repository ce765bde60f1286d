"""Dead letters in a file of JSON lines, to be kept, looked at elsewhere, and brought back.

The first line says what it is: ``{"format": "ion-dead-letters", "version": 1, …}``. Each further one is
``{"letter": {…}}``, or, of an export with files, ``{"document": {…}}`` (that of an event) and ``{"file": {…}}`` (a
blob, whose content is a file named by its sha256 in a directory beside). The page is ``docs/operating.md``.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from ion_core import strict_json
from ion_core.contracts.messaging import MESSAGE_HEADER, DeadLetter, MessageBroker
from ion_core.contracts.storage import BlobInfo, BlobStore, Document, DocumentStore, check_key
from ion_core.errors import (
    BlobCorrupt,
    BlobNotFound,
    DocumentExists,
    DocumentNotFound,
    InvalidEvent,
    InvalidKey,
    UsageError,
    storage_error,
)
from ion_core.events import EVENT_META, StoredFile, parse_event
from ion_core.words import counted

FORMAT, VERSION = "ion-dead-letters", 1
FILES = ".files"
"""Added to the name of an export: the directory of its files."""
_HEADER_LENGTH = 160
MAX_LINE = 64 << 20
SHOWN = 20
"""Of many lines that are wrong, so many are named."""


@dataclass(kw_only=True)
class Exported:
    """What was written; ``missing`` are files of events that are not to be had, each in words."""

    letters: int = 0
    documents: int = 0
    files: int = 0
    missing: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Imported:
    """What an import has added, and how many letters were there already."""

    added: int = 0
    there: int = 0
    documents: int = 0
    files: int = 0


@dataclass(frozen=True, kw_only=True)
class Export:
    """What a file holds. ``directory`` is where the content of ``files`` lies, by sha256."""

    letters: Sequence[DeadLetter]
    documents: Sequence[Document]
    files: Sequence[StoredFile]
    directory: Path


# Export


async def export(
    letters: AsyncIterator[DeadLetter],
    path: Path,
    *,
    documents: DocumentStore | None = None,
    blobs: BlobStore | None = None,
) -> Exported:
    """Write these letters to the new file ``path``, whole or not at all; some are held at a time.

    With ``documents`` and ``blobs`` the events' documents too, and the content of their files, in the directory beside.
    Raises UsageError where ``path`` is there already, StorageFull, and as the stores do.
    """
    told = Exported()
    try:
        temporary = await asyncio.to_thread(_begin, path)
    except FileExistsError as error:
        raise UsageError(f"{str(path)!r}: is there already. Remove it, or choose another name.") from error
    except OSError as error:
        raise storage_error(str(path), error) from error
    try:
        with temporary as file:
            begun = datetime.now(UTC)
            await asyncio.to_thread(file.write, _header(begun, 0))
            events: dict[str, None] = {}
            async for letter in letters:
                with suppress(InvalidEvent):  # a message of others
                    events[parse_event(letter.body).context.event_id] = None
                await asyncio.to_thread(_write, file, {"letter": _to_json(letter)})
                told.letters += 1
            if documents is not None and blobs is not None:
                async for line in _of_events(events, documents, blobs, path.with_name(path.name + FILES), told):
                    await asyncio.to_thread(_write, file, line)
            await asyncio.to_thread(_end, file, path, _header(begun, told.letters))
    except FileExistsError as error:
        raise UsageError(f"{str(path)!r}: has come there meanwhile. Choose another name.") from error
    except OSError as error:
        raise storage_error(str(path), error) from error
    finally:
        await asyncio.to_thread(Path(temporary.name).unlink, missing_ok=True)
    return told


def _begin(path: Path) -> Any:
    """A file beside, which has its name once it is whole. Raises FileExistsError where that is taken."""
    if os.path.lexists(path):
        raise FileExistsError(path)
    return tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name}-", delete=False)


def _header(begun: datetime, letters: int) -> bytes:
    """The first line, as long for any number of letters: that is known once they are written."""
    said = {
        "format": FORMAT,
        "version": VERSION,
        "exportedAt": begun.isoformat(timespec="milliseconds"),
        "letters": letters,
    }
    return strict_json.dumps(said).ljust(_HEADER_LENGTH) + b"\n"


def _write(file: BinaryIO, line: Mapping[str, Any]) -> None:
    file.write(strict_json.dumps(line) + b"\n")


def _end(file: Any, path: Path, header: bytes) -> None:
    file.seek(0)
    file.write(header)
    file.flush()
    os.fsync(file.fileno())
    os.link(file.name, path)


async def _of_events(
    event_ids: Iterable[str], documents: DocumentStore, blobs: BlobStore, directory: Path, told: Exported
) -> AsyncIterator[Mapping[str, Any]]:
    """Their documents, and their files, each once and behind its content."""
    seen: set[str] = set()
    for event_id in event_ids:
        try:
            document = await documents.get(EVENT_META, event_id)
        except DocumentNotFound:  # a message of others
            continue
        for item in document.body.get("blobs") or ():
            file = StoredFile.from_json(item)
            if file.key in seen:
                continue
            seen.add(file.key)
            await asyncio.to_thread(directory.mkdir, exist_ok=True)
            target = directory / file.sha256
            if not await asyncio.to_thread(target.exists):
                try:
                    await blobs.get(file.key, target, expect=BlobInfo(size=file.size, sha256=file.sha256))
                except (BlobNotFound, BlobCorrupt) as error:
                    told.missing.append(f"event {event_id[:80]}, file {file.name!r}: {error}")
                    continue
            told.files += 1
            yield {"file": file.to_json()}
        told.documents += 1
        yield {"document": {"id": document.id, "correlationId": document.correlation_id, "body": document.body}}


def _to_json(letter: DeadLetter) -> dict[str, Any]:
    body: dict[str, str]
    try:
        body = {"body": letter.body.decode("utf-8")}
    except UnicodeDecodeError:
        body = {"bodyBase64": base64.b64encode(letter.body).decode("ascii")}
    return {
        "id": letter.id,
        "module": letter.queue,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "logTail": list(letter.log_tail),
        "diedAt": letter.died_at.astimezone(UTC).isoformat(),
        "headers": dict(letter.headers),
        **body,
    }


# Import


def read_export(path: Path) -> Export:
    """What ``path`` holds, checked as a whole. Raises UsageError with everything that is wrong, each with its line."""
    letters: list[DeadLetter] = []
    documents: list[Document] = []
    files: list[StoredFile] = []
    directory, problems = path.with_name(path.name + FILES), list[str]()
    try:
        for number, raw in enumerate(_raw_lines(path), 1):
            where = f"{path}:{number}"
            try:
                found = strict_json.loads(raw.rstrip(b"\r\n"), what=where, limit=MAX_LINE)
                if number == 1:
                    _check_header(found, where)
                elif not isinstance(found, dict) or len(found) != 1:
                    raise ValueError("must be an object with one of letter, document, file")
                elif "letter" in found:
                    letters.append(_letter(found["letter"]))
                elif "document" in found:
                    documents.append(_document(found["document"]))
                elif "file" in found:
                    files.append(_file(found["file"], directory))
                else:
                    raise ValueError(f"has a {next(iter(found))[:40]!r}, which this version does not know")
            except InvalidEvent as error:
                problems += error.problems
            except (ValueError, KeyError, TypeError, InvalidKey) as error:
                what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
                problems.append(f"{where}: {what}")
            if number == 1 and problems:
                break
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}.") from error
    if problems:
        more = [f"and {len(problems) - SHOWN:,} more"] if len(problems) > SHOWN else []
        raise UsageError("\n".join([*problems[:SHOWN], *more, "Nothing was imported."]))
    return Export(letters=letters, documents=documents, files=files, directory=directory)


async def add(
    found: Export,
    *,
    broker: MessageBroker,
    documents: DocumentStore,
    blobs: BlobStore,
    done: Callable[[int], object] = lambda count: None,
) -> Imported:
    """Have what ``found`` holds: files, then documents, then letters. What is there already is left as it is.

    So it may be repeated, and be cut short. Raises QueueNotDeclared, DocumentExists where another event has that id,
    and as the stores do.
    """
    told = Imported()
    new_documents = [document for document in found.documents if await _is_new(document, documents)]
    wanted = {item["key"] for document in new_documents for item in document.body.get("blobs") or ()}
    for file in found.files:
        if file.key not in wanted:  # of an event that is here already, with its files
            continue
        stored = await blobs.put(file.key, found.directory / file.sha256)
        if stored != BlobInfo(size=file.size, sha256=file.sha256):
            raise UsageError(f"{found.directory / file.sha256}: is not the file that the export had. Export again.")
        told.files += 1
    for document in new_documents:
        await documents.create(document)
        told.documents += 1
    by_queue: dict[str, list[DeadLetter]] = {}
    for letter in found.letters:
        by_queue.setdefault(letter.queue, []).append(letter)
    for queue, letters in by_queue.items():
        async with broker.each_dead_letter(queue) as there:
            known = {mark_of(letter) async for letter in there}
        marked = {mark_of(letter): letter for letter in letters}
        new = [letter for mark, letter in marked.items() if mark not in known]
        told.there += len(letters) - len(new)
        done(len(letters) - len(new))
        for start in range(0, len(new), 100):
            batch = new[start : start + 100]
            await broker.add_dead_letters(queue, batch)
            told.added += len(batch)
            done(len(batch))
    return told


async def _is_new(document: Document, documents: DocumentStore) -> bool:
    """False for an event that is stored as it is. Raises DocumentExists for another one of that id."""
    try:
        stored = await documents.get(EVENT_META, document.id)
    except DocumentNotFound:
        return True
    if stored.body != document.body:
        raise DocumentExists(
            f"event {document.id[:80]!r}: another event of that id is stored here. Nothing was imported; "
            "an export without --files has letters alone."
        )
    return False


def mark_of(letter: DeadLetter) -> tuple[str, str, datetime]:
    """What tells a dead letter from all others of its queue, wherever it is kept: no broker keeps another's ids."""
    message = letter.headers.get(MESSAGE_HEADER, "")
    return hashlib.sha256(letter.body).hexdigest(), message, letter.died_at.astimezone(UTC)


def _raw_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        empty = True
        while line := file.readline(MAX_LINE + 2):
            empty = False
            yield line
    if empty:
        yield b""


def _check_header(found: Any, where: str) -> None:
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f'is no export of dead letters, whose first line begins with {{"format": "{FORMAT}"')
    if found.get("version") != VERSION:
        raise ValueError(f"is of version {found.get('version')!r}; this ion-core reads version {VERSION}. Update it")


def _letter(value: Any) -> DeadLetter:
    if ("body" in value) == ("bodyBase64" in value):
        raise ValueError("letter: must have either body or bodyBase64")
    try:
        body = value["body"].encode() if "body" in value else base64.b64decode(value["bodyBase64"], validate=True)
    except (binascii.Error, AttributeError) as error:
        raise ValueError("letter: bodyBase64: is no base64") from error
    died_at = datetime.fromisoformat(value["diedAt"])
    if died_at.tzinfo is None:
        raise ValueError("letter: diedAt: must have an offset, such as +00:00")
    texts = [value["id"], value["module"], value["reason"], *value["logTail"]]
    headers = value["headers"]
    if not isinstance(headers, dict):
        raise TypeError("letter: headers: must be an object of texts")
    if not all(isinstance(it, str) for it in (*texts, *headers.values())) or not value["module"]:
        raise ValueError("letter: id, module, reason, logTail and headers must be texts")
    attempts = value["attempts"]
    if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
        raise ValueError("letter: attempts: must be a number from 1")
    return DeadLetter(
        id=value["id"],
        queue=value["module"],
        body=body,
        headers=headers,
        reason=value["reason"],
        attempts=attempts,
        log_tail=tuple(value["logTail"]),
        died_at=died_at,
    )


def _document(value: Any) -> Document:
    body = value["body"]
    if not isinstance(body, dict) or not all(isinstance(value[key], str) for key in ("id", "correlationId")):
        raise ValueError("document: must have id, correlationId and body")
    return Document(kind=EVENT_META, id=value["id"], correlation_id=value["correlationId"], body=body)


def _file(value: Any, directory: Path) -> StoredFile:
    file = StoredFile.from_json(value)
    check_key(file.key)
    if len(file.sha256) != 64 or not all(it in "0123456789abcdef" for it in file.sha256):
        raise ValueError("file: sha256: must be 64 hexadecimal digits")
    there = directory / file.sha256
    if not there.is_file() or there.stat().st_size != file.size:
        raise ValueError(f"file: {there}: is not there with {counted(file.size, 'byte')}. Copy the directory along")
    return file
