"""The state directory: what embedded providers keep, workspaces, and the lock of the one ``serve`` that uses it."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ion_core.errors import StateBusy, StateError, StorageFull, storage_error
from ion_core.regular import open_regular, read_regular, write_new

_ID = re.compile(r"[0-9a-f]{16}")
_WORKER = re.compile(r"work-[1-9][0-9]*")


@dataclass(frozen=True)
class State:
    """One state directory; others of this machine have no access to it."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> State:
        """Make the directory if it is missing. Raises StateError when that fails, or when it is another user's."""
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_foreign(path)
            with suppress(FileExistsError):
                write_new(path / ".gitignore", b"# Ion's state does not belong into version control.\n*\n", 0o644)
        except OSError as error:
            raise StateError(
                f"{path}: cannot be the state directory: {error.strerror}. Set `state:` or --state-dir to another one."
            ) from error
        return cls(path)

    @staticmethod
    def exists(path: Path) -> bool:
        """Whether there is something at ``path``, be it closed to us."""
        try:
            path.stat()
        except FileNotFoundError:
            return False
        except OSError:
            pass  # for ``looking`` to say
        return True

    @classmethod
    @contextmanager
    def looking(cls, path: Path) -> Iterator[State]:
        """The directory, which exists, for somebody who only reads: the owner, or root.

        Should root bring about a file all the same, as readers of a database do, it is the owner's in the end. Raises
        StateError when it is another user's.
        """
        try:
            owner = path.stat()
            if os.geteuid() != 0:
                _refuse_foreign(path)
            next(path.iterdir(), None)
        except OSError as error:
            raise StateError(f"{path}: cannot be read: {error.strerror}. Is it yours?") from error
        try:
            yield cls(path)
        finally:
            if owner.st_uid != os.geteuid():
                for made in (*path.glob("*"), *path.glob("*/*")):
                    with suppress(FileNotFoundError):
                        if made.lstat().st_uid == os.geteuid():
                            os.lchown(made, owner.st_uid, owner.st_gid)

    @property
    def work(self) -> Path:
        """Where workspaces lie."""
        return self.work_of(0)

    def work_of(self, worker: int) -> Path:
        """Where those of one of several workers lie; 0 for who is alone."""
        return self.path / (f"work-{worker}" if worker else "work")

    def works_of_workers(self) -> Sequence[Path]:
        """All such that there are, of workers of whatever number."""
        return [path for path in sorted(self.path.glob("work-*")) if _WORKER.fullmatch(path.name)]

    def emptied(self, *below: str) -> Path:
        """A directory below this one, made anew with nothing in it, closed to others.

        Raises StateError where it cannot be made, or what is in it cannot be removed; StorageFull.
        """
        path = self.path.joinpath(*below)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.is_symlink() or path.is_file():
                path.unlink()
            elif path.exists():
                shutil.rmtree(path)
            path.mkdir(mode=0o700)
        except OSError as error:
            if isinstance(found := storage_error(str(path), error), StorageFull):
                raise found from error
            raise StateError(
                f"{error.filename or path}: cannot be removed or made anew: {error.strerror}. Remove it by hand."
            ) from error
        return path

    def id(self) -> str:
        """Marks what belongs to this directory, such as containers. Made once, the same ever after.

        Raises StateError if it is damaged.
        """
        file = self.path / "id"
        try:
            found = read_regular(file, 64).decode("ascii", "replace").strip()
            if not _ID.fullmatch(found):
                raise StateError(
                    f"{file}: is damaged. Remove containers of this directory's last `serve` by hand, then this file."
                )
            return found
        except FileNotFoundError:
            made = uuid.uuid4().hex[:16]
            temporary = self.path / f".id-{made}"
            try:
                write_new(temporary, f"{made}\n".encode("ascii"), 0o666)
                temporary.replace(file)
            except OSError as error:
                raise storage_error(str(file), error) from error
            return made
        except OSError as error:
            raise StateError(f"{file}: cannot be read: {error.strerror}. Move it aside, if it is not Ion's.") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory as its one ``serve``. Raises StateBusy naming the pid of the process that holds it.

        Raises StateError where it cannot be locked, StorageFull where there is no space to note who holds it.

        The lock is the kernel's (flock), so a process that dies lets go of it.
        """
        would = "Stop that one, or give this one a state directory of its own with --state-dir."
        with self._alone("serve.lock", "ion-core serve", would):
            self.make_work()
            yield

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the directory so that no ``serve`` runs while modules are renamed or removed. Raises as ``locked``.

        Another state directory would not do: what waits lies in this one.
        """
        with self._alone("serve.lock", "ion-core", "Stop that one first."):
            yield

    @contextmanager
    def republishing(self) -> Iterator[None]:
        """Be the one `event republish` of this directory, or what removes what one left. Raises as ``locked``."""
        with self._alone("republish.lock", "ion-core event republish", "Stop that one, or wait for it."):
            yield

    @contextmanager
    def _alone(self, name: str, who: str, would: str) -> Iterator[None]:
        file = self.path / name
        try:
            descriptor, _ = open_regular(file, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            if isinstance(full := storage_error(str(file), error), StorageFull):
                raise full from error
            raise StateError(f"{file}: cannot be opened: {error.strerror}. Is the directory yours?") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
                raise StateBusy(f"{self.path}: in use by another `{who}`, pid {pid}. {would}") from None
            try:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()}\n".encode("ascii"))
            except OSError as error:
                raise storage_error(str(file), error) from error
            yield
        finally:
            os.close(descriptor)

    def make_work(self, worker: int = 0) -> Path:
        """Have a directory for workspaces, of the worker of that number. Raises StateError, StorageFull."""
        work = self.work_of(worker)
        try:
            work.mkdir(mode=0o700, exist_ok=True)
            if work.is_symlink():
                raise NotADirectoryError(errno.ENOTDIR, "is a link")
        except OSError as error:
            if isinstance(full := storage_error(str(work), error), StorageFull):
                raise full from error
            raise StateError(f"{work}: cannot be used for workspaces: {error.strerror}. Move it aside.") from error
        return work


def _refuse_foreign(path: Path) -> None:
    """What we made there would be closed to its owner. That holds for root, too, and for root's to others."""
    uid, ours = path.stat().st_uid, os.geteuid()
    if uid != ours:
        owner, we = _name(uid), _name(ours)
        raise StateError(
            f"{path}: is the state directory of {owner}, and this runs as {we}. Run it as {owner}; or name another "
            f"directory with --state-dir; or, if it is {we} who is to use it, chown it, with all that is in it."
        )


def _name(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
