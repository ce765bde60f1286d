"""Working in a workspace whose module still runs, and may change anything at any moment.

So everything goes by descriptors of directories, opened without following links: a name that is swapped for a link
leads nowhere.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from ion_core.errors import OutputRefused
from ion_core.handler.output import kind_of, over_limit
from ion_core.handler.workspace import FIXED, INSIGHTS, Workspace
from ion_core.modules import Module

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BLOCK = 1 << 20
_ZEROS = bytes(_BLOCK)
ITS_DOING = {errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM}
"""What a module brings about by changing or closing its directories meanwhile."""


def snapshot(workspace: Workspace, copy: Workspace, module: Module) -> None:
    """Copy ``out/`` as it is now into ``copy``, a fresh workspace that nobody else sees.

    What is no file or directory, or more than the module's limits allow, is refused: OutputRefused names it.
    """
    try:
        with _open(str(workspace.root)) as root, _open("out", root) as out:
            _copy_tree(out, "out", copy.out, _Room(module))
    except OSError as error:
        if error.errno not in ITS_DOING:
            raise
        raise OutputRefused(
            f"out: {error.filename or ''} cannot be taken while the module runs: {error.strerror}"
        ) from error


def clear(workspace: Workspace) -> bool:
    """Take away everything an attempt brought or left. False if the module replaced what was there from the start.

    The directories themselves stay, since a container has them mounted.
    """
    try:
        with _open(str(workspace.home)) as home:
            for name, mode in FIXED.items():
                with _open_below(home, name) as directory:
                    os.fchmod(directory, mode)
                    _empty(directory, name, workspace.home)
            with _open_below(home, "ion/out") as out:
                _renew_insights(out)
    except (OSError, RecursionError):  # or nested so deep that only one who need not fear the module can remove it
        return False
    return True


def restore(workspace: Workspace) -> None:
    """Make what is missing of the directories that were there from the start, and of ``out/insights.json``.

    Raises OSError with the name of what the module has made something else of.
    """
    with _open(str(workspace.home)) as home:
        for name, mode in FIXED.items():
            above, _, last = name.rpartition("/")
            try:
                with _open_below(home, above) if above else nullcontext(home) as directory:
                    _have_directory(last, mode, directory)
            except OSError as error:
                error.filename = name.removeprefix("ion/")
                raise
        with _open_below(home, "ion/out") as out:
            try:
                os.stat(INSIGHTS.rpartition("/")[2], dir_fd=out, follow_symlinks=False)
            except FileNotFoundError:
                _renew_insights(out)


def _have_directory(name: str, mode: int, parent: int) -> None:
    made = True
    try:
        os.mkdir(name, dir_fd=parent)
    except FileExistsError:
        made = False
    with _open(name, parent) as directory:
        if made:
            os.fchmod(directory, mode)


class _Room:
    """What a snapshot may still hold."""

    def __init__(self, module: Module) -> None:
        self._module = module
        limits = module.limits
        self._files = limits.max_files + limits.max_events + 1
        self._bytes = limits.max_output + 2 * limits.max_insights
        self.levels = limits.max_depth + 2

    def take_file(self, where: str) -> None:
        self._files -= 1
        if self._files < 0:
            raise OutputRefused(over_limit(self._module, where, "holds too many files", "max_files"))

    def take_bytes(self, where: str, count: int) -> None:
        self._bytes -= count
        if self._bytes < 0:
            raise OutputRefused(over_limit(self._module, where, "holds too much", "max_output"))


def _copy_tree(source: int, where: str, target: Path, room: _Room, level: int = 0) -> None:
    if level > room.levels:
        raise OutputRefused(f"{where[:200]}: is nested too deep")
    for name in sorted(os.listdir(source)):
        inner = f"{where}/{name}"
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            (target / name).mkdir(exist_ok=True)
            with _open(name, source) as directory:
                _copy_tree(directory, inner, target / name, room, level + 1)
        elif stat.S_ISREG(status.st_mode):
            room.take_file(where)
            _copy_file(source, name, inner, target / name, room)
        else:
            raise OutputRefused(f"{inner}: is {kind_of(status.st_mode)}; only files and directories are taken")


def _copy_file(directory: int, name: str, where: str, target: Path, room: _Room) -> None:
    with os.fdopen(os.open(name, _FILE, dir_fd=directory), "rb") as source, target.open("wb") as copy:
        status = os.fstat(source.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OutputRefused(f"{where}: is {kind_of(status.st_mode)}; only files and directories are taken")
        if status.st_mode & stat.S_IXUSR:
            os.fchmod(copy.fileno(), 0o755)
        while data := source.read(_BLOCK):
            room.take_bytes(where, len(data))
            if data == _ZEROS:  # a hole stays one
                copy.seek(len(data), os.SEEK_CUR)
            else:
                copy.write(data)
        copy.truncate()


def _empty(directory: int, name: str, home: Path) -> None:
    """Directories are moved out of the module's sight first, then removed with all that is in them."""
    for entry in os.listdir(directory):
        inner = f"{name}/{entry}"
        if inner in FIXED or inner == INSIGHTS:
            continue
        try:
            os.unlink(entry, dir_fd=directory)
        except (IsADirectoryError, PermissionError):
            _open_up(entry, directory)
            aside = home.with_name(f"{home.name}-{secrets.token_hex(6)}")
            os.rename(entry, aside, src_dir_fd=directory)
            with _open(str(aside.parent)) as parent:
                _remove(aside.name, parent)


def _open_up(name: str, directory: int) -> None:
    """A closed directory can be neither read nor, by others than root, moved."""
    descriptor = os.open(name, getattr(os, "O_PATH", 0) | _DIRECTORY, dir_fd=directory)
    try:
        os.chmod(f"/proc/self/fd/{descriptor}", 0o700)  # that very directory, whatever its name means by now
    finally:
        os.close(descriptor)


def _remove(name: str, directory: int) -> None:
    _open_up(name, directory)
    with _open(name, directory) as inner:
        for entry in os.listdir(inner):
            try:
                os.unlink(entry, dir_fd=inner)
            except (IsADirectoryError, PermissionError):
                _remove(entry, inner)
    os.rmdir(name, dir_fd=directory)


def _renew_insights(out: int) -> None:
    name = INSIGHTS.rpartition("/")[2]
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=out)
    made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=out)
    try:
        os.fchmod(made, 0o666)
    finally:
        os.close(made)


@contextmanager
def _open(name: str, parent: int | None = None) -> Iterator[int]:
    descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _open_below(parent: int, path: str) -> Iterator[int]:
    """Segment by segment, so that no link is followed on the way."""
    first, _, rest = path.partition("/")
    with _open(first, parent) as descriptor:
        if not rest:
            yield descriptor
            return
        with _open_below(descriptor, rest) as inner:
            yield inner
