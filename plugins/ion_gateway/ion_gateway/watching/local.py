"""A folder of this machine, also one that is mounted here. No link is followed, whoever made it, and whenever."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ion_core.contracts.provider import Finding
from ion_core.contracts.settings import Section
from ion_core.errors import ConfigError, StorageFull, TransientError
from ion_gateway.watching.entries import FULL, Entry, Gone, Listing, Unreadable, unwritten
from ion_gateway.watching.patterns import Patterns

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_VANISHED = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""A link where there was a file is not the file that was listed."""
_OF_ONE_FILE = {errno.EACCES, errno.EPERM, errno.ENXIO}
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES}
_BLOCK = 1 << 20


class LocalFolder:
    """See ``Source``. ``to`` is where files are moved."""

    local = True

    def __init__(self, root: Path, patterns: Patterns, section: Section, key: str, to: Path | None = None) -> None:
        self.place = str(root)
        self._root = root
        self._patterns = patterns
        self._where = section.where(key)
        self._to = to

    def findings(self) -> Sequence[Finding]:
        try:
            with os.scandir(self._root):
                return []
        except OSError as error:
            text = (
                f"{self._root} cannot be listed: {error.strerror}. "
                "Make it, or name a directory that exists and that this user may read."
            )
            return [Finding(severity="warning", where=self._where, text=text)]

    def check(self) -> None:
        for finding in self.findings():
            raise ConfigError(str(finding))

    def identity(self) -> tuple[int, int] | None:
        try:
            status = self._root.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def list(self) -> Listing:
        listing = Listing(whole=True)
        try:
            self._walk("", listing)
        except OSError as error:
            raise self._away(error) from error
        return listing

    def look(self, paths: Sequence[str]) -> Listing:
        listing = Listing()
        entered: dict[str, bool] = {"": True}
        for path in paths:
            if not self._enters(path.rpartition("/")[0], entered):
                continue
            try:
                status = os.lstat(self._root / path)
                if stat.S_ISDIR(status.st_mode):
                    if self._patterns.enters(path):
                        self._walk(path, listing)
                elif stat.S_ISREG(status.st_mode) and self._patterns.wants(path):
                    listing.add(_entry(path, status))
            except OSError as error:
                if error.errno not in _VANISHED:
                    listing.problems[path] = f"cannot be looked at: {error.strerror}"
            except ValueError:  # a name that no file can have
                continue
        return listing

    def _enters(self, directory: str, entered: dict[str, bool]) -> bool:
        """Whether that is one of the folder's, and not behind a link."""
        if directory not in entered:
            above = self._enters(directory.rpartition("/")[0], entered) and self._patterns.enters(directory)
            with contextlib.suppress(OSError, ValueError):
                above = above and stat.S_ISDIR(os.lstat(self._root / directory).st_mode)
            entered[directory] = above
        return entered[directory]

    def _walk(self, start: str, listing: Listing) -> None:
        """Raises OSError where ``start`` cannot be listed; of directories below that is a problem of theirs."""
        waiting = [start]
        while waiting:
            directory = waiting.pop()
            try:
                with os.scandir(self._root / directory) as found:
                    for one in found:
                        path = f"{directory}/{one.name}" if directory else one.name
                        if one.is_dir(follow_symlinks=False):
                            if self._patterns.enters(path):
                                waiting.append(path)
                        elif one.is_file(follow_symlinks=False) and self._patterns.wants(path):
                            with contextlib.suppress(FileNotFoundError):
                                listing.add(_entry(path, one.stat(follow_symlinks=False)))
            except OSError as error:
                if directory == start:
                    raise
                if error.errno not in _VANISHED:
                    listing.problems[directory] = f"cannot be listed: {error.strerror}"
                    listing.whole = False

    def fetch(self, entry: Entry, target: Path) -> None:
        with self._opened(entry) as source:
            try:
                copy = target.open("xb")
            except OSError as error:
                raise unwritten(error, target) from error
            with copy:
                try:
                    os.fchmod(copy.fileno(), 0o700 if os.fstat(source).st_mode & stat.S_IXUSR else 0o600)
                    _copy(source, copy.fileno())
                except OSError as error:
                    if error.errno in FULL:  # which reading never says
                        raise unwritten(error, target) from error
                    raise self._away(error, entry.path) from error
            if _version(os.fstat(source)) != entry.version:
                raise Gone(entry.path)

    @contextmanager
    def _directory(self, path: str) -> Iterator[tuple[int, str]]:
        """The directory that it is in, open, and its name there.

        From the root, a directory at a time: none of them may have become a link meanwhile. Who writes into the folder
        would have us read, or remove, what only we may.
        """
        *parents, name = path.split("/")
        with contextlib.ExitStack() as held:
            try:
                directory = os.open(self._root, _DIRECTORY & ~os.O_NOFOLLOW)
                held.callback(os.close, directory)
                for parent in parents:
                    directory = os.open(parent, _DIRECTORY, dir_fd=directory)
                    held.callback(os.close, directory)
            except OSError as error:
                raise self._meant(error, path) from error
            yield directory, name

    @contextmanager
    def _opened(self, entry: Entry) -> Iterator[int]:
        with self._directory(entry.path) as (directory, name):
            try:
                file = os.open(name, _FILE, dir_fd=directory)
            except OSError as error:
                raise self._meant(error, entry.path) from error
            try:
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode) or _version(status) != entry.version:
                    raise Gone(entry.path)
                yield file
            finally:
                os.close(file)

    def delete(self, entry: Entry, mark: str | None) -> None:
        with self._settling(entry, mark) as (directory, name):
            os.unlink(name, dir_fd=directory)

    def move(self, entry: Entry, mark: str | None, otherwise: str) -> None:
        assert self._to is not None
        with self._settling(entry, mark) as (directory, name):
            for target in (self._to / entry.path, self._to / otherwise):
                target.parent.mkdir(parents=True, exist_ok=True)
                if _moved(directory, name, target):
                    return
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), otherwise)

    def give_up(self) -> None:
        """None waits for another."""

    def close(self) -> None:
        """Nothing is kept open."""

    @contextmanager
    def _settling(self, entry: Entry, mark: str | None) -> Iterator[tuple[int, str]]:
        """Where it is, if it is still what it was. The mark goes first: alone it would complete what comes next."""
        try:
            with self._directory(entry.path) as (directory, name):
                try:
                    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                except OSError as error:
                    raise self._meant(error, entry.path) from error
                if not stat.S_ISREG(status.st_mode) or _version(status) != entry.version:
                    raise Gone(entry.path)
                if mark is not None:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(name + mark, dir_fd=directory)
                yield directory, name
        except Unreadable as error:
            raise TransientError(f"{self.place}: {entry.path!r} {error}") from error
        except OSError as error:
            raise self._away(error, entry.path) from error

    def _meant(self, error: OSError, path: str) -> Exception:
        """By an error of opening it."""
        if error.errno in _VANISHED:
            return Gone(path)
        if error.errno in _OF_ONE_FILE:
            return Unreadable(f"cannot be read: {error.strerror}")
        return self._away(error, path)

    def _away(self, error: OSError, path: str = "") -> TransientError:
        what = f"{self.place}: {path!r}" if path else self.place
        if error.errno in FULL:
            return StorageFull(f"{what}: no space left. Free some; work goes on by itself then.")
        return TransientError(f"{what}: {error.strerror or error}")


def _version(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


def _entry(path: str, status: os.stat_result) -> Entry:
    return Entry(path=path, version=_version(status), changed=status.st_mtime_ns / 1e9, size=status.st_size)


def _copy(source: int, target: int) -> None:
    """By the kernel alone where it can, which shares the blocks on file systems that do so."""
    try:
        while os.copy_file_range(source, target, _BLOCK << 6):
            pass
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF):
            raise
    while data := os.read(source, _BLOCK):  # also what some kernels pass over: files that only say their size when read
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]


def _moved(directory: int, name: str, target: Path) -> bool:
    """Move it there; False if another file is there. The same file there is what a process before us left undone."""
    try:
        os.link(name, target, src_dir_fd=directory, follow_symlinks=False)
    except FileExistsError:
        if not _is_the_same(directory, name, target):
            return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _moved_without_links(directory, name, target)
    os.unlink(name, dir_fd=directory)
    return True


def _moved_without_links(directory: int, name: str, target: Path) -> bool:
    """The same to another file system, or on one that knows no hard links: there two at once may both do it."""
    if os.path.lexists(target):
        if not _is_the_same(directory, name, target):
            return False
        os.unlink(name, dir_fd=directory)
        return True
    try:
        os.rename(name, target, src_dir_fd=directory)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copied(directory, name, target)
        os.unlink(name, dir_fd=directory)
    return True


def _copied(directory: int, name: str, target: Path) -> None:
    """Whole or not at all: under a hidden name first, which a later try uses again."""
    beside = target.with_name(f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}.part")
    with open(os.open(name, _FILE, dir_fd=directory), "rb") as source, beside.open("wb") as copy:
        _copy(source.fileno(), copy.fileno())
        status = os.fstat(source.fileno())
        os.fchmod(copy.fileno(), stat.S_IMODE(status.st_mode) & 0o777)
        os.utime(copy.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fsync(copy.fileno())
    beside.rename(target)


def _is_the_same(directory: int, name: str, target: Path) -> bool:
    """Whether both are files with the same bytes."""
    try:
        with (
            open(os.open(name, _FILE, dir_fd=directory), "rb") as one,
            open(os.open(target, _FILE), "rb") as other,
        ):
            if not stat.S_ISREG(os.fstat(other.fileno()).st_mode):
                return False
            return hashlib.file_digest(one, "sha256").digest() == hashlib.file_digest(other, "sha256").digest()
    except OSError as error:
        if error.errno in _VANISHED or error.errno in _OF_ONE_FILE:
            return False
        raise
