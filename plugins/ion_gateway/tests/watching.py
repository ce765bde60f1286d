"""A watched folder that is served in this process, to a host that keeps what it is given."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ion_core.contracts.settings import Section
from ion_core.errors import IonError
from ion_core.events import Context, Event
from ion_gateway.watch import open_watch
from ion_gateway.watching.settings import WatchSettings

WITHIN = 30.0


@dataclass(frozen=True)
class Published:
    id: str
    type: str
    path: str
    data: dict[str, str]
    files: dict[str, bytes]


@dataclass
class Host:
    """Takes events, or raises what it is to raise first. ``hold`` keeps one from returning."""

    raising: list[IonError] = field(default_factory=list)
    refusing: Callable[[str], IonError | None] = lambda path: None
    asked: list[str] = field(default_factory=list)
    taken: list[Published] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    hold: asyncio.Event | None = None
    work: Path = Path("/nowhere")

    async def publish(self, event_type: str, **given: Any) -> Event:
        data = dict(given["data"])
        files = {name: path.read_bytes() for name, path in given["files"].items()}
        if given.get("consume"):
            for path in given["files"].values():
                path.unlink()
        async with self.news:
            self.asked.append(data["path"])
            self.news.notify_all()
            if self.raising:
                raise self.raising.pop(0)
            if error := self.refusing(data["path"]):
                raise error
            self.taken.append(Published(given["event_id"], event_type, data["path"], data, files))
            self.news.notify_all()
        if self.hold is not None:
            await self.hold.wait()
        context = Context(name="watch", event_id=given["event_id"], correlation_id=given["correlation_id"])
        return Event(context=context, type=event_type)

    def problems(self) -> list[str]:
        return []

    def at(self, made: WatchSettings) -> Host:
        """With a work directory, beside the notes and empty, as every ``run`` is given one."""
        self.work = made.path.with_name("work")
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        return self

    async def until(self, reached: Callable[[], object]) -> None:
        """Until something that was published, or asked for, makes it so."""
        async with asyncio.timeout(WITHIN), self.news:
            await self.news.wait_for(reached)

    async def paths(self, count: int) -> list[str]:
        """The paths of the first so many events, sorted."""
        await self.until(lambda: len(self.taken) >= count)
        return sorted(it.path for it in self.taken)


async def until(reached: Callable[[], object]) -> None:
    """Until it is so of something that tells nobody, such as a directory."""
    async with asyncio.timeout(WITHIN):
        while not reached():  # noqa: ASYNC110 - a directory sets no event
            await asyncio.sleep(0.01)


def settings(state: Path, **folders: dict[str, Any]) -> WatchSettings:
    """Whose folders look often, and take files as they are seen, unless they say otherwise."""
    quick = {"type": "file.received", "stable": "0s", "every": "1s"}
    made = {
        name: {key: value for key, value in {**quick, **given}.items() if value is not None}
        for name, given in folders.items()
    }
    return WatchSettings.model_validate(
        {"folders": made}, context={"section": Section(key="services.watch"), "state": state, "base": state}
    )


@asynccontextmanager
async def serving(made: WatchSettings, host: Host) -> AsyncIterator[asyncio.Task[None]]:
    stop, ready = asyncio.Event(), asyncio.Event()
    async with open_watch(made) as service:
        running = asyncio.create_task(service.run(host.at(made), stop, ready))
        becoming = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait({running, becoming}, timeout=WITHIN, return_when=asyncio.FIRST_COMPLETED)
            becoming.cancel()
            if running.done():
                await running
            yield running
        finally:
            stop.set()
            becoming.cancel()
            await asyncio.wait({running}, timeout=WITHIN)
            running.cancel()
        await running
