"""A pipeline by the providers of its configuration."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from ion_core.app import App
from ion_core.contracts.looking import FlowSummary, FlowView
from ion_core.contracts.storage import Document
from ion_core.events import MODULE_LOGS, Context
from ion_core.flows import (
    Fetched,
    FileOfFlow,
    Flow,
    FlowInShort,
    files_of,
    read_flow,
    summary_of,
    until_over,
    view_of,
)


class ByProviders:
    """What it publishes is worked on by an `ion-core serve` of the same configuration, wherever that runs."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._intake_lock = asyncio.Lock()

    async def publish(
        self,
        event_type: str,
        *,
        name: str,
        data: Sequence[tuple[str, str]],
        files: Mapping[str, Path],
        event_id: str | None,
    ) -> Context:
        async with self._intake_lock:
            intake = await self._app.intake()
        return (await intake.publish(event_type, name=name, data=data, files=files, event_id=event_id)).context

    async def outcome(self, correlation_id: str) -> FlowSummary | None:
        flow = await self._read(correlation_id)
        return None if flow is None else summary_of(FlowInShort.of(flow))

    async def over(self, correlation_id: str, *, within: float | None) -> FlowSummary | None:
        return await until_over(lambda: self.outcome(correlation_id), within=within)

    async def flow(self, correlation_id: str) -> FlowView | None:
        flow = await self._read(correlation_id)
        return None if flow is None else view_of(flow, FlowInShort.of(flow), ())

    async def files(self, correlation_id: str) -> Sequence[FileOfFlow]:
        return await files_of(await self._app.documents(), correlation_id)

    async def content(self, correlation_id: str) -> Fetched:
        return await self._app.blobs()

    async def logs(self, correlation_id: str) -> AsyncIterator[Document]:
        async for document in (await self._app.documents()).find(MODULE_LOGS, correlation_id=correlation_id):
            yield document

    def shown(self, text: str) -> str:
        return self._app.config.hidden.masked(text)

    async def _read(self, correlation_id: str) -> Flow | None:
        flow = await read_flow(await self._app.documents(), correlation_id, self._app.config.modules.values())
        return flow if flow.roots else None
