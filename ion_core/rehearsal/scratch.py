"""Where rehearsals lie: a directory for each, locked while its process lives, so that what a dead one left is known."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ion_core.contracts.runtime import ContainerRuntime
from ion_core.dispatcher.recovery import remove_orphans
from ion_core.errors import ProviderError, storage_error
from ion_core.handler import Workspace
from ion_core.handler.aside import Aside
from ion_core.state import State

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scratch:
    """``path`` is a directory for one rehearsal, ``mark`` what its containers are labelled with."""

    path: Path
    mark: str

    @property
    def work(self) -> Path:
        """Where workspaces are made."""
        return self.path / "work"


@asynccontextmanager
async def scratch(state: State, name: str, runtime: ContainerRuntime) -> AsyncIterator[Scratch]:
    """A directory under the state directory, gone with all that is in it when the body has ended.

    First removes what rehearsals by the same runtime, which has this ``name``, have left when their process died:
    directories and containers. ``serve`` may run on the same state directory meanwhile, and so may other rehearsals.
    Raises TransientError or StorageFull.
    """
    base = state.path / "rehearsals"
    aside = Aside(state.path)
    with _errors(base):
        base.mkdir(mode=0o700, exist_ok=True)
        for left in sorted(base.glob(f"{name}.*")):  # only this runtime knows of their containers
            await _sweep(left, _mark(state, left), {name: runtime}, aside)
        path = base / f"{name}.{secrets.token_hex(6)}"
        lock = _make_locked(path)
    try:
        yield Scratch(path, _mark(state, path))
    finally:
        try:
            await _leave_nothing(path, _mark(state, path), {name: runtime}, aside)
        finally:
            os.close(lock)


def _mark(state: State, path: Path) -> str:
    return f"{state.id()}-{path.suffix[1:]}"


def _make_locked(path: Path) -> int:
    """Make the directory with its lock held: nobody sees it under its name without."""
    making = path.with_name(f".{path.name}")
    making.mkdir(mode=0o700)
    (making / "work").mkdir(mode=0o700)
    lock = os.open(making, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        making.rename(path)
    except BaseException:
        os.close(lock)
        raise
    return lock


async def _leave_nothing(path: Path, mark: str, runtimes: Mapping[str, ContainerRuntime], aside: Aside) -> None:
    """Also no container: that of a shell may outlive the program that stood before it."""
    try:
        await remove_orphans(runtimes, mark)
    except ProviderError as error:
        log.warning("what a rehearsal left is removed by the next one: %s", error, extra={"directory": str(path)})
    else:
        await asyncio.to_thread(aside.remove, Workspace(path))


async def _sweep(left: Path, mark: str, runtimes: Mapping[str, ContainerRuntime], aside: Aside) -> None:
    try:
        lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        await remove_orphans(runtimes, mark)
        await asyncio.to_thread(aside.remove, Workspace(left))
        log.info("removed what a rehearsal left that died", extra={"directory": str(left)})
    finally:
        os.close(lock)


@contextmanager
def _errors(where: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(str(error.filename or where), error) from error
