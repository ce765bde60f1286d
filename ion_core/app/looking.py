"""What a service may look at: flows, documents, files and logs, and the pipeline."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from ion_core.app.opening import App
from ion_core.contracts.looking import (
    FileContent,
    FileView,
    FlowState,
    FlowSummary,
    FlowView,
    Link,
    LogView,
    ModuleView,
    Page,
    Pipeline,
    PlannedView,
)
from ion_core.contracts.storage import BlobInfo, Document
from ion_core.dataplane import DataPlane
from ion_core.errors import BlobNotFound, DocumentNotFound, passing_over_damage, storage_error
from ion_core.events import EVENT_META
from ion_core.flows import (
    AttemptSeen,
    FlowInShort,
    Queues,
    Wanted,
    aside,
    attempt_of,
    files_of,
    list_flows,
    logs_of,
    read_flow,
    summary_of,
    view_of,
)
from ion_core.modules import present_names

LOOKED_AT = 1_000
"""Documents that one page of flows looks at, beside the flows that it reads."""

LONGEST_PAGE = 1_000
"""Of what is had by page, so much at a time, whatever was asked for."""

AT_ONCE = 2
"""So many flows, or pages of them, are read at a time: as many as ask would hold up the work, each by its share."""

CHUNK = 1024 * 1024
"""Bytes of a file that are read at a time."""


class Looking:
    """For the service called ``name``, with a place for files that it is shown in ``directory``."""

    def __init__(self, name: str, app: App, dataplane: DataPlane) -> None:
        self.name = name
        self._app = app
        self._dataplane = dataplane
        self._turns = asyncio.Semaphore(AT_ONCE)

    @property
    def directory(self) -> Path:
        return self._app.state.path / "services" / self.name

    def pipeline(self) -> Pipeline:
        modules = list(self._app.config.modules.values())
        makers: dict[str, list[str]] = {}
        takers: dict[str, list[str]] = {}
        for module in modules:
            for type in module.publishes:
                makers.setdefault(type, []).append(module.name)
            for type in module.subscribes if module.gather is None else module.gather.events:
                takers.setdefault(type, []).append(module.name)
        links = [
            Link(source=source, type=type, target=target)
            for type in dict.fromkeys([*takers, *makers])
            for source in makers.get(type, [""])
            for target in takers.get(type, [""])
        ]
        views = [
            ModuleView(
                name=it.name,
                subscribes=it.subscribes,
                publishes=it.publishes,
                runtime=it.runtime,
                image=it.image,
                concurrency=it.concurrency,
                retries=it.retry.retries,
                timeout=it.timeout,
            )
            for it in modules
        ]
        return Pipeline(modules=views, links=links)

    def planned(self, count: int = 3) -> Sequence[PlannedView]:
        now = datetime.now(UTC)
        found = [it for chosen in self._app.config.services.values() for it in chosen.planned(now, count)]
        return sorted(found, key=lambda it: [*it.times])

    async def flows(
        self,
        *,
        outcomes: Collection[FlowState] | None = None,
        module: str | None = None,
        type: str | None = None,
        since: datetime | None = None,
        containing: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[FlowSummary]:
        modules = self._app.config.modules.values()
        wanted = Wanted(
            outcomes=None if outcomes is None else frozenset(outcomes),
            module=None if module is None else present_names(modules).get(module, module),
            type=type,
            since=since,
            containing=containing,
        )
        damaged: set[str] = set()
        async with self._turns:
            page = await list_flows(
                self._dataplane.documents,
                modules,
                self._queues(),
                wanted,
                limit=_most(limit),
                after=after,
                look_at=LOOKED_AT,
                damaged=damaged,
            )
        return Page(items=[summary_of(it) for it in page.flows], cursor=page.cursor, damaged=tuple(sorted(damaged)))

    async def flow(self, correlation_id: str) -> FlowView | None:
        damaged: set[str] = set()
        modules = self._app.config.modules.values()
        async with self._turns:
            flow = await read_flow(self._dataplane.documents, correlation_id, modules, damaged=damaged)
            if not flow.roots:
                return None
            short = await aside(flow.documents, lambda: FlowInShort.of(flow))
            await self._queues().settle([short])
            return await aside(flow.documents, lambda: view_of(flow, short, damaged))

    async def documents(
        self,
        kind: str | None = None,
        *,
        correlation_id: str | None = None,
        newest_first: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[Document]:
        found: list[Document] = []
        damaged: list[str] = []
        with passing_over_damage(damaged.extend):
            async for document in self._dataplane.documents.find(
                kind,
                correlation_id=correlation_id,
                newest_first=newest_first,
                since=since,
                until=until,
                after=after,
                limit=_most(limit),
            ):
                found.append(document)
        full = len(found) == _most(limit)
        return Page(items=found, cursor=found[-1].cursor if full else None, damaged=tuple(damaged))

    async def files(self, correlation_id: str, event_id: str | None = None) -> Sequence[FileView]:
        return [
            FileView(file=it.file, module=it.module, event_id=it.event_id, came_in=it.came_in)
            for it in await files_of(self._dataplane.documents, correlation_id, event_id, damaged=set())
        ]

    @asynccontextmanager
    async def file(self, correlation_id: str, key: str, *, start: int = 0) -> AsyncIterator[FileContent]:
        found = next((it.file for it in await self.files(correlation_id) if it.file.key == key), None)
        if found is None:
            raise BlobNotFound(f"flow {correlation_id[:80]!r}: has no file of the key {key[:200]!r}. List its files.")
        local = self._shown / secrets.token_hex(8)
        expect = BlobInfo(size=found.size, sha256=found.sha256)
        try:
            await self._dataplane.blobs.get(found.key, local, expect=expect, link=True)
            chunks = _chunks(local, start)
            try:
                yield FileContent(file=found, chunks=chunks)
            finally:
                await chunks.aclose()
        finally:
            await asyncio.to_thread(local.unlink, missing_ok=True)

    async def logs(self, event_id: str, *, correlation_id: str | None = None) -> Sequence[LogView]:
        documents = self._dataplane.documents
        if correlation_id is None:
            try:
                correlation_id = (await documents.get(EVENT_META, event_id)).correlation_id
            except DocumentNotFound:
                return []
        logs: list[LogView] = []
        with passing_over_damage(lambda problems: None):
            async for module, log in logs_of(documents, event_id, correlation_id):
                attempt, text = attempt_of(AttemptSeen.in_log(log.body)), str(log.body.get("logs", ""))
                logs.append(LogView(event_id=event_id, module=module, attempt=attempt, text=text))
        return sorted(logs, key=lambda it: (it.attempt.finished_at is None, it.attempt.finished_at, it.attempt.number))

    @property
    def _shown(self) -> Path:
        """Where files lie that the service is shown. Nobody else enters it, as its name begins with a dot."""
        return self.directory / ".shown"

    def _queues(self) -> Queues:
        return Queues(self._app.broker)


async def _chunks(path: Path, start: int) -> AsyncGenerator[bytes, None]:
    """The content of a file from ``start`` on, read outside of the event loop."""
    try:
        file = await asyncio.to_thread(path.open, "rb")
        try:
            file.seek(start)
            while chunk := await asyncio.to_thread(file.read, CHUNK):
                yield chunk
        finally:
            await asyncio.to_thread(file.close)
    except OSError as error:
        raise storage_error(str(path), error) from error


def _most(limit: int) -> int:
    return max(1, min(limit, LONGEST_PAGE))
