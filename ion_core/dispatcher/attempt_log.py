"""The log of one attempt: what preparer, module and committer said, kept whatever the outcome."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from ion_core.contracts.storage import Document, DocumentStore
from ion_core.dispatcher.trouble import Progress
from ion_core.errors import DocumentNotFound, ProviderError
from ion_core.events import FAILURE, MODULE_LOGS
from ion_core.jobs import Attempt, Outcome, StepTime, Verdict, log_id
from ion_core.rounds import Round

log = logging.getLogger(__name__)

TAIL_LINES = 20
TAIL_CHARACTERS = 8_000
STORE_WITHIN = 10.0


class AttemptLog:
    """Collects lines by section and seconds by step."""

    def __init__(self, attempt: Attempt, *, hide: Callable[[str], str] = str) -> None:
        """``hide`` is what a line goes through before it is kept."""
        self.attempt = attempt
        """Whose log it is; another of the same job and number where that is with an engine already."""
        self._hide = hide
        self._begun = time.monotonic()
        self.started_at = now()
        self.committed = False
        """Whether the job has a commit: a log that is worth keeping is stored by then."""
        self.goes_on = False
        """Whether its job was left to an engine: who fetches it stores the log."""
        self.rounds: list[Round] = []
        """What was recorded of its job's failures before it ran, and what it has set out to record itself."""
        self.preparer: list[str] = []
        self.worker: list[str] = []
        self.committer: list[str] = []
        self.seconds: dict[str, float] = {}
        self._step_begun: dict[str, float] = {}
        self.progress = Progress()
        context = attempt.job.event.context
        self.fields: Mapping[str, Any] = {
            "eventId": context.event_id,
            "correlationId": context.correlation_id,
            "moduleName": attempt.job.module,  # ``module`` is logging's own
            "attempt": attempt.number,
        }
        """For log lines about this attempt."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the step ``prepare``, ``module`` or ``commit``, however it ends."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.ran(name, time.monotonic() - begun, ago=0.0)

    def ran(self, name: str, seconds: float, *, ago: float) -> None:
        """A step took so many seconds, and ended so many seconds ago."""
        self.seconds[name] = round(max(0.0, seconds), 6)
        self._step_begun[name] = time.monotonic() - ago - seconds

    def steps(self) -> tuple[StepTime, ...]:
        """Those that ran, in the order of their beginning."""
        begun = sorted(self._step_begun.items(), key=lambda it: it[1])
        return tuple(
            StepTime(name=name, begun=round(max(0.0, at - self._begun), 6), seconds=self.seconds[name])
            for name, at in begun
        )

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """What a program said that a provider ran in vain is kept in place of the module, which did not come to run."""
        try:
            yield
        except ProviderError as error:
            self.worker += error.said
            raise

    def began_before(self, attempt: Attempt, started_at: str) -> None:
        """It is the log of ``attempt``, which somebody began then, by the time of day; '' if nobody knows when."""
        self.attempt = attempt
        with suppress(ValueError, TypeError):
            ago = (datetime.now(UTC) - datetime.fromisoformat(started_at)).total_seconds()
            self.started_at = started_at
            self.took(max(0.0, ago))

    def took(self, seconds: float) -> None:
        """So long by now, as others have measured it: the time of day may have been set meanwhile."""
        self._begun = time.monotonic() - seconds

    def elapsed(self) -> float:
        return time.monotonic() - self._begun

    def tail(self) -> Sequence[str]:
        """The last lines of the module's output: what a dead letter carries."""
        lines: list[str] = []
        room = TAIL_CHARACTERS
        for line in reversed(self.worker[-TAIL_LINES:]):
            line = self._hide(line)[:room]
            room -= len(line)
            lines.append(line)
            if room <= 0:
                break
        return lines[::-1]

    def document(self, outcome: Outcome) -> Document:
        context = replace(self.attempt.job.event.context, name=self.attempt.job.module, document_type=MODULE_LOGS)
        event_id = context.event_id
        ended = datetime.now(UTC)
        succeeded = outcome.verdict in (Verdict.COMMITTED, Verdict.ALREADY_COMMITTED)
        said = f"attempt {self.attempt.number}: {outcome.verdict.value}"
        body: dict[str, Any] = {
            "id": log_id(context.name, event_id, self._which(outcome)),
            "context": context.to_json(),
            "desc": self._hide(f"{said}: {outcome.reason}" if outcome.reason else said),
            "logs": self._hide(self._text()),
            "succeeded": succeeded,
            "attempt": self.attempt.number,
            "token": self.attempt.token,
            "outcome": outcome.verdict.value,
            "reason": self._hide(outcome.reason),
            "rule": outcome.rule,
            "startedAt": self.started_at,
            "finishedAt": moment(ended),
            "nextAttemptAt": "" if outcome.delay is None else moment(ended + outcome.delay),
            "seconds": {**self.seconds, "all": round(self.elapsed(), 6)},
        }
        return Document(kind=MODULE_LOGS, id=body["id"], correlation_id=context.correlation_id, body=body)

    def failure(self, outcome: Outcome) -> Document:
        """What tells that the job has failed, by its id: so those that have are found without reading all logs."""
        job = self.attempt.job
        context = replace(job.event.context, name=job.module, document_type=FAILURE)
        body: dict[str, Any] = {
            "id": job.id,
            "context": context.to_json(),
            "attempt": self.attempt.number,
            "outcome": outcome.verdict.value,
            "reason": self._hide(outcome.reason),
            "rule": outcome.rule,
            "finishedAt": now(),
        }
        return Document(kind=FAILURE, id=job.id, correlation_id=context.correlation_id, body=body)

    def _which(self, outcome: Outcome) -> str:
        """Unlike that of any other attempt: numbers begin again after a redrive."""
        return which(self.attempt.number, "waits" if self._is_none(outcome) else self.attempt.token)

    def _is_none(self, outcome: Outcome) -> bool:
        """What was given back before its module ran is no attempt. The last such is kept: why the event waits."""
        return outcome.verdict is Verdict.RELEASED and "module" not in self.seconds

    def is_of_no_run(self, outcome: Outcome) -> bool:
        """A duplicate whose module did not run tells nothing, and would hide what became of the other message."""
        return outcome.verdict is Verdict.DUPLICATE and "module" not in self.seconds

    async def store(self, documents: DocumentStore, outcome: Outcome) -> None:
        """Keep it; failing to never changes a job's result."""
        try:
            async with asyncio.timeout(STORE_WITHIN):
                if outcome.verdict in (Verdict.RETRIED, Verdict.DEAD_LETTERED):
                    await documents.put(self.failure(outcome))
                elif self.committed and self.attempt.number > 1:
                    await documents.delete(FAILURE, self.attempt.job.id)
                document = self.document(outcome)
                if self._is_none(outcome):
                    document = await _began_with_the_first(document, documents)
                await documents.put(document)
        except TimeoutError:
            log.warning("log of an attempt was not stored in %.0f s", STORE_WITHIN, extra=self.fields)
        except ProviderError as error:
            log.warning("log of an attempt was not stored: %s", error, extra=self.fields)
        except Exception:
            log.exception("log of an attempt was not stored by a bug", extra=self.fields)

    def _text(self) -> str:
        sections = (
            ("Preparer logs", self.preparer),
            ("Worker logs", self.worker),
            ("Committer logs", self.committer),
        )
        return "\n".join(line for title, lines in sections for line in (title, *lines, ""))


def which(number: int, token: str) -> str:
    """What tells an attempt from all others of its job."""
    return f"{number}-{token}"


async def _began_with_the_first(log: Document, documents: DocumentStore) -> Document:
    try:
        first = await documents.get(log.kind, log.id)
    except DocumentNotFound:
        return log
    return replace(log, body={**log.body, "startedAt": first.body["startedAt"]})


def now() -> str:
    """The time of day as documents have it: ISO 8601, UTC, milliseconds."""
    return moment(datetime.now(UTC))


def moment(time: datetime) -> str:
    """That time as documents have it."""
    return time.isoformat(timespec="milliseconds")
