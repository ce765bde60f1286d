"""Where each key lies below a directory. All of it blocks; processes share a tree without telling each other.

A key is its own path: ``a/b.png`` is the file ``a/b.png``. When one key is a prefix of another, its blob lies inside
the directory of that name, as ``a/\\blob``: no key has a backslash. Names are kept as they are, so a file system that
takes ``A`` for ``a`` or changes Unicode is not for this.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ion_core.contracts.storage import check_key
from ion_core.embedded.local import files as blob_files
from ion_core.errors import InvalidKey
from ion_core.regular import open_regular

INSIDE = "\\blob"
_TRIES = 100


class BlobTree:
    """The blobs below ``root``; ``staging`` is a directory of the same file system for what is not finished."""

    def __init__(self, root: Path, staging: Path) -> None:
        self.root = root
        self._staging = staging
        self._owed: set[str] = set()
        self._lock = threading.Lock()

    def path(self, key: str) -> str:
        return f"{self.root}/{key}"

    def place(self, source: str, key: str) -> set[str]:
        """Give the file ``source`` its final name, replacing what is there. Returns the directories it changed."""
        path = self.path(key)
        changed: set[str] = set()
        for _ in range(_TRIES):
            try:
                os.rename(source, path)
                return changed | {os.path.dirname(path)}
            except IsADirectoryError:
                path = f"{self.path(key)}/{INSIDE}"
            except NotADirectoryError:
                changed |= self._make_room(key)
            except FileNotFoundError:
                os.lstat(source)
                path = self.path(key)
                changed |= self._make_parents(key)
        raise OSError(errno.EAGAIN, "Others keep removing its directory", path)

    def flush(self, directories: set[str]) -> None:
        """Make these changes durable, and those that they rest on though another thread made them."""
        with self._lock:
            directories = directories | self._owed
        blob_files.flush_directories(directories)
        with self._lock:
            self._owed -= directories

    def open(self, key: str) -> tuple[int, os.stat_result]:
        """The blob, open. FileNotFoundError when there is none."""
        path = self.path(key)
        for name in (path, f"{path}/{INSIDE}", path):
            try:
                return open_regular(name)
            except NotADirectoryError:
                continue
            except OSError as error:
                if error.errno not in (errno.EISDIR, errno.ENOENT, errno.ELOOP, errno.EINVAL):
                    raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def delete(self, key: str) -> None:
        path = self.path(key)
        for name in (path, f"{path}/{INSIDE}"):
            try:
                os.unlink(name)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (IsADirectoryError, PermissionError):
                if not os.path.isdir(name):
                    raise
        if not os.path.isdir(path):
            path = os.path.dirname(path)
        with suppress(OSError):  # the first that is not empty, or that somebody else removed, ends it
            while len(path) > len(str(self.root)):
                os.rmdir(path)
                path = os.path.dirname(path)

    def keys(self, prefix: str) -> Iterator[str]:
        """Keys below ``prefix``, sorted as text, one directory read at a time."""
        top = self.path(prefix) if prefix else str(self.root)
        with suppress(FileNotFoundError, NotADirectoryError):
            if stat.S_ISDIR(os.lstat(top).st_mode):
                yield from filter(_is_key, self._walk(top, f"{prefix}/" if prefix else ""))

    def _walk(self, directory: str, prefix: str) -> Iterator[str]:
        found: list[str] = []
        with suppress(FileNotFoundError), os.scandir(directory) as entries:
            for entry in entries:
                if not _is_segment(entry.name):
                    continue
                if entry.is_file(follow_symlinks=False):
                    found.append(entry.name)
                elif entry.is_dir(follow_symlinks=False):
                    found.append(f"{entry.name}/")
                    if os.path.lexists(f"{entry.path}/{INSIDE}"):
                        found.append(entry.name)
        for name in sorted(found):
            if name.endswith("/"):
                yield from self._walk(f"{directory}/{name[:-1]}", prefix + name)
            else:
                yield prefix + name

    def _make_parents(self, key: str) -> set[str]:
        path = str(self.root)
        changed: set[str] = set()
        for segment in key.split("/")[:-1]:
            parent, path = path, f"{path}/{segment}"
            try:
                os.mkdir(path)
            except FileExistsError:
                continue
            except FileNotFoundError:
                break  # removed again by somebody's delete: the caller tries again
            except NotADirectoryError:
                changed |= self._make_room(key)
                break
            changed.add(parent)
        return self._owe(changed)

    def _make_room(self, key: str) -> set[str]:
        """Turn every blob whose key is a prefix of ``key`` into a directory with that blob inside, in one step each."""
        lock = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        changed: set[str] = set()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            path = str(self.root)
            for segment in key.split("/")[:-1]:
                parent, path = path, f"{path}/{segment}"
                if stat.S_ISREG(os.lstat(path).st_mode):
                    self._move_inside(path)
                    changed |= {parent, path}
        except FileNotFoundError:
            pass  # deleted meanwhile: the caller tries again
        finally:
            os.close(lock)
        return self._owe(changed)

    def _owe(self, changed: set[str]) -> set[str]:
        with self._lock:
            self._owed |= changed
        return changed

    def _move_inside(self, path: str) -> None:
        staged = str(self._staging / os.urandom(8).hex())
        os.mkdir(staged)
        os.link(path, f"{staged}/{INSIDE}", follow_symlinks=False)
        blob_files.flush_directories([staged])
        blob_files.exchange(staged, path)
        # ``staged`` is now what ``path`` was: the same file, of which rename keeps both names, or one put meanwhile.
        os.rename(staged, f"{path}/{INSIDE}")
        with suppress(FileNotFoundError):
            os.unlink(staged)


def _is_segment(name: str) -> bool:
    return "/" not in name and _is_key(name)


def _is_key(name: str) -> bool:
    try:
        check_key(name)
    except InvalidKey:
        return False
    return True
