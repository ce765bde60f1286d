"""Where a database file may lie, and what its errors mean to a caller."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from pathlib import Path

from ion_core.errors import IonError, PermanentError, StateError, StorageFull, TransientError

_FUSE = frozenset(
    {"ceph", "curlftpfs", "davfs2", "gcsfuse", "glusterfs", "juicefs", "rclone", "s3fs", "sshfs", "smbnetfs"}
)
NETWORK_FILE_SYSTEMS = frozenset(
    {"afs", "beegfs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2"}
    | {"orangefs", "smb2", "smb3", "smbfs"}
    | {f"fuse.{name}" for name in _FUSE}
)
"""Where locks or shared memory do not reach all readers. 9p and virtiofs are not here: a virtual machine's or a
sandbox's own root may be one, and where they lack shared memory SQLite says so itself."""

_MOUNTS = Path("/proc/self/mountinfo")
_LITTLE_SPACE = 256 * 1024


def prepare_file(path: Path) -> None:
    """Make directory (0700) and file (0600) where missing. Raises StateError on a network file system."""
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        mounts = ""  # not Linux: nothing to ask
    kind = file_system_of(path, mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise StateError(f"{path}: lies on a network file system ({kind}), where locks do not hold. Name a local path.")
    try:
        _make_directory(path.parent)
        # O_EXCL: a file that exists is never opened here, since closing it would drop SQLite's locks on it.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(path) from error
        raise StateError(f"{path}: cannot be made ({error.strerror}). Check the path and its permissions.") from error


def _make_directory(directory: Path) -> None:
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)


def file_system_of(path: Path, mounts: str) -> str:
    """The type of the file system ``path`` lies (or would lie) on, by the text of a ``mountinfo``; '' if unknown."""
    place = str(path.resolve())
    found, kind = "", ""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        inside = point == "/" or place == point or place.startswith(point + "/")
        if inside and len(point) >= len(found):  # of two on one point the later one hides the earlier
            found, kind = point, right.split(" ")[0]
    return kind


def _full(path: Path) -> StorageFull:
    return StorageFull(f"{path}: no space is left on its file system. Free some; what was stored is kept.")


def _no_space(path: Path) -> bool:
    try:
        space = os.statvfs(path.parent)
    except OSError:
        return False
    return space.f_bavail * space.f_frsize < _LITTLE_SPACE


def translate(error: Exception, path: Path, *, busy: float, opening: bool = False) -> Exception:
    """What ``error`` means to a caller; itself if it is an IonError or a bug."""
    found = _meaning(error, path, busy, opening)
    if found is None:
        return error
    found.__cause__ = error
    return found


def _meaning(error: Exception, path: Path, busy: float, opening: bool) -> IonError | None:
    if isinstance(error, UnicodeEncodeError):
        return PermanentError(f"{path}: {error.object[:80]!r} is not valid Unicode. Use UTF-8 text.")
    if isinstance(error, OSError):
        return _full(path) if error.errno in (errno.ENOSPC, errno.EDQUOT) else TransientError(f"{path}: {error}")
    if not isinstance(error, sqlite3.Error):
        return None
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL):
        return TransientError(f"{path}: stayed locked for {busy:g} s. Look for a stopped process that holds it.")
    if code == sqlite3.SQLITE_FULL:
        return _full(path)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StateError(
            f"{path}: is damaged, or no database ({error}). Move it aside, with its -wal and "
            "-shm files; `sqlite3 FILE .recover` may save what is in it."
        )
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT):
        if _no_space(path):
            return _full(path)
        if opening:
            return StateError(f"{path}: cannot be opened ({error}). Check that it is a file and its permissions.")
        return TransientError(f"{path}: {error}. Check its disk and the limit of open files.")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return StateError(f"{path}: cannot be written to ({error}). Check its permissions, and that it was not moved.")
    if code == sqlite3.SQLITE_TOOBIG:
        return PermanentError(f"{path}: {error}. Pass large data as files.")
    if isinstance(error, (sqlite3.ProgrammingError, sqlite3.InterfaceError)):
        return None
    return StateError(f"{path}: has not the form it should have ({error}). Move it aside, or restore it.")
