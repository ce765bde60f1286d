"""Doubles: several messages of one event, in the queue of one module (decision 0034).

Those of a job that commits are harmless: whichever comes later finds the commit. Of a job that fails one message goes
on, by the round record; the others wait for what becomes of it, and are done once it is a dead letter.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from ion_core.contracts.messaging import MESSAGE_HEADER
from ion_core.dataplane import DataPlane
from ion_core.errors import QueueNotDeclared, TransientError
from ion_core.jobs import Attempt, Outcome, Verdict
from ion_core.modules import Module
from ion_core.rounds import Round
from ion_core.rules import DOUBLE

log = logging.getLogger(__name__)

BINDS_FOR = timedelta(hours=1)
"""How long a round record holds for other messages of its job, from when its own message had its turn: should that
be gone, removed by hand or by a policy, the next one takes its place."""

COPIES_WITHIN = timedelta(minutes=10)
"""How long after a message became a dead letter another copy of it may come, of a settlement whose answer was lost."""

WAIT_LEAST, WAIT_MOST = timedelta(seconds=1), timedelta(minutes=1)
"""Between two looks of a double at what has become of the other message, where that could have had its turn already."""

WAITS = "another message of this event has failed and is tried again: this one waits for what becomes of it"
COPY_WAITS = "a later attempt of this message is under way: this copy waits for what becomes of it"
DONE = (
    "another message of this event is a dead letter, which stands for this one: `ion-core dlq list` shows it; redrive "
    "it, or purge it and publish the event anew"
)
COPY_SEEKS = "this message was to be a dead letter and is not among them yet: unless it comes, the module runs again"
COPY_DONE = "this message is a dead letter already: `ion-core dlq list` shows it"


def _now() -> datetime:
    return datetime.now(UTC)


class Doubles:
    """What becomes of doubles of one module's events. Messages of others, which have no id of ours, are none."""

    def __init__(self, module: Module, dataplane: DataPlane) -> None:
        self._module = module
        self._dataplane = dataplane

    async def outcome(self, attempt: Attempt, record: Round | None) -> Outcome | None:
        """S2: what becomes of a delivery whose job has this record; None if it is to run."""
        if record is None or not attempt.message:
            return None
        dead_for_long = record.next_at is None and _now() >= record.failed_at + COPIES_WITHIN
        if dead_for_long and record.message == attempt.message:
            return None  # it was redriven
        return await self._by(record, attempt)

    async def _by(self, record: Round, attempt: Attempt) -> Outcome | None:
        """What becomes of an attempt by a record that was made while it waited or ran; None if it goes on."""
        if record.message != attempt.message:
            return self._of_another(record)
        if record.next_at is not None:
            return None if attempt.number >= record.attempt else self._waits(record, COPY_WAITS)
        kept = await self._is_kept(attempt)
        if kept:
            return Outcome(verdict=Verdict.DUPLICATE, reason=COPY_DONE, rule=DOUBLE.name)
        if kept is None or _now() < record.failed_at + self._dataplane.broker.letters_unseen_for:
            return self._waits(record, COPY_SEEKS)
        return None  # its settlement was cut short, or it was moved by hand

    async def failed(self, attempt: Attempt, outcome: Outcome, *, seen: list[Round]) -> Outcome:
        """Record a failed attempt before its delivery is settled: ``outcome``, or that of a double.

        ``seen`` has the record in spite of which it ran: where it is another one by now, somebody else has failed
        meanwhile. Raises as the stores do; then nothing is recorded, or that very attempt: what this call is to record
        is added to ``seen``, so that the next one knows it.
        """
        if not attempt.message:
            return outcome
        now = _now()
        retried = outcome.verdict is Verdict.RETRIED
        ours = Round.of(
            attempt,
            reason=outcome.reason,
            failed_at=now,
            next_at=now + self._module.retry.delay(attempt.number, 1.0) if retried else None,
        )
        try:
            while (known := await self._dataplane.round(attempt.job.id)) is None:
                if await self._dataplane.first_round(ours):
                    return outcome
            if known not in seen and (double := await self._by(known, attempt)) is not None:
                return double
            await self._dataplane.further_round(ours)
            return outcome
        finally:
            seen.append(Round.from_document(ours.to_document()))  # with times as they are read

    def _of_another(self, record: Round) -> Outcome | None:
        if record.next_at is not None:
            return self._waits(record, WAITS)
        binding = _now() < record.failed_at + BINDS_FOR
        return Outcome(verdict=Verdict.DUPLICATE, reason=DONE, rule=DOUBLE.name) if binding else None

    def _waits(self, record: Round, reason: str) -> Outcome | None:
        """Put behind the others, not acked: should the other message be lost, this one is there."""
        now, due = _now(), record.next_at or record.failed_at
        if now >= due + BINDS_FOR:
            return None
        delay = max(due - now, min(max(now - record.failed_at, WAIT_LEAST), WAIT_MOST))
        return Outcome(verdict=Verdict.DUPLICATE, reason=reason, rule=DOUBLE.name, delay=delay)

    async def _is_kept(self, attempt: Attempt) -> bool | None:
        """Whether the message is among the dead letters; None where the broker does not say."""
        try:
            async with self._dataplane.broker.each_dead_letter(self._module.name) as letters:
                async for letter in letters:
                    if letter.headers.get(MESSAGE_HEADER) == attempt.message:
                        return True
        except QueueNotDeclared:
            return False
        except TransientError as error:
            log.warning("whether a message is a dead letter already is not known: %s", error)
            return None
        return False
