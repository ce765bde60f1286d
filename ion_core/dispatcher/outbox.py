"""Outbox: publishes what commits still owe, should the process that made them have died in between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from ion_core.commits import Commit
from ion_core.contracts.looking import OutboxView
from ion_core.dataplane import DataPlane
from ion_core.errors import PermanentError, ProviderError, StorageFull, TransientError
from ion_core.events import COMMIT

log = logging.getLogger(__name__)

IN_A_ROW = 3
"""Commits that cannot be published one after the other before it is taken for everybody's trouble."""


class Outbox:
    """The sweeper. Deliveries that come back publish their own commits; this is for those that do not."""

    def __init__(self, dataplane: DataPlane, *, older_than: timedelta = timedelta(minutes=1)) -> None:
        self._dataplane = dataplane
        self._older_than = older_than
        self._last: set[str] = set()
        """Jobs whose commits could not be published when it was last tried."""
        self._told: dict[str, str] = {}
        """Why a commit can never be published, by job: said once, though it is tried at every sweep."""
        self._in_a_row = 0
        self.view = OutboxView(owed=0, published=0, looked_at=None)
        """What the last sweep left."""

    async def sweep(self, *, older_than: timedelta | None = None) -> int:
        """Publish every commit that owes something since longer than ``older_than``; returns how many.

        Harmless where somebody else publishes the same at this moment: ids and bodies are the record's. Raises what the
        document store raises, StorageFull, and TransientError when several in a row could not be published.
        """
        before = datetime.now(UTC) - (self._older_than if older_than is None else older_than)
        tried, count = 0, 0
        try:
            async for commit in self._owing():
                if datetime.fromisoformat(commit.committed_at) <= before:
                    tried += 1
                    count += await self._publish(commit)
        finally:
            self._in_a_row = 0
            published = self.view.published + count
            self.view = OutboxView(owed=tried - count, published=published, looked_at=datetime.now(UTC))
        if self._dataplane.gathering is not None:
            await self._dataplane.gathering.sweep()
        if count:
            log.info("published what earlier commits owed", extra={"commits": count})
        return count

    async def _publish(self, commit: Commit) -> bool:
        """Whether that could be done. Raises StorageFull, and TransientError once several in a row could not."""
        try:
            await self._dataplane.publish_commit(commit)
        except PermanentError as error:
            level = logging.DEBUG if self._told.get(commit.job_id) == str(error) else logging.ERROR
            self._told[commit.job_id] = str(error)
            log.log(level, "a commit cannot be published: %s", error, extra={"job": commit.job_id})
            return False
        except StorageFull:
            raise
        except TransientError as error:  # its own trouble, or everybody's: the next ones tell
            self._last.add(commit.job_id)
            self._in_a_row += 1
            if self._in_a_row == IN_A_ROW:
                raise
            log.warning("a commit could not be published, trying again: %s", error, extra={"job": commit.job_id})
            return False
        self._last.discard(commit.job_id)
        self._told.pop(commit.job_id, None)
        self._in_a_row = 0
        return True

    async def _owing(self) -> AsyncIterator[Commit]:
        """Those that could not be published before come last: nobody waits for them."""
        failed, late = set(self._last), list[str]()
        async for document in self._dataplane.documents.find(COMMIT, pending=True):
            if document.id in failed:
                late.append(document.id)
            else:
                yield Commit.from_document(document)
        self._last -= failed.difference(late)
        for job_id in late:
            found = await self._dataplane.committed(job_id)
            if found is not None and found[1]:
                yield found[0]

    async def run(self, *, every: float = 30.0) -> None:
        """For ever; a provider that is down is tried again at the next round."""
        while True:
            try:
                await self.sweep()
            except ProviderError as error:
                log.warning("outbox could not be swept, trying again in %.0f s: %s", every, error)
            except Exception:
                log.exception("outbox could not be swept by a bug, trying again in %.0f s", every)
            await asyncio.sleep(every)
