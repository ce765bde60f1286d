"""The whole of what a plugin may implement. Hooks are synchronous and only register; what they register is not.

A plugin is a distribution with an entry point in the group ``ion_core`` naming a module that has some of these
functions, each marked ``@hookimpl``. See ``docs/plugins.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    import click

    from ion_core.contracts.executor import Executor
    from ion_core.contracts.messaging import MessageBroker
    from ion_core.contracts.provider import ObserverSettings, Provider
    from ion_core.contracts.runtime import ContainerRuntime
    from ion_core.contracts.service import Service
    from ion_core.contracts.storage import BlobStore, DocumentStore
    from ion_core.events import Event
    from ion_core.jobs import Attempt, Outcome

PROJECT = "ion_core"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def ion_message_brokers() -> Iterable[Provider[MessageBroker]]:  # type: ignore[empty-body]
    """Register message brokers, chosen by ``messaging.provider``."""


@hookspec
def ion_container_runtimes() -> Iterable[Provider[ContainerRuntime]]:  # type: ignore[empty-body]
    """Register container runtimes, chosen by ``runtimes.<name>.provider``."""


@hookspec
def ion_executors() -> Iterable[Provider[Executor]]:  # type: ignore[empty-body]
    """Register executors, chosen by ``runtimes.<name>.provider`` as container runtimes are: one name is one of both."""


@hookspec
def ion_blob_stores() -> Iterable[Provider[BlobStore]]:  # type: ignore[empty-body]
    """Register blob stores, chosen by ``storage.blobs.provider``."""


@hookspec
def ion_document_stores() -> Iterable[Provider[DocumentStore]]:  # type: ignore[empty-body]
    """Register document stores, chosen by ``storage.documents.provider``."""


@hookspec
def ion_services() -> Iterable[Provider[Service]]:  # type: ignore[empty-body]
    """Register services, chosen by being named under ``services``."""


@hookspec
def ion_commands() -> Iterable[click.Command]:  # type: ignore[empty-body]
    """Register extra commands of ``ion-core``. A name that exists is refused."""


@hookspec
def ion_observer_settings() -> Iterable[ObserverSettings]:  # type: ignore[empty-body]
    """Register what the plugin's observing hooks are given as ``settings``, one at most; without it there are none."""


@hookspec
def ion_job_started(attempt: Attempt, at: datetime, settings: Any) -> None:
    """Observe that an attempt is about to run. Called on a thread of its own; what it raises is logged, no more.

    ``at`` is when that was, in UTC: an observer is told in order, and perhaps late. ``settings`` are those of the
    section that it is called for, of the model that ``ion_observer_settings`` registers. As of all hooks, an
    implementation names those arguments that it wants.
    """


@hookspec
def ion_job_finished(attempt: Attempt, outcome: Outcome, at: datetime, settings: Any) -> None:
    """Observe how an attempt ended, ``at`` its end; when its steps ran says ``outcome``. As ``ion_job_started``."""


@hookspec
def ion_event_published(event: Event, at: datetime, settings: Any) -> None:
    """Observe that an event was published, at least once. As ``ion_job_started``."""


@hookspec
def ion_job_dead_lettered(attempt: Attempt, outcome: Outcome, at: datetime, settings: Any) -> None:
    """Observe that the message of a job was kept aside as a dead letter, with the reason in ``outcome``.

    It is told ``ion_job_finished`` as well, just before. What is put aside without an attempt, since nothing could be
    read of it, has no attempt to tell, and is in no hook. As ``ion_job_started``.
    """


@hookspec
def ion_serve_started(state: Path, modules: Sequence[str], at: datetime, settings: Any) -> None:
    """Observe that this process serves: services are up, and the dispatcher begins to take events.

    ``state`` is the state directory, for what an observer keeps there in a directory of its own name; ``modules`` are
    those of the configuration, sorted. Told once, in the process that was started as ``serve``. As ``ion_job_started``.
    """


@hookspec
def ion_serve_stopped(at: datetime, settings: Any) -> None:
    """Observe that this process serves no more: what ran is drained, and services have ended. Told once, at the end.

    An observer has five seconds then, together with the others, for what it has still to do, such as sending what it
    has gathered. It is not told where the process is killed. As ``ion_job_started``.
    """


@hookspec
def ion_traceparent(attempt: Attempt, settings: Any) -> str | None:
    """Say which span the module of the attempt is to be below, as W3C Trace Context writes it; None for none.

    The module finds that in ``in/traceparent``. Called on the event loop before each attempt, and waited for: so it
    looks nothing up. What it raises is logged; then, and with None, the module is told what the flow came with.
    ``settings`` as ``ion_job_started`` has them: where a plugin has several sections, the first by name that says
    something counts.
    """
