"""Starting and deleting a container without running the OCI runtime again: each of its commands costs 7 ms.

runc and crun make a container alike: its first process waits for somebody to read ``exec.fifo`` in the directory of
notes, and starting is to read it. Deleting is to remove that directory, and the control groups.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ion_core.containers.limits import ControlGroup

_FIFO = "exec.fifo"


async def start(notes: Path, ended: asyncio.Future[None]) -> bool:
    """Whether it is started. Not so where there is nothing to read, or its first process has ``ended``."""
    try:
        fifo = os.open(notes / _FIFO, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if not await _readable(fifo, ended) or not os.read(fifo, 1):
            return False
        with suppress(FileNotFoundError):
            (notes / _FIFO).unlink()  # by which others know that it runs
        return True
    finally:
        os.close(fifo)


async def _readable(file: int, ended: asyncio.Future[None]) -> bool:
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()
    loop.add_reader(file, _tell, told)
    try:
        await asyncio.wait({told, ended}, return_when=asyncio.FIRST_COMPLETED)
        return told.done()
    finally:
        loop.remove_reader(file)


def _tell(told: asyncio.Future[None]) -> None:
    if not told.done():
        told.set_result(None)


def delete(notes: Path, group: ControlGroup, id: str) -> bool:
    """Whether nothing of it is left. All its processes must have ended."""
    try:
        for path in _own(group, id):
            with suppress(FileNotFoundError):
                path.rmdir()
        shutil.rmtree(notes)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _own(group: ControlGroup, id: str) -> Iterable[Path]:
    """Those that were made for it, and not those of ours that it is in as well."""
    return {path for path in group.paths.values() if path.name == id}
