"""Dead letters that died of one cause, of one module or of one type, taken together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from ion_core.contracts.messaging import MESSAGE_HEADER, DeadLetter
from ion_core.errors import InvalidEvent
from ion_core.events import Event, encode_event, parse_event

ANY = "…"
"""Stands in a cause for what is another thing in each reason."""

LONG = 8
"""Characters that an id has which stands in no other word by chance. To look for words takes far longer."""

UNREADABLE = 64
"""Bytes that are kept of what is no event."""

_LAST = re.compile(r" \(attempt [0-9]+, the last\)$")
_IDS = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b(?=[0-9a-f]*[0-9])[0-9a-f]{12,}\b|\b[0-9]{5,}\b", re.IGNORECASE
)
"""UUIDs, what else is written in hexadecimal and long, and large numbers: sizes, ports, pids, times."""


class By(Enum):
    """What dead letters of one group have in common."""

    REASON = "reason"
    MODULE = "module"
    TYPE = "type"


@dataclass(frozen=True, kw_only=True)
class Group:
    """``key`` is what they have in common, ``first`` and ``last`` when the oldest and the newest died.

    ``example`` is the newest, ``modules`` whose they are. ``key`` is None for those of a group by type whose body is no
    event.
    """

    key: str | None
    count: int
    first: datetime
    last: datetime
    example: DeadLetter
    modules: Sequence[str]


def cause_of(letter: DeadLetter) -> str:
    """The reason without what is another thing in each letter: ids, large numbers, which attempt was the last."""
    reason = _LAST.sub("", letter.reason)
    event = _event(letter)
    if event is not None:
        for id in sorted({event.context.event_id, event.context.correlation_id}, key=len, reverse=True):
            if id and id in reason:
                reason = reason.replace(id, ANY) if len(id) >= LONG else _without_word(reason, id)
    return _IDS.sub(ANY, reason)


def event_type(letter: DeadLetter) -> str | None:
    """The type of its event; None for what is no event."""
    event = _event(letter)
    return None if event is None else event.type


def brief(letter: DeadLetter) -> DeadLetter:
    """What is needed to list, group, redrive or purge it, and little to hold: its event without data, and no log.

    The body of what is no event is none, and cut.
    """
    event = _event(letter)
    body = letter.body[:UNREADABLE] if event is None else encode_event(replace(event, data=(), files=()))
    kept = {name: value for name, value in letter.headers.items() if name == MESSAGE_HEADER}
    return replace(letter, body=body, headers=kept, log_tail=())


def says(letter: DeadLetter, text: str) -> bool:
    """Whether its reason, or the cause as ``cause_of`` has it, contains ``text``, in whatever case."""
    wanted = text.casefold()
    return wanted in letter.reason.casefold() or wanted in cause_of(letter).casefold()


def grouped(letters: Iterable[DeadLetter], by: By) -> list[Group]:
    """The groups, that of most letters first."""
    key = {By.REASON: cause_of, By.MODULE: lambda it: it.queue, By.TYPE: event_type}[by]
    found: dict[str | None, list[DeadLetter]] = {}
    for letter in letters:
        found.setdefault(key(letter), []).append(letter)
    groups = []
    for name, members in found.items():
        newest = max(members, key=lambda it: it.died_at)
        groups.append(
            Group(
                key=name,
                count=len(members),
                first=min(it.died_at for it in members),
                last=newest.died_at,
                example=newest,
                modules=sorted({it.queue for it in members}),
            )
        )
    return sorted(groups, key=lambda it: (-it.count, it.key or ""))


def _without_word(text: str, word: str) -> str:
    """What is short may be part of another word."""
    return re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", ANY, text)


def _event(letter: DeadLetter) -> Event | None:
    try:
        return parse_event(letter.body)
    except InvalidEvent:
        return None
