"""Preparer: fills a workspace with what an event brings."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from ion_core import crash, strict_json
from ion_core.contracts.storage import BlobInfo, BlobStore, check_key
from ion_core.events import Event, StoredFile, pairs_to_json
from ion_core.handler.workspace import FEW, World
from ion_core.regular import write_new
from ion_core.stores import for_each
from ion_core.words import counted

if TYPE_CHECKING:
    from ion_core import gathered

_DIRECTORY = 0o755
_FILE = 0o644
"""Modes of what is made for a module, which may run as any user: set, and so neither the umask's nor the store's."""


_TRACEPARENT = "in/traceparent"


class Inputs(Protocol):
    """Of a data plane, what preparing needs."""

    @property
    def blobs(self) -> BlobStore: ...

    async def stored_files(self, event: Event) -> tuple[Event, tuple[StoredFile, ...]]:
        """The event with all its data, and its files."""

    async def gathered(self, event: Event) -> gathered.Inputs | None:
        """What a gatherer is given with an event that starts it; None for any other event."""


class Preparer:
    """Needs nothing but a data plane, an event and a workspace."""

    def __init__(self, dataplane: Inputs) -> None:
        self._dataplane = dataplane

    async def prepare(self, event: Event, workspace: World, *, link: bool, traceparent: str = "") -> list[str]:
        """Put the event's files into ``in/data`` and its pairs into ``in/eventmeta.json``; returns log lines.

        ``link``: the module cannot write to ``in/``, so files may be hard links to the stored ones. ``traceparent`` is
        put into ``in/traceparent``; where it is '' there is no such file. Raises BlobNotFound or BlobCorrupt naming
        the file, and what the stores raise.
        """
        event, files = await self._dataplane.stored_files(event)
        own = files
        if (given := await self._dataplane.gathered(event)) is not None:
            files = (*files, *given.files)
        lines = [f"event {event.context.event_id} of type {event.type} from {event.context.name}"]
        if 0 < len(files) <= FEW:
            _make_directories(workspace.in_data, files)
        elif files:
            await asyncio.to_thread(_make_directories, workspace.in_data, files)

        if files:
            await self._fetch(files, workspace, link=link)
        crash.reached("S4")
        lines.extend(f"input {file.name}, {counted(file.size, 'byte')}" for file in files[:100])
        if len(files) > 100:
            lines.append(f"and {counted(len(files) - 100, 'more input')}")
        pairs = await self._write_pairs(event, own, workspace)
        _write_traceparent(traceparent, workspace)
        if given is not None:
            _write_gathered(given, workspace)
            gathered_lines = [f"{counted(len(given.told['events']), 'event')} gathered"]
            lines += gathered_lines + [f"missing: {it['module']} of {it['eventId']}" for it in given.told["missing"]]
        lines.append(f"{counted(len(files), 'file')} and {counted(pairs, 'pair')} prepared")
        return lines

    async def put_back(self, event: Event, workspace: World, *, traceparent: str = "") -> list[str]:
        """Prepare again what the module has removed, or made of another size; returns log lines.

        Raises as ``prepare``; OSError where it made something else of the directories.
        """
        event, files = await self._dataplane.stored_files(event)
        own = files
        if (given := await self._dataplane.gathered(event)) is not None:
            files = (*files, *given.files)
            _write_gathered(given, workspace)
        gone, pairs_gone = await asyncio.to_thread(_make_way, workspace, files)
        await self._fetch(gone, workspace, link=False)
        if pairs_gone:
            await self._write_pairs(event, own, workspace)
        _write_traceparent(traceparent, workspace)
        return [f"{len(gone)} of {counted(len(files), 'input')} were gone at /ready: prepared again"] if gone else []

    async def _fetch(self, files: Sequence[StoredFile], workspace: World, *, link: bool) -> None:
        async def fetch(file: StoredFile) -> None:
            expect = BlobInfo(size=file.size, sha256=file.sha256)
            may_link = link and not file.executable  # the stored file's mode is its own
            await self._dataplane.blobs.get(file.key, workspace.in_data / file.name, expect=expect, link=may_link)
            crash.reached("S4")

        await for_each(fetch, files)
        if len(files) <= FEW:
            _open_to_any_user(workspace.in_data, files)
        else:
            await asyncio.to_thread(_open_to_any_user, workspace.in_data, files)

    async def _write_pairs(self, event: Event, files: Sequence[StoredFile], workspace: World) -> int:
        async def locate(file: StoredFile) -> tuple[str, str]:
            return file.name, await self._dataplane.blobs.url(file.key)

        pairs = [*event.data, *await for_each(locate, files)]
        if pairs:
            workspace.eventmeta.unlink(missing_ok=True)  # put there by a module that goes on
            write_new(workspace.eventmeta, strict_json.dumps(pairs_to_json(pairs)))
            workspace.eventmeta.chmod(_FILE)
        return len(pairs)


def _write_traceparent(traceparent: str, workspace: World) -> None:
    if traceparent:
        path = workspace.root / _TRACEPARENT
        _remove(path)  # put there by a module that goes on
        write_new(path, traceparent.encode("ascii"))
        path.chmod(_FILE)


def _write_gathered(given: gathered.Inputs, workspace: World) -> None:
    """In place of whatever a module that goes on has made of it."""
    path = workspace.eventmeta.with_name("gathered.json")
    _remove(path)
    write_new(path, strict_json.dumps(given.told))
    path.chmod(_FILE)


def _make_way(workspace: World, files: Sequence[StoredFile]) -> tuple[list[StoredFile], bool]:
    """The files that are not there as they were prepared, and whether the pairs are not: nothing is in their place."""
    gone = []
    for file in files:
        target = workspace.in_data / check_key(file.name)
        if not _is_file(target, file.size):
            _remove(target)
            gone.append(file)
    _make_directories(workspace.in_data, gone)
    pairs_gone = not _is_file(workspace.eventmeta)
    if pairs_gone:
        _remove(workspace.eventmeta)
    return gone, pairs_gone


def _is_file(path: Path, size: int | None = None) -> bool:
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(status.st_mode) and size in (None, status.st_size)


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except IsADirectoryError:
        import shutil  # which a workspace that is new does without

        shutil.rmtree(path)
    except (FileNotFoundError, NotADirectoryError):
        pass


def _make_directories(in_data: Path, files: Sequence[StoredFile]) -> None:
    """The sub-directories of the inputs. Names were checked when they were stored, and are once more here."""
    wanted = {parent for file in files for parent in PurePosixPath(check_key(file.name)).parents[:-1]}
    for directory in sorted(in_data / parent for parent in wanted):  # outer ones first
        directory.mkdir(exist_ok=True)
        directory.chmod(_DIRECTORY)


def _open_to_any_user(in_data: Path, files: Sequence[StoredFile]) -> None:
    """Let any user read them, and execute what is for that.

    One that shares its inode with the stored file keeps what else that has for a mode.
    """
    for file in files:
        path = f"{in_data}/{file.name}"
        status = os.lstat(path)
        mode = file.mode if status.st_nlink == 1 else stat.S_IMODE(status.st_mode) | 0o444
        if stat.S_IMODE(status.st_mode) != mode:
            os.chmod(path, mode)
