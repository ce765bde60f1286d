"""The files of a flow, fetched into a directory."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from ion_core.contracts.storage import BlobInfo, check_key
from ion_core.errors import PermanentError, UsageError, storage_error
from ion_core.events import StoredFile
from ion_core.flows.files import FileOfFlow
from ion_core.stores import for_each, key_segment

IN = "_in"
NAMED = 5
"""Of many files with one trouble, so many are named."""


class Fetched(Protocol):
    """What has the bytes of files: a blob store, or whatever else gets them as ``BlobStore.get`` says."""

    async def get(self, key: str, target: Path, *, expect: BlobInfo | None = None) -> None: ...


def path_of(it: FileOfFlow) -> Path:
    """Where it goes below a directory: ``<module>/<event id>/<name>``, whatever these are; of what came in ``_in``.

    That is the name of no module, as that of whoever it came from may be.
    """
    return Path(IN if it.came_in else key_segment(it.module), key_segment(it.event_id), check_key(it.file.name))


async def fetch(
    files: Sequence[FileOfFlow], directory: Path, *, blobs: Fetched, fetched: Callable[[FileOfFlow], None]
) -> None:
    """Have each of them at ``path_of`` it below ``directory``, which is made; ``fetched`` is called for each that is.

    What is there with the same content is left; so it can be repeated. Raises UsageError, before anything is fetched,
    where another file is there, and PermanentError, when all others are there, for what could not be had.
    """
    there, missing = await asyncio.to_thread(_sorted, files, directory)
    for it in there:
        fetched(it)
    if not missing:
        return
    try:
        scratch = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=".ion-files-", dir=directory))
    except OSError as error:
        raise storage_error(str(directory), error) from error
    lost: list[str] = []

    async def one(numbered: tuple[int, FileOfFlow]) -> None:
        number, it = numbered
        part = scratch / str(number)
        expect = BlobInfo(size=it.file.size, sha256=it.file.sha256)
        try:
            await blobs.get(it.file.key, part, expect=expect)
        except PermanentError as error:
            lost.append(f"{it.file.name!r} of {it.module}: {error}")
            return
        await asyncio.to_thread(_place, part, directory / path_of(it), executable=it.file.executable)
        fetched(it)

    try:
        await for_each(one, list(enumerate(missing)))
    finally:
        await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)
    if lost:
        raise PermanentError("\n".join(lost))


def _sorted(files: Sequence[FileOfFlow], directory: Path) -> tuple[list[FileOfFlow], list[FileOfFlow]]:
    """Those that are there already, and those that are missing. Raises UsageError where something else is there."""
    there, missing, others = [], [], []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for it in files:
            path = directory / path_of(it)
            if not os.path.lexists(path):
                missing.append(it)
            elif _is(path, it.file):
                there.append(it)
            else:
                others.append(str(path))
    except OSError as error:
        raise storage_error(str(error.filename or directory), error) from error
    if others:
        named = ", ".join(repr(path) for path in others[:NAMED]) + (", …" if len(others) > NAMED else "")
        raise UsageError(f"{named}: is there already, with other content. Remove it, or choose another directory.")
    return there, missing


def _is(path: Path, file: StoredFile) -> bool:
    """Whether that content is there."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256


def _place(part: Path, target: Path, *, executable: bool) -> None:
    """Give it its name, unless something has come there meanwhile."""
    try:
        mode = part.stat().st_mode & 0o666
        if executable:  # for those who may read it
            mode |= (mode & 0o444) >> 2
            part.chmod(mode)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(part, target)
        except FileExistsError:
            raise
        except OSError:  # no links here: a name taken exclusively, then the content
            with target.open("xb") as made, part.open("rb") as content:
                shutil.copyfileobj(content, made)
            target.chmod(mode)
    except FileExistsError as error:
        raise PermanentError(f"{str(target)!r}: has come there meanwhile. It was left as it is.") from error
    except OSError as error:
        raise storage_error(str(target), error) from error
