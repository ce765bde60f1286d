"""Steps 1 and 3 of a job that an engine runs: what its ticket says, done with the stores alone and not published."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ion_core.contracts.ticket import Ticket
from ion_core.errors import UsageError, storage_error
from ion_core.events import Event, StoredFile, checked_traceparent
from ion_core.handler.given import GivenWorkspace
from ion_core.handler.preparer import Preparer
from ion_core.stores import Stores

if TYPE_CHECKING:
    from ion_core.gathered import Inputs
    from ion_core.handler.committer import Committed
    from ion_core.modules import Module

_NOT_ALLOWED = (
    "permission denied. Prepare and commit need a workspace that they may read and write: run them as its owner, or "
    "as one user."
)


class _Given:
    """Of a data plane, what preparing needs, where the event and its files are known already."""

    def __init__(self, stores: Stores, found: tuple[Event, tuple[StoredFile, ...]]) -> None:
        self.blobs = stores.blobs
        self._stores = stores
        self._found = found

    async def stored_files(self, event: Event) -> tuple[Event, tuple[StoredFile, ...]]:
        return self._found

    async def gathered(self, event: Event) -> Inputs | None:
        return await self._stores.gathered(event)


async def prepare_ticket(stores: Stores, ticket: Ticket, workspace: GivenWorkspace) -> list[str]:
    """Step 1 of a job that an engine runs: fill ``workspace`` for the event of ``ticket``; returns log lines.

    Raises DocumentNotFound where the event is not stored, though that was waited for; UsageError for a workspace that
    cannot be used; and what Preparer.prepare raises. May be called again: the workspace is cleared first.
    """
    event, files = await stores.promised(ticket.event_id)
    event = _as_ticketed(event, ticket)
    with _workspace(workspace):
        workspace.clear()
        preparer = Preparer(_Given(stores, (event, files)))
        traceparent = checked_traceparent(ticket.traceparent)
        return await preparer.prepare(event, workspace, link=False, traceparent=traceparent)


async def commit_ticket(stores: Stores, ticket: Ticket, module: Module, workspace: GivenWorkspace) -> Committed:
    """Step 3: keep what the module left under the attempt of ``ticket``, and publish nothing: the dispatcher does.

    Of a job that has committed, by whatever attempt, nothing is changed, and the lines say so: it may be called again.
    Raises as ``prepare_ticket``, OutOfTurn when ``workspace`` was not prepared, OutputRefused naming every entry that
    breaks the module contract, and what the stores raise. The workspace is left as it is.
    """
    from ion_core.handler.committer import Committed, Committer  # which step 1 does without, as this
    from ion_core.jobs import Attempt, Job, job_id

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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
