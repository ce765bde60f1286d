"""The service ``watch``: an event for each file that is complete in a folder, once for each version of it.

An event's id follows from the service, the folder, the file's path in it and its version, so whoever publishes it, and
however often, it is one event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ion_core.contracts.service import ServiceHost
from ion_core.errors import IonError
from ion_gateway.watching.folder import WatchedFolder
from ion_gateway.watching.notes import Notes
from ion_gateway.watching.settings import WatchSettings


class Watch:
    """Its folders, each of which goes on whatever becomes of the others."""

    def __init__(self, settings: WatchSettings, notes: Notes) -> None:
        self._settings = settings
        self._notes = notes

    async def run(self, host: ServiceHost, stop: asyncio.Event, ready: asyncio.Event) -> None:
        """Publish what comes until ``stop``. Raises ConfigError for a folder that is not there, and StateError."""
        service = self._settings.section.name or "watch"
        folders = [
            WatchedFolder(
                name,
                folder,
                folder.source(name, self._settings.section),
                self._notes,
                service=service,
            )
            for name, folder in self._settings.folders.items()
        ]
        failures: tuple[BaseException, ...] = ()
        try:
            async with asyncio.TaskGroup() as checks:
                for watched in folders:
                    checks.create_task(watched.check(stop))
            ready.set()
            async with asyncio.TaskGroup() as tasks:
                for watched in folders:
                    tasks.create_task(watched.run(host, stop))
        except* IonError as errors:
            failures = errors.exceptions
        while failures and isinstance(failures[0], BaseExceptionGroup):
            failures = failures[0].exceptions
        if failures:
            raise failures[0]


@asynccontextmanager
async def open_watch(settings: WatchSettings) -> AsyncIterator[Watch]:
    """The service. Raises StateError where what earlier processes noted cannot be read."""
    notes = await asyncio.to_thread(Notes, settings.path)
    try:
        yield Watch(settings, notes)
    finally:
        notes.close()
