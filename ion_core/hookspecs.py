"""The whole of what a plugin may implement. Hooks are synchronous and only register; what they register is not.

A plugin is a distribution with an entry point in the group ``ion_core`` naming a module that has some of these
functions, each marked ``@hookimpl``. See ``docs/plugins.md``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from datetime import datetime

    import click

    from ion_core.contracts.executor import Executor
    from ion_core.contracts.messaging import MessageBroker
    from ion_core.contracts.provider import Provider
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
def ion_job_started(attempt: Attempt, at: datetime) -> None:
    """Observe that an attempt is about to run. Called on a thread of its own; what it raises is logged, no more.

    ``at`` is when that was, in UTC: an observer is told in order, and perhaps late. As of all hooks, an implementation
    names those arguments that it wants.
    """


@hookspec
def ion_job_finished(attempt: Attempt, outcome: Outcome, at: datetime) -> None:
    """Observe how an attempt ended, ``at`` its end; when its steps ran says ``outcome``. As ``ion_job_started``."""


@hookspec
def ion_event_published(event: Event, at: datetime) -> None:
    """Observe that an event was published, at least once. As ``ion_job_started``."""
