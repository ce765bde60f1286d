"""A service in memory: what is poked into it becomes an event, and when it is asked it looks at flows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection

from ion_core.contracts.service import ServiceHost
from ion_core.contracts.settings import Settings
from ion_core.errors import IonError


class MemoryServiceSettings(Settings):
    """``place`` is where it is, for as long as it runs."""

    greeting: str = ""
    place: str = "here"


class MemoryService:
    """``broken`` is what keeps it from serving."""

    def __init__(self, *, broken: IonError | None = None) -> None:
        self.broken = broken
        self.settings = MemoryServiceSettings()
        self._poked: asyncio.Queue[str] = asyncio.Queue()
        self._asked: asyncio.Queue[None] = asyncio.Queue()

    def ask(self) -> None:
        """Have it look at the flows that there are."""
        self._asked.put_nowait(None)

    def poke(self, event_type: str) -> None:
        self._poked.put_nowait(event_type)

    def reload(self, settings: MemoryServiceSettings) -> Collection[str]:
        self.settings = self.settings.model_copy(update={"greeting": settings.greeting})
        return [] if self.settings == settings else ["place"]

    async def run(self, host: ServiceHost, stop: asyncio.Event, ready: asyncio.Event) -> None:
        if self.broken is not None:
            raise self.broken
        tasks = {asyncio.create_task(self._publish(host)), asyncio.create_task(self._look(host))}
        ready.set()
        try:
            await stop.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _publish(self, host: ServiceHost) -> None:
        while True:
            event_type = await self._poked.get()
            with contextlib.suppress(IonError):  # whoever poked would be told
                await host.publish(event_type)

    async def _look(self, host: ServiceHost) -> None:
        while True:
            await self._asked.get()
            with contextlib.suppress(IonError):  # whoever asked would be told
                await host.flows(limit=10)
