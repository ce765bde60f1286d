"""Preparer: fills a workspace with what an event brings."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

from ion_core import crash, strict_json
from ion_core.contracts.storage import BlobInfo, BlobStore, check_key
from ion_core.dataplane import for_each
from ion_core.events import Event, StoredFile, pairs_to_json
from ion_core.handler.workspace import FEW, World


class Inputs(Protocol):
    """Of a data plane, what preparing needs."""

    @property
    def blobs(self) -> BlobStore: ...

    async def stored_files(self, event: Event) -> tuple[Event, tuple[StoredFile, ...]]:
        """The event with all its data, and its files."""


class Preparer:
    """Needs nothing but a data plane, an event and a workspace."""

    def __init__(self, dataplane: Inputs) -> None:
        self._dataplane = dataplane

    async def prepare(self, event: Event, workspace: World, *, link: bool) -> list[str]:
        """Put the event's files into ``in/data`` and its pairs into ``in/eventmeta.json``; returns log lines.

        ``link``: the module cannot write to ``in/``, so files may be hard links to the stored ones. Raises
        BlobNotFound or BlobCorrupt naming the file, and what the stores raise.
        """
        event, files = await self._dataplane.stored_files(event)
        lines = [f"event {event.context.event_id} of type {event.type} from {event.context.name}"]
        if 0 < len(files) <= FEW:
            _make_directories(workspace.in_data, files)
        elif files:
            await asyncio.to_thread(_make_directories, workspace.in_data, files)

        async def fetch(file: StoredFile) -> None:
            expect = BlobInfo(size=file.size, sha256=file.sha256)
            await self._dataplane.blobs.get(file.key, workspace.in_data / file.name, expect=expect, link=link)
            crash.reached("S4")

        async def locate(file: StoredFile) -> tuple[str, str]:
            return file.name, await self._dataplane.blobs.url(file.key)

        await for_each(fetch, files)
        crash.reached("S4")
        lines.extend(f"input {file.name}, {file.size:,} bytes" for file in files[:100])
        if len(files) > 100:
            lines.append(f"and {len(files) - 100:,} more inputs")
        pairs = [*event.data, *await for_each(locate, files)]
        if pairs:
            workspace.eventmeta.write_bytes(strict_json.dumps(pairs_to_json(pairs)))
        lines.append(f"{len(files)} files and {len(pairs)} pairs prepared")
        return lines


def _make_directories(in_data: Path, files: tuple[StoredFile, ...]) -> None:
    """The sub-directories of the inputs. Names were checked when they were stored, and are once more here."""
    for parent in {(in_data / check_key(file.name)).parent for file in files}:
        parent.mkdir(parents=True, exist_ok=True)
