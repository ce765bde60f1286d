"""A service in memory: what is poked into it becomes an event, and when it is asked it looks at flows."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ion_core.contracts.service import ServiceHost
from ion_core.contracts.settings import Settings
from ion_core.errors import IonError


@dataclass(frozen=True)
class Poke:
    """What somebody sends it, and who is to be told what became of it."""

    type: str
    data: Mapping[str, str]
    files: Mapping[str, bytes]
    answer: asyncio.Future[bool]


class MemoryServiceSettings(Settings):
    """``place`` is where it is, for as long as it runs."""

    greeting: str = ""
    place: str = "here"


class MemoryService:
    """``broken`` is what keeps it from serving."""

    def __init__(self, *, broken: IonError | None = None) -> None:
        self.broken = broken
        self.settings = MemoryServiceSettings()
        self._poked: asyncio.Queue[Poke] = asyncio.Queue()
        self._asked: asyncio.Queue[None] = asyncio.Queue()
        self._idle = asyncio.Event()
        """Set while nothing is under way."""
        self._idle.set()

    def ask(self) -> None:
        """Have it look at the flows that there are."""
        self._asked.put_nowait(None)

    def poke(
        self, event_type: str, *, data: Mapping[str, str] | None = None, files: Mapping[str, bytes] | None = None
    ) -> asyncio.Future[bool]:
        """Have it publish that; the answer is whether it was taken."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._poked.put_nowait(Poke(event_type, data or {}, files or {}, answer))
        return answer

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
            await self._idle.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _publish(self, host: ServiceHost) -> None:
        while True:
            poke = await self._poked.get()
            self._idle.clear()
            await self.published(host, poke)
            self._idle.set()

    async def published(self, host: ServiceHost, poke: Poke) -> None:
        """Whoever poked is told."""
        with tempfile.TemporaryDirectory(dir=host.work) as uploads:
            files = {name: Path(uploads) / str(number) for number, name in enumerate(poke.files)}
            for name, path in files.items():
                path.write_bytes(poke.files[name])
            try:
                await host.publish(poke.type, data=[*poke.data.items()], files=files)
            except IonError:
                poke.answer.set_result(False)
            else:
                poke.answer.set_result(True)

    async def _look(self, host: ServiceHost) -> None:
        while True:
            await self._asked.get()
            with contextlib.suppress(IonError):  # whoever asked would be told
                await host.flows(limit=10)
