"""The development layout: ``<basedir>/<parentEventId>/…/<eventId>/``, nested as the events are.

A place is the directory of one event's job:

_blobs/<file>               what the module left in out/data
_events/<event file>        each event as published
_metadata/<event file>      its eventMeta document
_insights/insights.json     the insight document, if there is any
prepared, committed         markers, containing {}
_job.json                   what was prepared: for whom, in which workspace
_commit.json                the commit record
_root.json                  instead of all that: the files of a flow's start, made by ``dev module init``
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ion_core import strict_json
from ion_core.development.names import MARKERS, directory_name, event_id_of
from ion_core.errors import InvalidEvent, StateBusy, StateError, StorageFull, UsageError, storage_error
from ion_core.regular import read_regular

_DIRECTORIES = ("_blobs", "_events", "_metadata", "_insights")
NEW = "_new-"
"""What names of unfinished files begin with."""
_MOST_BYTES = 32 * 1024**2
"""Of one document: a commit record has all events of its job."""


@dataclass(frozen=True)
class Place:
    """Where one event's job lies."""

    path: Path

    @property
    def blobs(self) -> Path:
        return self.path / "_blobs"

    @property
    def events(self) -> Path:
        return self.path / "_events"

    @property
    def metadata(self) -> Path:
        return self.path / "_metadata"

    @property
    def insights(self) -> Path:
        return self.path / "_insights" / "insights.json"

    @property
    def is_root(self) -> bool:
        return (self.path / "_root.json").is_file() or self._is_old_root

    @property
    def _is_old_root(self) -> bool:
        """Whether the predecessor made it: files, and no more."""
        return self.blobs.is_dir() and not self.is_prepared and not self.metadata.exists()

    def root(self) -> dict[str, Any] | None:
        """Where a flow starts, as a document: its files are those of whatever is prepared below."""
        if not self._is_old_root:
            return self.read("_root.json")
        files = sorted(str(path.relative_to(self.blobs)) for path in self.blobs.rglob("*") if path.is_file())
        return {"id": id_of(self), "context": {}, "files": files}

    @property
    def is_prepared(self) -> bool:
        return (self.path / "prepared").exists()

    @property
    def is_committed(self) -> bool:
        return (self.path / "committed").exists()

    @property
    def has_record(self) -> bool:
        """Whether its job has committed, be it not to the end."""
        return (self.path / "_commit.json").exists()

    @property
    def is_displaced(self) -> bool:
        """Whether what it was prepared in holds another event by now."""
        return not self.has_record and "displacedBy" in (self.read("_job.json") or {})

    def make(self) -> None:
        """The directories. Idempotent."""
        for name in _DIRECTORIES:
            (self.path / name).mkdir(parents=True, exist_ok=True)

    def clear_output(self) -> None:
        """Whatever a commit left that is not one."""
        for name in _DIRECTORIES:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for unfinished in (*self.path.glob(f"{NEW}*"), *self.path.glob("_commit.json*")):
            unfinished.unlink()
        self.make()

    def mark(self, marker: str) -> None:
        write_whole(self.path / marker, b"{}")

    def read(self, name: str) -> dict[str, Any] | None:
        """The document of that name; None if there is none. Raises InvalidEvent where it is no JSON object.

        Raises StateError where it is no file.
        """
        path = self.path / name
        try:
            raw = read_regular(path, _MOST_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"{path}: cannot be read: {error.strerror}. Remove it to begin again.") from error
        value = strict_json.loads(raw, what=str(path), limit=_MOST_BYTES)
        if not isinstance(value, dict):
            raise InvalidEvent(f"{path}: must be a JSON object")
        return value

    def write(self, name: str, value: Any) -> None:
        write_whole(self.path / name, strict_json.dumps(value))

    def names(self, directory: str) -> list[str]:
        """What lies in ``_events`` or ``_metadata``, in lexical order."""
        try:
            return sorted(entry.name for entry in (self.path / directory).iterdir() if entry.is_file())
        except FileNotFoundError:
            return []


@dataclass(frozen=True)
class Published:
    """An event of the layout: the place of the job that published it, and its eventMeta document."""

    place: Place
    document: dict[str, Any]


class Layout:
    """Everything below ``base``. All of it blocks. Two at once are kept apart by ``locked``."""

    def __init__(self, base: Path) -> None:
        self.base = base

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the layout, made when missing, while something of it is changed.

        Raises StateBusy while another process does, UsageError where it cannot be written, StorageFull.
        """
        with self._writing():
            self.base.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StateBusy(f"{self.base}: another prepare or commit is at work there. Try again.") from None
            with self._writing():
                yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = str(error.filename or self.base)
            if isinstance(meant := storage_error(where, error), StorageFull):
                raise meant from error
            raise UsageError(
                f"{where}: {error.strerror or error}. Name a directory that you may write with --development.basedir."
            ) from error

    def places(self) -> Iterator[Place]:
        """Those below the base directory, parents before what followed from them."""
        waiting = [self.base]
        while waiting:
            directory = waiting.pop()
            if directory != self.base:
                yield Place(directory)
            waiting += reversed(self._below(directory))

    def _below(self, directory: Path) -> list[Path]:
        try:
            with os.scandir(directory) as entries:
                return sorted(Path(entry.path) for entry in entries if _is_place(entry))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UsageError(
                f"{directory}: {error.strerror}. Name a directory of events with --development.basedir."
            ) from error

    def find(self, event_id: str) -> Place | None:
        """The place of that event, however deep."""
        name = directory_name(event_id)
        return next((place for place in self.places() if place.path.name == name), None)

    def place_for(self, event_id: str, parent_event_id: str) -> Place:
        """The place of that event, made or not; below its parent's, or at the top where nobody knows that."""
        found = self.find(event_id)
        if found is not None:
            return found
        above = self.find(parent_event_id) if parent_event_id else None
        if above is None and parent_event_id and (published := self.published(parent_event_id)) is not None:
            above = Place(published.place.path / directory_name(parent_event_id))
        return Place((self.base if above is None else above.path) / directory_name(event_id))

    def published(self, event_id: str) -> Published | None:
        """The event of that id that some job here published."""
        for place in self.places():
            if place.is_committed:
                for document in published_by(place):
                    if published_id(document) == event_id:
                        return Published(place, document)
        return None

    @property
    def selected(self) -> str | None:
        """The id that was selected, if its place is still there."""
        found = Place(self.base).read("_selected.json") or {}
        event_id = found.get("eventId")
        return event_id if isinstance(event_id, str) and event_id and self.find(event_id) else None

    def select(self, event_id: str) -> None:
        with self.locked():
            Place(self.base).write("_selected.json", {"eventId": event_id})


def published_by(place: Place) -> list[dict[str, Any]]:
    """The eventMeta documents of what the job at ``place`` published, in the order of its event files."""
    return [place.read(f"_metadata/{name}") or {} for name in place.names("_metadata")]


def published_id(document: Mapping[str, Any]) -> str:
    """The id of the event that an eventMeta document tells of: the predecessor's have none but in their context."""
    event_id = document.get("id", _nested(document).get("eventId"))
    return event_id if isinstance(event_id, str) else ""


def event_files(place: Place) -> list[str]:
    """The names in ``_events`` of what the job at ``place`` published, in lexical order.

    The predecessor wrote one event twice, the second time as ``event0.json``, which has no document of that name.
    """
    names, documents = place.names("_events"), set(place.names("_metadata"))
    return [name for name in names if name in documents] or names


def _nested(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The context of a document, nested or flat."""
    context = document.get("context", document)
    return context if isinstance(context, dict) else {}


def damaged(place: Place, name: str) -> StateError:
    """For a note of ours that somebody changed."""
    return StateError(f"{place.path / name}: is damaged. Remove {place.path} to begin again.")


def _context_of(place: Place) -> Mapping[str, Any]:
    """As prepare noted it; of a place that the predecessor made, as the documents that lie there have it."""
    found = place.read("_job.json") or place.read("_root.json") or place.read("_insights/insights.json")
    if found is not None:
        return _nested(found)
    published = _nested(next(iter(published_by(place)), {}))
    return {name: published[name] for name in ("name", "correlationId") if name in published}


def id_of(place: Place) -> str:
    """The event id that ``place`` is for."""
    event_id = _context_of(place).get("eventId")
    return event_id if isinstance(event_id, str) else (event_id_of(place.path.name) or place.path.name)


def described(layout: Layout, place: Place) -> dict[str, Any]:
    """A place for lists, under the documents' field names. Its ``state`` is None where nobody prepared it."""
    states = {
        "root": place.is_root,
        "committed": place.is_committed,
        "displaced": place.is_displaced,
        "prepared": place.is_prepared,
    }
    context = _context_of(place)
    parent = None if place.path.parent == layout.base else id_of(Place(place.path.parent))
    return {
        "eventId": id_of(place),
        "parentEventId": parent,
        "correlationId": context.get("correlationId"),
        "module": context.get("name"),
        "state": next((state for state, holds in states.items() if holds), None),
        "events": len(event_files(place)),
        "path": str(place.path),
    }


def write_whole(path: Path, content: bytes) -> None:
    """Write a file of the layout whole or not at all; one that is there is replaced."""
    temporary = path.parent / f"{NEW}{secrets.token_hex(4)}"
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_place(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) and entry.name[0] not in "._" and entry.name not in MARKERS
