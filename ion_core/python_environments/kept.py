"""Environments where they lie: ``<directory>/<key>``, each with a lock beside it that whoever uses it shares."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ion_core.python_environments.content import Wanted, wanted

_MARK = "ion-environment.json"
"""Written last: an environment without it was never finished."""
_PAUSE = 0.1


@dataclass(frozen=True, kw_only=True)
class Look:
    """An environment as it is found: where it is, or would be, and whether it is made."""

    path: Path
    made: bool


@dataclass(frozen=True, kw_only=True)
class Unused:
    """Environments that were removed, or would be, and their size in bytes."""

    environments: int = 0
    size: int = 0

    def __add__(self, other: Unused) -> Unused:
        return Unused(environments=self.environments + other.environments, size=self.size + other.size)


def look(directory: Path, requirements: Path | None) -> Look:
    """The environment for ``requirements``. Raises OSError where these cannot be read."""
    path = directory / wanted(requirements).key
    return Look(path=path, made=is_made(path))


def is_made(path: Path) -> bool:
    """Whether it was finished, here, and its Python is still there."""
    try:
        said = json.loads((path / _MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    # Its programs name the place where it was made: moved elsewhere it is made again.
    return isinstance(said, dict) and said.get("path") == str(path) and (path / "bin" / "python3").exists()


def mark_made(path: Path, what: Wanted) -> None:
    """Say of an environment that it is whole. Raises OSError."""
    said = {"path": str(path), "requirements": str(what.requirements or "")}
    (path / _MARK).write_text(json.dumps(said), encoding="utf-8")


def lock_of(environment: Path) -> Path:
    """The file that whoever uses it holds locked (flock, shared), so that nobody removes it meanwhile."""
    return environment.with_name(f"{environment.name}.lock")


class Lock:
    """Of one environment: shared by all who use it, held alone by whoever makes or removes it. The kernel's (flock)."""

    def __init__(self, environment: Path) -> None:
        self.path = lock_of(environment)
        self.descriptor = -1

    async def hold(self, *, alone: bool) -> None:
        """Waits until it is to be had. Raises OSError."""
        while not self.try_hold(alone=alone):  # noqa: ASYNC110 - another process lets go of it, and tells nobody
            await asyncio.sleep(_PAUSE)

    def try_hold(self, *, alone: bool) -> bool:
        """Whether it could be had at once. One that is held already is changed, and may be lost meanwhile."""
        while True:
            if self.descriptor < 0:
                self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(self.descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if os.fstat(self.descriptor).st_nlink:
                return True
            self.let_go()  # whoever removed the environment has removed it: another is made

    def used(self) -> None:
        """Note that it is in use at this time."""
        os.utime(self.descriptor)

    def let_go(self) -> None:
        """Idempotent."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def remove_unused(
    directory: Path, wanted_by_modules: Collection[Path], *, before: float, dry_run: bool = False
) -> Unused:
    """Remove environments that are none of ``wanted_by_modules``, used by nobody now nor since ``before`` (a time).

    Raises OSError for one that cannot be removed.
    """
    found = Unused()
    for lock_file in sorted(directory.glob("*.lock")):
        path = lock_file.with_suffix("")
        if path in wanted_by_modules or lock_file.stat().st_mtime >= min(before, time.time()):
            continue
        lock = Lock(path)
        try:
            if not lock.try_hold(alone=True):
                continue
            found += Unused(environments=int(path.is_dir()), size=_size(path))
            if not dry_run:
                remove(path)
                lock_file.unlink()
        finally:
            lock.let_go()
    return found


def remove(path: Path) -> None:
    """Its mark first: what is removed by half is not taken for an environment. Fine if it is gone."""
    (path / _MARK).unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        shutil.rmtree(path)


def _size(path: Path) -> int:
    size = 0
    for root, _, files in os.walk(path):
        for name in files:
            with suppress(FileNotFoundError):
                size += Path(root, name).lstat().st_size
    return size
