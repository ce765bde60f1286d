"""The log of one attempt: what preparer, module and committer said, kept whatever the outcome."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from ion_core.contracts.storage import Document, DocumentStore
from ion_core.errors import ProviderError
from ion_core.events import MODULE_LOGS
from ion_core.jobs import Attempt, Outcome, Verdict

log = logging.getLogger(__name__)

TAIL_LINES = 20
TAIL_CHARACTERS = 8_000
STORE_WITHIN = 10.0


class AttemptLog:
    """Collects lines by section and seconds by step."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._begun = time.monotonic()
        self.started_at = now()
        self.committed = False
        """Whether the job has a commit, and with it the log of the attempt that made it: to be left as it is."""
        self.preparer: list[str] = []
        self.worker: list[str] = []
        self.committer: list[str] = []
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the step ``prepare``, ``module`` or ``commit``, however it ends."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - begun, 6)

    def elapsed(self) -> float:
        return time.monotonic() - self._begun

    def tail(self) -> Sequence[str]:
        """The last lines of the module's output: what a dead letter carries."""
        lines: list[str] = []
        room = TAIL_CHARACTERS
        for line in reversed(self.worker[-TAIL_LINES:]):
            line = line[:room]
            room -= len(line)
            lines.append(line)
            if room <= 0:
                break
        return lines[::-1]

    def document(self, outcome: Outcome) -> Document:
        context = replace(self._attempt.job.event.context, name=self._attempt.job.module, document_type=MODULE_LOGS)
        event_id = context.event_id
        succeeded = outcome.verdict in (Verdict.COMMITTED, Verdict.ALREADY_COMMITTED)
        said = f"attempt {self._attempt.number}: {outcome.verdict.value}"
        body: dict[str, Any] = {
            "id": f"module:{context.name}-event:{event_id}-attempt:{self._attempt.number}",
            "context": context.to_json(),
            "desc": f"{said}: {outcome.reason}" if outcome.reason else said,
            "logs": self._text(),
            "succeeded": succeeded,
            "attempt": self._attempt.number,
            "outcome": outcome.verdict.value,
            "reason": outcome.reason,
            "startedAt": self.started_at,
            "finishedAt": now(),
            "seconds": {**self.seconds, "all": round(self.elapsed(), 6)},
        }
        return Document(kind=MODULE_LOGS, id=body["id"], correlation_id=context.correlation_id, body=body)

    async def store(self, documents: DocumentStore, outcome: Outcome) -> None:
        """Keep it; failing to never changes a job's result."""
        try:
            async with asyncio.timeout(STORE_WITHIN):
                await documents.put(self.document(outcome))
        except TimeoutError:
            log.warning("log of an attempt was not stored in %.0f s", STORE_WITHIN, extra=self.fields())
        except ProviderError as error:
            log.warning("log of an attempt was not stored: %s", error, extra=self.fields())
        except Exception:
            log.exception("log of an attempt was not stored by a bug", extra=self.fields())

    def fields(self) -> dict[str, Any]:
        """Fields for log lines about this attempt (``module`` is logging's own)."""
        context = self._attempt.job.event.context
        return {
            "eventId": context.event_id,
            "correlationId": context.correlation_id,
            "moduleName": self._attempt.job.module,
            "attempt": self._attempt.number,
        }

    def _text(self) -> str:
        sections = (
            ("Preparer logs", self.preparer),
            ("Worker logs", self.worker),
            ("Committer logs", self.committer),
        )
        return "\n".join(line for title, lines in sections for line in (title, *lines, ""))


def now() -> str:
    """The time of day as documents have it: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
