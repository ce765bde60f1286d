"""For programs with an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from ion_core.app import App
from ion_core.client.access import Access
from ion_core.client.by_console import console_at
from ion_core.client.by_providers import ByProviders
from ion_core.client.values import Data, Files, in_notebook, pairs_of, paths_of, row
from ion_core.config import find_config, load_config
from ion_core.contracts.looking import EventView, FlowSummary, FlowView, JobView, LogView
from ion_core.contracts.storage import BlobInfo
from ion_core.drawing import report
from ion_core.errors import DocumentNotFound
from ion_core.events import parse_context
from ion_core.flows import AttemptSeen, FileOfFlow, attempt_of, fetch, path_of
from ion_core.words import counted

T = TypeVar("T")

NAME = "python"
"""Who the events of this room come from, if nothing else is said."""


class AsyncIon:
    """A pipeline: ``async with AsyncIon.open("ion.yaml") as ion``, or ``AsyncIon.connect(url, token=…)``.

    What it publishes is worked on by the `ion-core serve` of that pipeline, wherever that runs.
    """

    def __init__(self, access: Access) -> None:
        self._access = access

    @classmethod
    @asynccontextmanager
    async def open(cls, config: str | Path | None = None) -> AsyncIterator[AsyncIon]:
        """By that file; without one, by ``$ION_CONFIG`` or the ``ion.yaml`` of this directory.

        Nothing is connected to yet. Raises ConfigError with all that is wrong, StateError.
        """
        loaded = await asyncio.to_thread(load_config, find_config(None if config is None else str(config)))
        async with App.open(loaded) as app:
            yield cls(ByProviders(app))

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str, *, token: str | None = None, ca_file: str | Path | None = None, plain_http: bool = False
    ) -> AsyncIterator[AsyncIon]:
        """By the console at ``url``, such as ``https://ion.example:8090``, from anywhere.

        ``token`` is one that may look, or mend to publish; None where the console asks for none. The certificate of
        the console is checked by the authorities that this machine trusts or, if given, by those in ``ca_file`` (PEM).
        A token is sent to another host over TLS only, unless ``plain_http`` says that HTTP is meant.

        Nothing is connected to yet. Raises ConfigError for what cannot be used.
        """
        async with console_at(url, token=token, ca_file=ca_file, plain_http=plain_http) as access:
            yield cls(access)

    async def publish(
        self,
        event_type: str,
        *,
        data: Data = (),
        files: Files = (),
        event_id: str | None = None,
        name: str = NAME,
    ) -> AsyncFlow:
        """Publish an event; the flow that it starts, once the broker has it durably.

        ``data`` are pairs of texts. ``files`` are paths, seen by modules under their own names, or a dict of paths by
        the names to be seen. The same ``event_id`` again, with the same content, is the same event and flow: nothing
        runs twice. ``name`` says who it comes from.

        Raises InvalidEvent with all that is wrong, IdTaken, Unroutable where no module takes the type, TransientError
        where a store or the broker is away: whether it was published is unknown then, and with an ``event_id`` it may
        be repeated.
        """
        context = await self._access.publish(
            event_type, name=name, data=pairs_of(data), files=paths_of(files), event_id=event_id
        )
        return AsyncFlow(self._access, context.correlation_id, event_id=context.event_id)

    def flow(self, correlation_id: str) -> AsyncFlow:
        """One that was begun before, by its whole id. Whether there is one is told when it is asked something."""
        return AsyncFlow(self._access, correlation_id)


class AsyncFlow:
    """A flow: an event from outside, and all that follows from it. ``id`` is its correlation id.

    What is asked is read anew each time. Each method raises DocumentNotFound where there is no such flow,
    TransientError where a store does not answer, PermanentError where it has what cannot be read.
    """

    def __init__(self, access: Access, id: str, *, event_id: str | None = None) -> None:
        self._access = access
        self.id = id
        self.event_id = event_id
        """That of the event which began it, where it was published by this very object."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    async def outcome(self) -> FlowSummary:
        """How it stands, and what it began with."""
        return self._there(await self._access.outcome(self.id))

    async def wait(self, timeout: float | None = None) -> FlowSummary:
        """Until each of its jobs has committed or was given up. Raises TimeoutError after ``timeout`` seconds."""
        found = self._there(await self._access.over(self.id, within=timeout))
        if not found.over:
            jobs = ", ".join(f"{count} {state}" for state, count in found.jobs.items())
            raise TimeoutError(
                f"flow {self.id}: is {found.outcome} after {timeout} s ({jobs}). Is there an `ion-core serve` of this "
                f"configuration? `ion-core trace flow {self.id}` has more."
            )
        return found

    async def events(self) -> Sequence[EventView]:
        """All of its events, each behind the one that led to it."""
        return (await self._view()).events

    async def jobs(self) -> Sequence[JobView]:
        """What its modules did, or are to do, with the attempts that have ended, in the order of its events."""
        return (await self._view()).jobs

    async def insights(self) -> list[dict[str, str | list[str]]]:
        """What its modules found out: a row for each job that left some, as ``pandas.DataFrame`` takes them.

        ``module`` and ``event`` (its id) are columns of every row; the others are keys of the insights. A key that one
        job left several times has a list.
        """
        return [
            row({"module": it.module, "event": it.event_id}, it.insights) for it in await self.jobs() if it.insights
        ]

    async def files(self) -> list[AsyncFile]:
        """What came in, and what its modules made."""
        found = await self._access.files(self.id)
        if not found:
            self._there(await self._access.outcome(self.id))
        return [AsyncFile(self._access, self.id, it) for it in found]

    async def fetch(self, directory: str | Path) -> list[Path]:
        """All its files into ``directory``, which is made: each at ``MODULE/EVENT_ID/NAME``, what came in at ``_in/…``.

        It may be repeated. Raises UsageError where something else is there, before anything is fetched.
        """
        found = [it.of_flow for it in await self.files()]
        target = Path(directory)
        await fetch(found, target, blobs=await self._access.content(self.id), fetched=lambda it: None)
        return [target / path_of(it) for it in found]

    async def logs(self, module: str | None = None) -> list[LogView]:
        """Of every attempt that has ended, in the order in which they ended; or of this module alone."""
        now = {before: job.module for job in await self.jobs() for before in job.formerly}
        found: list[tuple[str, LogView]] = []
        async for document in self._access.logs(self.id):
            context = parse_context(document.body, what="log", problems=[])
            name = now.get(context.name, context.name)
            if module not in (None, name, context.name):
                continue
            attempt = AttemptSeen.in_log(document.body)
            text = str(document.body.get("logs", ""))
            view = LogView(event_id=context.event_id, module=name, attempt=attempt_of(attempt), text=text)
            found.append((attempt.finished_at, view))
        return [view for _, view in sorted(found, key=lambda it: it[0])]

    async def html(self) -> str:
        """It drawn, to be shown in a notebook: as it stands, with what each attempt took."""
        return in_notebook(report(await self._view(), made_at=datetime.now(UTC), shown=self._access.shown))

    async def _view(self) -> FlowView:
        return self._there(await self._access.flow(self.id))

    def _there(self, found: T | None) -> T:
        if found is None:
            raise DocumentNotFound(
                f"flow {self.id[:80]!r}: there is none of this id. `ion-core trace list` has those that there are."
            )
        return found


class AsyncFile:
    """A file of a flow. ``module`` made it of the event ``event_id``.

    If it ``came_in``, ``module`` is who the event came from that brought it. ``size`` is in bytes, ``sha256`` in
    hexadecimal.
    """

    def __init__(self, access: Access, flow: str, of_flow: FileOfFlow) -> None:
        self._access = access
        self._flow = flow
        self.of_flow = of_flow
        self.name = of_flow.file.name
        self.size = of_flow.file.size
        self.sha256 = of_flow.file.sha256
        self.module = of_flow.module
        self.event_id = of_flow.event_id
        self.came_in = of_flow.came_in

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}, {counted(self.size, 'byte')}, of {self.module}>"

    async def fetch(self, path: str | Path) -> Path:
        """Into the new file ``path``, checked by its sha256. Raises FileExistsError, BlobNotFound, BlobCorrupt."""
        target = Path(path)
        if await asyncio.to_thread(target.exists):
            raise FileExistsError(f"{str(target)!r}: is there already. Remove it, or give another name.")
        expect = BlobInfo(size=self.size, sha256=self.sha256)
        await (await self._access.content(self._flow)).get(self.of_flow.file.key, target, expect=expect)
        return target
