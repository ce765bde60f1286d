"""The state directory: what embedded providers keep, workspaces, and the lock of the one ``serve`` that uses it."""

from __future__ import annotations

import fcntl
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ion_core.errors import StateBusy, StateError, storage_error

_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class State:
    """One state directory; others of this machine have no access to it."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> State:
        """Make the directory if it is missing. Raises StateError when that fails."""
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            ignore = path / ".gitignore"
            if not ignore.exists():
                ignore.write_text("# Ion's state does not belong into version control.\n*\n", encoding="utf-8")
        except OSError as error:
            raise StateError(
                f"{path}: cannot be the state directory: {error.strerror}. Set `state:` or --state-dir to another one."
            ) from error
        return cls(path)

    @property
    def work(self) -> Path:
        """Where workspaces lie."""
        return self.path / "work"

    def id(self) -> str:
        """Marks what belongs to this directory, such as containers. Made once, the same ever after.

        Raises StateError if it is damaged.
        """
        file = self.path / "id"
        try:
            found = file.read_text(encoding="ascii", errors="replace").strip()
            if not _ID.fullmatch(found):
                raise StateError(
                    f"{file}: is damaged. Remove containers of this directory's last `serve` by hand, then this file."
                )
            return found
        except FileNotFoundError:
            made = uuid.uuid4().hex[:16]
            temporary = self.path / f".id-{os.getpid()}"
            try:
                temporary.write_text(made + "\n", encoding="ascii")
                temporary.replace(file)
            except OSError as error:
                raise storage_error(str(file), error) from error
            return made

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory as its one ``serve``. Raises StateBusy naming the pid of the process that holds it.

        Raises StateError where it cannot be locked.

        The lock is the kernel's (flock), so a process that dies lets go of it.
        """
        file = self.path / "serve.lock"
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(f"{file}: cannot be opened: {error.strerror}. Is the directory yours?") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
                raise StateBusy(
                    f"{self.path}: in use by another `ion-core serve`, pid {pid}. Stop that one, or give this one a "
                    "state directory of its own with --state-dir."
                ) from None
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode("ascii"))
            self.work.mkdir(mode=0o700, exist_ok=True)
            yield
        finally:
            os.close(descriptor)
