"""Objects as files of one directory, which may be shared by hosts: written beside, flushed, then named."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from ion_fsspec_storage.errors import translated

_BLOCK = 1 << 20
_ZEROS = bytes(_BLOCK)
_ABANDONED = 86_400.0
"""Seconds after which an unfinished file is taken for one that nobody finishes."""
_PARENTS_MADE = 10
"""How often a directory may vanish under a write because somebody else just emptied it."""


class LocalObjects:
    """See ``Objects``. Exclusive creation is the file system's: a name is linked to a finished file, or exists."""

    def __init__(self, root: Path, place: str) -> None:
        self.place = place
        self._root = root
        self._unfinished = root / "unfinished"
        self._unfinished.mkdir(parents=True, exist_ok=True)
        self._sweep()

    def opened(self) -> None:
        pass

    def write(self, name: str, data: bytes) -> None:
        with self._translating(name), self._new_file() as (path, file):
            _write_all(file, data)
            self._finish(path, file, name)

    def create(self, name: str, data: bytes) -> bool:
        with self._translating(name), self._new_file() as (path, file):
            _write_all(file, data)
            os.fsync(file)
            try:
                self._in_directory(self._root / name, lambda target: os.link(path, target))
            except FileExistsError:
                return False
            return True

    def upload(self, name: str, source: int, size: int) -> None:
        with self._translating(name), self._new_file() as (path, file):
            offset = 0
            while block := os.pread(source, _BLOCK, offset):
                if block == _ZEROS:  # a hole stays one
                    os.lseek(file, len(block), os.SEEK_CUR)
                else:
                    _write_all(file, block)
                offset += len(block)
            os.ftruncate(file, offset)
            self._finish(path, file, name)

    def read(self, name: str) -> bytes:
        with self._translating(name):
            return (self._root / name).read_bytes()

    def download(self, name: str, target: Path) -> None:
        with self._translating(name), (self._root / name).open("rb") as source, target.open("wb") as file:
            while block := source.read(_BLOCK):
                if block == _ZEROS:  # a hole stays one
                    file.seek(len(block), os.SEEK_CUR)
                else:
                    file.write(block)
            file.truncate()

    def names(self, prefix: str) -> list[str]:
        with self._translating(prefix):
            self._unfinished.stat()  # a store that is gone is an error, not an empty one
            found: list[str] = []
            for directory, _, files in os.walk(self._root / prefix):
                below = os.path.relpath(directory, self._root)
                found.extend(f"{below}/{file}" for file in files)
            return found

    def delete(self, name: str) -> None:
        path = self._root / name
        with self._translating(name):
            self._unfinished.stat()
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return
            _flush_nearest(path.parent)
            for parent in path.parents[: len(Path(name).parts) - 1]:
                with contextlib.suppress(OSError):  # not empty, or somebody was quicker
                    parent.rmdir()

    def url(self, name: str, *, seconds: int) -> str:
        return "file://" + quote(str(self._root / name))

    def close(self) -> None:
        pass

    @contextmanager
    def _new_file(self) -> Iterator[tuple[Path, int]]:
        """A file of no name that counts; whatever is left under this one goes."""
        path = self._unfinished / secrets.token_hex(8)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            yield path, file
        finally:
            os.close(file)
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def _finish(self, path: Path, file: int, name: str) -> None:
        os.fsync(file)
        self._in_directory(self._root / name, lambda target: path.replace(target))

    def _in_directory(self, target: Path, place: Callable[[Path], object]) -> None:
        """Give a file its name, in a directory made when missing, and flush whatever directories changed."""
        made: list[Path] = []
        for attempt in range(_PARENTS_MADE):
            try:
                if attempt:
                    target.parent.mkdir(parents=True, exist_ok=True)
                place(target)
                break
            except FileNotFoundError:
                if attempt == _PARENTS_MADE - 1:
                    raise
                made = [parent for parent in target.parents if not parent.exists()]
        for directory in {target.parent, *(parent.parent for parent in made)}:
            _flush(directory)

    def _sweep(self) -> None:
        """Remove what somebody began to write long ago."""
        before = time.time() - _ABANDONED
        for path in self._unfinished.iterdir():
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < before:
                    path.unlink()

    @contextmanager
    def _translating(self, name: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            if not self._unfinished.is_dir():
                raise translated(error, f"{self.place}: {name}") from error
            raise FileNotFoundError(name) from error
        except OSError as error:
            raise translated(error, f"{self.place}: {name}") from error


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _flush_nearest(directory: Path) -> None:
    """Flush it, or what it was in: somebody who deleted its last file may have removed it meanwhile."""
    while True:
        try:
            _flush(directory)
        except FileNotFoundError:
            directory = directory.parent
        else:
            return


def _flush(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
