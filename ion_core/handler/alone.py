"""The handler on its own: the steps of one job without a dispatcher, as a scheduler's job runs them.

They need a data plane, the ids of a job and a directory, and may be run again: each does what is left to do.
"""

from __future__ import annotations

from datetime import UTC, datetime

from ion_core.dataplane import DataPlane
from ion_core.errors import NoSuchEvent, UsageError
from ion_core.events import Context, Event
from ion_core.handler.committer import Committed, Committer
from ion_core.handler.given import GivenWorkspace
from ion_core.handler.preparer import Preparer
from ion_core.jobs import Attempt, Job
from ion_core.modules import Module


async def prepare_alone(dataplane: DataPlane, asked: Context, workspace: GivenWorkspace) -> list[str]:
    """Fill ``workspace`` for the event that ``asked`` names; returns log lines.

    ``asked.name`` is the module. Raises NoSuchEvent, UsageError when the other ids are not those of the event, what
    clearing the workspace raises, and what Preparer.prepare raises.
    """
    event = await _event(dataplane, asked)
    workspace.clear()
    return await Preparer(dataplane).prepare(event, workspace, link=False, traceparent=event.traceparent)


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
