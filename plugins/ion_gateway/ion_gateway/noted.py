"""The latest planned time of each schedule, kept in a file: what later ones were missed is known by it."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path

from ion_core.errors import StateError, StorageFull
from ion_gateway.watching.entries import FULL


class Noted:
    """One process writes it: the one ``serve`` of its state directory.

    Raises StateError where the file cannot be read or written; StorageFull where it can be once there is room.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._times: dict[str, datetime] = {}
        self._written = True
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            self._times = {name: datetime.fromisoformat(time) for name, time in found.items()}
            aware = all(time.tzinfo is not None for time in self._times.values())
        except FileNotFoundError:
            return
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise StateError(f"{path}: cannot be read: {error}. {_REMEDY}") from error
        if not aware:
            raise StateError(f"{path}: has a time without a zone. {_REMEDY}")

    def latest(self, name: str) -> datetime | None:
        """The planned time that was handled last; None of a schedule that is new."""
        return self._times.get(name)

    def note(self, name: str, time: datetime, *, again: bool = False) -> None:
        """Durably. An earlier time than the one that is noted changes nothing, unless it is noted ``again``.

        Where StorageFull is raised it is noted, and not written yet: see ``write``.
        """
        if again or name not in self._times or self._times[name] < time:
            self._times[name], self._written = time, False
        self.write()

    def write(self) -> None:
        """What is noted and could not be written, if there is any. Idempotent."""
        if self._written:
            return
        text = json.dumps({name: time.isoformat() for name, time in self._times.items()}, indent=1)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(".new")
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            if error.errno in FULL:
                raise StorageFull(f"{self._path}: no space left. Free some; it is written then.") from error
            raise StateError(f"{self._path}: cannot be written: {error.strerror}") from error
        self._written = True


_REMEDY = "Remove it: then nothing counts as missed, and what is planned goes on from now."
