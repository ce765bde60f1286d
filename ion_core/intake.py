"""Intake: events from outside become events of Ion, checked before anything of them is stored."""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import os
import secrets
import stat
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ion_core.contracts.storage import BlobInfo, check_key
from ion_core.dataplane import DataPlane
from ion_core.errors import (
    DocumentExists,
    IdTaken,
    InvalidEvent,
    InvalidKey,
    PermanentError,
    StorageFull,
    TransientError,
    Unroutable,
    shortened,
)
from ion_core.events import (
    MAX_ID_LENGTH,
    Context,
    Event,
    StoredFile,
    checked_traceparent,
    differences,
    encode_event,
    type_problem,
)
from ion_core.modules import Module
from ion_core.stores import MAX_NAME_BYTES
from ion_core.words import counted


class Intake:
    """Takes in events for these modules, whose queues it declares first so that nothing is unroutable."""

    def __init__(self, dataplane: DataPlane, modules: Iterable[Module]) -> None:
        self._dataplane = dataplane
        self._modules = list(modules)
        self._open = [module for module in self._modules if module.gather is None]
        self._types = sorted({event_type for module in self._open for event_type in module.subscribes})

    async def declare(self) -> None:
        """Make every module's queue exist. Idempotent; ``serve`` has done it already where it runs."""
        for module in self._modules:
            await self._dataplane.broker.declare(module.name, topics=module.subscribes, retry=module.retry)

    def takers(self, event_type: str) -> list[str]:
        """The names of the modules that take this type."""
        return [module.name for module in self._open if event_type in module.subscribes]

    def event_types(self) -> list[str]:
        """The types that some module takes, sorted."""
        return [*self._types]

    async def publish(
        self,
        event_type: str,
        *,
        name: str,
        data: Sequence[tuple[str, str]] = (),
        files: Mapping[str, Path] | None = None,
        event_id: str | None = None,
        correlation_id: str | None = None,
        parent_event_id: str = "",
        traceparent: str = "",
        consume: bool = False,
        told: Mapping[str, BlobInfo] | None = None,
    ) -> Event:
        """Store and publish an event; ``name`` says where it comes from, ids that are not given are made.

        ``files`` maps the name modules see to a local file; with ``consume`` they are given away: they may be moved
        from where they lie, and be gone afterwards, also after an error. ``told`` is what files of these names hold, as
        ``BlobStore.put`` has it. An ``event_id`` that was taken in before with
        the same type, data and files is that event: it is published once more, and nothing is stored. With anything
        else it is refused. ``traceparent`` is that of a trace outside, which the flow becomes part of; what is none is
        ignored, as W3C Trace Context says. Raises InvalidEvent with everything that is wrong, IdTaken with what
        differs, Unroutable when no module takes the type, and what the providers raise.
        """
        files = files or {}
        event = self.checked(
            event_type,
            name=name,
            data=data,
            files=files,
            event_id=event_id,
            correlation_id=correlation_id,
            parent_event_id=parent_event_id,
        )
        event = replace(event, traceparent=checked_traceparent(traceparent))
        encoded = encode_event(event)  # too large ones are refused before anything is stored
        known = None
        if event_id is not None and files:  # before any is stored; without files the document alone tells
            known = await self._dataplane.accepted_files(event_id)
        given: Mapping[str, Path | StoredFile] = files
        if known is None:
            # An id that was given may be given to somebody else, too, at this moment.
            token = secrets.token_hex(6) if files and event_id is not None else ""
            ours: Sequence[StoredFile] = ()
            if files:
                ours = await self._dataplane.put_files(event, files, token=token, consume=consume, told=told or {})
            try:
                stored_now = await self._dataplane.document(event, ours)
            except DocumentExists:
                if token:
                    await self._dataplane.discard([file.key for file in ours])
                known = await self._dataplane.accepted_files(event.context.event_id)
                given = {file.name: file for file in ours}
            else:
                await self._hand_over(stored_now, encoded)
                return event
        if known is None:
            raise TransientError(f"event id {event.context.event_id[:80]!r}: was removed at this moment. Try again.")
        stored, stored_files = known
        differs = [*differences(stored, event), *_other_ids(stored.context, correlation_id, parent_event_id)]
        differs += await asyncio.to_thread(_other_files, stored_files, given)
        if differs:
            raise IdTaken(
                f"event id {stored.context.event_id[:80]!r}: is that of another event: {shortened(differs)}. "
                "Use a new one.",
                differs,
            )
        await self._hand_over(stored)
        return stored

    async def _hand_over(self, event: Event, encoded: bytes | None = None) -> None:
        """To the broker. Where it does not answer nobody knows whether it has it: then the id is what is needed."""
        try:
            await self._dataplane.publish(event, encoded=encoded)
        except StorageFull:
            raise
        except TransientError as error:
            event_id = event.context.event_id
            raise TransientError(
                f"{error}. Event id {event_id!r} is stored; whether the broker has its message is unknown. Publish the "
                "same under that id once more: it is handled once, however often it is published."
            ) from error

    def checked(
        self,
        event_type: str,
        *,
        name: str,
        data: Sequence[tuple[str, str]],
        files: Mapping[str, Path],
        event_id: str | None = None,
        correlation_id: str | None = None,
        parent_event_id: str = "",
    ) -> Event:
        """The event that ``publish`` would publish; nothing is stored. Raises InvalidEvent, Unroutable."""
        ids = {"name": name, "event id": event_id, "correlation id": correlation_id, "parent event id": parent_event_id}
        problems = [*_problems(event_type, ids, data), *_file_problems(files)]
        if problems:
            raise InvalidEvent(problems)
        self._check_taken(event_type)
        context = Context(
            name=name,
            event_id=event_id or str(uuid.uuid4()),
            correlation_id=correlation_id or str(uuid.uuid4()),
            parent_event_id=parent_event_id,
        )
        return Event(context=context, type=event_type, data=tuple(data), files=tuple(files))

    def _check_taken(self, event_type: str) -> None:
        taken = self._types
        if event_type not in taken:
            near = difflib.get_close_matches(event_type, taken, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            if gatherers := [it.name for it in self._modules if it.gather and event_type in it.gather.events]:
                hint = (
                    f" {', '.join(gatherers)} is given those that jobs emit, and no others: publish what starts these."
                )
            raise Unroutable(
                f"no module takes events of type {event_type!r}.{hint} Taken: {', '.join(taken) or 'none'}."
            )


def _other_ids(stored: Context, correlation_id: str | None, parent_event_id: str) -> Iterable[str]:
    """Ids that were not given say nothing."""
    if correlation_id not in (None, stored.correlation_id):
        yield "its correlation id is another"
    if parent_event_id not in ("", stored.parent_event_id):
        yield "its parent event id is another"


def _other_files(stored: Sequence[StoredFile], files: Mapping[str, Path | StoredFile]) -> list[str]:
    """What is otherwise of the files that are given than of those that are stored. Reads them whole if it must."""
    known = {file.name: file for file in stored}
    found = [f"file {name[:80]!r} is missing" for name in known if name not in files]
    for name, given in files.items():
        if name not in known:
            found.append(f"file {name[:80]!r} is new")
        elif differs := _other_content(known[name], given):
            found.append(f"file {name[:80]!r} {differs}")
    if known.keys() == files.keys() and [*known] != [*files]:
        found.append("its files are in another order")
    return found


def _other_content(stored: StoredFile, given: Path | StoredFile) -> str:
    if isinstance(given, StoredFile):
        return _differs(stored, given.size, given.executable, lambda: given.sha256)
    try:
        with given.open("rb") as file:
            status = os.fstat(file.fileno())
            executable = bool(status.st_mode & stat.S_IXUSR)
            return _differs(stored, status.st_size, executable, lambda: hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise PermanentError(f"{given}: cannot be read: {error.strerror}") from error


def _differs(stored: StoredFile, size: int, executable: bool, sha256: Callable[[], str]) -> str:
    if size != stored.size:
        return f"has {counted(size, 'byte')}, not {stored.size:,}"
    if executable != stored.executable:
        return f"is {'not ' if stored.executable else ''}executable, other than the stored one"
    return "" if sha256() == stored.sha256 else "has other content"


def _problems(event_type: str, ids: Mapping[str, str | None], data: Sequence[tuple[str, str]]) -> Iterable[str]:
    if problem := type_problem(event_type):
        yield problem
    for what, value in ids.items():
        least = 0 if what == "parent event id" else 1
        if value is not None and not least <= len(value) <= MAX_ID_LENGTH:
            yield f"{what}: must have {least} to {MAX_ID_LENGTH:,} characters (got {len(value):,})"
        if value is not None and not _is_unicode(value):
            yield f"{what}: is not valid Unicode. Use UTF-8."
    for key, value in data:
        if not _is_unicode(key + value):
            yield f"data {key[:80]!r}: is not valid Unicode. Pass bytes as a file."


def _file_problems(files: Mapping[str, Path]) -> Iterable[str]:
    directories = {name[:n] for name in files for n, character in enumerate(name) if character == "/"}
    for name, path in files.items():
        try:
            check_key(name)
        except InvalidKey as error:
            yield str(error)
        else:
            if len(os.fsencode(name)) > MAX_NAME_BYTES:
                yield f"file name {name[:80]!r}…: has more than {MAX_NAME_BYTES} bytes"
            if name in directories:
                yield f"file name {name!r}: is also the directory of another file. Rename one of them."
        if not path.is_file():
            yield f"{path}: {'is not a regular file' if path.exists() else 'no such file'}"


def _is_unicode(text: str) -> bool:
    """Not so for what came from bytes that were no UTF-8, such as an argument of the command line."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
