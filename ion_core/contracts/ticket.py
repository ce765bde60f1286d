"""What steps 1 and 3 of a job are given and tell: ticket, exit code, result. Of the executor contract, and light.

A step that has nothing to do takes as long as its imports: what a whole executor needs stands apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ion_core import strict_json
from ion_core.errors import InvalidEvent

MAX_RESULT = 4096
"""Bytes of the result by which step 1 or 3 tells how it ended; engines carry back no more."""


MAX_TICKET = 16384
"""Bytes of a ticket, which has ids only."""


class HandlerExit(Enum):
    """Exit codes by which steps 1 and 3 tell how they ended, after sysexits.h; anything else is a bug.

    ``done``            it has done its work. Of step 3: the job is committed, by whomever.
    ``output-refused``  the committer refuses what the module left.
    ``no-event``        the event is not in the document store, a file of it not in the blob store, or one is damaged.
    ``away``            a store does not answer: worth trying again.
    ``bug``             a fault of ours, or of a plugin.
    ``full``            no space is left: worth trying again.
    ``configuration``   the settings cannot be used.
    """

    DONE = 0
    OUTPUT_REFUSED = 65
    NO_EVENT = 66
    AWAY = 69
    BUG = 70
    FULL = 75
    CONFIGURATION = 78


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """Which attempt a job runs: given to ``start``, seen by steps 1 and 3 only.

    ``token`` is unlike that of any other attempt. ``hops`` counts the modules before the event. ``started_at`` is when
    the attempt began, ISO 8601 in UTC; ``image`` what its image resolved to, where that was known before the start.
    ``traceparent`` is the span that the module is below, as W3C Trace Context writes it: step 1 hands it on to the
    module in ``in/traceparent``, and writes no such file where it is ''.
    """

    event_id: str
    correlation_id: str
    module: str
    attempt: int
    token: str
    hops: int = 0
    started_at: str = ""
    image: str | None = None
    traceparent: str = ""

    def encode(self) -> bytes:
        """As one line of JSON, for engines to carry."""
        said = {
            "eventId": self.event_id,
            "correlationId": self.correlation_id,
            "module": self.module,
            "attempt": self.attempt,
            "token": self.token,
            "hops": self.hops,
            "startedAt": self.started_at,
            "image": self.image,
        }
        return strict_json.dumps(said | {"traceparent": self.traceparent} if self.traceparent else said)

    @classmethod
    def decode(cls, raw: bytes) -> Ticket:
        """What ``encode`` made. Raises InvalidEvent for anything else."""
        try:
            said: Any = strict_json.loads(raw, what="ticket", limit=MAX_TICKET)
            ticket = cls(
                event_id=said["eventId"],
                correlation_id=said["correlationId"],
                module=said["module"],
                attempt=said["attempt"],
                token=said["token"],
                hops=said.get("hops", 0),
                started_at=said.get("startedAt", ""),
                image=said.get("image"),
                traceparent=said.get("traceparent", ""),
            )
            ids = (ticket.event_id, ticket.correlation_id, ticket.module, ticket.token)
            texts = (*ids, ticket.started_at, ticket.traceparent)
            numbers = (ticket.attempt, ticket.hops)
            if not all(type(it) is str for it in texts) or not all(type(it) is int for it in numbers):
                raise TypeError("a field is of another type")
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise InvalidEvent(f"ticket: cannot be read ({error}). Ion writes it when a job is started.") from error
        return ticket


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What step 1 or 3 tells beside its exit code: ``reasons`` for people, none if it has done its work.

    ``committed`` is whether the job is committed, by whomever, as far as step 3 knows; None where that is not known.
    """

    reasons: Sequence[str] = ()
    committed: bool | None = None

    def encode(self) -> bytes:
        """As one line of JSON, of at most ``MAX_RESULT`` bytes: of reasons that are longer the beginning."""
        said: dict[str, Any] = {} if self.committed is None else {"committed": self.committed}
        room = MAX_RESULT - len(strict_json.dumps({"reasons": [], **said}))
        reasons: list[str] = []
        for reason in self.reasons:
            length = len(strict_json.dumps(reason)) + 1
            if length > room:
                reasons += [cut] if (cut := _beginning(reason, room - 1)) else []
                break
            reasons.append(reason)
            room -= length
        return strict_json.dumps({"reasons": reasons, **said})

    @classmethod
    def decode(cls, raw: bytes) -> StepResult:
        """What ``encode`` made. Raises InvalidEvent for anything else."""
        try:
            said: Any = strict_json.loads(raw, what="result", limit=MAX_RESULT)
            reasons, committed = said["reasons"], said.get("committed")
            if type(reasons) is not list or not all(type(it) is str for it in reasons):
                raise TypeError("reasons are no list of texts")
            if committed is not None and type(committed) is not bool:
                raise TypeError("committed is neither true nor false")
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise InvalidEvent(f"result: cannot be read ({error}). Steps 1 and 3 write it before they end.") from error
        return cls(reasons=tuple(reasons), committed=committed)


def _beginning(text: str, room: int) -> str:
    """As much of it as JSON has room for in so many bytes, and a mark; nothing if that is not worth it."""
    low, high = 0, min(len(text), max(room, 0))
    while low < high:
        middle = (low + high + 1) // 2
        if len(strict_json.dumps(text[:middle] + "…")) <= room:
            low = middle
        else:
            high = middle - 1
    return f"{text[:low]}…" if low else ""
