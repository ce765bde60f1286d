"""A Service that publishes an event each time that an interval has passed."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager

from ion_core.contracts.service import Service, ServiceHost
from ion_core.errors import IonError
from ion_sample.settings import SampleSettings

log = logging.getLogger(__name__)


class Sample:
    """``sleep`` waits for so many seconds, by whatever clock."""

    def __init__(self, settings: SampleSettings, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._settings = settings
        self._sleep = sleep
        self._changed = asyncio.Event()

    def reload(self, settings: SampleSettings) -> Collection[str]:
        """All of it can be taken over; the interval begins anew."""
        self._settings = settings
        self._changed.set()
        return []

    async def run(self, host: ServiceHost, stop: asyncio.Event, ready: asyncio.Event) -> None:
        ready.set()
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stopping.done():
                if await self._interval(stopping):
                    await self._publish(host)
        finally:
            stopping.cancel()

    async def _interval(self, stopping: asyncio.Task[bool]) -> bool:
        """True once it has passed; False where something else is to be done first."""
        self._changed.clear()
        changed = asyncio.create_task(self._changed.wait())
        passed = asyncio.create_task(self._sleep(self._settings.every.total_seconds()))
        try:
            done, _ = await asyncio.wait({stopping, changed, passed}, return_when=asyncio.FIRST_COMPLETED)
            return done == {passed}
        finally:
            changed.cancel()
            passed.cancel()

    async def _publish(self, host: ServiceHost) -> None:
        """What is refused is missed: the next one comes in its time."""
        try:
            await host.publish(self._settings.type)
        except IonError as error:
            log.warning("an event was missed: %s", error, extra={"type": self._settings.type})


@asynccontextmanager
async def open_sample(settings: SampleSettings) -> AsyncIterator[Service]:
    yield Sample(settings)
