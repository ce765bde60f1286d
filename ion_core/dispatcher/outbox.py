"""Outbox: publishes what commits still owe, should the process that made them have died in between."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from ion_core.commits import Commit
from ion_core.dataplane import DataPlane
from ion_core.errors import PermanentError, ProviderError
from ion_core.events import COMMIT

log = logging.getLogger(__name__)


class Outbox:
    """The sweeper. Deliveries that come back publish their own commits; this is for those that do not."""

    def __init__(self, dataplane: DataPlane, *, older_than: timedelta = timedelta(minutes=1)) -> None:
        self._dataplane = dataplane
        self._older_than = older_than

    async def sweep(self, *, older_than: timedelta | None = None) -> int:
        """Publish every commit that owes events since longer than ``older_than``; returns how many.

        Harmless where somebody else publishes the same at this moment: ids and bodies are the record's.
        """
        before = datetime.now(UTC) - (self._older_than if older_than is None else older_than)
        count = 0
        async for document in self._dataplane.documents.find(COMMIT, pending=True):
            commit = Commit.from_document(document)
            if datetime.fromisoformat(commit.committed_at) <= before:
                try:
                    await self._dataplane.publish_commit(commit)
                except PermanentError as error:
                    log.error("a commit cannot be published: %s", error, extra={"job": commit.job_id})
                else:
                    count += 1
        if count:
            log.info("published what earlier commits owed", extra={"commits": count})
        return count

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
