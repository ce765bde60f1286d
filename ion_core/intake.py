"""Intake: events from outside become events of Ion, checked before anything of them is stored."""

from __future__ import annotations

import difflib
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ion_core.contracts.storage import check_key
from ion_core.dataplane import MAX_NAME_BYTES, DataPlane
from ion_core.errors import DocumentExists, InvalidEvent, InvalidKey, Unroutable
from ion_core.events import MAX_ID_LENGTH, Context, Event, type_problem
from ion_core.jobs import Module


class Intake:
    """Takes in events for these modules, whose queues it declares first so that nothing is unroutable."""

    def __init__(self, dataplane: DataPlane, modules: Iterable[Module]) -> None:
        self._dataplane = dataplane
        self._modules = list(modules)

    async def declare(self) -> None:
        """Make every module's queue exist. Idempotent; ``serve`` has done it already where it runs."""
        for module in self._modules:
            await self._dataplane.broker.declare(module.name, topics=module.subscribes, retry=module.retry)

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
    ) -> Event:
        """Store and publish an event; ``name`` says where it comes from, ids that are not given are made.

        ``files`` maps the name modules see to a local file. An ``event_id`` that was taken in before is that event: it
        is published once more, and nothing is stored. Raises InvalidEvent with everything that is wrong, Unroutable
        when no module takes the type, and what the providers raise.
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
        known = None if event_id is None else await self._dataplane.accepted(event_id)
        if known is None:
            try:
                await self._dataplane.accept(event, files)
            except DocumentExists:  # somebody else was quicker
                known = await self._dataplane.accepted(event.context.event_id)
            else:
                return event
        return await self._publish_again(known, event, correlation_id)

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

    async def _publish_again(self, known: Event | None, event: Event, correlation_id: str | None) -> Event:
        context = event.context if known is None else known.context
        if known is None or (known.type, known.data, known.files) != (event.type, event.data, event.files):
            raise InvalidEvent(f"event id {context.event_id[:80]!r}: is that of another event. Use a new one.")
        if correlation_id not in (None, context.correlation_id):
            raise InvalidEvent(f"event id {context.event_id[:80]!r}: is that of an event of another correlation id.")
        await self._dataplane.publish(known)
        return known

    def _check_taken(self, event_type: str) -> None:
        taken = sorted({event_type for module in self._modules for event_type in module.subscribes})
        if event_type not in taken:
            near = difflib.get_close_matches(event_type, taken, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise Unroutable(
                f"no module takes events of type {event_type!r}.{hint} Taken: {', '.join(taken) or 'none'}."
            )


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
    return not any("\ud800" <= character <= "\udfff" for character in text)
