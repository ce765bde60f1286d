"""When something is planned: also on the days on which clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ion_gateway.plans import Cron, Every, between, cron_problem, zone_problem


def planned(expression: str, zone: str, after: str, until: str) -> list[str]:
    start, end = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (after, until))
    return [f"{time:%d %H:%M}" for time in between(Cron(expression, zone), start, end)]


SPRING = ("2026-03-28T12:00", "2026-03-30T12:00")  # Berlin: 02:00 CET is 03:00 CEST, at 01:00 UTC on the 29th
AUTUMN = ("2026-10-24T12:00", "2026-10-26T12:00")  # Berlin: 03:00 CEST is 02:00 CET, at 01:00 UTC on the 25th


def test_in_spring_what_falls_into_the_hour_that_is_left_out_comes_once_after_it() -> None:
    assert planned("30 2 * * *", "Europe/Berlin", *SPRING) == ["29 01:00", "30 00:30"]


def test_in_autumn_what_falls_into_the_hour_that_comes_twice_comes_once() -> None:
    assert planned("30 2 * * *", "Europe/Berlin", *AUTUMN) == ["25 00:30", "26 01:30"]


def test_what_is_planned_for_every_hour_comes_in_every_hour() -> None:
    hours = [f"{day} {hour:02}:00" for day in (25,) for hour in range(5)]
    assert planned("0 * * * *", "Europe/Berlin", "2026-10-24T23:30", "2026-10-25T04:30") == hours
    hours = [f"{day} {hour:02}:00" for day in (29,) for hour in range(5)]
    assert planned("0 * * * *", "Europe/Berlin", "2026-03-28T23:30", "2026-03-29T04:30") == hours


def test_two_times_that_are_the_same_moment_in_spring_are_one() -> None:
    assert planned("0 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00", "2026-03-29T12:00") == ["29 01:00"]


def test_a_midnight_that_does_not_exist_is_not_left_out() -> None:
    # Santiago: clocks went from 00:00 to 01:00 on 6 September 2026, at 04:00 UTC
    assert planned("0 0 * * *", "America/Santiago", "2026-09-05T12:00", "2026-09-07T12:00") == ["06 04:00", "07 03:00"]


def test_where_both_days_are_restricted_either_will_do_as_cron_has_it() -> None:
    days = planned("0 0 13 * 5", "UTC", "2026-11-01T00:00", "2026-11-30T00:00")
    assert days == ["06 00:00", "13 00:00", "20 00:00", "27 00:00"]
    assert planned("0 0 1 * 7", "UTC", "2026-11-28T00:00", "2026-12-02T00:00") == ["29 00:00", "01 00:00"]


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("0 2 * *", "must have five fields"),
        ("0 0 2 * * *", "must have five fields: minute, hour, day of the month, month, day of the week (got 6). Leave"),
        ("@daily", '@daily is written as "0 0 * * *"'),
        (" @Weekly ", '@Weekly is written as "0 0 * * 0"'),
        ("@every 90m", "an interval is the key every, in place of cron: every: 90m"),
        ("@reboot", "must have five fields"),
        ("61 * * * *", "Bad minute"),
        ("0 0 30 2 *", "never has"),
        ("0 0 31 4 *", "never has"),
        ("0 0 L * *", "day of the month: 'L'"),
        ("0 0 * * 5#2", "day of the week: '5#2'"),
        ("0 0 15W * *", "day of the month: '15W'"),
        ("0 0 ? * *", "day of the month: '?'"),
        ("5/15 * * * *", "5-59/15"),
        ("0 22-2 * * *", "Bad hour"),
        ("0 0 * * fri-mon", "Bad day-of-week"),
        ("0 0 * jänner *", "month: 'jänner'"),
        ("", "must have five fields"),
    ],
)
def test_what_is_of_another_dialect_or_never_comes_is_refused(expression: str, says: str) -> None:
    assert says in cron_problem(expression)


def test_what_is_proposed_for_a_word_is_taken() -> None:
    for word in ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"):
        assert cron_problem(cron_problem(word).split('"')[1]) == ""


@pytest.mark.parametrize(
    "expression",
    ["0 2 * * 1-5", "*/15 * * * *", "5-59/15 8-18 * * mon-fri", "0 0 29 feb *", "0 0 * * 7", "0 0 1 JAN SUN"],
)
def test_the_dialect_of_the_page_is_taken(expression: str) -> None:
    assert cron_problem(expression) == ""


def test_an_unknown_zone_is_named_with_the_nearest() -> None:
    assert zone_problem("Europe/Berlin") == ""
    assert "Did you mean 'Europe/Berlin'?" in zone_problem("Europe/Berln")
    assert "../" in zone_problem("../etc/passwd")


@given(
    start=st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2100, 1, 1)),
    seconds=st.integers(min_value=1, max_value=10**7),
)
def test_an_interval_means_the_same_times_wherever_one_begins(start: datetime, seconds: int) -> None:
    plan, start = Every(timedelta(seconds=seconds)), start.replace(tzinfo=UTC)
    first = plan.after(start)
    assert start < first <= start + plan.interval
    assert plan.after(first) == first + plan.interval
    assert plan.after(first - timedelta(microseconds=1)) == first
    assert (first - datetime(1970, 1, 1, tzinfo=UTC)) % plan.interval == timedelta(0)
