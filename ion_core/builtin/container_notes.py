"""What is noted on disk of each container, so that a later process finds those of one that died. All of it blocks.

``<name>.spec`` is there from create to remove, ``<name>.process`` from just before the start: empty at first, then with
who the process is. Both are JSON, written once and not flushed: after a power cut nothing runs. Environments are not
noted: they hold secrets.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ion_core.builtin.process_table import ProcessId

_SPEC = ".spec"
_PROCESS = ".process"


@dataclass(frozen=True, kw_only=True)
class ContainerNote:
    """``id`` is unlike that of any other container; it marks the processes of this one."""

    id: str
    name: str
    labels: Mapping[str, str]
    command: tuple[str, ...]
    workspace: str
    isolation: str


class ContainerNotes:
    """The notes below ``path``; processes share them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, note: ContainerNote) -> ContainerNote:
        """Note a new container; the one that has its name if there is one."""
        try:
            with open(self._file(note.name, _SPEC), "x", encoding="utf-8") as file:
                file.write(json.dumps(asdict(note)))
        except FileExistsError:
            if (existing := self.read(note.name)) is None:
                raise
            return existing
        return note

    def read(self, name: str) -> ContainerNote | None:
        """None if there is none, or somebody is just writing it, or died while."""
        with suppress(FileNotFoundError, ValueError, TypeError, KeyError):
            with open(self._file(name, _SPEC), encoding="utf-8") as file:
                given = json.load(file)
            return ContainerNote(**(given | {"command": tuple(given["command"])}))
        return None

    def all(self) -> Iterator[ContainerNote]:
        for file in sorted(os.listdir(self._path)):
            if file.endswith(_SPEC) and (note := self.read(file.removesuffix(_SPEC))) is not None:
                yield note

    def claim(self, name: str) -> int | None:
        """An open descriptor for ``started``, None if it was started before. FileNotFoundError if it is gone."""
        os.stat(self._file(name, _SPEC))
        try:
            return os.open(self._file(name, _PROCESS), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return None

    def started(self, claim: int, process: ProcessId) -> None:
        os.write(claim, json.dumps(asdict(process)).encode())

    def unclaim(self, name: str) -> None:
        """It could not be started after all."""
        _unlink(self._file(name, _PROCESS))

    def is_claimed(self, name: str) -> bool:
        return os.path.lexists(self._file(name, _PROCESS))

    def process(self, name: str) -> ProcessId | None:
        """Who was started, None if that was not noted (yet)."""
        with suppress(FileNotFoundError, ValueError, TypeError):
            with open(self._file(name, _PROCESS), encoding="utf-8") as file:
                return ProcessId(**json.load(file))
        return None

    def remove(self, name: str) -> None:
        _unlink(self._file(name, _SPEC))  # first, so that what is half removed is not taken for one never started
        _unlink(self._file(name, _PROCESS))

    def sweep(self, *, older: float) -> None:
        """Remove what processes that died left half written or half removed before ``older`` (seconds since 1970)."""
        for file in os.listdir(self._path):
            name, dot, kind = file.rpartition(".")
            if dot + kind in (_SPEC, _PROCESS) and self.read(name) is None:
                with suppress(FileNotFoundError):
                    if os.lstat(self._path / file).st_mtime < older:
                        os.unlink(self._path / file)

    def _file(self, name: str, kind: str) -> str:
        return f"{self._path}/{name}{kind}"


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
