"""The service contract: something that runs beside the dispatcher, such as a gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

from ion_core.contracts.storage import BlobInfo
from ion_core.events import Event


@dataclass(frozen=True, kw_only=True)
class FlowOutcome:
    """How a flow stands: an event from outside and all that followed from it.

    ``outcome``  the worst of its jobs, in the words of `ion-core trace list`: ``dead`` was given up, ``failed`` failed
                 and is to be tried again, ``running`` waits or runs; ``done`` is a flow that has none of these.
    ``over``     whether each of its jobs has committed or was given up. A dead letter that is redriven begins anew.
    ``events``   how many there are so far.
    ``jobs``     how many there are so far, by state: ``committed``, ``pending``, ``retried``, ``dead-lettered``, and
                 ``gone`` where the configuration has the module no more.
    ``failing``  the modules whose jobs were given up, or failed last time, each once.
    """

    correlation_id: str
    outcome: Literal["dead", "failed", "running", "done"]
    over: bool
    events: int
    jobs: Mapping[str, int]
    failing: Sequence[str] = ()


class ServiceHost(Protocol):
    """What a service may ask of the process it runs in."""

    @property
    def work(self) -> Path:
        """A directory of this service alone, for files on their way in; it is there, and only its owner can enter it.

        It is emptied before each ``run``, so what a process that was killed left there is gone; what is done with goes
        by the service's own hand, at once. Its files are on the disk of the state directory, which may be full.
        """

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
        consume: bool = False,
        told: Mapping[str, BlobInfo] | None = None,
    ) -> Event:
        """Accept an event from outside: files and document stored, then the message, durably.

        Its context has the name that the service has in the configuration, and no parent: an event from outside starts
        a flow. ``name`` and ``parent_event_id``, of up to 1,024 characters, are for a context that others rely on; the
        parent need not be an event that there is.

        ``files`` maps the name the next module sees in ``in/data`` to a local file. They are read until this has
        returned or raised, and may go then; they must not change before. With ``consume`` they are given away, which
        may spare a copy: they may be gone afterwards, also where it raises. ``told`` has size and sha256 of those that
        the service wrote itself, where nobody else can, and hashed as it wrote them: that may spare reading them again.
        One that is seen to be otherwise is a PermanentError. The same ``event_id`` again, with the same
        type, data, files and parent, is the same event: nothing is stored twice and the jobs it starts commit once.

        It ends within a minute, and a second more for each MiB of files; it may be cancelled. Raises nothing but

        - InvalidEvent, with all that is wrong in ``problems``; IdTaken where the id is that of another event, with
          what ``differs``;
        - Unroutable where no module takes the type;
        - MessageRefused where the broker takes no such message, and another PermanentError where a file cannot be
          read or a store never takes it: the same again does not help;
        - TransientError where a store or the broker is away or takes too long (StorageFull: the disk is full). Whether
          the event was published is unknown then: with an ``event_id`` it may be published again;
        - ConfigError and StateError where a provider cannot be used as it is set up, PluginFailed where it is at fault.
        """

    async def pending(self, event_type: str) -> int | None:
        """How many messages wait in the queues of the modules that take this type, retries that wait included.

        What is being worked on does not count, and an event that two modules take counts twice. None where the broker
        does not tell; 0 of a type that nobody takes. Ends within half a minute, and raises nothing of a broker's.
        """

    async def outcome(self, correlation_id: str, *, within: timedelta = timedelta(0)) -> FlowOutcome | None:
        """What became of a flow: at once if it is over, else once it is, or as it stands when ``within`` has passed.

        None where there is no event of that correlation id. It is read from the document store, so it is the same
        whichever process does the work. Raises TransientError where the store does not answer, PermanentError where it
        has what cannot be read.
        """

    def event_types(self) -> Sequence[str]:
        """The event types that some module takes, sorted."""

    def problems(self) -> Sequence[str]:
        """Why this process is not ready, a sentence each; empty when it is."""


class Service(Protocol):
    """Runs beside the dispatcher, from before the first delivery until the last job has ended."""

    async def run(self, host: ServiceHost, stop: asyncio.Event, ready: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then finish what is under way and return within a few seconds.

        Sets ``ready`` once it serves. Leaves nothing in ``host.work``. Raising is a failure, returning before ``stop``
        too: it ends the process after a drain, or the service is opened anew and run again, as the configuration says.
        What is no IonError is reported as a fault of the plugin.
        """


class Reloads(Service, Protocol):
    """A service that takes over new settings while it runs, as secrets that are replaced. That is optional."""

    def reload(self, settings: Any) -> Collection[str]:
        """Take over from ``settings`` what can be, for what begins from now on; what is under way keeps what it has.

        ``settings`` are valid, of the provider's model, and of the same section as those the service was opened with;
        they may be the same. Called on the event loop at any time while the service is open, so it ends at once.

        Returns the keys that differ from what is in use and take a restart, as ``settings.section.where`` has them;
        none where all is in use. Raises ConfigError where they cannot be taken over together with what takes a restart;
        then nothing has changed.
        """
