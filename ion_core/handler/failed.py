"""Workspaces of failed attempts, kept for a while so that somebody can look at them.

<base>/<module>/<time>-<event id>-<attempt>-<token>/ion/…         the workspace, as the attempt left it
<base>/<module>/<time>-<event id>-<attempt>-<token>/attempt.json  whose it is

They are no part of any job: nothing is read from them but by people and by `ion-core debug`.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from ion_core.handler.aside import Aside
from ion_core.handler.workspace import Workspace
from ion_core.jobs import Attempt
from ion_core.regular import read_regular, write_new
from ion_core.stores import key_segment
from ion_core.words import counted

log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

MOST_BYTES = 1024**3
"""On disk, of one that is kept; what it shares with the blob store does not count."""
MOST_ENTRIES = 20_000
LEAST_FREE = 0.1
"""Share of the file system that must be free, or none is kept."""

_NOTE = "attempt.json"
_LONGEST_NOTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One that is kept: where, and of which attempt. ``kept_at`` is ISO 8601 in UTC.

    ``token`` tells the attempt from that of the same number after a redrive.
    """

    workspace: Workspace
    module: str
    event_id: str
    attempt: int
    token: str
    reason: str
    kept_at: str


def own_inputs(workspace: Workspace) -> None:
    """Copies in the place of inputs that share their storage with the blob store, so that they may be written to.

    Raises OSError.
    """
    for directory, _, names in os.walk(workspace.root / "in"):
        for name in names:
            path = Path(directory, name)
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                copy = path.with_name(f".{secrets.token_hex(8)}")
                try:
                    shutil.copyfile(path, copy)
                    copy.chmod(stat.S_IMODE(status.st_mode) | 0o644)  # open to a container's user as before
                    copy.replace(path)
                finally:
                    copy.unlink(missing_ok=True)


_KEPT_LINE = re.compile(r"workspace kept in (?P<home>/.*), until \d+ newer .*")


def home_in(line: str) -> Path | None:
    """Where a line of a log says that a workspace is kept; None for any other line."""
    found = _KEPT_LINE.fullmatch(line)
    return Path(found["home"]) if found is not None else None


class FailedWorkspaces:
    """Keeps up to so many for each module, the newest ones. ``base`` must be on the file system of the workspaces.

    Several processes may: only one of them at a time changes anything in there. What of them cannot be removed is set
    aside: it is none of those that are kept any more.
    """

    def __init__(self, base: Path) -> None:
        self._base = base
        self._aside = Aside(base.parent)
        self._alone = asyncio.Lock()

    async def keep(self, workspace: Workspace, attempt: Attempt, reason: str, *, most: int) -> str:
        """Move the workspace here, by a rename, and let the oldest go that is one too many.

        Returns what the attempt's log is to say: where it is, or why it stayed where it was; '' where none is wanted.
        Its container must be gone. Never raises for the disk's sake: keeping is a courtesy.
        """
        if most <= 0:
            return ""
        async with self._alone:
            try:
                home, why_not = await asyncio.to_thread(self._changing, self._keep, workspace, attempt, reason, most)
            except OSError as error:
                log.warning("the workspace of a failed attempt is not kept: %s", error)
                home, why_not = None, str(error.strerror or error)
        if home is None:
            return f"workspace not kept: {why_not}"
        newer = f"{counted(most, 'newer one')} of {attempt.job.module}"
        return f"workspace kept in {home}, until {newer} {'is' if most == 1 else 'are'}"

    async def trim(self, most: Mapping[str, int]) -> None:
        """Leave so many for each module, and none for modules that are not named."""
        async with self._alone:
            try:
                await asyncio.to_thread(self._changing, self._trim, most)
            except OSError as error:
                log.warning("workspaces of failed attempts cannot be removed: %s", error)

    def all(self, event_id: str) -> list[Kept]:
        """Those of attempts for this event, oldest first."""
        found = [kept for home in sorted(self._base.glob("*/*")) if (kept := _read(home)) is not None]
        return [kept for kept in found if kept.event_id == event_id]

    def _changing(self, change: Callable[P, R], *given: P.args, **named: P.kwargs) -> R:
        """While no other process does. Raises OSError as ``change`` does, or where the state directory is gone."""
        directory = os.open(self._base.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            return change(*given, **named)
        finally:
            os.close(directory)

    def _keep(self, workspace: Workspace, attempt: Attempt, reason: str, most: int) -> tuple[Path | None, str]:
        if (size := _size(workspace.root)) is None:
            return None, f"it has more than {MOST_BYTES >> 30} GiB or {MOST_ENTRIES:,} entries"
        disk = shutil.disk_usage(workspace.home)
        if disk.free - size < LEAST_FREE * disk.total:
            self._trim({})  # these are the first to go
            return None, "little space is left"
        now = datetime.now(UTC)
        event_id = attempt.job.event.context.event_id
        note = {
            "module": attempt.job.module,
            "eventId": event_id,
            "attempt": attempt.number,
            "token": attempt.token,
            "reason": reason,
            "keptAt": now.isoformat(timespec="milliseconds"),
        }
        (workspace.home / _NOTE).unlink(missing_ok=True)
        write_new(workspace.home / _NOTE, json.dumps(note).encode(), 0o666)
        name = f"{now:%Y%m%dT%H%M%S.%f}-{key_segment(event_id)[:40]}-{attempt.number}-{attempt.token}"
        home = self._base / attempt.job.module / name
        home.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._remove_oldest(home.parent, leave=most - 1)
        workspace.home.rename(home)
        return home, ""

    def _trim(self, most: Mapping[str, int]) -> None:
        for module in _directories(self._base):
            self._remove_oldest(module, leave=most.get(module.name, 0))
            if module.name not in most and not any(module.iterdir()):
                module.rmdir()

    def _remove_oldest(self, module: Path, *, leave: int) -> None:
        homes = list(_directories(module))
        for home in homes[: max(0, len(homes) - leave)]:
            self._aside.remove(Workspace(home))


def _directories(base: Path) -> Iterator[Path]:
    """In lexical order, which is that of their age."""
    if base.is_dir():
        yield from (path for path in sorted(base.iterdir()) if path.is_dir() and not path.is_symlink())


def _read(home: Path) -> Kept | None:
    try:
        note: Any = json.loads(read_regular(home / _NOTE, _LONGEST_NOTE))
        return Kept(
            workspace=Workspace(home),
            module=str(note["module"]),
            event_id=str(note["eventId"]),
            attempt=int(note["attempt"]),
            token=str(note["token"]),
            reason=str(note["reason"]),
            kept_at=str(note["keptAt"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _size(directory: Path) -> int | None:
    """Bytes on disk of what is below; None for too much of it. Closed directories are opened to us."""
    total = count = 0
    waiting = [str(directory)]
    while waiting:
        here = waiting.pop()
        if not os.access(here, os.R_OK | os.W_OK | os.X_OK):
            os.chmod(here, 0o700)
        with os.scandir(here) as entries:
            for entry in entries:
                count += 1
                status = entry.stat(follow_symlinks=False)
                if status.st_nlink == 1 or entry.is_dir(follow_symlinks=False):
                    total += status.st_blocks * 512
                if total > MOST_BYTES or count > MOST_ENTRIES:
                    return None
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
    return total
