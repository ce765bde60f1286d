"""A gateway that listens, before a host that notes what it is given, or fails as it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp

from ion_core.contracts.service import FlowOutcome
from ion_core.contracts.settings import Section
from ion_core.contracts.storage import BlobInfo
from ion_core.errors import IonError
from ion_core.events import Context, Event
from ion_gateway.gateway import Gateway
from ion_gateway.gateway_settings import GatewaySettings

TYPES = ("frontapi.new_link", "photo.received", "report.asked")


class Host:
    """``taken`` has each event with the bytes of its files. ``raising`` is raised by the next calls of ``publish``.

    Who waits for an outcome is told what it ``ends`` as, once ``flowing`` is set where that is given.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        self.taken: list[tuple[Event, dict[str, bytes]]] = []
        self.told: list[Mapping[str, BlobInfo]] = []
        self.raising: list[BaseException] = []
        self.waiting: int | None = 0
        self.asked = 0
        self.counting: asyncio.Event | None = None
        self.outcomes: dict[str, FlowOutcome | IonError] = {}
        self.holding: asyncio.Event | None = None
        self.held = asyncio.Event()
        self.waited: list[float] = []
        self.flowing: asyncio.Event | None = None
        self.ends: FlowOutcome | None = None

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
        if self.holding is not None:
            self.held.set()
            await self.holding.wait()
        brought = {name: path.read_bytes() for name, path in (files or {}).items()}
        if consume:
            for path in (files or {}).values():
                path.unlink()
        if self.raising:
            raise self.raising.pop(0)
        assert event_id is not None
        assert correlation_id is not None
        event = Event(
            context=Context(
                name=name or "gateway",
                event_id=event_id,
                correlation_id=correlation_id,
                parent_event_id=parent_event_id,
            ),
            type=event_type,
            data=tuple(data),
            files=tuple(files or ()),
            traceparent=traceparent,
        )
        self.taken.append((event, brought))
        self.told.append(told or {})
        return event

    async def pending(self, event_type: str) -> int | None:
        self.asked += 1
        if self.counting is not None:
            await self.counting.wait()
        return self.waiting

    async def outcome(self, correlation_id: str, *, within: timedelta = timedelta(0)) -> FlowOutcome | None:
        self.waited.append(within.total_seconds())
        if within and self.flowing is not None:
            await self.flowing.wait()
        if within and self.ends is not None:
            return self.ends
        found = self.outcomes.get(correlation_id)
        if isinstance(found, IonError):
            raise found
        return found

    def event_types(self) -> Sequence[str]:
        return TYPES

    def problems(self) -> Sequence[str]:
        return ()


def settings(**given: Any) -> GatewaySettings:
    return GatewaySettings.model_validate(
        {"listen": "127.0.0.1:0", "auth": "none", **given}, context={"section": Section(key="services.gateway")}
    )


class Running:
    """One that is ready, with a client before it and its host behind it."""

    def __init__(self, gateway: Gateway, host: Host, client: aiohttp.ClientSession) -> None:
        self.gateway, self.host, self.client = gateway, host, client
        self.stop = asyncio.Event()

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.gateway.url.partition("://")[2].rpartition(":")
        return host, int(port)

    async def post(self, path: str = "/events/photo.received", **how: Any) -> tuple[int, dict[str, Any], Any]:
        """Status, body and headers of the answer."""
        return await self.ask("POST", path, **how)

    async def ask(self, method: str, path: str, **how: Any) -> tuple[int, dict[str, Any], Any]:
        async with self.client.request(method, self.gateway.url + path, **how) as answer:
            return answer.status, await answer.json(content_type=None), answer.headers

    async def raw(self, *chunks: bytes, end: bool = False) -> bytes:
        """What is answered to these bytes, until the connection is closed. ``end``: we leave, and take no answer."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            for chunk in chunks:
                writer.write(chunk)
                await writer.drain()
            if end:
                writer.write_eof()
            async with asyncio.timeout(20):
                return await reader.read()
        finally:
            writer.close()

    async def left(self) -> None:
        """Once nothing is left in the work directory, nor under way."""
        await until(lambda: not [*self.host.work.iterdir()] and not self.gateway._under_way)


async def until(condition: Callable[[], bool]) -> None:
    """Once it holds, for what tells nobody when it changes."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(work: Path, **given: Any) -> AsyncIterator[Running]:
    work.mkdir(exist_ok=True)  # noqa: ASYNC240
    gateway, host, ready = Gateway(settings(**given)), Host(work), asyncio.Event()
    async with aiohttp.ClientSession() as client:
        it = Running(gateway, host, client)
        task = asyncio.create_task(gateway.run(host, it.stop, ready))
        try:
            readying = asyncio.create_task(ready.wait())
            async with asyncio.timeout(20):
                await asyncio.wait({task, readying}, return_when=asyncio.FIRST_COMPLETED)
            readying.cancel()
            if task.done():
                task.result()
            yield it
        finally:
            it.stop.set()
            async with asyncio.timeout(20):
                await task
