"""What preparer and committer see of the layout: the inputs of an event, and where a job's output goes."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ion_core import crash
from ion_core.commits import Commit
from ion_core.contracts.storage import Document, check_key
from ion_core.development.blobs import PlaceBlobs
from ion_core.development.layout import Place, damaged, published_id, write_whole
from ion_core.errors import BlobNotFound, InvalidEvent
from ion_core.events import (
    COMMIT,
    EVENT_META,
    INSIGHT,
    Event,
    Pairs,
    StoredFile,
    encode_event,
    file_name,
    parse_context,
    parse_pairs,
)

RECORD = "_commit.json"


class PlaceInputs:
    """An event as ``document`` tells of it, its files lying at ``place``; without both it brings nothing."""

    def __init__(self, place: Place, document: Mapping[str, Any] | None) -> None:
        self.blobs = PlaceBlobs(place)
        self._place = place
        self._document = document

    async def stored_files(self, event: Event) -> tuple[Event, tuple[StoredFile, ...]]:
        names, data = self.check()
        if self._document is not None:
            context = parse_context(self._document, what="", problems=[])
            event_type = self._document.get("type")
            known = replace(event.context, name=context.name)
            event = replace(event, context=known, type=event_type if isinstance(event_type, str) else event.type)
        files = tuple(_stored(self._place, name) for name in names)
        return replace(event, data=data, files=tuple(names)), files

    async def gathered(self, event: Event) -> None:
        """Nothing: here is one event after another."""

    def check(self) -> tuple[list[str], Pairs]:
        """The names of its files, and its pairs. Raises InvalidEvent, InvalidKey and BlobNotFound.

        People change these documents by hand, so they are read as what comes from outside.
        """
        if self._document is None:
            return [], ()
        what = f"event {published_id(self._document)[:80]!r}"
        problems: list[str] = []
        data = parse_pairs(self._document.get("data") or [], what=f"{what}.data", problems=problems)
        names = self._document.get("files") or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            problems.append(f"{what}.files: must be an array of names")
            names = []
        if problems:
            raise InvalidEvent(problems)
        names = [file_name(name) for name in names if name]  # the predecessor's have '' for none, and ./a
        for name in names:
            _stored(self._place, check_key(name))
        return list(dict.fromkeys(names)), data


def _stored(place: Place, name: str) -> StoredFile:
    """The file as it is now: a developer may have put another in its place."""
    path = place.blobs / name
    try:
        status = path.lstat()
    except OSError as error:
        raise BlobNotFound(f"{path}: {error.strerror}, though an event names it. Put it back.") from error
    executable = bool(status.st_mode & stat.S_IXUSR)
    return StoredFile(name=name, key=f"_blobs/{name}", size=status.st_size, sha256="", executable=executable)


class PlaceOutputs:
    """What the committer needs of a data plane, at one place.

    ``event_files`` has the event file of each child event by the child's id; it is kept with the record, so that what
    was cut short is finished under the same names.
    """

    def __init__(self, place: Place, event_files: Mapping[str, str]) -> None:
        self.blobs = PlaceBlobs(place)
        self._place = place
        self._event_files = event_files

    async def committed(self, job_id: str) -> tuple[Commit, bool] | None:
        record = self._place.read(RECORD)
        if record is None:
            return None
        try:
            body = record["document"]
            correlation_id = body["context"]["correlationId"]
            commit = Commit.from_document(
                Document(kind=COMMIT, id=body["id"], correlation_id=correlation_id, body=body)
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise damaged(self._place, RECORD) from error
        return (commit, not self._place.is_committed) if commit.job_id == job_id else None

    async def commit(self, commit: Commit) -> bool:
        temporary = self._place.path / f"{RECORD}-{commit.token}"
        body = commit.to_document().body
        self._place.write(temporary.name, {"document": body, "eventFiles": dict(self._event_files)})
        try:
            os.link(temporary, self._place.path / RECORD)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    async def discard(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self.blobs.delete(key)

    def publish(self, commit: Commit) -> None:
        """Write what the record lists, and the marker last. Repeatable."""
        record = self._place.read(RECORD) or {}
        event_files = record.get("eventFiles", {})
        for document in commit.documents():
            if document.kind == EVENT_META:
                self._place.write(f"_metadata/{event_files[document.id]}", document.body)
            elif document.kind == INSIGHT:
                self._place.write("_insights/insights.json", document.body)
        for event in commit.events:
            write_whole(self._place.events / event_files[event.context.event_id], encode_event(event))
        crash.reached("S10")
        self._place.mark("committed")
