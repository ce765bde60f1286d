"""What is noted on disk of each container, so that a later process finds those of one that died. All of it blocks.

``<name>.spec`` is there from create to remove: a line of JSON. ``<name>.process`` is another name of the same file,
made just before the start; a second line then says who the process is. Nothing is flushed: after a power cut nothing
runs. Environments are not noted: they hold secrets.

A file system takes long to make a file where many were deleted lately. So files are used again, as ``.spare-…``. They
are written over and cut to length then: ext4 writes a file to the disk at once that was emptied before it was written.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ion_core.embedded.programs.table import ProcessId
from ion_core.regular import open_regular, read_regular

log = logging.getLogger(__name__)

_SPEC = ".spec"
_PROCESS = ".process"
_SPARE = ".spare-"
_SPARES = 64
_MOST = 1 << 22
"""Bytes of a note: a command can be long."""


@dataclass(frozen=True, kw_only=True)
class ContainerNote:
    """``id`` is unlike that of any other container; it marks the processes of this one."""

    id: str
    name: str
    labels: dict[str, str]
    command: tuple[str, ...]
    workspace: str
    isolation: str


class ContainerNotes:
    """The notes below ``path``; processes share them, threads too."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._spares: list[str] = []

    def add(self, note: ContainerNote) -> ContainerNote:
        """Note a new container; the one that has its name if there is one."""
        try:
            file = self._spares.pop()
        except IndexError:
            file = self._spare()
        _write(file, os.O_CREAT, note)
        try:
            os.link(file, self._file(note.name, _SPEC))
        except FileExistsError:
            if (existing := self.read(note.name)) is None:
                raise
            return existing
        finally:
            _unlink(file)
        return note

    def read(self, name: str) -> ContainerNote | None:
        if lines := self._lines(name, _SPEC):
            note = ContainerNote(**(lines[0] | {"command": tuple(lines[0]["command"])}))
            return note if note.name == name else None  # its file was used again while we read
        return None

    def all(self) -> Iterator[ContainerNote]:
        for file in sorted(os.listdir(self._path)):
            if file.endswith(_SPEC) and (note := self.read(file.removesuffix(_SPEC))) is not None:
                yield note

    def claim(self, name: str) -> bool:
        """Whether we are the first to start it. FileNotFoundError if it is gone."""
        try:
            os.link(self._file(name, _SPEC), self._file(name, _PROCESS))
        except FileExistsError:
            return False
        return True

    def unclaim(self, name: str) -> None:
        """It could not be started after all."""
        _unlink(self._file(name, _PROCESS))

    def started(self, name: str, process: ProcessId) -> None:
        _write(self._file(name, _PROCESS), os.O_APPEND, process)

    def is_claimed(self, name: str) -> bool:
        return os.path.lexists(self._file(name, _PROCESS))

    def process(self, name: str) -> ProcessId | None:
        """Who was started, None if that was not noted (yet)."""
        lines = self._lines(name, _PROCESS)
        return ProcessId(**lines[1]) if len(lines) > 1 else None

    def remove(self, name: str) -> None:
        spare = self._spare()
        with suppress(FileNotFoundError):
            os.rename(self._file(name, _SPEC), spare)
            if len(self._spares) < _SPARES:
                self._spares.append(spare)
            else:
                _unlink(spare)
        _unlink(self._file(name, _PROCESS))

    def close(self) -> None:
        while self._spares:
            _unlink(self._spares.pop())

    def sweep(self, *, older: float) -> None:
        """Remove what processes that died left half removed, or half made before ``older`` (seconds since 1970)."""
        files = set(os.listdir(self._path))
        for file in files:
            half_removed = file.endswith(_PROCESS) and file.removesuffix(_PROCESS) + _SPEC not in files
            try:
                half_made = file.startswith(_SPARE) and os.lstat(self._path / file).st_mtime < older
                if half_removed or half_made:
                    os.unlink(self._path / file)
            except FileNotFoundError:
                pass  # whoever is removing it right now is as content
            except OSError as error:
                log.warning("%s cannot be removed: %s", self._path / file, error.strerror or error)

    def _lines(self, name: str, kind: str) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in read_regular(self._file(name, kind), _MOST).splitlines()]
        except FileNotFoundError:
            return []
        except (OSError, ValueError):  # no file, or torn: no note of ours
            return []

    def _file(self, name: str, kind: str) -> str:
        return f"{self._path}/{name}{kind}"

    def _spare(self) -> str:
        return f"{self._path}/{_SPARE}{secrets.token_hex(8)}"


def _write(file: str, how: int, what: ContainerNote | ProcessId) -> None:
    fd, _ = open_regular(file, os.O_WRONLY | how)
    try:
        size = os.write(fd, json.dumps(vars(what)).encode() + b"\n")
        if not how & os.O_APPEND:
            os.ftruncate(fd, size)
    finally:
        os.close(fd)


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
