"""What a page about a flow shows beside the flow itself: the ends of logs, files, images, small pictures."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ion_core.contracts.looking import FlowView
from ion_core.contracts.storage import BlobInfo, BlobStore, Document, DocumentStore
from ion_core.drawing import Beside
from ion_core.errors import IonError, PermanentError, passing_over_damage
from ion_core.events import COMMIT, EVENT_META, MODULE_LOGS, StoredFile, parse_context
from ion_core.flows import Flow, FlowInShort, FlowReader, stored_files, view_of
from ion_core.modules import Module, present_names
from ion_core.words import counted

LOG_END = 16 * 1024
"""Characters of a log that are kept: its last ones."""
PICTURE = 128 * 1024
"""Bytes of a picture that is shown."""

_PICTURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)


@dataclass(kw_only=True)
class Collected:
    """``damaged`` has a line for each document that could not be read: what it said is missing here."""

    flow: Flow
    beside: Beside
    damaged: Sequence[str] = ()

    def view(self) -> FlowView:
        """Of ``flow`` as it is now, which must have roots."""
        return view_of(self.flow, FlowInShort.of(self.flow), self.damaged)

    def files(self) -> Iterable[StoredFile]:
        """Each once, by where it lies."""
        brought, made = self.beside.brought.values(), self.beside.made.values()
        return {it.key: it for files in (*brought, *made) for it in files}.values()


async def collect(documents: DocumentStore, correlation_id: str, modules: Iterable[Module]) -> Collected:
    """Read once through the documents of a flow, which has no ``roots`` if there are none. Raises as the store does."""
    modules = list(modules)
    now = present_names(modules)
    reader = FlowReader(correlation_id, modules)
    logs: dict[str, str] = {}
    images: dict[str, str] = {}
    made: dict[tuple[str, str], list[StoredFile]] = {}
    brought: dict[str, list[StoredFile]] = {}
    damaged: set[str] = set()
    with passing_over_damage(damaged.update):
        async for document in documents.find(correlation_id=correlation_id):
            reader.add(document)
            context = parse_context(document.body, what="document", problems=[])
            token = document.body.get("token")
            if document.kind == EVENT_META:
                brought[document.id] = _files(document, damaged)
            elif document.kind == COMMIT:
                name = now.get(context.name, context.name)
                made[context.event_id, name] = _files(document, damaged)
                if isinstance(token, str) and isinstance(image := document.body.get("image"), str):
                    images[token] = image
            elif document.kind == MODULE_LOGS and isinstance(token, str):
                logs[token] = _end(str(document.body.get("logs", "")))
    beside = Beside(logs=logs, images=images, made=made, brought=brought)
    return Collected(flow=reader.flow(), beside=beside, damaged=sorted(damaged))


def _files(document: Document, damaged: set[str]) -> list[StoredFile]:
    try:
        return stored_files(document)
    except PermanentError as error:
        damaged.add(str(error))
        return []


def _end(text: str) -> str:
    text = text.rstrip("\n")
    if len(text) <= LOG_END:
        return text
    kept = text[-LOG_END:].partition("\n")[2] or text[-LOG_END:]
    return f"… {counted(len(text) - len(kept), 'character')} before this\n{kept}"


async def small_pictures(
    blobs: BlobStore, files: Iterable[StoredFile], *, most: int, lost: dict[str, str]
) -> dict[str, tuple[str, bytes]]:
    """Media type and content, by key, of those that are small pictures, until ``most`` bytes are reached.

    What a file is its first bytes say, not its name; there is no kind among them that a browser runs anything of.
    ``lost`` gets, by key, why one could not be had.
    """
    found: dict[str, tuple[str, bytes]] = {}
    left = most
    with tempfile.TemporaryDirectory(prefix="ion-pictures-") as scratch:
        for number, file in enumerate(files):
            if not 0 < file.size <= min(PICTURE, left):
                continue
            path = Path(scratch) / str(number)
            try:
                await blobs.get(file.key, path, expect=BlobInfo(size=file.size, sha256=file.sha256))
            except IonError as error:
                lost[file.key] = str(error)
                continue
            content = await asyncio.to_thread(path.read_bytes)
            path.unlink()
            kind = next((kind for begins, kind in _PICTURES if content.startswith(begins)), None)
            if kind is not None:
                found[file.key] = (kind, content)
                left -= len(content)
    return found
