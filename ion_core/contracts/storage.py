"""The storage contracts: blobs (files by key) and documents (JSON by kind and id).

Every rule is a sentence in ``docs/contracts/blobs.md`` or ``documents.md`` and a test of ``ion_core.testing``.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from ion_core.errors import InvalidKey, PermanentError
from ion_core.words import counted

MAX_KEY_BYTES = 1024
MAX_SEGMENT_BYTES = 255
_CONTROL = r"[\x00-\x1f\x7f]"


def check_key(key: str) -> str:
    """``key`` itself if it is a valid key, else InvalidKey. The core calls this before any provider sees a key.

    A key is relative, its segments separated by single ``/``, none of them empty, ``.`` or ``..``, none longer than
    255 bytes of UTF-8, without backslashes or control characters, 1,024 bytes in all.
    """
    problem = ""
    try:
        size = len(key.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidKey(f"key {key!r}: is not valid Unicode. Use UTF-8 names.") from None
    if not key:
        problem = "is empty"
    elif size > MAX_KEY_BYTES:
        problem = f"is {counted(size, 'byte')} long, {MAX_KEY_BYTES} are allowed"
    elif re.search(_CONTROL, key) or "\\" in key:
        problem = "has a backslash or a control character"
    else:
        for segment in key.split("/"):
            if segment in ("", ".", ".."):
                problem = f"has the segment {segment!r}"
            elif len(segment.encode("utf-8")) > MAX_SEGMENT_BYTES:
                problem = f"has a segment of more than {MAX_SEGMENT_BYTES} bytes"
    if problem:
        raise InvalidKey(f"key {key[:80]!r}: {problem}. Use a relative name such as frames/0001.png.")
    return key


@dataclass(frozen=True, kw_only=True)
class BlobInfo:
    """What was stored: ``size`` in bytes, ``sha256`` in hexadecimal."""

    size: int
    sha256: str


def check_told(key: str, found: BlobInfo, told: BlobInfo | None) -> None:
    """PermanentError where the file that is to be ``key`` is other than ``put`` was told. For stores to call."""
    if told is not None and found != told:
        raise PermanentError(
            f"blob {key}: its file has {counted(found.size, 'byte')}, sha256 {found.sha256}, and was said to have "
            f"{told.size:,}, sha256 {told.sha256}. Say what was written, or nothing."
        )


class BlobStore(Protocol):
    """Files by key. Safe for concurrent use; the store bounds its own parallelism.

    Raises InvalidKey, TransientError (StorageFull when space ran out) and the errors named below.
    """

    async def put(self, key: str, source: Path, *, consume: bool = False, told: BlobInfo | None = None) -> BlobInfo:
        """Store the regular file ``source`` under ``key``; durable when it returns. Whole or not at all.

        Safe to repeat; replaces what was there, never in part. With ``consume`` the caller gives the file away: the
        store may move it, and it may be gone afterwards, also after an error. Without, ``source`` is left as it was.

        ``told`` is what the file holds, from the caller who wrote it, took the sha256 of the bytes it wrote and knows
        that nobody else writes to it. The store need not read the file for its sha256 then: it may take that on trust,
        never the size. Raises PermanentError when ``source`` is missing, anything but a regular file, or seen to be
        other than ``told``; then nothing is stored.
        """

    async def get(self, key: str, target: Path, *, expect: BlobInfo | None = None, link: bool = False) -> None:
        """Fetch into the new file ``target``, in a directory that exists: complete or absent.

        With ``expect`` a blob of another size or content raises BlobCorrupt naming the key. With ``link`` the caller
        promises never to write to ``target``, so it may share storage with the blob. Raises BlobNotFound; then, and
        after any error, no ``target`` is left.
        """

    def list(self, prefix: str) -> AsyncIterator[str]:
        """Keys under ``prefix`` by whole segments (``a/b`` has ``a/b/c``, not ``a/bc``), sorted; '' for all.

        What others left there and no valid key names, such as folder markers of a console, is passed over.
        """

    async def delete(self, key: str) -> None:
        """Remove it. Idempotent; fine if gone."""

    async def url(self, key: str) -> str:
        """A URI under which others may read it, made when asked and perhaps valid only for a while."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A JSON document and what it can be found by.

    ``kind`` is ``eventMeta``, ``insight``, ``modulelogs``, ``commit`` or another ``^[a-zA-Z]+$``. ``id`` any text.
    ``pending`` says that something is still owed, such as a commit whose events are not all published.
    ``body`` holds JSON values only (str, int, float, bool, None, list, dict with str keys).

    What ``find`` and ``get`` give has two more, which are no part of what is stored; ``create`` and ``put`` take no
    notice of them. ``cursor`` is its place in the order of first storing, an opaque text of up to 64 ASCII characters:
    ``find`` can go on from there. ``stored_at`` is when it was first stored, in UTC and aware of it; None where that is
    not known any more.
    """

    kind: str
    id: str
    correlation_id: str
    body: Mapping[str, Any]
    pending: bool = False
    cursor: str = field(default="", compare=False)
    stored_at: datetime | None = field(default=None, compare=False)


class DocumentStore(Protocol):
    """JSON documents by kind and id, found by correlation id. Safe for concurrent use."""

    async def create(self, document: Document) -> None:
        """Store it if there is none of that kind and id; durable when it returns. This is the fence of a commit:

        of any number of concurrent callers with different bodies, on any number of hosts, exactly one succeeds. The
        same body again is a no-op (``pending`` is left as it is). Another body raises DocumentExists.
        """

    async def put(self, document: Document) -> None:
        """Store or replace the document of that kind and id, whole."""

    async def get(self, kind: str, id: str) -> Document:
        """Raises DocumentNotFound, and DocumentsDamaged for what is no document any more."""

    def find(
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
        """Documents that match every condition given, in the order they were first stored (or the reverse).

        At most ``limit`` of them, from 1. ``after`` is the ``cursor`` of a document, and only what stands behind it in
        the order asked for is given, whichever ``find`` it came from: so pages can be turned in both directions, other
        conditions included. What is before it is not read again. It stays good when that document is removed, and
        for as long as the store is there. Raises InvalidCursor for what is none.

        ``id_begins`` and ``correlation_id_begins`` are the first characters of an id. With one that is not empty no
        document is read that cannot match; with ``id_begins`` name the ``kind`` too, which some need for that.

        ``since`` (inclusive) and ``until`` (exclusive), both aware of their time zone, bound ``stored_at``. What is
        not known to have been stored since is not given, what is not known to have been stored later is.

        What was stored before the first page was asked for, and is still there, is on one of the pages, and on one
        only. What is being stored meanwhile may be missing from pages that go forward past it.

        What is damaged hides no other: when all others have been given, DocumentsDamaged is raised, a line for each
        that was met on the way. With ``limit`` that is the way to the last one given, or to the end.
        """

    async def clear_pending(self, kind: str, id: str) -> None:
        """Set ``pending`` to False. Idempotent. Raises DocumentNotFound."""

    async def delete(self, kind: str, id: str) -> None:
        """Remove it. Idempotent; fine if gone."""
