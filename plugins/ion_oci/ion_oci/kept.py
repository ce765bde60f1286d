"""Containers as they are kept in the file system: whatever becomes of us, the next one finds them here.

A directory for each, by its name. It is renamed into its place once it has all that says whose it is, and out of it
before it is removed, so what is there is whole; conmon adds the container's log and, at the end, its exit code.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_RECORD = "ion.json"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is to be known of a container by whoever finds it."""

    id: str
    name: str
    labels: Mapping[str, str]
    image: str
    stop_signal: str
    pids: int


@dataclass(frozen=True)
class Bundle:
    """The directory of one container."""

    path: Path
    record: Record

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def oci_log(self) -> Path:
        return self.path / "oci.log"

    @property
    def pid_file(self) -> Path:
        return self.path / "pid"

    def code(self) -> int | None:
        """Its exit code as conmon left it; None if there is none (yet)."""
        return _number(self.path / self.record.id)

    def pid(self) -> int:
        """Of its first process, as far as it got one; 0 if not."""
        return _number(self.pid_file) or 0

    def why(self) -> str:
        """What the OCI runtime has logged."""
        try:
            return self.oci_log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


class Kept:
    """All below a directory, whoever made them. ``unfinished``, there too, is for what is made or removed."""

    def __init__(self, directory: Path, unfinished: Path) -> None:
        self._top = directory
        self._unfinished = unfinished
        self._directory = directory / "containers"
        self.state = directory / "state"
        """Where the OCI runtime keeps its own notes."""

    def open(self) -> None:
        """Raises OSError."""
        self._top.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = self._top.stat()
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            why = "others may write to it: `chown root` and `chmod go-w` it"
            raise PermissionError(errno.EPERM, why, str(self._top))
        for path in (self._directory, self.state):
            path.mkdir(exist_ok=True, mode=0o700)

    def add(self, record: Record, config: Mapping[str, Any]) -> Bundle:
        """Raises FileExistsError where one has the name, other OSErrors."""
        made = self._unfinished / f"new-{record.id}"
        made.mkdir(mode=0o700)
        try:
            (made / "config.json").write_text(json.dumps(config), encoding="utf-8")
            (made / _RECORD).write_text(json.dumps(asdict(record)), encoding="utf-8")
            place = self._directory / record.name
            try:
                made.rename(place)
            except OSError as error:
                if place.exists():
                    raise FileExistsError(str(place)) from error
                raise
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        return Bundle(place, record)

    def of(self, name: str) -> Bundle | None:
        """The container of that name."""
        path = self._directory / name
        try:
            record = Record(**json.loads((path / _RECORD).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return Bundle(path, record)

    def all(self) -> Iterator[Bundle]:
        """Raises OSError."""
        for path in sorted(self._directory.iterdir()):
            if (found := self.of(path.name)) is not None:
                yield found

    def remove(self, bundle: Bundle) -> None:
        """Not to be found from the first moment on. Fine if it is gone. Raises OSError."""
        going = self._unfinished / f"gone-{uuid.uuid4().hex}"
        with suppress(FileNotFoundError):
            bundle.path.rename(going)
            shutil.rmtree(going)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
