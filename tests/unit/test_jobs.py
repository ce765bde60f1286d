"""Jobs and attempts: ids that are the same whoever works them out, and tokens that never are."""

from __future__ import annotations

import uuid
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from ion_core.contracts.messaging import RetryPolicy
from ion_core.events import Context, Event
from ion_core.jobs import ION, Attempt, Job

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
modules = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)


def job(event_id: str, module: str, **context: str) -> Job:
    known = {"name": "n", "correlation_id": "c"} | context
    return Job(event=Event(context=Context(event_id=event_id, **known), type="t"), module=module)


def test_ids_of_jobs_and_children_are_as_documented() -> None:
    detect = job("e1", "detect")
    assert detect.id == str(uuid.uuid5(ION, "e1/detect"))
    assert detect.child_id("event0.json") == str(uuid.uuid5(uuid.UUID(detect.id), "event0.json"))


@given(text, text, modules, modules)
def test_a_job_s_id_depends_on_event_id_and_module_alone(one: str, other: str, first: str, second: str) -> None:
    assert job(one, first).id == job(one, first, name="x", correlation_id="y", parent_event_id="z").id
    assert (job(one, first).id == job(other, second).id) == ((one, first) == (other, second))


@given(text, modules, text, text)
def test_children_of_a_job_differ_by_their_file(event_id: str, module: str, one: str, other: str) -> None:
    assert (job(event_id, module).child_id(one) == job(event_id, module).child_id(other)) == (one == other)


def test_two_attempts_never_share_a_token() -> None:
    tokens = {Attempt(job=job("e", "m"), number=1).token for _ in range(1_000)}
    assert len(tokens) == 1_000


@given(st.integers(1, 10_000), st.floats(-1, 1), st.integers(0, 100), st.floats(1, 10), st.floats(0, 0.9))
def test_a_retry_s_delay_is_bounded(attempt: int, spread: float, initial: int, factor: float, jitter: float) -> None:
    most = timedelta(minutes=5)
    policy = RetryPolicy(initial=timedelta(seconds=initial), factor=factor, maximum=most, jitter=jitter)
    assert timedelta(0) <= policy.delay(attempt, spread) <= most * (1 + jitter) + timedelta(microseconds=1)


def test_delays_double_up_to_the_maximum() -> None:
    policy = RetryPolicy(retries=5, initial=timedelta(seconds=1), maximum=timedelta(seconds=5))
    assert [delay.total_seconds() for delay in policy.delays()] == [1, 2, 4, 5, 5]
