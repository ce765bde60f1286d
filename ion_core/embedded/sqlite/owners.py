"""Who is alive: one file per broker that subscribes, locked for as long as its process lives.

A message held by a dead owner can be given away at once instead of when its lease ends. The kernel drops the lock when
the process dies, however it dies. POSIX record locks, because they belong to one process: a forked child does not
inherit them, so it cannot keep its dead parent alive; and a random name instead of a pid, because pids come back.

Two rules of such locks matter here: closing any descriptor of a file drops the process's lock on it, so this process
never opens its own files again; and a lock can only be put on a file that exists, so a file is locked under another
name first and then renamed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterable
from pathlib import Path

_PREPARED = ".new"
_ours: set[str] = set()
"""Owners of this process, of whatever broker: alive, and not to be opened again."""

os.register_at_fork(after_in_child=_ours.clear)


class Owner:
    """A live owner; dead once it is removed or its process has ended. Its file names the pid, for people."""

    def __init__(self, directory: Path) -> None:
        """Take a new id. Raises OSError."""
        directory.mkdir(mode=0o700, exist_ok=True)
        while True:
            self.id = uuid.uuid4().hex
            self.path = directory / self.id
            _ours.update((self.id, self.id + _PREPARED))
            prepared = self.path.with_name(self.id + _PREPARED)
            self._file = _locked(prepared)
            try:
                prepared.rename(self.path)
            except FileNotFoundError:  # another process took it for a dead one's in the moment before it was locked
                self.remove()
            else:
                _ours.discard(self.id + _PREPARED)
                return

    def remove(self) -> None:
        """Be gone: to be called once nothing is held. Idempotent."""
        self.path.unlink(missing_ok=True)
        self.abandon()

    def abandon(self) -> None:
        """Be dead, as after a crash: somebody else gives away what is held. Idempotent."""
        if self._file < 0:
            return
        os.close(self._file)
        self._file = -1
        _ours.difference_update((self.id, self.id + _PREPARED))


def _locked(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX)
        os.write(file, f"{os.getpid()}\n".encode())
    except BaseException:
        os.close(file)
        raise
    return file


def dead_owners(directory: Path) -> list[str]:
    """Names of the files in ``directory`` whose process is gone. What they hold may be given away."""
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        return [entry.name for entry in entries if entry.name not in _ours and _is_dead(entry.path)]
    return []


def _is_dead(path: str) -> bool:
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False  # removed in this moment, or not ours to judge: its lease will end
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(file)
    return True


def forget(directory: Path, owners: Iterable[str]) -> None:
    """Remove the files of dead owners, once nothing is held in their name. Idempotent."""
    for owner in owners:
        (directory / owner).unlink(missing_ok=True)
