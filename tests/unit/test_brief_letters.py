"""A dead letter in brief: little to hold, and for all that lists, groups, redrives or purges the same as the whole."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ion_core.contracts.messaging import MESSAGE_HEADER, DeadLetter
from ion_core.errors import InvalidEvent
from ion_core.events import Context, Event, encode_event
from ion_core.jobs import Job
from ion_core.letters import brief, cause_of, event_type

EVENT = Event(
    context=Context(name="bench", event_id="event-1", correlation_id="flow-1", parent_event_id="parent"),
    type="asked",
    data=(("text", "x" * 20_000),),
)


def letter(body: bytes) -> DeadLetter:
    return DeadLetter(
        id="7",
        queue="work",
        body=body,
        headers={MESSAGE_HEADER: "m", "other": "y" * 100},
        reason="event event-1 of flow-1: exit code 3",
        attempts=2,
        log_tail=["a line"] * 100,
        died_at=datetime.now(UTC),
    )


def test_a_dead_letter_in_brief_says_the_same_and_holds_no_data() -> None:
    whole = letter(encode_event(EVENT))
    found = brief(whole)
    assert len(found.body) < 300
    assert found.headers == {MESSAGE_HEADER: "m"}
    assert not found.log_tail
    assert Job.of_message(found.body, "work").id == Job.of_message(whole.body, "work").id
    assert (cause_of(found), event_type(found)) == (cause_of(whole), event_type(whole))
    told = [(it.id, it.queue, it.reason, it.attempts, it.died_at) for it in (found, whole)]
    assert told[0] == told[1]


@pytest.mark.parametrize("body", [b"", b"no JSON " * 1_000, b'{"context": {}}', encode_event(EVENT)[:-1], b"[" * 99])
def test_what_is_no_event_is_none_in_brief(body: bytes) -> None:
    found = brief(letter(body))
    assert len(found.body) <= 64
    with pytest.raises(InvalidEvent):
        Job.of_message(found.body, "work")
