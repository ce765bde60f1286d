"""The handler without a dispatcher: a workspace as a module leaves it is committed, what it made prepared again."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.embedded import EVENT_TYPE, Ion
from ion_core.commits import Commit
from ion_core.events import Context, Event
from ion_core.handler import Handler, Workspace
from ion_core.jobs import Attempt, Job
from ion_core.modules import Module

CHILD_TYPE = "bench.child"


class Workshop:
    """Workspaces of one module, and what comes of them."""

    def __init__(self, ion: Ion, directory: Path) -> None:
        self._ion = ion
        base = directory / "workspaces"
        base.mkdir()
        self._handler = Handler(ion.dataplane, base)
        self._module = Module(
            name="bench", command=("true",), source=directory, subscribes=(EVENT_TYPE,), publishes=(CHILD_TYPE,)
        )

    async def workspace(self) -> Workspace:
        return await self._handler.open_workspace(uuid.uuid4().hex)

    def attempt(self) -> Attempt:
        """The first one at the job of a new event."""
        context = Context(name="bench", event_id=str(uuid.uuid4()), correlation_id=str(uuid.uuid4()))
        return Attempt(job=Job(event=Event(context=context, type=EVENT_TYPE), module=self._module.name), number=1)

    async def commit(self, attempt: Attempt, workspace: Workspace) -> Commit:
        """Steps S8 to S10: files stored, record created, events published, all durable."""
        started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        committed = await self._handler.commit(attempt, self._module, workspace, image=None, started_at=started_at)
        await self._ion.dataplane.publish_commit(committed.commit)
        return committed.commit

    async def prepare(self, event: Event, workspace: Workspace, *, link: bool) -> None:
        """Step S4 of the next module."""
        attempt = Attempt(job=Job(event=event, module="next"), number=1)
        await self._handler.prepare(attempt, workspace, link=link)

    async def clean(self, commit: Commit, *workspaces: Workspace) -> None:
        """Remove all of it again."""
        for workspace in workspaces:
            await self._handler.close_workspace(workspace)
        await self._ion.dataplane.discard([file.key for file in commit.files])


def event_file(**pairs: Any) -> str:
    """The text of a file in ``out/events``."""
    pairs = {"eventType": CHILD_TYPE, **pairs}
    return json.dumps([{"key": key, "value": str(value)} for key, value in pairs.items()])
