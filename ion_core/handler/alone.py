"""The handler on its own: the steps of one job without a dispatcher, as a scheduler's job runs them.

They need a data plane, the ids of a job and a directory, and may be run again: each does what is left to do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from ion_core.contracts.executor import Ticket
from ion_core.contracts.storage import BlobStore
from ion_core.dataplane import DataPlane, Stores
from ion_core.errors import NoSuchEvent, UsageError, storage_error
from ion_core.events import Context, Event, StoredFile
from ion_core.handler.committer import Committed, Committer
from ion_core.handler.given import GivenWorkspace
from ion_core.handler.preparer import Preparer
from ion_core.jobs import Attempt, Job, job_id
from ion_core.modules import Module

_NOT_ALLOWED = (
    "permission denied. Prepare and commit need a workspace that they may read and write: run them as its owner, or "
    "as one user."
)


async def prepare_alone(dataplane: DataPlane, asked: Context, workspace: GivenWorkspace) -> list[str]:
    """Fill ``workspace`` for the event that ``asked`` names; returns log lines.

    ``asked.name`` is the module. Raises NoSuchEvent, UsageError when the other ids are not those of the event, what
    clearing the workspace raises, and what Preparer.prepare raises.
    """
    event = await _event(dataplane, asked)
    workspace.clear()
    return await Preparer(dataplane).prepare(event, workspace, link=False)


async def commit_alone(
    dataplane: DataPlane, asked: Context, module: Module, workspace: GivenWorkspace, *, image: str | None
) -> Committed:
    """Keep and publish what the module left. Of a job that has committed only what it still owes is published.

    Raises NoSuchEvent and UsageError as ``prepare_alone``, OutOfTurn when ``workspace`` was not prepared,
    OutputRefused naming every entry that breaks the module contract, and what the providers raise. The workspace is
    left as it is.
    """
    event = await _event(dataplane, asked)
    attempt = Attempt(job=Job(event=event, module=module.name), number=1)
    found = await dataplane.committed(attempt.job.id)
    if found is None:
        workspace.check()
        committer = Committer(dataplane, consume=False)  # so that a commit that fails can be tried again
        committed = await committer.commit(attempt, module, workspace, image=image, started_at=_now())
        owed = True
    else:
        record, owed = found
        committed = Committed(commit=record, ours=False, lines=["had committed already: this changes nothing"])
    if owed:
        await dataplane.publish_commit(committed.commit)
    return committed


@dataclass(frozen=True)
class _Given:
    """Of a data plane, what preparing needs, where the event and its files are known already."""

    blobs: BlobStore
    found: tuple[Event, tuple[StoredFile, ...]]

    async def stored_files(self, event: Event) -> tuple[Event, tuple[StoredFile, ...]]:
        return self.found


async def prepare_ticket(stores: Stores, ticket: Ticket, workspace: GivenWorkspace) -> list[str]:
    """Step 1 of a job that an engine runs: fill ``workspace`` for the event of ``ticket``; returns log lines.

    Raises DocumentNotFound where the event is not stored, though that was waited for; UsageError for a workspace that
    cannot be used; and what Preparer.prepare raises. May be called again: the workspace is cleared first.
    """
    event, files = await stores.promised(ticket.event_id)
    event = _as_ticketed(event, ticket)
    with _workspace(workspace):
        workspace.clear()
        return await Preparer(_Given(stores.blobs, (event, files))).prepare(event, workspace, link=False)


async def commit_ticket(stores: Stores, ticket: Ticket, module: Module, workspace: GivenWorkspace) -> Committed:
    """Step 3: keep what the module left under the attempt of ``ticket``, and publish nothing: the dispatcher does.

    Of a job that has committed, by whatever attempt, nothing is changed, and the lines say so: it may be called again.
    Raises as ``prepare_ticket``, OutOfTurn when ``workspace`` was not prepared, OutputRefused naming every entry that
    breaks the module contract, and what the stores raise. The workspace is left as it is.
    """
    found = await stores.committed(job_id(ticket.event_id, ticket.module))
    if found is not None:
        line = f"attempt {found[0].attempt} had committed already: this one changes nothing"
        return Committed(commit=found[0], ours=False, lines=[line])
    event = _as_ticketed((await stores.promised(ticket.event_id))[0], ticket)
    attempt = Attempt(job=Job(event=event, module=ticket.module), number=ticket.attempt, token=ticket.token)
    with _workspace(workspace):
        workspace.check()
        committer = Committer(stores, consume=False)  # an engine may start this step once more
        return await committer.commit(
            attempt, module, workspace, image=ticket.image, started_at=ticket.started_at or _now()
        )


def _as_ticketed(event: Event, ticket: Ticket) -> Event:
    """The stored event as the message that brought it has it: where it belongs is never what others stored since."""
    return replace(event, context=replace(event.context, correlation_id=ticket.correlation_id), hops=ticket.hops)


@contextmanager
def _workspace(workspace: GivenWorkspace) -> Iterator[None]:
    """Errors of its disk as the errors they mean. What we may not do there no module can be blamed for."""
    root = workspace.root
    try:
        if root.is_dir() and not os.access(root, os.R_OK | os.X_OK, effective_ids=True):
            raise UsageError(f"{root}: {_NOT_ALLOWED}")
        yield
    except PermissionError as error:
        raise UsageError(f"{error.filename or root}: {_NOT_ALLOWED}") from error
    except OSError as error:
        raise storage_error(str(error.filename or root), error) from error


async def _event(dataplane: DataPlane, asked: Context) -> Event:
    event = await dataplane.accepted(asked.event_id)
    if event is None:
        what = f"no event {asked.event_id[:80]!r} is stored."
        parent = asked.parent_event_id
        if parent and await dataplane.accepted(parent) is not None:
            raise NoSuchEvent(f"{what} Event {parent[:80]!r} is: pass it as the event id, and no parent.")
        raise NoSuchEvent(f"{what} Publish it first, or name one that is: `ion-core trace list` shows the flows.")
    check_ids(event.context, asked)
    return event


def check_ids(known: Context, asked: Context) -> None:
    """Raises UsageError when ``asked`` says otherwise than ``known`` where an event belongs; '' says nothing."""
    for what, is_, given in (
        ("correlation id", known.correlation_id, asked.correlation_id),
        ("parent event id", known.parent_event_id, asked.parent_event_id),
    ):
        if given and given != is_:
            instead = f"Pass {is_[:80]!r}." if is_ else "Leave it out."
            raise UsageError(f"event {asked.event_id[:80]!r}: its {what} is not {given[:80]!r}. {instead}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
