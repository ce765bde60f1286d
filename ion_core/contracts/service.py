"""The service contract: something that runs beside the dispatcher, such as a gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ion_core.events import Event


class ServiceHost(Protocol):
    """What a service may ask of the process it runs in."""

    async def publish(
        self,
        event_type: str,
        *,
        data: Sequence[tuple[str, str]] = (),
        files: Mapping[str, Path] | None = None,
        event_id: str | None = None,
        correlation_id: str | None = None,
    ) -> Event:
        """Accept an event from outside: files and document stored, then the message, durably.

        Its context has the name that the service has in the configuration.

        ``files`` maps the name the next module sees in ``in/data`` to a local file. The same ``event_id`` again, with
        the same type, data and files, is the same event: nothing is stored twice and the jobs it starts commit once.
        Raises InvalidEvent, which says what differs where an id was used for anything else, and Unroutable when no
        module takes the type.
        """

    def problems(self) -> Sequence[str]:
        """Why this process is not ready, a sentence each; empty when it is."""


class Service(Protocol):
    """Runs beside the dispatcher, from before the first delivery until the last job has ended."""

    async def run(self, host: ServiceHost, stop: asyncio.Event, ready: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then finish what is under way and return within a few seconds.

        Sets ``ready`` once it serves. Raising is a failure, returning before ``stop`` too: it ends the process after a
        drain, or the service is opened anew and run again, as the configuration says. What is no IonError is reported
        as a fault of the plugin.
        """
