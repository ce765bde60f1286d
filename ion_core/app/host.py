"""What a service may ask of the process it runs in."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from pathlib import Path

from ion_core.app.explaining import Explaining
from ion_core.app.looking import Looking
from ion_core.app.opening import App
from ion_core.app.process import Process
from ion_core.app.working import Working
from ion_core.contracts.service import FlowOutcome
from ion_core.contracts.storage import BlobInfo
from ion_core.dataplane import DataPlane
from ion_core.errors import IonError, PluginFailed, TransientError
from ion_core.events import Event
from ion_core.flows import FlowInShort, read_flow, until_over
from ion_core.intake import Intake

PUBLISH_WITHIN = 60.0
"""Seconds that publishing may take, without files."""

BYTES_A_SECOND = 1024 * 1024
"""For so many bytes of files it may take a second more."""

COUNTED_WITHIN = 30.0
"""Seconds that a broker gets to count what waits."""


class Host(Looking, Working, Explaining):
    """For the service called ``name`` in the configuration."""

    def __init__(self, name: str, app: App, intake: Intake, dataplane: DataPlane, process: Process) -> None:
        Looking.__init__(self, name, app, dataplane)
        Working.__init__(self, app, dataplane, process)
        Explaining.__init__(self, app, dataplane, process)
        self._intake = intake

    @cached_property
    def work(self) -> Path:
        return self.directory / "work"

    async def empty_work(self) -> None:
        """Before the service runs, with what it was shown before. Raises StateError, StorageFull."""
        for directory in (self.work, self._shown):
            await asyncio.to_thread(self._app.state.emptied, "services", self.name, directory.name)

    async def publish(
        self,
        event_type: str,
        *,
        data: Sequence[tuple[str, str]] = (),
        files: Mapping[str, Path] | None = None,
        event_id: str | None = None,
        correlation_id: str | None = None,
        name: str | None = None,
        parent_event_id: str = "",
        traceparent: str = "",
        consume: bool = False,
        told: Mapping[str, BlobInfo] | None = None,
    ) -> Event:
        seconds = PUBLISH_WITHIN + _size(files or {}) / BYTES_A_SECOND
        try:
            async with asyncio.timeout(seconds) as bound:
                return await self._intake.publish(
                    event_type,
                    name=self.name if name is None else name,
                    data=data,
                    files=files,
                    event_id=event_id,
                    correlation_id=correlation_id,
                    parent_event_id=parent_event_id,
                    traceparent=traceparent,
                    consume=consume,
                    told=told,
                )
        except IonError:
            raise
        except TimeoutError as error:
            if not bound.expired():
                raise self._fault(error) from error
            again = "Publish the same under that id once more." if event_id else "It had no id of its own."
            raise TransientError(
                f"event {event_id or event_type!r}: was not published within {seconds:.0f} s. Whether the stores and "
                f"the broker have it is unknown. {again}"
            ) from error
        except Exception as error:
            raise self._fault(error) from error

    async def pending(self, event_type: str) -> int | None:
        waiting = 0
        try:
            async with asyncio.timeout(COUNTED_WITHIN):
                for name in self._intake.takers(event_type):
                    stats = await self._dataplane.broker.stats(name)
                    waiting += stats.ready + stats.delayed
        except (IonError, TimeoutError):
            return None
        return waiting

    async def outcome(self, correlation_id: str, *, within: timedelta = timedelta(0)) -> FlowOutcome | None:
        return await until_over(lambda: self._outcome(correlation_id), within=within.total_seconds())

    async def _outcome(self, correlation_id: str) -> FlowOutcome | None:
        modules = self._app.config.modules.values()
        flow = await read_flow(self._dataplane.documents, correlation_id, modules)
        if not flow.roots:
            return None
        found = FlowInShort.of(flow)
        return FlowOutcome(
            correlation_id=correlation_id,
            outcome=found.outcome,
            over=found.over,
            events=found.events,
            jobs=dict(found.jobs),
            failing=found.failing,
        )

    def event_types(self) -> Sequence[str]:
        return self._intake.event_types()

    def problems(self) -> Sequence[str]:
        return self._process.health.problems()

    def _fault(self, error: Exception) -> PluginFailed:
        """Of a provider: which of them it was, its traceback says."""
        return PluginFailed(f"service {self.name}: publishing failed: {type(error).__name__}: {str(error)[:400]}")


def _size(files: Mapping[str, Path]) -> int:
    """Of those that can be seen: what cannot be read is refused later, with its name."""
    found = 0
    for path in files.values():
        try:
            found += path.stat().st_size
        except OSError:
            continue
    return found
