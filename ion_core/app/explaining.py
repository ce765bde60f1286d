"""What a service is told of an event or a flow in the words that people are told it in."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from ion_core.app.opening import App
from ion_core.app.process import Process
from ion_core.contracts.looking import LetterId, RuleView, WhyView
from ion_core.dataplane import DataPlane
from ion_core.drawing import PICTURES, report
from ion_core.errors import DocumentNotFound
from ion_core.events import EVENT_META
from ion_core.flows import parsed
from ion_core.report import collect, small_pictures
from ion_core.why import EventTold, JobTold, Runs, advice, look
from ion_core.words import plain_lines


class Explaining:
    """Why an event stands as it does, and a page about a flow."""

    def __init__(self, app: App, dataplane: DataPlane, process: Process) -> None:
        self._app = app
        self._dataplane = dataplane
        self._process = process

    async def why(self, event_id: str, *, correlation_id: str | None = None) -> Sequence[WhyView]:
        documents = self._dataplane.documents
        try:
            if correlation_id is None:
                correlation_id = (await documents.get(EVENT_META, event_id)).correlation_id
        except DocumentNotFound:
            pass  # a queue may have it all the same
        try:
            told = await look(
                event_id,
                correlation_id,
                list(self._app.config.modules.values()),
                documents=documents,
                broker=self._dataplane.broker,
                running=[
                    Runs(module=it.module, attempt=it.attempt, since=it.since.isoformat())
                    for it in self._process.attempts.of(event_id)
                ],
                damaged=set(),
            )
        except DocumentNotFound:
            return []
        return [self._why(told, job) for job in told.jobs]

    async def report(self, correlation_id: str) -> bytes | None:
        modules = self._app.config.modules.values()
        found = await collect(self._dataplane.documents, correlation_id, modules)
        if not found.flow.roots:
            return None
        lost: dict[str, str] = {}
        pictures = await small_pictures(self._dataplane.blobs, found.files(), most=PICTURES, lost=lost)
        beside = replace(found.beside, pictures=pictures, lost=lost)
        # a flow of thousands of events takes its time
        return await asyncio.to_thread(report, found.view(), beside, made_at=datetime.now(UTC), shown=self._shown_as)

    def _shown_as(self, text: str) -> str:
        return self._app.config.hidden.masked(plain_lines(text))

    def _why(self, event: EventTold, job: JobTold) -> WhyView:
        rule = job.rule
        return WhyView(
            module=job.module,
            taken=job.taken,
            state=job.state.value,
            since=parsed(job.since),
            until=parsed(job.until),
            rule=None
            if rule is None
            else RuleView(name=rule.name, what=rule.what, settled=rule.settled, counted=rule.counted),
            reason=self._app.config.hidden.masked(job.reason),
            attempt=job.attempt,
            ahead=job.ahead,
            letter=None if job.letter is None else LetterId(job.module, job.letter.id),
            next=[f"ion-core {shlex.join(words)}" for words in advice(event, job)],
        )
